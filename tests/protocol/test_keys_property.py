"""A life of keys: erasing, rotating, rewrapping, losing, putting old ones back, restoring, in any order.

What was erased never opens again for a reader, and once everything has settled for nobody; everything else stays.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.protocol.erasing import draft
from tests.protocol.packing import DAY, PREFIX, MemorySource, make_repository, pack, some_files
from vera_core.config import Encryption
from vera_core.errors import ErasedError
from vera_core.keys.local import LocalKeys
from vera_core.operations.destroy_again import destroy_again
from vera_core.operations.erasures import submit
from vera_core.operations.key_census import take_census
from vera_core.operations.key_drill import drill
from vera_core.operations.key_restore import execute_restore, plan_restore
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever
from vera_core.operations.rewrap import execute_rewrap, rotate
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from vera_core.store.base import ObjectStore

FILES = some_files(30)
UIDS = [file.uid for file in FILES]
HOME, COPY = "memory", "spare"


class Keys(RuleBasedStateMachine):
    """A repository with a registered copy; what is lost is lost in one of the two places only."""

    @initialize()
    def archive(self) -> None:
        self.spool = Path(tempfile.mkdtemp(prefix="vera-keys-"))
        self.kek = LocalKeys.create(self.spool / "kek.json")
        self.stores = {HOME: MemoryStore(HOME), COPY: MemoryStore(COPY)}
        encryption = Encryption(self.kek.kek, (f"s3://{COPY}/keys",))
        make_repository(self.stores[HOME], self.spool, encryption=encryption)
        pack(self.repo(), MemorySource(FILES))
        self.erased: set[str] = set()
        self.old: list[tuple[str, str, bytes]] = []
        self.whole = True

    def repo(self, home: ObjectStore | None = None) -> Repository:
        place = Workplace("test", self.spool, key_service=lambda: self.kek, buckets=lambda name: self.stores[name])
        return Repository(home or self.stores[HOME], PREFIX, place)

    def keyrings(self, name: str) -> list[str]:
        """The keys of the keyrings in a place."""
        infos = self.stores[name].list_objects("")
        return [info.key for info in infos if info.key.endswith(".keys") and "tenant" not in info.key]

    @rule(name=st.sampled_from([HOME, COPY]))
    def remember(self, name: str) -> None:
        """Somebody makes a backup of the keyrings of a place."""
        self.old += [(name, key, self.stores[name].get(key).data) for key in self.keyrings(name)]

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def put_back(self, data: st.DataObject) -> None:
        name, key, stored = data.draw(st.sampled_from(self.old))
        self.stores[name].put(key, stored)

    @precondition(lambda self: self.whole)
    @rule(name=st.sampled_from([HOME, COPY]))
    def lose(self, name: str) -> None:
        for key in self.keyrings(name):
            for info in list(self.stores[name].list_versions(key)):
                self.stores[name].delete(key, version_id=info.version_id)
        self.whole = False

    @rule()
    def restore(self) -> None:
        report = execute_restore(self.repo(), plan_restore(self.repo()))
        assert not report.lost
        self.whole = True

    @rule()
    def rotate(self) -> None:
        rotate(self.repo())

    @rule()
    def rewrap(self) -> None:
        execute_rewrap(self.repo(), take_census(self.repo()))

    @precondition(lambda self: self.whole and len(self.erased) < 12)
    @rule(data=st.data(), racing=st.sampled_from(["", "rewrap", "restore"]))
    def erase(self, data: st.DataObject, racing: str) -> None:
        """Also while a rewrapping or a restoration comes between its reading and its writing."""
        uid = data.draw(st.sampled_from([uid for uid in UIDS if uid not in self.erased]))
        rules = [Rule(Action.RUN_BEFORE, "put", "*.keys", run=getattr(self, racing))] if racing else []
        submit(self.repo(FaultyStore(self.stores[HOME], rules)), draft(uid, request=f"r-{len(self.erased)}"))
        self.erased.add(uid)

    @precondition(lambda self: self.whole)
    @invariant()
    def nothing_comes_back_and_nothing_is_lost(self) -> None:
        reader = Retriever(self.repo())
        for file in FILES:
            if file.uid in self.erased:
                with pytest.raises(ErasedError):
                    reader.get(file.uid, DAY)
            else:
                assert reader.get(file.uid, DAY) == file.content

    def teardown(self) -> None:
        if not hasattr(self, "kek"):
            return
        for step in (self.restore, lambda: destroy_again(self.repo(), "default"), self.restore, self.rewrap):
            step()
        assert survey_keys(self.repo(), "default", DAY).ok
        census = take_census(self.repo())
        assert (census.ok, census.behind) == (True, 0)
        assert plan_restore(self.repo()).missing == 0
        assert drill(self.repo(), percent=100).ok


TestKeys = Keys.TestCase
TestKeys.settings = settings(
    max_examples=15, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
)
