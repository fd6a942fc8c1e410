"""Manifests of encrypted repositories: who adopts one packs the rows that were frozen, and the bucket names none."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.protocol.packing import (
    DAY,
    KEYS,
    NOON,
    File,
    MemorySource,
    assert_archived,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.errors import IntegrityError, NotFoundError, UnavailableError
from vera_core.model import Lock, LockMode
from vera_core.operations.accounted import named_rejects
from vera_core.operations.due import Migration
from vera_core.operations.epochs import set_epoch
from vera_core.operations.freeze import freeze_window, load_frozen, with_rows
from vera_core.operations.migrate import advance_watermark, migrate_window, pack_due, verify_packed
from vera_core.operations.pack import freeze_rows, packed_window, plan_pack
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_window
from vera_core.routing import Routing, RoutingEpoch
from vera_core.source.database import connect
from vera_core.source.state import MigrationState, WindowState
from vera_core.store.chain import ChainedLog
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.source.base import Fetched, Window
    from vera_core.source.rows import RawBatch, Row
    from vera_core.store.chain import Record

KEY = KEYS.manifest("default", "docs", DAY, 1)
GONE = {"gone": 1}
FAR = Lock(LockMode.GOVERNANCE, NOON.replace(year=2090))


@dataclass(slots=True)
class Asked(MemorySource):
    """A source that counts how often it is asked for its rows."""

    asked: int = field(default=0)

    def batches(self, window: Window) -> Iterator[RawBatch]:
        """See `Source.batches`."""
        self.asked += 1
        return MemorySource.batches(self, window)


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path) -> Repository:
    return make_encrypted(memory_store, tmp_path)


def entries(repo: Repository) -> list[Record]:
    """What this handle told the audit."""
    prefix = KEYS.writer_prefix(repo.audit.writer)
    return ChainedLog(repo.store, prefix, lambda n: KEYS.audit(repo.audit.writer, n)).read()


def without(files: list[File], *places: int) -> list[File]:
    """The files after some of them left the day; the others stay in their places."""
    tomorrow = timedelta(days=1)
    return [
        replace(file, created_at=file.created_at + tomorrow) if at in places else file for at, file in enumerate(files)
    ]


def everything(store: MemoryStore) -> bytes:
    """Every version of every object, and its key."""
    infos = [info for info in store.list_versions("") if not info.is_delete_marker]
    return b"".join(info.key.encode() + store.get(info.key, version_id=info.version_id).data for info in infos)


def test_another_worker_packs_what_was_frozen(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    """The source changed in between: new rows wait for the next revision, rows that are gone are rejects, and one that
    changed is archived as it is now."""
    files = some_files(90)
    freeze_rows(repo, MemorySource(files), MemorySource(files).window())
    moved = replace(files[7], created_at=files[7].created_at.replace(hour=23, minute=59))
    now = [*(moved if file is files[7] else file for file in without(files, 40)), File("later", b"x")]
    source = MemorySource(now)
    report = pack(opened(memory_store, tmp_path), source)
    assert (report.rows, report.archived, report.rejects) == (90, 89, GONE)
    assert_archived(memory_store, tmp_path, MemorySource(now[:-1]))
    verify = verify_window(opened(memory_store, tmp_path), source, source.window())
    assert verify.ok, verify
    second = pack(opened(memory_store, tmp_path), source, revision=2)
    assert (second.rows, second.archived, second.equal) == (2, 1, 1)
    assert_archived(memory_store, tmp_path, source)


@pytest.mark.parametrize("limit", [{"shard_bytes": 1}, {"part_rows": 1}])
def test_a_row_that_is_gone_parts_no_rows_of_its_uid(
    memory_store: MemoryStore, tmp_path: Path, limit: dict[str, int]
) -> None:
    """Else the one behind it would not be seen to equal the one before it."""
    repo = make_encrypted(memory_store, tmp_path, **limit)
    files = [File("u", b"one"), File("u", b"two"), File("u", b"one")]
    freeze_rows(repo, MemorySource(files), MemorySource(files).window())
    report = pack(opened(memory_store, tmp_path), MemorySource(without(files, 1)))
    assert (report.archived, report.equal, report.rejects) == (1, 1, GONE)


def test_rows_that_were_gone_come_again(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    files = some_files(20)
    freeze_rows(repo, MemorySource(files), MemorySource(files).window())
    assert pack(repo, MemorySource(without(files, 0))).rejects == GONE
    report = pack(opened(memory_store, tmp_path), MemorySource(files), revision=2)
    assert (report.rows, report.archived) == (1, 1)
    assert_archived(memory_store, tmp_path, MemorySource(files))


def test_a_row_that_only_its_late_value_changed_of_is_verified_as_before(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    """The business touches rows long after they were archived: that holds no watermark back."""

    @dataclass(slots=True)
    class Touched(MemorySource):
        late_value: str = "1"

        def batches(self, window: Window) -> Iterator[RawBatch]:
            for batch in MemorySource.batches(self, window):
                yield batch._replace(late=[self.late_value] * len(batch.uid))

    repo, source = make_encrypted(memory_store, tmp_path), Touched(some_files(50))
    pack(repo, source)
    source.late_value = "2"
    verify = verify_window(opened(memory_store, tmp_path), source, source.window())
    assert verify.ok, verify
    source.files[3] = replace(source.files[3], content=b"other")
    assert not verify_window(opened(memory_store, tmp_path), source, source.window()).ok


def test_a_window_that_is_archived_is_not_asked_for_again(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    source = Asked([*some_files(90), File("broken", fails="missing-file")])
    pack(repo, source)
    assert source.asked == 1, "who freezes a window goes on with the rows it has"
    fetched = source.fetched
    other = opened(memory_store, tmp_path)
    report = pack(other, source)
    assert (report.packed_now, report.rows, report.rejects) == (0, 91, {"missing-file": 1})
    assert replace(packed_window(other, source.window()), seconds=0) == replace(report, seconds=0, files_per_second=0)
    assert plan_pack(other, source, source.window()).accounted == 91
    assert freeze_rows(other, source, source.window()).manifest == report.manifest
    assert (source.asked, source.fetched) == (1, fetched)


def test_what_is_left_of_a_killed_pack_is_packed_from_the_source(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """The first commit is there; the rest is built from rows that are asked for again, and only once."""
    files = some_files(90)
    dying = FaultyStore(memory_store, [Rule(Action.FAIL, "put_file", "*.vera", nth=2, times=None)])
    with pytest.raises(UnavailableError):
        pack(opened(dying, tmp_path), MemorySource(files))
    source = Asked(files)
    report = pack(opened(memory_store, tmp_path), source)
    assert (report.rows, report.archived) == (90, 90)
    assert 0 < report.packed_now < 90
    assert source.asked == 1
    assert_archived(memory_store, tmp_path, source)


def test_rejects_are_named_by_the_source_and_not_in_the_bucket(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    files = [
        *some_files(30, prefix="telling-uid"),
        File("telling-broken", fails="missing-file"),
        File("telling-bad", reject="bad-metadata", media_type="telling/media"),
        File("telling-gone", b"1"),
    ]
    source = MemorySource(files)
    freeze_rows(repo, source, source.window())
    source.files = files[:-1]
    report = pack(opened(memory_store, tmp_path), source)
    assert report.rejects == {"bad-metadata": 1, "gone": 1, "missing-file": 1}
    assert b"telling" not in everything(memory_store)
    name = repo.naming("default").name
    with repo.scratch() as scratch:
        frozen = load_frozen(repo, source.window(), scratch)
        rejects = {(item.uid, item.reason) for item in named_rejects(repo, source, frozen, 10)}
        few = named_rejects(repo, source, frozen, 2)
        none = named_rejects(repo, source, frozen, 0)
    assert rejects == {
        ("telling-broken", "missing-file"), ("telling-bad", "bad-metadata"), (name("telling-gone"), "gone")
    }  # fmt: skip
    assert len(few) == 2
    assert none == []


def test_the_audit_of_an_error_names_no_file(repo: Repository, memory_store: MemoryStore) -> None:
    class Down(MemorySource):
        def fetch(self, rows: Sequence[Row]) -> Iterator[Fetched]:
            raise UnavailableError(f"can't read {rows[0].uid}", todo="telling", uid=rows[0].uid, path="/telling/path")

    with pytest.raises(UnavailableError, match="telling"):
        pack(repo, Down(some_files(3, prefix="telling-uid")))
    memory_store.put(KEYS.manifest("default", "other", DAY, 1), b"junk", lock=FAR)
    with pytest.raises(IntegrityError):
        pack(repo, MemorySource(some_files(3), name="other"))
    assert b"telling" not in everything(memory_store)
    details = [record.body["detail"] for record in entries(repo) if record.body.get("result") == "failed"]
    assert details[0] == {"kind": "unavailable", "where": {}}
    assert details[1]["kind"] == "integrity"
    assert details[1]["where"]["key"] == KEYS.manifest("default", "other", DAY, 1)


def test_a_migration_names_rejects_where_the_business_looks(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """Another worker verifies what one has packed; the verdict and its rejects lie in the business database."""
    source = MemorySource([*some_files(30, prefix="telling"), File("telling-broken", fails="missing-file")])
    (tmp_path / "business.db").touch()
    state = MigrationState(connect(f"sqlite:///{tmp_path}/business.db", writable=True))
    state.create()
    migration = Migration(repo=repo, source=source, state=state, begin=DAY)
    pack_due(migration, source.window())
    other = replace(migration, repo=opened(memory_store, tmp_path))
    report = verify_packed(other, source.window())
    assert (report.verdict, report.pack.rejects) == (WindowState.REJECTS, {"missing-file": 1})
    named = [(reject.uid, reject.reason) for _, reject in state.rejects(*migration.name, day=DAY)]
    assert named == [("telling-broken", "missing-file")]
    source.files[-1] = File("telling-broken", b"mended")
    second = migrate_window(other, source.window(revision=2))
    assert (second.verdict, second.pack.archived) == (WindowState.VERIFIED, 1)
    assert advance_watermark(other).after > f"{DAY:%Y%m%d}"
    assert b"telling" not in everything(memory_store)


def test_uids_that_are_none_are_rejected_as_ever(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    source = MemorySource([File("", reject="bad-uid"), File("x" * 600, reject="bad-uid"), File("good", b"1")])
    assert pack(repo, source).rejects == {"bad-uid": 2}
    assert pack(opened(memory_store, tmp_path), source).rejects == {"bad-uid": 2}
    assert_archived(memory_store, tmp_path, source)


FILES = st.lists(
    st.builds(
        File,
        uid=st.sampled_from([f"u{n}" for n in range(5)]),
        content=st.sampled_from([b"", b"one", b"two" * 30]),
        created_at=st.sampled_from([NOON, NOON + timedelta(hours=1)]),
        retention_class=st.sampled_from(["std", "long"]),
        fails=st.sampled_from(["", "", "", "unreadable"]),
        reject=st.sampled_from(["", "", "", "bad-metadata"]),
    ),
    max_size=12,
)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(files=FILES, part_rows=st.sampled_from([1, 3, 40]), shuffled=st.randoms(use_true_random=False))
def test_who_adopts_archives_what_who_froze_would_have(
    tmp_path: Path, files: list[File], part_rows: int, shuffled: object
) -> None:
    """The same versions in the same order as in an unencrypted repository, frozen and packed by one or by two."""
    found = []
    for make, adopting in ((make_repository, False), (make_encrypted, False), (make_encrypted, True)):
        store = MemoryStore()
        repo, source = make(store, tmp_path, part_rows=part_rows), MemorySource(files)
        if adopting:
            freeze_rows(repo, source, source.window())
        report = pack(opened(store, tmp_path), source)
        assert report.rows == len(files)
        reader = Retriever(opened(store, tmp_path))
        versions = {}
        for uid in sorted({file.uid for file in files}):
            try:
                seen = reader.versions(uid, DAY)
            except NotFoundError:
                continue
            versions[uid] = [(each.created_at, each.size, each.retention_class) for each in seen]
            assert verify_window(opened(store, tmp_path), source, source.window()).ok
        found.append((versions, report.archived, report.equal, report.rejects))
    assert found[0] == found[1] == found[2]


def test_two_freezers_at_once_pack_the_rows_of_one(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    winner, loser = MemorySource(some_files(20)), Asked(some_files(25))
    racing = FaultyStore(memory_store)
    racing.add(
        Rule(
            Action.RUN_BEFORE,
            "put_file",
            KEY,
            run=lambda: freeze_rows(opened(memory_store, tmp_path), winner, winner.window()),
        )
    )
    report = pack(opened(racing, tmp_path), loser)
    assert (report.rows, report.archived, loser.asked) == (20, 20, 2)
    assert_archived(memory_store, tmp_path, winner)
    same = Asked(some_files(25))
    racing.add(
        Rule(
            Action.RUN_BEFORE,
            "put_file",
            KEYS.manifest("default", "docs", DAY, 2),
            run=lambda: freeze_rows(opened(memory_store, tmp_path), loser, loser.window(revision=2)),
        )
    )
    report = pack(opened(racing, tmp_path), same, revision=2)
    assert (report.rows, report.archived, same.asked) == (5, 5, 1), "the same rows, so those at hand do"


def test_somebody_makes_the_tenants_key_and_packs_at_the_same_moment(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    source = MemorySource(some_files(20))
    racing = FaultyStore(memory_store)
    racing.add(Rule(Action.RUN_BEFORE, "list_prefixes", "*/t/default/", run=lambda: pack(repo, source)))
    report = pack(opened(racing, tmp_path), source)
    assert (report.rows, report.archived, report.packed_now) == (20, 20, 0)
    assert_archived(memory_store, tmp_path, source)


def test_an_epoch_in_between_makes_it_stale_as_ever(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_encrypted(memory_store, tmp_path, routing=Routing(epochs=(RoutingEpoch(date.min, 0),)))
    source = MemorySource(some_files(30))
    freeze_rows(repo, source, source.window())
    set_epoch(repo, DAY, 2)
    report = pack(opened(memory_store, tmp_path), source)
    assert (report.revision, report.archived) == (2, 30)
    assert_archived(memory_store, tmp_path, source)


def test_a_manifest_of_the_other_kind_is_refused(memory_store: MemoryStore, tmp_path: Path) -> None:
    source, other = MemorySource(some_files(3)), MemoryStore()
    for store, foreign, make, makes in (
        (memory_store, MemoryStore(), make_encrypted, make_repository),
        (other, MemoryStore(), make_repository, make_encrypted),
    ):
        freeze_rows(makes(foreign, tmp_path), source, source.window())
        repo = make(store, tmp_path)
        store.put(KEY, foreign.get(KEY).data, lock=FAR)
        with pytest.raises(IntegrityError, match="keyed names") as caught:
            pack(repo, source)
        assert caught.value.where["key"] == KEY


def test_rows_are_adopted_with_the_digest_that_commits_name(repo: Repository, tmp_path: Path) -> None:
    source = MemorySource(some_files(90))
    with repo.scratch() as scratch:
        held = freeze_window(repo, source, source.window(), scratch)
        stored = load_frozen(repo, source.window(), scratch)
        rows = with_rows(repo, source, stored, scratch)
        assert stored.manifest.keyed
        assert with_rows(repo, source, held, scratch) is held
        assert (held.digest, rows.digest) == (stored.digest, stored.digest)
        assert list(rows.manifest.rows(0, 90)) == list(held.manifest.rows(0, 90))
        assert {row.uid for row in stored.manifest.rows(0, 90)} == {
            repo.naming("default").name(file.uid) for file in source.files
        }
    assert not list(tmp_path.glob("**/*.parquet*"))
