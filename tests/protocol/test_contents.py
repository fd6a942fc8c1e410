"""All that rows and contents can look like: each file comes back bit for bit, or is a reject with a reason."""

from __future__ import annotations

import random
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    CONFIG,
    DAY,
    NOON,
    File,
    MemorySource,
    assert_archived,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.errors import BadTimeError, BadUidError, NotFoundError, UsageError
from vera_core.format.layout import MAX_METADATA
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.pack import plan_pack
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_window
from vera_core.routing import Routing, RoutingEpoch, UidScheme
from vera_core.source.rows import RejectReason
from vera_core.store.faulty import FaultyStore
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path) -> Repository:
    return make_repository(memory_store, tmp_path)


def uuid7(moment: datetime, number: int = 0) -> str:
    text = f"{int(moment.timestamp() * 1000):012x}7{number:03x}8{number:015x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


CONTENTS = {
    "empty": b"",
    "one byte": b"\0",
    "constant": b"\xff" * 5000,
    "text": b"some text " * 300,
    "noise": random.Random(7).randbytes(9000),
    "at the inline limit": random.Random(8).randbytes(CONFIG.inline_limit),
    "just above the inline limit": random.Random(9).randbytes(CONFIG.inline_limit + 1),
    "big": random.Random(10).randbytes(CONFIG.inline_limit * 9),
    "big and empty of information": bytes(CONFIG.inline_limit * 30),
}
UIDS = [
    "a", "/", "//", "a/b/c", "../../etc/passwd", "/absolute", "with space", "ünïcödé/✓", "\U0001f600", "x" * 512,
    "é" * 256, ".vera.meta", "log/000001.json", "%2F", "a\\b", "CON", "\u202eright to left", "e\u0301", "\u00e9",
]  # fmt: skip


