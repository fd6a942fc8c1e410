"""Repacks and extensions of encrypted shards that race with erasures and holds, or die: erased stays erased (I4).

Afterwards no version of a keyring in the bucket opens an erased file in any version of its shard, whether a record
names them or not, and nothing else is lost.
"""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings

from tests.protocol.erasing import assert_erased, assert_readable, draft
from tests.protocol.law import hold_order, retain_order
from tests.protocol.packing import DAY, File, MemorySource, local_kek, make_encrypted, opened, pack
from tests.protocol.repacking import copied, living, readers_agree, repack
from tests.protocol.test_repack import ONE_SLOT
from tests.protocol.test_repack_property import INLINE, World, histories
from vera_core.errors import ErasedError, VeraError
from vera_core.format import FileSource, ShardReader
from vera_core.keys.keyring import Wanted, open_keyrings
from vera_core.keyspace import keyring_of
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.erasure_reports import Stage, show_request
from vera_core.operations.erasures import submit
from vera_core.operations.hold import execute_hold
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.repack import plan_repack
from vera_core.operations.retain import execute_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.protocol.repacking import Kept
    from vera_core.model import Origin, Slot
    from vera_core.operations.repository import Repository

FILES = [File(f"doc/{number}", b"%d " % number * 9) for number in range(8)]
GONE = "doc/2", "doc/3"
LATE = "doc/5"


def prepared(spool: Path) -> MemoryStore:
    """A slot with a shard of which two files were erased, their keys destroyed."""
    store = MemoryStore()
    repo = make_encrypted(store, spool, routing=ONE_SLOT)
    pack(repo, MemorySource(FILES))
    assert submit(repo, draft(*GONE)).stage is Stage.DONE
    return store


def assert_unopenable(store: MemoryStore, repo: Repository, uids: set[str]) -> None:
    """Every version of every shard in the bucket against every version of its keyring: opened by this test itself."""
    names = [repo.naming("default").name(uid) for uid in uids]
    rings = 0
    for info in [info for info in store.list_versions("") if info.key.endswith(".vera") and not info.is_delete_marker]:
        data = store.get(info.key, version_id=info.version_id).data
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            with FileSource(Path(file.name)) as source:
                reader = ShardReader.open(source, sealed=True)
                sha256 = reader.verify().sha256
                ordinals = [entry.ordinal for name in names for entry in reader.find(name)]
        wanted = Wanted(bytes.fromhex(repo.config.repository_id), "default", sha256)
        for lying in store.list_versions(keyring_of(info.key)):
            assert not lying.is_delete_marker
            [keyring] = open_keyrings(local_kek(), [(wanted, store.get(lying.key, version_id=lying.version_id).data)])
            assert not isinstance(keyring, VeraError)
            assert not any(map(keyring.tree.holds, ordinals)), (info.key, lying.version_id)
            rings += 1
    assert rings


def late_erasure(store: MemoryStore, spool: Path) -> None:
    assert submit(opened(store, spool, "eraser"), draft(LATE, request="r-2")).stage is Stage.DONE


def assert_ends_well(store: MemoryStore, spool: Path, before: dict[tuple[Slot, str, Origin], Kept]) -> None:
    """What was erased is, everything else reads; run again, nothing of it is left, and nothing is to be put right."""
    kept = {name: each for name, each in before.items() if name[1] != LATE}
    gone = {*GONE, LATE}
    repo = opened(store, spool)
    assert living(repo) == kept
    assert_unopenable(store, repo, gone)
    assert survey_keys(repo, "default", DAY).ok
    assert repack(repo).ok
    repo = opened(store, spool)
    readers_agree(store, spool, kept)
    with pytest.raises(ErasedError):
        Retriever(repo).get(LATE, DAY)
    assert plan_repack(repo, all_slots(repo), ratio=0).lines == ()
    assert_unopenable(store, repo, gone)
    plan = plan_doctor(repo)
    assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())


