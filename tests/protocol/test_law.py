"""Holds beat erasure, repack, gc, disposal and time; extensions last; erased stays erased: in whatever order.

A model of what must be there, held against the archive after every step of any history.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.protocol.erasing import draft
from tests.protocol.law import held_shards, hold_order, retain_order
from tests.protocol.packing import DAY, File, MemorySource, make_encrypted, make_repository, opened, pack
from tests.protocol.repacking import repack
from vera_core.erasures import Ground
from vera_core.errors import ErasedError, NotFoundError, RestrictedError
from vera_core.operations.disposals import DisposalDraft, plan_disposal, submit_disposal
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.erasures import submit
from vera_core.operations.gc import execute_gc, plan_gc
from vera_core.operations.hold import execute_hold
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.keyring_survey import survey_keyrings
from vera_core.operations.retain import execute_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from vera_core.operations.repository import Repository
    from vera_core.operations.retrieve import FileReport

UIDS = [f"doc/{number}" for number in range(6)]
CASES = ["A", "B"]
UID, CASE = st.sampled_from(UIDS), st.sampled_from(CASES)


class Archive(RuleBasedStateMachine):
    """One day's slots and what a person knows of them: contents, holds, extensions, erasures."""

    make = staticmethod(make_repository)

    @initialize()
    def begin(self) -> None:
        self.scratch = tempfile.TemporaryDirectory()
        self.now = datetime(2026, 3, 2, tzinfo=UTC)
        self.store = MemoryStore(clock=lambda: self.now)
        self.make(self.store, self.spool, part_rows=2)
        self.steps = 0
        self.contents: dict[str, list[bytes]] = {}
        self.erased: set[str] = set()
        self.holds: dict[str, dict[str, int]] = {case: {} for case in CASES}
        """Case -> uid -> how many of its versions (the first ones) are held."""
        self.kept: dict[str, tuple[int, datetime]] = {}
        """Uid -> how many of its versions are kept until when."""
        self.pack_files(set(UIDS[:4]))

    @property
    def spool(self) -> Path:
        return Path(self.scratch.name)

    def repo(self) -> Repository:
        """A new process."""
        return opened(self.store, self.spool)

    def held(self, uid: str) -> int:
        """How many of a uid's versions some case holds."""
        return max(holds.get(uid, 0) for holds in self.holds.values())

    # ------------------------------------------------------------------ what may happen

    @rule(uids=st.sets(UID, min_size=1))
    def pack_files(self, uids: set[str]) -> None:
        """New files, and new versions of old ones."""
        self.steps += 1
        files = [File(uid, f"{uid} of step {self.steps}".encode() * 9) for uid in sorted(uids)]
        report = pack(self.repo(), MemorySource(files, name=f"source-{self.steps}"))
        assert report.rejected == len(uids & self.erased), "no row brings an erased file back"
        for file in files:
            if file.uid not in self.erased:
                self.contents.setdefault(file.uid, []).append(file.content)

    @rule(uid=UID, case=CASE)
    def hold(self, uid: str, case: str) -> None:
        if uid in self.contents and uid not in self.erased:
            execute_hold(self.repo(), hold_order(uid, case=case))
            self.holds[case][uid] = len(self.contents[uid])
        else:
            try:
                execute_hold(self.repo(), hold_order(uid, case=case))
            except NotFoundError:
                return
            raise AssertionError(f"{uid} is not there to be held")

    @rule(case=CASE)
    def release_case(self, case: str) -> None:
        if self.holds[case]:
            execute_hold(self.repo(), hold_order(case=case, release=True))
            self.holds[case].clear()

    @precondition(lambda self: any(self.holds.values()))
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        case = data.draw(st.sampled_from([case for case in CASES if self.holds[case]]))
        uid = data.draw(st.sampled_from(sorted(self.holds[case])))
        execute_hold(self.repo(), hold_order(uid, case=case, release=True))
        del self.holds[case][uid]

    @rule(uids=st.sets(UID, min_size=1))
    def erase(self, uids: set[str]) -> None:
        self.steps += 1
        report = submit(self.repo(), draft(*sorted(uids), request=f"r-{self.steps}"))
        refused = {file.uid for file in report.files if file.refusal is not None}
        assert all(file.refusal.ground is Ground.CLAIMS for file in report.files if file.refusal is not None)
        assert refused == {uid for uid in uids if self.held(uid)}
        self.erased |= {uid for uid in uids - refused if uid in self.contents}

    @rule(uid=UID, days=st.integers(1, 3000))
    def retain(self, uid: str, days: int) -> None:
        until = self.now + timedelta(days=days)
        try:
            execute_retain(self.repo(), retain_order(uid, until=until))
        except NotFoundError:
            assert uid not in self.contents or uid in self.erased
        except RestrictedError:
            assert all(item.lock_until > until for item in self.versions(uid))
        else:
            self.kept[uid] = (len(self.contents[uid]), until)

    @rule()
    def repack(self) -> None:
        assert repack(self.repo()).ok

    @rule()
    def collect(self) -> None:
        """Deletes what does not count, a day after it was condemned."""
        for _ in range(2):
            repo = self.repo()
            assert execute_gc(repo, plan_gc(repo, all_slots(repo))).ok
            self.now += timedelta(days=2)

    @rule()
    def dispose(self) -> None:
        """What may go goes: files whose retention has ended are there no more, or still, as their shards allow."""
        self.steps += 1
        repo = self.repo()
        draft = DisposalDraft(tenant="default", id=f"d-{self.steps}", reason="over")
        if plan_disposal(repo, draft).requested > plan_disposal(repo, draft).kept:
            submit_disposal(repo, draft)
        reader = Retriever(self.repo())
        for uid in self.contents.keys() - self.erased:
            try:
                left = {item.sha256 for item in reader.versions(uid, DAY)}
            except NotFoundError:
                left = set()
            kept = [hashlib.sha256(content).hexdigest() in left for content in self.contents[uid]]
            count, until = self.kept.get(uid, (0, self.now))
            assert all(kept[: self.held(uid)]), "what is held is never disposed of"
            assert all(kept[: count if until > self.now else 0]), "nor what is kept longer"
            self.forget(uid, kept)

    def forget(self, uid: str, kept: list[bool]) -> None:
        """The versions that were disposed of are no more; if none is left the uid is as good as new."""
        self.contents[uid] = [content for content, there in zip(self.contents[uid], kept, strict=True) if there]
        for counts in self.holds.values():
            if uid in counts:
                counts[uid] = sum(kept[: counts[uid]])
        if uid in self.kept:
            self.kept[uid] = (sum(kept[: self.kept[uid][0]]), self.kept[uid][1])
        if not self.contents[uid]:
            del self.contents[uid]
            self.kept.pop(uid, None)

    @rule(days=st.sampled_from([1, 40, 200, 1500]))
    def wait(self, days: int) -> None:
        """Time passes; the doctor comes by."""
        self.now += timedelta(days=days)
        self.doctor()

    @rule()
    def doctor(self) -> None:
        repo = self.repo()
        assert execute_doctor(repo, plan_doctor(repo)).ok

    # ------------------------------------------------------------------ what must hold all the time

    def versions(self, uid: str) -> list[FileReport]:
        return Retriever(self.repo()).versions(uid, DAY)

    @invariant()
    def what_must_be_there_is_there(self) -> None:
        if not hasattr(self, "kept"):
            return
        reader = Retriever(self.repo())
        on_hold = held_shards(self.store)
        for uid, contents in self.contents.items():
            if uid in self.erased:
                try:
                    reader.get(uid, DAY)
                except ErasedError:
                    continue
                raise AssertionError(f"{uid} is back")
            found = reader.versions(uid, DAY)
            assert [reader.get(uid, DAY, version=item.version) for item in found] == contents
            assert all(item.version_id in on_hold for item in found[: self.held(uid)])
            count, until = self.kept.get(uid, (0, self.now))
            assert all(item.lock_until >= until for item in found[:count])
        assert bool(on_hold) == any(self.holds.values())
        living = sorted(uid for uid in self.contents if uid not in self.erased)
        assert sorted(item.uid for item in reader.list_day(DAY)) == living

    def teardown(self) -> None:
        if hasattr(self, "scratch"):
            self.scratch.cleanup()


class EncryptedArchive(Archive):
    """The same, encrypted: no key of what was erased is left, and none of what lives is gone."""

    make = staticmethod(make_encrypted)

    @invariant()
    def keys_are_there_or_destroyed(self) -> None:
        if not hasattr(self, "kept"):
            return
        repo = self.repo()
        keys, keyrings = survey_keys(repo, "default", DAY), survey_keyrings(repo, "default", DAY)
        assert keys.ok, keys.check
        assert keyrings.ok, keyrings.check


@pytest.mark.parametrize("machine", [Archive, EncryptedArchive])
def test_the_law_is_kept_in_any_order(machine: type[Archive]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=12,
            stateful_step_count=15,
            derandomize=os.environ.get("HYPOTHESIS_PROFILE") != "fuzz",
            suppress_health_check=list(HealthCheck),
        ),
    )
