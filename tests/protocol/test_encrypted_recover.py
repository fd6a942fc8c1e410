"""Recovering encrypted shards: with the keys all that is whole, without them the sealed files, never an erased one."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.packing import DAY, File, MemorySource, make_encrypted, opened, pack
from tests.protocol.puncturing import CountedKeys, opened_with, puncture, put_keyring
from tests.protocol.repacking import live_shards
from tests.protocol.test_encrypted_reading import flip, slot_of, tombstone_of
from tests.protocol.test_repack import ONE_SLOT
from vera_core.errors import ConflictError, IntegrityError, UnavailableError, UsageError
from vera_core.format import Clues, FileSource, ShardReader
from vera_core.format.directory import DICTIONARY_HEAD
from vera_core.format.layout import DICTIONARY, HEADER_SIZE
from vera_core.keys.shards import ShardOpener
from vera_core.operations.damaged import Damaged, Known, recorded
from vera_core.operations.extract import Extracted, extract
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.putback import put_back
from vera_core.operations.recover import Outcome, RecoveryPlan, RecoveryReport, execute_recovery, plan_recovery
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots
from vera_core.operations.walk import all_slots
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.model import Entry


def some(count: int) -> list[File]:
    rng = random.Random(5)
    text = b" ".join(b"account %d holder" % number for number in range(40))
    return [
        File(
            f"statement/{number:04d}.txt",
            text[rng.randrange(300) :] + b"%d" % number if number % 7 else rng.randbytes(90),
            media_type="text/plain", metadata=(("customer", f"{number}"),),
        )
        for number in range(count)
    ]  # fmt: skip


class World:
    """An encrypted slot with one shard, of which two files are erased: one has its key still."""

    def __init__(self, spool: Path, count: int = 600) -> None:
        self.spool, self.store, self.files = spool, MemoryStore(), some(count)
        self.repo = make_encrypted(self.store, spool, routing=ONE_SLOT, part_rows=10_000)
        pack(self.repo, MemorySource(self.files))
        self.hidden, self.destroyed, *self.living = self.files
        tombstone_of(self.repo, self.hidden.uid, self.destroyed.uid)
        puncture(self.store, self.repo, slot_of(self.repo, self.hidden.uid), self.destroyed.uid)
        (self.shard,) = live_shards(self.repo)
        self.data = self.store.get(self.shard.key).data
        self.entries = {self.opened(entry): entry for entry in ShardReaders(self.repo).reader(self.shard).entries()}
        self.copy = spool / "copy.vera"
        self.copy.write_bytes(self.data)

    def opened(self, entry: Entry) -> str:
        naming = self.repo.naming("default")
        return next(file.uid for file in self.files if naming.name(file.uid) == entry.uid)

    def damage(self, *places: int, cut: int = 0) -> None:
        data = bytearray(self.data)
        for at in places:
            data[at] ^= 0x20
        self.copy.write_bytes(bytes(data[: len(data) - cut]))

    def known(self) -> Known:
        return recorded(opened(self.store, self.spool), self.shard.key)

    def plan(self, known: Known | None = None) -> RecoveryPlan:
        source = FileSource(self.copy)
        return plan_recovery(Damaged(source, "copy.vera", self.known() if known is None else known))

    def rebuilt(self, plan: RecoveryPlan) -> tuple[RecoveryReport, bytes]:
        out = self.spool / "out.vera"
        with out.open("wb") as file:
            report = execute_recovery(plan, file)
        return report, out.read_bytes()

    def extracted(self, known: Known | None = None, **options: Any) -> tuple[Extracted, dict[str, bytes]]:
        """What was left out, and the files that were written, by uid, checked against their lines."""
        target = self.spool / f"saved-{random.randrange(1 << 40):x}"
        target.mkdir()
        report = extract(self.plan(known), target, **options)
        return report, dict(self._listed(target))

    def _listed(self, target: Path) -> Iterator[tuple[str, bytes]]:
        by_uid = {file.uid: file for file in self.files}
        for text in (target / "files.jsonl").read_text().splitlines():
            line = json.loads(text)
            file = by_uid[line["uid"]]
            assert line["path"] == f"files/{file.uid}"
            assert (line["media_type"], line["metadata"]) == (file.media_type, dict(file.metadata))
            assert line["size"] == len(file.content)
            yield file.uid, (target / line["path"]).read_bytes()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def contents(files: list[File]) -> dict[str, bytes]:
    return {file.uid: file.content for file in files}


def test_files_come_back_but_the_erased_ones(world: World) -> None:
    assert sum(len(file.content) for file in world.files) > 2 * len(world.data), "dictionaries are at work"
    left_out, saved = world.extracted()
    assert saved == contents(world.living)
    assert left_out == Extracted(2, 0, ())


def test_a_replica_without_a_log_is_opened_by_the_keys_alone(world: World) -> None:
    """Whose keys are destroyed stay so even where nothing tells of tombstones."""
    left_out, saved = world.extracted(replace(world.known(), erased={}))
    assert saved == contents([world.hidden, *world.living])
    assert left_out == Extracted(1, 0, ())


@pytest.mark.parametrize("places", [(), (40,), (60, 100)])
def test_without_keys_it_comes_back_bit_for_bit(world: World, places: tuple[int, ...]) -> None:
    """Header, directory and footer are made anew; the key service is not asked, for the keyring's header is open."""
    sealed = CountedKeys(error=UnavailableError("sealed"))
    known = recorded(opened_with(world.store, world.spool, sealed), world.shard.key)
    world.damage(*places, cut=300)
    plan = world.plan(known)
    assert plan.report.outcome is Outcome.IDENTICAL
    report, data = world.rebuilt(plan)
    assert data == world.data
    assert (report.sha256, sealed.unwrapped) == (world.shard.sha256, 0)
    with pytest.raises(UnavailableError):
        world.extracted(known)