def calls_of(template: MemoryStore, spool: Path, work: Callable[[Repository], object]) -> int:
    watched = FaultyStore(copied(template))
    work(opened(watched, spool))
    return len(watched.calls)


def racing(store: MemoryStore, nth: int, what: Callable[[MemoryStore], object]) -> FaultyStore:
    """A store in which somebody does `what` just before that request."""
    return FaultyStore(store, [Rule(Action.RUN_BEFORE, nth=nth, run=lambda: what(store))])


def extend(repo: Repository) -> None:
    execute_retain(repo, retain_order("doc/1", LATE, "doc/6"))


def test_an_erasure_comes_before_any_request_of_a_repack(tmp_path: Path) -> None:
    template = prepared(tmp_path)
    before = living(opened(template, tmp_path))
    calls = calls_of(template, tmp_path, repack)
    assert calls > 30
    for nth in range(1, calls + 1):
        store = copied(template)
        report = repack(opened(racing(store, nth, lambda racer: late_erasure(racer, tmp_path)), tmp_path))
        assert report.ok, (nth, report.findings)
        assert_ends_well(store, tmp_path, before)


def test_an_erasure_comes_before_any_request_of_a_packer_with_equal_rows(tmp_path: Path) -> None:
    template = prepared(tmp_path)
    again = MemorySource([*FILES, File("more", b"more")], name="again")
    for nth in range(1, calls_of(template, tmp_path, lambda repo: pack(repo, again)) + 1):
        store = copied(template)
        racer = racing(store, nth, lambda racer: late_erasure(racer, tmp_path))
        report = pack(opened(racer, tmp_path), again)
        assert (report.archived, report.rejected + report.equal) == (1, 8), nth
        assert_unopenable(store, opened(store, tmp_path), {*GONE, LATE})
        assert survey_keys(opened(store, tmp_path), "default", DAY).ok
        assert_erased(store, tmp_path, LATE)


def test_a_repack_comes_before_any_request_of_an_erasure(tmp_path: Path) -> None:
    template = prepared(tmp_path)
    before = living(opened(template, tmp_path))
    order = draft(LATE, request="r-2")
    calls = calls_of(template, tmp_path, lambda repo: submit(repo, order))
    for nth in range(1, calls + 1):
        store = copied(template)
        other = racing(store, nth, lambda racer: repack(opened(racer, tmp_path)))
        assert submit(opened(other, tmp_path), order).stage is Stage.DONE, nth
        assert_ends_well(store, tmp_path, before)


def test_an_erasure_follows_a_repack_that_died_at_any_request(tmp_path: Path) -> None:
    template = prepared(tmp_path)
    before = living(opened(template, tmp_path))
    for nth in range(1, calls_of(template, tmp_path, repack) + 1):
        store = copied(template)
        dying = [Rule(Action.LOSE_REPLY, nth=nth), Rule(Action.FAIL, nth=nth + 1, times=None)]
        with suppress(VeraError):
            repack(opened(FaultyStore(store, dying), tmp_path))
        late_erasure(store, tmp_path)
        assert_ends_well(store, tmp_path, before)


def test_a_repack_follows_an_erasure_that_died_at_any_request(tmp_path: Path) -> None:
    """The request is open then; whoever goes on with it destroys what the repack carried over, if it did."""
    template = prepared(tmp_path)
    before = living(opened(template, tmp_path))
    order = draft(LATE, request="r-2")
    for nth in range(1, calls_of(template, tmp_path, lambda repo: submit(repo, order)) + 1):
        store = copied(template)
        dying = [Rule(Action.LOSE_REPLY, nth=nth), Rule(Action.FAIL, nth=nth + 1, times=None)]
        with suppress(VeraError):
            submit(opened(FaultyStore(store, dying), tmp_path), order)
        assert repack(opened(store, tmp_path)).ok
        assert submit(opened(store, tmp_path), order).stage is Stage.DONE
        assert_ends_well(store, tmp_path, before)


