"""Repacking: what lives stays under its name, what was erased is gone from the bytes, locks are no longer (I4)."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol import slots_support
from tests.protocol.packing import DAY, File, MemorySource, make_repository, opened, pack, some_files
from tests.protocol.repacking import append, assert_gone_from_bytes, erase, live_shards, living, readers_agree, repack
from tests.protocol.slots_support import FAR, hold, release
from tests.protocol.test_races import damage
from vera_core.errors import ErasedError, NotFoundError, UsageError
from vera_core.format.layout import DICTIONARY
from vera_core.model import Origin
from vera_core.operations.bundles import bundled
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.inspector import inspect_file
from vera_core.operations.lookup import ShardReaders, versions_in_order
from vera_core.operations.repack import erased_bundles, plan_repack
from vera_core.operations.retrieve import Retriever
from vera_core.operations.rewrite import Purpose, Rewriting
from vera_core.operations.verify import verify_slots, verify_window
from vera_core.operations.walk import all_slots
from vera_core.routing import Routing, RoutingEpoch
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore


ONE_SLOT = Routing(epochs=(RoutingEpoch(date.min, 0),))


def assert_sound(store: ObjectStore, spool: Path) -> None:
    plan = plan_doctor(opened(store, spool))
    assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())
    assert verify_slots(opened(store, spool), list(all_slots(opened(store, spool))), deep=True).ok


def test_what_lives_stays_and_what_was_erased_is_gone(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    gone = [file for file in source.files if int(file.uid[4:9]) % 3 == 0]
    erase(repo, *(file.uid for file in gone))
    before = living(repo)
    plan = plan_repack(repo, all_slots(repo), ratio=0.1)
    assert plan.erased == len(gone)
    report = repack(repo, 0.1)
    assert report.ok
    assert report.left_out == len(gone)
    assert report.files + report.left_out == sum(shard.entries for each in report.done for shard in each.replaced)
    assert living(opened(store, tmp_path)) == before
    readers_agree(store, tmp_path, before)
    assert_gone_from_bytes(repo, [file.uid.encode() for file in gone])
    assert_gone_from_bytes(repo, [file.content for file in gone])
    assert_sound(store, tmp_path)
    assert plan_repack(repo, all_slots(repo), ratio=0).lines == ()
    reader = Retriever(opened(store, tmp_path))
    with pytest.raises(ErasedError):
        reader.get(gone[0].uid, DAY)


def test_a_window_verifies_and_packs_again_after_a_repack(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(60))
    packed = pack(repo, source)
    erase(repo, *(file.uid for file in source.files[:20]))
    repack(repo)
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    again = pack(opened(memory_store, tmp_path), source)
    assert (again.rows, again.archived, again.packed_now) == (60, 60, 0)
    assert {(line.key, line.version_id) for line in again.shards} == {
        (shard.key, shard.version_id) for shard in live_shards(repo)
    }
    assert len(packed.shards) == 4
    changed = MemorySource([replace(file, content=b"changed") for file in source.files], name="another")
    report = pack(opened(memory_store, tmp_path), changed)
    assert report.rejects == {"erased": 20}
    assert report.archived == 40
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    assert_sound(memory_store, tmp_path)


def test_versions_of_a_uid_that_came_with_several_commits_keep_their_names(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo = make_repository(memory_store, tmp_path)
    for number in range(5):
        files = [replace(file, content=b"%d " % number + file.content) for file in some_files(30)]
        pack(repo, MemorySource(files, name=f"source-{number}"))
    erase(repo, "doc/00003.json", "doc/00004.json")
    before = living(repo)
    assert len(before) == 28 * 5
    report = repack(repo)
    assert report.left_out == 10
    assert living(opened(memory_store, tmp_path)) == before
    readers_agree(memory_store, tmp_path, before)
    erase(repo, "doc/00008.json")
    before = living(repo)
    assert repack(repo).left_out == 5, "of shards that were repacked before"
    assert living(opened(memory_store, tmp_path)) == before
    assert_sound(memory_store, tmp_path)


def letters(count: int) -> list[File]:
    """Files that a dictionary makes much smaller, each with something that only it has."""
    return [
        File(
            f"letter/{number}",
            b'{"kind": "letter", "language": "en", "salutation": "Dear Sir or Madam", "secret": "%s"}'
            % hashlib.sha256(b"%d" % number).hexdigest()[:24].encode(),
        )
        for number in range(count)
    ]


def dictionaries_of(repo: Repository) -> list[bytes]:
    readers = ShardReaders(repo)
    found = []
    for shard in live_shards(repo):
        reader = readers.reader(shard)
        found += [reader.section_bytes(item) for item in reader.sections if item.tag == DICTIONARY]
    return found


def secret(file: File) -> bytes:
    return file.content[-26:-2]


def test_a_dictionary_keeps_nothing_of_an_erased_file(memory_store: MemoryStore, tmp_path: Path) -> None:
    """A trained dictionary holds pieces of its files verbatim; so an old one is never taken over."""
    repo = make_repository(memory_store, tmp_path, part_rows=10_000)
    files = letters(1200)
    pack(repo, MemorySource(files))
    told = {secret(file) for file in files if any(secret(file) in data for data in dictionaries_of(repo))}
    assert told, "the dictionary of the packed shard holds whole secrets"
    gone = [file for file in files if secret(file) in told] + files[:100]
    erase(repo, *{file.uid for file in gone})
    before = living(repo)
    repack(repo)
    assert dictionaries_of(repo), "it still pays"
    assert_gone_from_bytes(repo, [secret(file) for file in gone])
    assert living(opened(memory_store, tmp_path)) == before


def test_contents_of_every_sort_move_as_they_are(memory_store: MemoryStore, tmp_path: Path) -> None:
    rng = random.Random(4)
    words = [rng.randbytes(3).hex().encode() for _ in range(99)]
    repo = make_repository(memory_store, tmp_path, part_rows=1000, inline_limit=1 << 20, routing=ONE_SLOT)
    files = [
        File("empty"),
        File("constant", b"\x07" * 5000),
        File("noise", rng.randbytes(30_000)),
        File("long text", b" ".join(rng.choices(words, k=30_000))),
        File("short text", b" ".join(rng.choices(words, k=300))),
        *[File(f"shared/{number}", b" ".join(words) * 3) for number in range(20)],
        File("gone", b" ".join(words) * 3),
        File("with facts", b"x", media_type="text/plain", metadata=(("a", "1"), ("b", "2"))),
    ]
    pack(repo, MemorySource(files, big=1 << 20))
    erase(repo, "gone", "shared/0")
    stored = {
        version.entry.uid: version.entry
        for shard in live_shards(repo)
        for version in versions_in_order(ShardReaders(repo), shard)
    }
    before = living(repo)
    repack(repo)
    assert living(opened(memory_store, tmp_path)) == before
    [shard] = live_shards(repo)
    now = {version.entry.uid: version.entry for version in versions_in_order(ShardReaders(repo), shard)}
    for uid in ("constant", "noise", "long text"):
        same = [(item.codec, item.crc32, item.stored_size) for item in (stored[uid], now[uid])]
        assert same[0] == same[1], "carried over as stored"
    assert len({now[f"shared/{number}"].offset for number in range(1, 20)}) == 1, "shared content is stored once"
    assert shard.stored_bytes < 2 * sum(len(file.content) for file in files[1:5])


def test_a_big_file_stays_where_it_is_and_goes_when_it_is_erased(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    big = [File(f"big/{number}", b"%d" % number * 30_000) for number in range(3)]
    pack(repo, MemorySource([*big, *some_files(20)]))
    places = {shard.version_id for shard in live_shards(repo) if shard.content_bytes >= 30_000}
    erase(repo, "big/1", "doc/00003.json")
    before = living(repo)
    report = repack(repo)
    assert living(opened(memory_store, tmp_path)) == before
    left = {shard.version_id for shard in live_shards(repo) if shard.content_bytes >= 30_000}
    assert len(left) == 2
    assert left < places, "the living ones were not rewritten"
    assert [len(each.shards) for each in report.done if each.files == 0] == [0], (
        "nothing stands in the erased one's place"
    )
    with pytest.raises(ErasedError):
        Retriever(opened(memory_store, tmp_path)).get("big/1", DAY)


def test_a_slot_of_erased_files_only_holds_nothing_any_more(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(12))
    pack(repo, source)
    erase(repo, *(file.uid for file in source.files))
    report = repack(repo)
    assert (report.files, report.left_out, report.shards) == (0, 12, 0)
    assert live_shards(repo) == []
    assert_sound(memory_store, tmp_path)
    with pytest.raises(ErasedError):
        Retriever(opened(memory_store, tmp_path)).versions("doc/00003.json", DAY)
    with pytest.raises(NotFoundError):
        Retriever(opened(memory_store, tmp_path)).get("never/was", DAY)
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    assert pack(opened(memory_store, tmp_path), MemorySource(source.files, name="again")).rejects == {"erased": 12}


def test_what_is_too_much_for_one_shard_makes_several(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, part_rows=1000, routing=ONE_SLOT)
    pack(repo, MemorySource([replace(file, retention_class="std") for file in some_files(200)]))
    smaller = opened(memory_store, tmp_path)
    erase(repo, "doc/00003.json")
    before = living(repo)
    job = replace(smaller.config, part_rows=64)
    smaller._config_log.config = job
    purpose = Purpose("tombstones", lambda state: erased_bundles(state, ratio=0), job.compression)
    # Not through `execute_repack`, which reads the config again.
    with smaller.scratch() as scratch:
        [done] = Rewriting(smaller, purpose, scratch, inspect_file).slot(next(iter(all_slots(smaller))))
    assert [shard.entries for shard in done.shards] == [64, 64, 64, 7]
    assert living(opened(memory_store, tmp_path)) == before
    readers_agree(memory_store, tmp_path, before)
    assert_sound(memory_store, tmp_path)
    erase(repo, "doc/00009.json")
    before = living(repo)
    report = repack(repo)
    assert report.replaced == 1, "only the one that holds it is rewritten"
    assert living(opened(memory_store, tmp_path)) == before


def test_a_ratio_below_the_threshold_is_left_alone(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, routing=ONE_SLOT)
    files = [File(f"doc/{number}", b"%d" % number) for number in range(20)]
    pack(repo, MemorySource(files))
    erase(repo, *(f"doc/{number}" for number in range(5)))
    assert repack(repo, 0.3).replaced == 0
    [line] = plan_repack(repo, all_slots(repo), ratio=0.25).lines
    assert (line.files, line.erased, line.ratio, line.shards) == (20, 5, 0.25, 1)
    assert repack(repo, 0.25).left_out == 5
    with pytest.raises(UsageError, match="ratio"):
        plan_repack(repo, [], ratio=30)


def test_held_versions_are_never_left_behind(memory_store: MemoryStore, tmp_path: Path) -> None:
    """Also not one that was erased before the hold came."""
    repo = make_repository(memory_store, tmp_path, routing=ONE_SLOT)
    files = [File(f"doc/{number}", b"%d" % number) for number in range(10)]
    pack(repo, MemorySource(files))
    slot = next(iter(all_slots(repo)))
    commit, ordinal = map(int, Retriever(repo).stat("doc/3", DAY).version.split("."))
    erase(repo, "doc/3", "doc/4")
    append(repo, slot, hold("doc/3", (commit, ordinal)))
    assert repack(repo).left_out == 1
    [shard] = live_shards(repo)
    kept = {version.entry.uid: version.origin for version in versions_in_order(ShardReaders(repo), shard)}
    assert kept["doc/3"] == Origin(commit, ordinal)
    assert "doc/4" not in kept
    with pytest.raises(ErasedError):
        Retriever(opened(memory_store, tmp_path)).get("doc/3", DAY)
    append(repo, slot, release("doc/3", (commit, ordinal)))
    assert repack(repo).left_out == 1


def test_a_damaged_shard_is_named_and_nothing_of_it_is_changed(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    source = MemorySource(some_files(60))
    pack(repo, source)
    erase(repo, *(file.uid for file in source.files[:30]))
    hurt = max(live_shards(repo), key=lambda shard: shard.entries)
    damage(memory_store, hurt.key, hurt.version_id)
    report = repack(opened(memory_store, tmp_path))
    assert not report.ok
    assert [finding.key for finding in report.findings] == [hurt.key]
    live = {shard.version_id for shard in live_shards(opened(memory_store, tmp_path))}
    assert hurt.version_id in live
    assert {shard.version_id for each in report.done for shard in each.shards} < live, "other shards were repacked"


class Clock:
    """A store's clock that can be set on."""

    def __init__(self) -> None:
        self.moment = datetime(2026, 3, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.moment


def test_an_ended_lock_is_not_renewed_and_no_lock_grows(tmp_path: Path) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    repo = make_repository(store, tmp_path, routing=ONE_SLOT)
    pack(repo, MemorySource([File(f"early/{number}", b"e%d" % number) for number in range(6)], name="early"))
    clock.moment += timedelta(days=60)
    repo = opened(store, tmp_path)
    pack(repo, MemorySource([File(f"late/{number}", b"l%d" % number) for number in range(6)], name="late"))
    ends = [shard.lock.until for shard in live_shards(repo)]
    assert ends[1] - ends[0] == timedelta(days=60)
    erase(repo, "early/1", "late/1")
    clock.moment += timedelta(days=30)
    repo = opened(store, tmp_path)
    report = repack(repo)
    assert [len(each.replaced) for each in report.done] == [1, 1], "locks too far from each other are not joined"
    fresh = live_shards(repo)
    assert sorted(shard.lock.until for shard in fresh) == ends
    for shard in fresh:
        held = store.get_lock(shard.key, shard.version_id)
        assert held is not None
        assert held.until == shard.lock.until
    clock.moment += timedelta(days=30)
    repo = opened(store, tmp_path)
    assert ends[0] < repo.clock.now() < ends[1]
    erase(repo, "early/2")
    [done] = repack(repo).done
    assert [shard.locked_until for shard in done.shards] == [ends[0]]
    held = store.get_lock(done.shards[0].key, done.shards[0].version_id)
    assert held is not None
    assert held.until - clock.moment <= timedelta(days=1, seconds=2), "the short lock of an upload, and no other"
    assert_sound(store, tmp_path)


def test_a_repair_renews_no_lock(tmp_path: Path) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    source = MemorySource([File(f"doc/{number}", b"%d" % number) for number in range(6)])
    pack(make_repository(store, tmp_path, routing=ONE_SLOT), source)
    [old] = live_shards(opened(store, tmp_path))
    damage(store, old.key, old.version_id)
    clock.moment += timedelta(days=40)
    pack(opened(store, tmp_path), source)
    [fresh] = live_shards(opened(store, tmp_path))
    assert fresh == replace(old, version_id=fresh.version_id)
    held = store.get_lock(fresh.key, fresh.version_id)
    assert held is not None
    assert held.until == old.lock.until
    assert_sound(store, tmp_path)


def test_bundles_are_bounded_in_number_bytes_and_time() -> None:
    """The spool holds a bundle's shards, and a merge makes the locks of all of them as long as the longest."""
    base = slots_support.shard("x", keys=range(3))

    def bundles(*wanted: tuple[int, int]) -> list[int]:
        shards = [
            replace(base, version_id=f"v{number}", size=size, lock=base.lock._replace(until=FAR + timedelta(days=days)))
            for number, (size, days) in enumerate(wanted)
        ]
        found = bundled("std", [(each, 1) for each in shards])
        assert sum(bundle.erased for bundle in found) == len(shards)
        return [len(bundle.shards) for bundle in found]

    assert bundles((1, 0), (1, 31), (1, 32), (1, 63)) == [2, 2]
    assert bundles(*[(1, 0)] * 300) == [128, 128, 44]
    assert bundles((1 << 29, 0), (1 << 29, 0), (1, 0), (1 << 40, 0)) == [2, 1, 1]