def test_every_sort_of_content_and_name(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_repository(store, tmp_path)
    files = [File(f"content/{name}", content) for name, content in CONTENTS.items()]
    files += [File(uid, uid.encode() * 3, media_type="text/plain; charset=utf-8") for uid in UIDS]
    source = MemorySource(files)
    report = pack(repo, source)
    assert (report.archived, report.rejected) == (len(files), 0)
    assert_archived(store, tmp_path, source)
    assert verify_window(opened(store, tmp_path), source, source.window()).ok
    reader = Retriever(opened(store, tmp_path))
    for file in files:
        entry, chunks = reader.stream(file.uid, DAY)
        assert b"".join(chunks) == file.content
        assert entry.size == len(file.content)
    again = pack(opened(store, tmp_path), source)
    assert (again.packed_now, again.archived) == (0, len(files))


def test_big_files_have_shards_of_their_own(repo: Repository) -> None:
    report = pack(repo, MemorySource([File(f"big/{n}", bytes([n]) * 30_000) for n in range(3)] + some_files(10)))
    assert sorted(line.entries for line in report.shards)[:3] == [1, 1, 1]
    assert report.archived == 13


def test_a_window_of_one_file(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource([File("only", b"one")])
    report = pack(repo, source)
    assert (report.rows, report.archived, len(report.shards)) == (1, 1, 1)
    assert_archived(memory_store, tmp_path, source)


def test_an_empty_window_is_packed_and_verified(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource(some_files(5, day=date(2026, 3, 2)))
    report = pack(repo, source)
    assert (report.rows, report.archived, report.shards) == (0, 0, ())
    assert verify_window(opened(memory_store, tmp_path), source, source.window()).ok
    assert pack(repo, source).manifest == report.manifest
    assert plan_doctor(repo).ok
    assert list(Retriever(repo).list_day(DAY)) == []


def test_rows_belong_to_their_day_alone(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    moments = [midnight - timedelta(microseconds=1), midnight, midnight + timedelta(days=1, microseconds=-1),
               midnight + timedelta(days=1)]  # fmt: skip
    source = MemorySource([File(f"at/{n}", b"%d" % n, moment) for n, moment in enumerate(moments)])
    assert pack(repo, source).rows == 2
    for day in (DAY - timedelta(1), DAY + timedelta(1)):
        assert pack(repo, source, day).rows == 1
        assert_archived(memory_store, tmp_path, source, day)
    assert_archived(memory_store, tmp_path, source)


@pytest.mark.parametrize("zone", [timedelta(hours=9), timedelta(hours=-11), timedelta(hours=5, minutes=45)])
def test_times_are_the_same_moment_in_every_zone(repo: Repository, zone: timedelta) -> None:
    from datetime import timezone

    source = MemorySource([File("shifted", b"x", NOON + timedelta(hours=11, minutes=59))])
    pack(repo, source)
    reader = Retriever(repo)
    moment = (NOON + timedelta(hours=11, minutes=59)).astimezone(timezone(zone))
    assert reader.get("shifted", moment) == b"x"
    with pytest.raises(BadTimeError, match="no time zone"):
        reader.get("shifted", moment.replace(tzinfo=None))
    with pytest.raises(UsageError, match="no time that this repository trusts"):
        reader.get("shifted")
    with pytest.raises(NotFoundError):
        reader.get("shifted", DAY + timedelta(1))


@pytest.mark.parametrize("uid", ["", "x" * 513, "a\nb", "a\0b", "\ud800", "\x7f"])
def test_a_bad_uid_is_refused_before_anything_is_asked(memory_store: MemoryStore, tmp_path: Path, uid: str) -> None:
    make_repository(memory_store, tmp_path)
    store = FaultyStore(memory_store)
    reader = Retriever(opened(store, tmp_path))
    asked = len(store.calls)
    for read in (reader.get, reader.stat, reader.versions, reader.stream):
        with pytest.raises(BadUidError):
            read(uid, DAY)
    assert len(store.calls) == asked


# ---------------------------------------------------------------------- one uid, several rows


def test_rows_that_are_the_same_count_once(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource([File("same", b"x")] * 3 + some_files(3))
    report = pack(repo, source)
    assert (report.rows, report.archived, report.equal) == (6, 4, 2)
    assert_archived(memory_store, tmp_path, source)


def test_rows_of_one_uid_with_other_content_are_versions(repo: Repository, memory_store: MemoryStore) -> None:
    files = [File("uid", b"content %d" % number, NOON + timedelta(seconds=number)) for number in range(5)]
    report = pack(repo, MemorySource(files))
    assert report.archived == 5
    reader = Retriever(opened(memory_store, repo.workplace.spool))
    found = reader.versions("uid", DAY)
    assert [item.created_at for item in found] == [file.created_at for file in files]
    assert {reader.get("uid", DAY, version=item.version) for item in found} == {file.content for file in files}
    assert reader.get("uid", DAY) == b"content 4"
    assert reader.get("uid", DAY, version=found[0].version) == b"content 0"
    with pytest.raises(NotFoundError, match="no such version"):
        reader.get("uid", DAY, version="9.9")
    with pytest.raises(UsageError, match="no version"):
        reader.get("uid", DAY, version="first")


@pytest.mark.parametrize(
    "changed",
    [
        {"content": b"other"},
        {"media_type": "text/html"},
        {"metadata": (("k", "v"),)},
        {"created_at": NOON + timedelta(seconds=1)},
    ],
    ids=["content", "media type", "metadata", "time"],
)
def test_any_changed_fact_is_a_new_version(repo: Repository, changed: dict[str, object]) -> None:
    first = File("uid", b"x", media_type="text/plain")
    pack(repo, MemorySource([first], name="one"))
    report = pack(repo, MemorySource([replace(first, **changed)], name="two"))  # type: ignore[arg-type]
    assert (report.archived, report.equal) == (1, 0)
    assert len(Retriever(repo).versions("uid", DAY)) == 2
    again = pack(repo, MemorySource([replace(first, **changed)], name="three"))  # type: ignore[arg-type]
    assert (again.archived, again.equal) == (0, 1)


def test_back_to_an_earlier_content_is_a_version_too(repo: Repository) -> None:
    """Equal is what equals the latest version: A, B, A are three versions."""
    for name, content in (("one", b"A"), ("two", b"B"), ("three", b"A")):
        assert pack(repo, MemorySource([File("uid", content)], name=name)).archived == 1
    assert len(Retriever(repo).versions("uid", DAY)) == 3
    assert Retriever(repo).get("uid", DAY) == b"A"


def test_a_uid_of_many_rows_is_not_split_over_parts(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path, part_rows=5)
    source = MemorySource([File("uid", b"x")] * 23 + some_files(20))
    report = pack(repo, source)
    assert (report.archived, report.equal) == (21, 22)
    assert_archived(memory_store, tmp_path, source)


# ---------------------------------------------------------------------- rejects and late rows


def test_rows_that_cannot_be_read_are_named_and_the_rest_goes_on(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    files = some_files(60)
    files[3] = replace(files[3], fails=RejectReason.MISSING_FILE)
    files[4] = replace(files[4], fails=RejectReason.WRONG_SIZE)
    files[30] = replace(files[30], fails=RejectReason.MISSING_FILE)
    files[31] = replace(files[31], reject=RejectReason.BAD_UID)
    source = MemorySource(files)
    report = pack(repo, source)
    assert (report.rows, report.archived, report.rejected) == (60, 56, 4)
    assert report.rejects == {"bad-uid": 1, "missing-file": 2, "wrong-size": 1}
    assert_archived(memory_store, tmp_path, source)
    again = pack(opened(memory_store, tmp_path), source)
    assert (again.rejects, again.packed_now) == (report.rejects, 0), "a reject stays one in its revision"


@pytest.mark.parametrize("known", [False, True], ids=["new", "archived before"])
@pytest.mark.parametrize("breaks", ["OSError", "MissingObjectError", "cut"])
def test_a_big_file_that_breaks_while_it_is_read_is_a_reject(repo: Repository, breaks: str, known: bool) -> None:
    """Whether it is read to be archived, or only to be compared with what is archived."""
    big = File("big", b"x" * (CONFIG.inline_limit + 1))
    if known:
        pack(repo, MemorySource([big], name="before"))
    report = pack(repo, MemorySource([replace(big, breaks=breaks), *some_files(20)]))
    assert report.rejects == {"wrong-size" if breaks == "cut" else "unreadable": 1}
    assert report.archived == 20
    assert len(list(Retriever(repo).list_day(DAY))) == 20 + known


@pytest.mark.parametrize("part_rows", [1, 7, 1000])
def test_parts_without_an_archived_row_end_too(memory_store: MemoryStore, tmp_path: Path, part_rows: int) -> None:
    repo = make_repository(memory_store, tmp_path, part_rows=part_rows)
    files = [
        replace(file, fails=RejectReason.MISSING_FILE if number % 2 else RejectReason.UNREADABLE)
        for number, file in enumerate(some_files(50))
    ]
    report = pack(repo, MemorySource(files))
    assert (report.archived, report.rejected, report.shards) == (0, 50, ())
    assert report.rejects == {"missing-file": 25, "unreadable": 25}
    slots = {repo.config.routing.slot("default", file.uid, DAY) for file in files}
    parts = [part for slot in slots for part in repo.slot_log(slot).load().covered(report.manifest)]
    assert all(part.end - part.first <= part_rows for part in parts)
    assert sum(part.end - part.first for part in parts) == 50


def test_a_later_revision_holds_only_what_is_new(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource(some_files(30))
    first = pack(repo, source)
    late = MemorySource([*source.files, *some_files(7, prefix="late")])
    assert pack(repo, late).manifest == first.manifest, "revision 1 is frozen"
    second = pack(repo, late, revision=2)
    assert (second.rows, second.archived) == (7, 7)
    assert_archived(memory_store, tmp_path, late)
    third = pack(repo, late, revision=3)
    assert third.rows == 0
    assert_archived(memory_store, tmp_path, late)


def test_a_plan_says_what_a_pack_would_do(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource(some_files(50))
    watched = FaultyStore(memory_store)
    plan = plan_pack(opened(watched, tmp_path), source, source.window())
    assert not plan.frozen
    assert watched.count("put*") == watched.count("set_lock") == watched.count("delete*") == 0
    pack(repo, source)
    plan = plan_pack(opened(watched, tmp_path), source, source.window())
    assert (plan.frozen, plan.rows, plan.accounted, plan.slots) == (True, 50, 50, 2)
    assert watched.count("put*") == 0


def test_metadata_up_to_the_limit_and_not_beyond(repo: Repository) -> None:
    most = (("k", "v" * (MAX_METADATA - 200)),)
    source = MemorySource([File("uid", b"x", metadata=most)])
    assert pack(repo, source).archived == 1
    assert Retriever(repo).stat("uid", DAY).metadata == dict(most)


# ---------------------------------------------------------------------- uids that carry their own time


def test_a_trusted_uid_is_routed_by_its_own_time(memory_store: MemoryStore, tmp_path: Path) -> None:
    routing = Routing(epochs=(RoutingEpoch(date.min, 1),), schemes=frozenset({UidScheme.UUID7}))
    repo = make_repository(memory_store, tmp_path, routing=routing)
    early = NOON - timedelta(hours=20)
    files = [File(uuid7(early, n), b"own time", NOON) for n in range(3)] + [File(uuid7(NOON, 9), b"same day", NOON)]
    off = [File(uuid7(NOON - timedelta(days=3), n), b"too far", NOON) for n in range(2)]
    report = pack(repo, MemorySource(files + off))
    assert (report.archived, report.rejected) == (4, 2)
    assert report.rejects == {"uid-time-differs": 2}
    reader = Retriever(opened(memory_store, tmp_path))
    for file in files:
        assert reader.get(file.uid) == file.content
        assert reader.get(file.uid, DAY) == file.content
    assert reader.stat(files[0].uid).slot.startswith("default/20260228/")
    assert reader.stat(files[3].uid).slot.startswith("default/20260301/")
    with pytest.raises(NotFoundError):
        reader.get(off[0].uid)


def test_what_is_packed_twice_is_the_same_bytes(tmp_path: Path) -> None:
    """Same rows, content and toolchain make the same shards under the same names, in any repository state."""
    names = []
    for _ in range(2):
        store = MemoryStore()
        repo = make_repository(store, tmp_path)
        names.append(sorted((line.key, line.sha256) for line in pack(repo, MemorySource(some_files(90))).shards))
    assert names[0] == names[1]
