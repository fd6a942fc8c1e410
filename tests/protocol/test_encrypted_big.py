"""Big files in encrypted repositories: packed, read, verified, kept longer, left alone, erased and recovered."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import pytest

from tests.format.support import Parts
from tests.protocol.law import LATER, retain_order
from tests.protocol.packing import (
    CONFIG,
    DAY,
    File,
    MemorySource,
    assert_archived,
    make_encrypted,
    opened,
    pack,
    some_files,
)
from tests.protocol.puncturing import puncture
from tests.protocol.repacking import erase, live_shards, living, repack
from tests.protocol.test_encrypted_reading import flip, slot_of, tombstone_of
from tests.protocol.test_repack import ONE_SLOT
from vera_core.codec import crc32
from vera_core.errors import ErasedError, IntegrityError
from vera_core.format import FileSource
from vera_core.operations.damaged import Damaged, recorded
from vera_core.operations.extract import Extracted, extract
from vera_core.operations.find import Wanted, find_files
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.optimize import Worth, execute_optimize, plan_optimize
from vera_core.operations.recover import execute_recovery, plan_recovery
from vera_core.operations.retain import execute_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots, verify_window
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

NOISE = random.Random(3)
LIMIT = CONFIG.inline_limit
BIG = [
    File("big/noise", NOISE.randbytes(LIMIT * 3), media_type="application/x-noise", metadata=(("customer", "4711"),)),
    File("big/text", b"a line of text\n" * LIMIT),
    File("big/constant", bytes(LIMIT * 30)),
    File("big/segments", NOISE.randbytes(2_500_000), metadata=(("customer", "0815"),)),
]
SMALL = some_files(20)


def packed(store: ObjectStore, spool: Path, **changes: object) -> tuple[Repository, MemorySource]:
    repo, source = make_encrypted(store, spool, **changes), MemorySource([*BIG, *SMALL])
    report = pack(repo, source)
    assert (report.archived, report.rejected) == (len(source.files), 0)
    return repo, source


def streamed(repo: Repository) -> list[ShardRef]:
    readers = ShardReaders(repo)
    return [shard for shard in live_shards(repo) if readers.reader(shard).streamed]


def test_everything_comes_back_as_it_was(store: ObjectStore, tmp_path: Path) -> None:
    repo, source = packed(store, tmp_path)
    assert_archived(store, tmp_path, source)
    assert [shard.entries for shard in streamed(repo)] == [1] * len(BIG)
    reader = Retriever(opened(store, tmp_path))
    listed = {report.uid: report for report in reader.list_day(DAY)}
    assert listed.keys() == {file.uid for file in source.files}
    for file in BIG:
        entry, chunks = reader.stream(file.uid, DAY)
        assert b"".join(chunks) == file.content == reader.get(file.uid, DAY)
        report = reader.stat(file.uid, DAY)
        assert report.sha256 == hashlib.sha256(file.content).hexdigest()
        assert (report.size, report.media_type, report.metadata) == (
            len(file.content),
            file.media_type,
            dict(file.metadata),
        )
        assert report == listed[file.uid] == reader.versions(file.uid, DAY)[0]
        assert (entry.uid, entry.size) == (file.uid, len(file.content))
    found = {report.uid for report in find_files(repo, Wanted("default", {"customer": "4711"}))}
    assert "big/noise" in found
    assert "big/segments" not in found


def test_the_archive_agrees_with_the_source(memory_store: MemoryStore, tmp_path: Path) -> None:
    _, source = packed(memory_store, tmp_path)
    fresh = opened(memory_store, tmp_path)
    assert verify_slots(fresh, all_slots(fresh), deep=True).ok
    assert verify_window(fresh, source, source.window()).ok
    again = pack(opened(memory_store, tmp_path), replace(source, name="again"))
    assert (again.archived, again.equal) == (0, len(source.files))
    changed = MemorySource([replace(BIG[0], content=BIG[0].content[::-1]), replace(BIG[1], media_type="text/plain")])
    changed.name = "changed"
    assert pack(opened(memory_store, tmp_path), changed).archived == 2
    assert Retriever(opened(memory_store, tmp_path)).get("big/noise", DAY) == BIG[0].content[::-1]
    source.files[3] = replace(BIG[3], content=BIG[3].content[::-1])
    report = verify_window(opened(memory_store, tmp_path), source, source.window())
    told = [finding.what for check in report.checks for finding in check.findings]
    assert len(told) == 2, "it is not archived, and what is archived is not there"


@pytest.mark.parametrize("breaks", ["OSError", "MissingObjectError", "cut"])
def test_a_source_that_breaks_is_a_reject(memory_store: MemoryStore, tmp_path: Path, breaks: str) -> None:
    repo = make_encrypted(memory_store, tmp_path)
    report = pack(repo, MemorySource([replace(BIG[0], breaks=breaks), *SMALL]))
    assert (report.archived, report.rejected) == (len(SMALL), 1)
    assert streamed(repo) == []
    assert list(tmp_path.glob("**/part-*")) == []


def test_a_damaged_one_is_found_by_its_name(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed(memory_store, tmp_path)
    name = repo.naming("default").name("big/segments")
    (shard,) = [shard for shard in streamed(repo) if ShardReaders(repo).reader(shard).find(name)]
    flip(memory_store, shard.key, shard.size // 2)
    reader = Retriever(opened(memory_store, tmp_path))
    received = bytearray()
    _, chunks = reader.stream("big/segments", DAY)
    with pytest.raises(IntegrityError, match="uid=big/segments"):
        received.extend(chain.from_iterable(chunks))
    assert len(received) < len(BIG[3].content)
    fresh = opened(memory_store, tmp_path)
    report = verify_slots(fresh, all_slots(fresh), deep=True)
    assert not report.ok
    assert name in {finding.uid for check in report.checks for finding in check.findings}


def test_what_is_kept_longer_is_sealed_anew(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, source = packed(memory_store, tmp_path, shard_bytes=1000)
    wanted = [*(file.uid for file in BIG), *(file.uid for file in SMALL[:5])]
    before = {shard.key for shard in streamed(repo)}
    report = execute_retain(repo, retain_order(*wanted))
    assert (report.ok, report.changed) == (True, len(wanted))
    copies = [shard for shard in streamed(repo) if shard.key not in before]
    assert len(copies) == len(BIG)
    for shard in copies:
        assert repo.keyrings.get(shard).header.shard.hex() == shard.sha256
        assert ShardReaders(repo).reader(shard).verify().entries == 1
    reader = Retriever(opened(memory_store, tmp_path))
    for file in BIG:
        found = reader.stat(file.uid, DAY)
        assert found.lock_until == LATER
        assert b"".join(reader.stream(file.uid, DAY)[1]) == file.content
        assert (found.media_type, found.metadata) == (file.media_type, dict(file.metadata))
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    assert list(tmp_path.glob("**/copy-*")) == []


def test_a_living_one_stays_where_it_is_and_an_erased_one_goes(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, source = packed(memory_store, tmp_path)
    places = {shard.version_id for shard in streamed(repo)}
    erase(repo, "big/noise", SMALL[3].uid)
    with pytest.raises(ErasedError, match="big/noise"):
        Retriever(opened(memory_store, tmp_path)).stream("big/noise", DAY)
    before = living(repo)
    assert len(before) == len(source.files) - 2
    repack(repo)
    execute_optimize(repo, plan_optimize(repo, all_slots(repo), worth=Worth(least_saved=1)))
    assert living(opened(memory_store, tmp_path)) == before
    left = {shard.version_id for shard in streamed(repo)}
    assert len(left) == len(BIG) - 1
    assert left < places, "the living ones were not rewritten"


def test_without_its_key_it_is_erased(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed(memory_store, tmp_path)
    tombstone_of(repo, "big/text")
    puncture(memory_store, repo, slot_of(repo, "big/text"), "big/text")
    reader = Retriever(opened(memory_store, tmp_path))
    for read in (reader.get, reader.stat, reader.stream):
        with pytest.raises(ErasedError, match="big/text"):
            read("big/text", DAY)
    assert reader.versions("big/text", DAY)[0].erased
    fresh = opened(memory_store, tmp_path)
    assert verify_slots(fresh, all_slots(fresh), deep=True).ok


def test_it_is_recovered_with_and_without_keys(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed(memory_store, tmp_path, routing=ONE_SLOT)
    file = BIG[3]
    name = repo.naming("default").name(file.uid)
    (shard,) = [shard for shard in streamed(repo) if ShardReaders(repo).reader(shard).find(name)]
    data = memory_store.get(shard.key).data
    copy, out = tmp_path / "copy.vera", tmp_path / "out.vera"
    end = ShardReaders(repo).reader(shard).footer.data_end
    copy.write_bytes(data[:40] + b"\xff" + data[41:end])
    known = recorded(opened(memory_store, tmp_path), shard.key)
    with FileSource(copy) as source:
        plan = plan_recovery(Damaged(source, "copy.vera", known))
        assert plan.report.saved == 1, plan.report
        with out.open("wb") as sink:
            execute_recovery(plan, sink)
        assert out.read_bytes() == data
        (tmp_path / "files").mkdir()
        assert extract(plan, tmp_path / "files") == Extracted(0, 0, ())
        assert (tmp_path / "files" / "files" / file.uid).read_bytes() == file.content
        (tmp_path / "sealed").mkdir()
        assert extract(plan, tmp_path / "sealed", sealed=True) == Extracted(0, 0, ())
    (entry,) = ShardReaders(repo).reader(shard).entries()
    sealed = (tmp_path / "sealed" / "other" / "00000000").read_bytes()
    assert sealed == data[entry.offset : entry.offset + entry.stored_size]


def test_one_that_no_longer_verifies_leaves_no_file(memory_store: MemoryStore, tmp_path: Path) -> None:
    """What was altered with its CRC32 made right is found when it is opened, after much of it was written."""
    repo, _ = packed(memory_store, tmp_path, routing=ONE_SLOT)
    name = repo.naming("default").name("big/segments")
    (shard,) = [shard for shard in streamed(repo) if ShardReaders(repo).reader(shard).find(name)]
    parts = Parts.of(memory_store.get(shard.key).data)
    [block] = parts.groups
    changed = bytearray(block.contents)
    changed[-500] ^= 1
    block.contents = bytes(changed)
    block.proofs = block.proofs[:32] + crc32(block.contents).to_bytes(4, "little")
    copy = tmp_path / "copy.vera"
    copy.write_bytes(parts.seal())
    (tmp_path / "files").mkdir()
    with FileSource(copy) as source:
        plan = plan_recovery(Damaged(source, "copy.vera", recorded(opened(memory_store, tmp_path), shard.key)))
        found = extract(plan, tmp_path / "files")
    assert (found.erased, found.unopened) == (0, 1)
    assert "does not open" in found.damages[0].what
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file() and path.stat().st_size] == []


def test_nothing_erased_is_left(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo, _ = packed(memory_store, tmp_path)
    erase(repo, *(file.uid for file in BIG))
    repack(repo)
    assert streamed(repo) == []
    reader = Retriever(opened(memory_store, tmp_path))
    for file in BIG:
        with pytest.raises(ErasedError):
            reader.stat(file.uid, DAY)