def test_an_erasure_that_dies_before_the_keys_while_a_repack_runs_is_finished_later(tmp_path: Path) -> None:
    """The repack may carry the file over, out of sight, as long as its request is open."""
    template = prepared(tmp_path)
    before = living(opened(template, tmp_path))
    order = draft(LATE, request="r-2")

    def die(store: MemoryStore) -> None:
        dying = FaultyStore(store, [Rule(Action.FAIL, "put", "*.keys", times=None)])
        with suppress(VeraError):
            submit(opened(dying, tmp_path), order)

    for nth in range(1, calls_of(template, tmp_path, repack) + 1):
        store = copied(template)
        assert repack(opened(racing(store, nth, die), tmp_path)).ok, nth
        assert LATE not in {uid for _, uid, _ in living(opened(store, tmp_path))}
        assert show_request(opened(store, tmp_path), "default", "r-2").stage is Stage.HIDDEN
        assert submit(opened(store, tmp_path), order).stage is Stage.DONE
        assert_ends_well(store, tmp_path, before)


def test_an_erasure_comes_before_any_request_of_an_extension(tmp_path: Path) -> None:
    template = prepared(tmp_path)
    for nth in range(1, calls_of(template, tmp_path, extend) + 1):
        store = copied(template)
        with suppress(VeraError):
            extend(opened(racing(store, nth, lambda racer: late_erasure(racer, tmp_path)), tmp_path))
        assert_unopenable(store, opened(store, tmp_path), {*GONE, LATE})
        assert survey_keys(opened(store, tmp_path), "default", DAY).ok
        assert_erased(store, tmp_path, LATE)
        assert_readable(store, tmp_path, [(file.uid, file.content) for file in FILES if file.uid not in (*GONE, LATE)])


def test_a_hold_comes_before_any_request_of_a_repack(tmp_path: Path) -> None:
    template = prepared(tmp_path)
    before = living(opened(template, tmp_path))
    for nth in range(1, calls_of(template, tmp_path, repack) + 1):
        store = copied(template)
        other = racing(store, nth, lambda racer: execute_hold(opened(racer, tmp_path), hold_order(LATE)))
        assert repack(opened(other, tmp_path)).ok, nth
        assert living(opened(store, tmp_path)) == before
        assert submit(opened(store, tmp_path), draft(LATE, request="r-2")).stage is Stage.REFUSED
        readers_agree(store, tmp_path, before)
        assert_unopenable(store, opened(store, tmp_path), set(GONE))


class Sealed(World):
    """An encrypted repository, from which files are erased by requests."""

    def __init__(self, spool: Path) -> None:
        super().__init__(spool)
        self.store = MemoryStore()
        self.repo = make_encrypted(self.store, spool, inline_limit=INLINE, part_rows=7)
        self.erased: set[str] = set()

    def erase(self, uids: list[str]) -> None:
        known = {uid for _, uid, _ in self.alive if uid in uids}
        if known:
            self.erased |= known
            order = draft(*sorted(known), request=f"r-{len(self.erased)}-{self.edition}")
            assert submit(self.repo, order).stage is Stage.DONE
        self.alive = {name: kept for name, kept in self.alive.items() if name[1] not in known}
        for uid in known:
            self.gone |= self.markers.pop(uid, set())

    def check(self) -> None:
        super().check()
        if self.erased:
            assert_unopenable(self.store, self.repo, self.erased)
            assert survey_keys(self.repo, "default", DAY).ok


@settings(max_examples=12)
@given(histories)
def test_no_history_loses_a_file_or_keeps_a_key_of_one_that_was_erased(history: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as spool:
        world = Sealed(Path(spool))
        for verb, argument in history:
            getattr(world, verb)(argument)
            world.check()
        world.repack(0.0)
        world.check()
