"""Nothing in the buckets of an encrypted repository tells anything of a file, whatever was done with it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.protocol.hidden import Found, Needle, needles, search, telling_files
from tests.protocol.packing import (
    DAY,
    KEYS,
    File,
    MemorySource,
    copy_bucket,
    local_kek,
    make_repository,
    opened,
    pack,
)
from tests.protocol.repacking import live_shards
from tests.protocol.test_repack import Clock
from tests.protocol.test_tampering import edit_bytes, flip
from vera_core.config import Encryption
from vera_core.erasures import Target
from vera_core.keyspace import KeyKind
from vera_core.model import Erasability, RetentionClass
from vera_core.operations.certificates import verify_certificates
from vera_core.operations.disposals import DisposalDraft, approve_disposal, submit_disposal
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.due import Migration
from vera_core.operations.erasures import Draft, approve, decline, run_due, submit
from vera_core.operations.gc import execute_gc, plan_gc
from vera_core.operations.hold import HoldOrder, execute_hold
from vera_core.operations.inventory import write_inventory
from vera_core.operations.key_census import take_census
from vera_core.operations.key_copies import add_copy
from vera_core.operations.key_drill import drill
from vera_core.operations.key_restore import execute_restore, plan_restore
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.migrate import migrate_window, verify_packed
from vera_core.operations.optimize import execute_optimize, plan_optimize
from vera_core.operations.readmit import Readmission, readmit
from vera_core.operations.repack import execute_repack, plan_repack
from vera_core.operations.retain import RetainOrder, execute_retain
from vera_core.operations.retrieve import Retriever
from vera_core.operations.rewrap import execute_rewrap, rotate
from vera_core.operations.scrub import execute_scrub
from vera_core.operations.scrub_plan import plan_scrub
from vera_core.operations.verify import verify_slots
from vera_core.operations.walk import all_slots
from vera_core.source.database import connect
from vera_core.source.state import MigrationState
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vera_core.operations.repository import Repository

CLASSES = (
    RetentionClass("std", 100),
    RetentionClass("long", 3000),
    RetentionClass("ledger", 200, Erasability.REGULATED),
)


class Life:
    """An archive and what is done with it in a long life, always by new handles."""

    def __init__(self, spool: Path, *, encrypted: bool) -> None:
        self.clock = Clock()
        self.clock.moment = datetime(2026, 3, 5, tzinfo=UTC)
        self.store = MemoryStore(clock=self.clock)
        self.copy, self.spare = copy_bucket(clock=self.clock), copy_bucket(clock=self.clock)
        self.spool = spool
        encryption = Encryption(local_kek().kek, (f"s3://{self.copy.bucket}/safe",)) if encrypted else None
        make_repository(self.store, spool, classes=CLASSES, encryption=encryption, erasure_approval=True)
        first = telling_files(24)
        ledger = [replace(file, retention_class="ledger") for file in telling_files(4, prefix="hauptbuch")]
        lost = replace(telling_files(1, prefix="verloren")[0], fails="missing-file")
        refused = replace(telling_files(1, prefix="abgelehnt")[0], reject="bad-uid")
        big = [replace(file, content=file.content * 200) for file in telling_files(2, prefix="groß")]
        self.letters = MemorySource([*first, *ledger, *big, lost, refused], name="letters")
        self.claims = MemorySource(telling_files(9, prefix="schäden"), name="claims")
        self.files = [*self.letters.files, *self.claims.files]

    def repo(self, actor: str = "clerk") -> Repository:
        self.clock.moment += timedelta(seconds=10)
        return opened(self.store, self.spool, actor)

    def targets(self, *files: File) -> tuple[Target, ...]:
        return tuple(Target(file.uid, file.created_at) for file in files)

    def migration(self) -> Migration:
        (self.spool / "business.db").touch()
        state = MigrationState(connect(f"sqlite:///{self.spool}/business.db", writable=True))
        state.create()
        return Migration(repo=self.repo(), source=self.letters, state=state, begin=DAY)

    def live(self) -> None:
        """All that an archive goes through."""
        self.archive()
        self.erase()
        self.hold_and_retain()
        self.rewrite()
        self.look()
        self.end()

    def archive(self) -> None:
        """Two sources, rejects, a change in the source that verifying finds, late rows, again."""
        assert migrate_window(self.migration(), self.letters.window()).verdict.value == "rejects"
        pack(self.repo(), self.claims)
        changed = replace(self.letters.files[3], content=b"somebody changed it in the source " * 9)
        before, self.letters.files[3] = self.letters.files[3], changed
        assert verify_packed(self.migration(), self.letters.window()).verdict.value == "failed"
        self.letters.files[3] = before
        migrate_window(self.migration(), self.letters.window())
        late = telling_files(5, prefix="später")
        self.letters.files += late
        self.files += [*late, changed]
        migrate_window(self.migration(), self.letters.window(revision=2))
        pack(self.repo(), self.claims)
        write_inventory(self.repo(), "default", DAY)

    def erase(self) -> None:
        """Erasures done, refused, declined, approved, of files that are not there, and a readmission."""
        ledger = [file for file in self.letters.files if file.retention_class == "ledger"]
        missing = telling_files(1, prefix="nie-archiviert")
        self.files += missing
        gone = self.letters.files[:6]
        self.request("r-1", *gone, ledger[0], *missing)
        self.request("r-2", self.letters.files[7])
        decline(self.repo("officer"), "default", self.request("r-3", self.letters.files[8]), "not this person's")
        run_due(self.repo(), "default")
        if self.repo().config.encryption is not None:
            assert verify_certificates(self.repo(), "default", "r-1").ok
            assert survey_keys(self.repo(), "default", DAY).erased == len(gone) + 1
        again = Readmission(tenant="default", target=self.targets(gone[0])[0], request="r-4", reason="a new contract")
        readmit(self.repo(), again)
        returned = MemorySource([gone[0]], name="returned")
        pack(self.repo(), returned)
        write_inventory(self.repo(), "default", DAY)

    def request(self, name: str, *files: File) -> str:
        draft = Draft(tenant="default", id=name, reason="GDPR Art. 17", targets=self.targets(*files))
        submit(self.repo("privacy"), draft)
        if name != "r-3":
            approve(self.repo("officer"), "default", name)
        return name

    def hold_and_retain(self) -> None:
        """A hold that refuses an erasure, its release, a longer retention."""
        held, kept = self.claims.files[0], self.claims.files[1]
        order = HoldOrder(tenant="default", case="LIT-1", reason="litigation", targets=self.targets(held))
        execute_hold(self.repo(), order)
        self.request("r-5", held)
        execute_hold(self.repo(), replace(order, release=True))
        run_due(self.repo(), "default")
        until = self.clock.moment.replace(microsecond=0) + timedelta(days=4000)
        execute_retain(
            self.repo(), RetainOrder(tenant="default", reason="an audit", until=until, targets=self.targets(kept))
        )

    def rewrite(self) -> None:
        """Repack, merge, inventory, doctor."""
        repo = self.repo()
        assert execute_repack(repo, plan_repack(repo, all_slots(repo), ratio=0.0)).done
        repo = self.repo()
        execute_optimize(repo, plan_optimize(repo, all_slots(repo)))
        write_inventory(self.repo(), "default", DAY)

    def rotate(self) -> None:
        """What is done with the keys: rotation, drill, a copy more and one less, and what a copy gives back."""
        add_copy(self.repo(), f"s3://{self.spare.bucket}/spare")
        rotate(self.repo())
        execute_rewrap(self.repo(), take_census(self.repo()))
        for shard in live_shards(self.repo())[:2]:
            self.store.delete(self.repo().keyrings.key_of(shard))
        assert execute_restore(self.repo(), plan_restore(self.repo())).ok
        repo = self.repo()
        assert drill(repo, percent=100).ok

    def look(self) -> None:
        """What only looks, on a damaged shard too: findings go to audit and proofs."""
        self.clock.moment += timedelta(days=2)
        repo = self.repo()
        assert verify_slots(repo, all_slots(repo), deep=True).ok
        execute_scrub(repo, plan_scrub(repo, all_slots(repo), percent=100))
        shard = live_shards(repo)[0]
        edit_bytes(self.store, shard.key, flip(shard.size // 3))
        repo = self.repo()
        assert not execute_scrub(repo, plan_scrub(repo, all_slots(repo), percent=100)).ok
        edit_bytes(self.store, shard.key, flip(shard.size // 3))
        repo = self.repo()
        execute_scrub(repo, plan_scrub(repo, all_slots(repo), percent=100))
        repo = self.repo()
        execute_doctor(repo, plan_doctor(repo))

    def end(self) -> None:
        """Garbage, disposal of what has ended, garbage again."""
        draft = DisposalDraft(tenant="default", id="year-1", reason="retention has ended")
        for days in (1, 120, 2, 2):
            self.clock.moment += timedelta(days=days)
            if days == 120:
                submit_disposal(self.repo("ada"), draft)
                approve_disposal(self.repo("bob"), "default", "year-1")
            repo = self.repo()
            assert execute_gc(repo, plan_gc(repo, all_slots(repo))).ok
        write_inventory(self.repo(), "default", DAY)


def told(found: Sequence[Found]) -> set[tuple[str, str]]:
    """What is told by which kind of object."""
    return {(KEYS.parse(item.key).kind.value, item.what) for item in found}


def test_nothing_is_told_of_any_file_in_a_long_life(tmp_path: Path) -> None:
    life = Life(tmp_path, encrypted=True)
    for step in (life.archive, life.erase, life.hold_and_retain, life.rotate, life.rewrite, life.look, life.end):
        step()
        assert survey_keys(life.repo(), "default", DAY).ok
        wanted = needles(life.files)
        found = [item for store in (life.store, life.copy, life.spare) for item in search(store, wanted)]
        assert not found, (step.__name__, told(found), found[:5])
    kinds = {KEYS.parse(info.key).kind for info in life.store.list_versions("")}
    assert kinds >= {
        KeyKind.SHARD, KeyKind.LOG, KeyKind.SIDECAR, KeyKind.KEYRING, KeyKind.TENANT_KEY, KeyKind.MANIFEST,
        KeyKind.REQUEST, KeyKind.DISPOSAL, KeyKind.PROOFS, KeyKind.INVENTORY, KeyKind.AUDIT, KeyKind.CONFIG,
    }  # fmt: skip
    reader = Retriever(life.repo())
    living = [file for file in life.letters.files if file.retention_class == "long" and not file.reject][2:]
    assert [reader.get(file.uid, DAY) for file in living] == [file.content for file in living]


def test_the_same_life_unencrypted_tells_everything(tmp_path: Path) -> None:
    """So the search finds what there is to find."""
    life = Life(tmp_path, encrypted=False)
    life.live()
    found = told(search(life.store, needles(life.files)))
    for expected in (
        ("shard", "uid"), ("shard", "content"), ("shard", "time"), ("shard", "metadata"), ("shard", "media type"),
        ("shard", "digest of the content"), ("shard", "key of the uid"), ("log", "uid"), ("manifest", "uid"),
        ("manifest", "time"), ("manifest", "metadata"), ("inventory", "uid"), ("inventory", "digest of the content"),
        ("request", "uid"),
    ):  # fmt: skip
        assert expected in found


@pytest.mark.parametrize("encrypted", [True, False])
def test_the_size_of_a_lone_file_is_told_where_it_is_not_encrypted(tmp_path: Path, *, encrypted: bool) -> None:
    """Its compressed size, and what sealing adds, can be seen in any case."""
    life = Life(tmp_path, encrypted=encrypted)
    alone = MemorySource([replace(telling_files(1)[0], content=b"twelve thousand bytes " * 567)], name="alone")
    pack(life.repo(), alone)
    write_inventory(life.repo(), "default", DAY)
    execute_scrub(life.repo(), plan_scrub(life.repo(), all_slots(life.repo()), percent=100))
    size = Needle(alone.files[0].uid, "size", b"%d" % len(alone.files[0].content))
    assert bool(search(life.store, [size])) != encrypted