def test_what_is_lost_is_lost_alone(world: World) -> None:
    gone = world.living[100], world.living[300]
    world.damage(*[world.entries[file.uid].offset + 30 for file in gone])
    plan = world.plan()
    assert (plan.report.outcome, plan.report.lost) == (Outcome.PARTIAL, 2)
    assert "without its keys" in str(plan.obstacle)
    left_out, saved = world.extracted()
    assert saved == contents([file for file in world.living if file not in gone])
    assert left_out == Extracted(2, 0, ())
    assert {damage.uid for damage in plan.report.damages} == {world.entries[file.uid].uid for file in gone}


def test_with_the_keyring_of_another_shard_nothing_is_opened(world: World) -> None:
    other = World(world.spool / "other", 10)
    with pytest.raises(IntegrityError, match="not that of this shard"):
        world.extracted(replace(world.known(), keys=other.known().keys))


def test_lost_dictionaries_cost_their_files(world: World) -> None:
    reader = ShardReader.open(FileSource(world.copy), sealed=True)
    (dictionary,) = [section for section in reader.sections if section.tag == DICTIONARY]
    keys = world.known().keys
    assert keys is not None
    tenant, keyring = keys()
    opener = ShardOpener(reader, tenant, keyring)
    living = [entry for entry in reader.entries() if opener.holds(entry)]
    needs = {opened.uid for opened, _ in opener.read_many(living) if opened.codec.takes_dictionary and opened.parameter}
    world.damage(HEADER_SIZE + DICTIONARY_HEAD + 20, dictionary.offset + 20)
    told: list[object] = []
    left_out, saved = world.extracted(tell=told.append)
    free = [file for file in world.living if file.uid not in needs]
    assert saved == contents(free)
    assert len(free) > 50
    assert left_out.unopened == len(told) == len(world.living) - len(free) > 100
    assert "dictionary 1 is lost" in left_out.damages[0].what


def test_without_keys_files_are_saved_as_they_are_sealed(world: World, tmp_path: Path) -> None:
    known = Known(clues=Clues())
    with pytest.raises(UsageError, match="encrypted") as caught:
        world.extracted(known)
    assert "--sealed" in caught.value.todo
    target = tmp_path / "sealed"
    target.mkdir()
    assert extract(world.plan(known), target, sealed=True) == Extracted(0, 0, ())
    lines = [json.loads(line) for line in (target / "sealed.jsonl").read_text().splitlines()]
    assert len(lines) == len(world.files)
    assert not (target / "files.jsonl").exists(), "nothing that a pack would take"
    by_name = {entry.uid: entry for entry in world.entries.values()}
    for line in lines:
        entry = by_name[line["name"]]
        assert line["ordinal"] == entry.ordinal
        sealed = world.data[entry.offset : entry.offset + entry.stored_size]
        assert (target / line["path"]).read_bytes() == sealed


def test_it_is_put_back_as_any_other(world: World) -> None:
    """The record names the revision of its keyring that counts now."""
    flip(world.store, world.shard.key, world.entries[world.living[3].uid].offset + 30)
    repo = opened(world.store, world.spool)
    with pytest.raises(IntegrityError):
        Retriever(repo).get(world.living[3].uid, DAY)
    put_back(repo, world.shard.key, world.copy)
    (live,) = live_shards(repo)
    assert (live.sha256, live.keyring) == (world.shard.sha256, 2)
    assert live.version_id != world.shard.version_id
    reader = Retriever(opened(world.store, world.spool))
    assert {report.uid for report in reader.list_day(DAY)} == {file.uid for file in world.living}
    assert verify_slots(repo, all_slots(repo), deep=True).ok
    with pytest.raises(ConflictError):
        put_back(repo, world.shard.key, world.copy)


def test_without_its_keyring_only_sealed_files_are_left(world: World) -> None:
    put_keyring(world.store, world.repo, world.shard, b"nothing")
    known = world.known()
    assert known.clues.encryption is None
    with pytest.raises(IntegrityError, match="keyring"):
        world.extracted(known)
    assert world.plan(known).report.outcome is Outcome.IDENTICAL
