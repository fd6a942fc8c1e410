"""Any history of packing, erasing, repacking and merging: what lives reads bit for bit, what was erased is gone."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.packing import DAY, File, MemorySource, make_repository, opened, pack
from tests.protocol.repacking import (
    Kept,
    assert_gone_from_bytes,
    assert_no_longer_locked,
    erase,
    living,
    readers_agree,
    repack,
)
from vera_core.operations.doctor import plan_doctor
from vera_core.operations.inventory import write_inventory
from vera_core.operations.optimize import Worth, execute_optimize, plan_optimize
from vera_core.operations.retrieve import Retriever
from vera_core.operations.verify import verify_slots
from vera_core.operations.walk import all_slots
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from vera_core.model import Origin, Slot
    from vera_core.operations.repository import Repository

UIDS = [f"doc/{number}" for number in range(12)]
INLINE = 2000


def content(uid: str, edition: int, sort: str) -> bytes:
    """One that nobody else has, but for the sorts that are shared or hold next to nothing."""
    marker = f"<{uid}#{edition}>".encode()
    return {
        "text": marker + b" some words of a letter, some words of another" * (edition % 5 + 1),
        "big": marker * 400,
        "shared": b"the same enclosure for everybody " * 9,
        "constant": b"\0" * 500,
        "empty": b"",
        "noise": marker + bytes((number * 89 + edition * 7) % 251 for number in range(edition * 13 % 97 + 40)),
    }[sort]


packs = st.tuples(
    st.just("pack"),
    st.dictionaries(
        st.sampled_from(UIDS),
        st.tuples(
            st.sampled_from(["text", "text", "big", "shared", "constant", "empty", "noise"]),
            st.sampled_from(["std", "long"]),
            st.sampled_from(["", "text/plain"]),
        ),
        min_size=1,
    ),
)
erasures = st.tuples(st.just("erase"), st.lists(st.sampled_from(UIDS), min_size=1, max_size=4))
repacks = st.tuples(st.just("repack"), st.sampled_from([0.0, 0.3]))
merges = st.tuples(st.just("merge"), st.just(1))
histories = st.lists(st.one_of(packs, packs, erasures, repacks, merges), min_size=2, max_size=9)


class World:
    """A repository and what must be readable in it."""

    def __init__(self, spool: Path) -> None:
        self.store = MemoryStore()
        self.spool = spool
        self.repo: Repository = make_repository(self.store, spool, inline_limit=INLINE, part_rows=7)
        self.alive: dict[tuple[Slot, str, Origin], Kept] = {}
        self.gone: set[bytes] = set()
        self.markers: dict[str, set[bytes]] = {}
        self.edition = 0

    def pack(self, wanted: dict[str, tuple[str, str, str]]) -> None:
        self.edition += 1
        noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
        files = []
        for uid, (sort, retention_class, media_type) in wanted.items():
            data = content(uid, self.edition, sort)
            files.append(File(uid, data, noon, retention_class, media_type, (("edition", str(self.edition)),)))
            if data.startswith(b"<"):
                self.markers.setdefault(uid, set()).add(data[: data.index(b">") + 1])
        pack(self.repo, MemorySource(files, name=f"source-{self.edition}", big=INLINE))
        now = living(self.repo)
        assert self.alive.items() <= now.items(), "packing changes nothing that is there"
        fresh = {uid: kept for (_, uid, _), kept in now.items() if kept.metadata == (("edition", str(self.edition)),)}
        accepted = {file.uid: file for file in files if file.uid in fresh}
        for uid, file in accepted.items():
            assert fresh[uid].content == file.content
        self.alive = now

    def erase(self, uids: list[str]) -> None:
        known = {uid for _, uid, _ in self.alive if uid in uids}
        erase(self.repo, *sorted(known))
        self.alive = {name: kept for name, kept in self.alive.items() if name[1] not in known}
        for uid in known:
            self.gone |= self.markers.pop(uid, set())

    def repack(self, ratio: float) -> None:
        report = repack(self.repo, ratio)
        assert report.ok, report.findings
        if not ratio:
            assert_gone_from_bytes(self.repo, self.gone)
            assert repack(self.repo).replaced == 0, "nothing is left to do"

    def merge(self, saved: int) -> None:
        plan = plan_optimize(self.repo, all_slots(self.repo), worth=Worth(least_saved=saved))
        report = execute_optimize(self.repo, plan)
        assert report.ok, report.findings
        assert_no_longer_locked(report)
        assert report.replaced - report.shards >= plan.saved

    def check(self) -> None:
        repo = opened(self.store, self.spool)
        assert living(repo) == self.alive
        readers_agree(self.store, self.spool, self.alive)
        for slot in all_slots(repo):
            for shard in repo.slot_log(slot).load().live():
                lock = self.store.get_lock(shard.key, shard.version_id)
                assert lock is not None
                assert abs((lock.until - shard.lock.until).total_seconds()) < 2, "sealed, and no longer than that"


@settings(max_examples=25)
@given(histories)
def test_no_history_loses_a_file_or_keeps_one_that_was_erased(history: list[tuple[str, object]]) -> None:
    with tempfile.TemporaryDirectory() as spool:
        world = World(Path(spool))
        for verb, argument in history:
            getattr(world, verb)(argument)
            world.check()
        world.repack(0.0)
        world.check()
        repo = opened(world.store, world.spool)
        plan = plan_doctor(repo)
        assert (plan.unsealed, plan.sidecars, plan.removals, plan.findings) == (0, 0, 0, ())
        assert verify_slots(repo, list(all_slots(repo)), deep=True).ok
        inventory = write_inventory(repo, "default", DAY)
        assert inventory.files == len(list(Retriever(repo).list_day(DAY))) == len({uid for _, uid, _ in world.alive})
