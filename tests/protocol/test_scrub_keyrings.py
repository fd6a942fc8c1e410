"""Scrubbing of encrypted repositories: keyrings are proved with their shards, in the home bucket and in each copy."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING
from zlib import crc32

import pytest

from tests.protocol.packing import (
    DAY,
    PREFIX,
    MemorySource,
    copy_bucket,
    local_kek,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from tests.protocol.repacking import append, erase, live_shards, repack
from tests.protocol.slots_support import tombstone
from tests.protocol.test_repack import Clock
from tests.protocol.test_tampering import edit_bytes, flip
from vera_core.config import Encryption
from vera_core.errors import UnavailableError, UsageError
from vera_core.keys.keyring import seal_keyrings
from vera_core.model import Erasability, Lock, LockMode, RetentionClass
from vera_core.operations.key_restore import execute_restore, plan_restore
from vera_core.operations.keyring_survey import survey_keyrings
from vera_core.operations.lookup import ShardReaders
from vera_core.operations.proofs import Place, gather_proofs, read_proofs
from vera_core.operations.repository import Repository
from vera_core.operations.scrub import KEYRING, execute_scrub, list_damage
from vera_core.operations.scrub_plan import plan_scrub
from vera_core.operations.walk import all_slots
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.keys.keyring import Keyring
    from vera_core.operations.report import Finding
    from vera_core.operations.scrub import ScrubReport
    from vera_core.store.base import ObjectStore

PLACE = Place("default", DAY)


class World:
    """An encrypted repository with a copy of its keys, two days after it was packed."""

    def __init__(self, spool: Path) -> None:
        self.clock = Clock()
        self.store = MemoryStore(clock=self.clock)
        self.copy = copy_bucket()
        self.spool = spool
        encryption = Encryption(local_kek().kek, (f"s3://{self.copy.bucket}/safe",))
        pack(make_repository(self.store, spool, encryption=encryption, part_rows=12), MemorySource(some_files(30)))
        self.clock.moment += timedelta(days=2)
        self.shard = live_shards(self.repo())[0]

    def repo(self, store: ObjectStore | None = None) -> Repository:
        """As another process would have it, later on: it asks for the time anew."""
        self.clock.moment += timedelta(seconds=10)
        return opened(store or self.store, self.spool)

    def places(self) -> list[tuple[ObjectStore, str]]:
        """Store and key of the first shard's keyring: at home, then in the copy."""
        return [(place.store, place.keyring(self.shard)) for place in self.repo().keyrings.places()]

    def scrub(self, store: ObjectStore | None = None) -> ScrubReport:
        return scrubbed(self.repo(store))

    def puncture(self, *, record: bool = True, places: int = 2) -> list[bytes]:
        """Erases the first entry, but purges nothing; returns the older revision that each place had."""
        keyring, repo = self.keyring(), self.repo()
        slot = repo.keys.parse(self.shard.key).slot(1)
        (entry,) = [entry for entry in ShardReaders(repo).reader(self.shard).entries() if not entry.ordinal]
        append(repo, slot, tombstone(entry.uid, (self.shard.number, 0)))
        (data,) = seal_keyrings(local_kek(), [keyring.puncture([0])])
        before = [store.get(key).data for store, key in self.places()]
        for store, key in self.places()[:places]:
            store.put(key, data)
        if record:
            shards = [{"sha256": self.shard.sha256, "keyring": keyring.revision + 1}]
            append(repo, slot, {"type": "puncture", "shards": shards, "writer": "w"})
            self.shard = next(shard for shard in live_shards(self.repo()) if shard.key == self.shard.key)
        return before

    def keyring(self) -> Keyring:
        return self.repo().keyrings.fetch(self.shard).keyring


def scrubbed(repo: Repository) -> ScrubReport:
    return execute_scrub(repo, plan_scrub(repo, all_slots(repo), percent=100))


def about_keyrings(report: ScrubReport) -> list[Finding]:
    (check,) = [check for check in report.checks if check.name == KEYRING]
    assert check.checked == report.shards
    return list(check.findings)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_keyrings_are_proved_with_their_shards_and_the_proofs_say_which_revision(world: World) -> None:
    report = world.scrub()
    assert (report.ok, about_keyrings(report)) == (True, [])
    proofs = read_proofs(world.repo(), PLACE)
    assert [proof.keyring for proof in proofs.values()] == [1] * report.shards
    assert all(proof.proved for proof in proofs.values())
    world.puncture()
    for store, key in world.places():
        store.delete(key, version_id=[info.version_id for info in store.list_versions(key)][-1])
    assert world.scrub().ok
    proofs = read_proofs(world.repo(), PLACE)
    assert proofs[world.shard.key, world.shard.version_id].keyring == 2
    gathered = gather_proofs(world.repo())
    assert (gathered.ok, gathered.days) == (True, 0)


@pytest.mark.parametrize("at", [0, 1])
def test_a_keyring_that_is_gone_is_named_and_damages_its_shard_alone(world: World, at: int) -> None:
    store, key = world.places()[at]
    for info in list(store.list_versions(key)):
        store.delete(key, version_id=info.version_id)
    report = world.scrub()
    (finding,) = about_keyrings(report)
    assert finding.key == key
    assert "the shard's keyring is missing" in finding.what
    assert ("in the copy s3://" in finding.what) == bool(at)
    assert "vera keys restore" in finding.todo
    assert {proof.key for proof in list_damage(world.repo()).damaged} == {world.shard.key}


@pytest.mark.parametrize("at", [0, 1])
def test_a_delete_marker_over_it_and_strangers_versions_are_named(world: World, at: int) -> None:
    store, key = world.places()[at]
    other = live_shards(world.repo())[1]
    store.put(key, world.repo().keyrings.places()[0].store.get(world.repo().keyrings.key_of(other)).data)
    store.put(key, b"junk")
    store.delete(key)
    findings = about_keyrings(world.scrub())
    assert len(findings) == 3
    assert "delete marker" in findings[0].what
    assert "no keyring" in findings[1].what
    assert "of something else" in findings[2].what
    assert {finding.key for finding in findings} == {key}
    versions = {info.version_id for info in store.list_versions(key)}
    assert {finding.version_id for finding in findings} < versions


@pytest.mark.parametrize("at", [0, 1])
def test_damaged_bytes_are_found(world: World, at: int) -> None:
    store, key = world.places()[at]
    assert isinstance(store, MemoryStore)
    edit_bytes(store, key, flip(200))
    found = [finding.what for finding in about_keyrings(world.scrub())]
    assert len(found) == 2
    assert "checksum is wrong" in found[0]
    assert "missing" in found[1]


def test_a_revision_below_the_logs_is_named_wherever_it_lies(world: World) -> None:
    before = world.puncture()
    findings = about_keyrings(world.scrub())
    assert len(findings) == 2
    assert all("revision 1 of the keyring is still there" in finding.what for finding in findings)
    assert all(finding.version_id for finding in findings)
    for (store, key), data in zip(world.places(), before, strict=True):
        for info in list(store.list_versions(key)):
            store.delete(key, version_id=info.version_id)
        store.put(key, data)
    findings = about_keyrings(world.scrub())
    assert len(findings) == 4
    assert "has revision 1, the slot log names 2" in findings[0].what


def test_a_puncture_on_its_way_is_nothing_yet(world: World) -> None:
    world.puncture(record=False, places=1)
    report = world.scrub()
    (finding,) = about_keyrings(report)
    assert (report.ok, finding.severity) == (True, "warning")
    assert "revisions 1, 2" in finding.what


def test_one_revision_with_two_contents_is_named(world: World) -> None:
    keyring = world.keyring()
    store, key = world.places()[1]
    store.put(key, seal_keyrings(local_kek(), [replace(keyring, tree=keyring.tree.puncture([0]))])[0])
    assert ["differ" in finding.what for finding in about_keyrings(world.scrub())] == [True]


def test_what_does_not_open_is_named(world: World) -> None:
    """Its sums are right and its header too: only the KEK can tell."""
    keyring = world.keyring()
    store, key = world.places()[0]
    old = store.get(key).data
    new = seal_keyrings(local_kek(), [keyring])[0]
    wrapped_by = b"local:v%d:" % local_kek().current()
    at = old.index(wrapped_by) + len(wrapped_by)
    mixed = new[:at] + old[at : at + 64] + new[at + 64 : -4]
    store.delete(key, version_id=next(iter(store.list_versions(key))).version_id)
    store.put(key, mixed + _crc(mixed))
    (finding,) = about_keyrings(world.scrub())
    assert finding.key == key


def _crc(data: bytes) -> bytes:
    return crc32(data).to_bytes(4, "little")


@pytest.mark.parametrize("regulated", [True, False])
def test_keyrings_are_locked_where_their_class_is_regulated_and_nowhere_else(
    memory_store: MemoryStore, tmp_path: Path, regulated: bool
) -> None:
    clock = Clock()
    store = MemoryStore(clock=clock)
    kind = Erasability.REGULATED if regulated else Erasability.ERASABLE
    classes = (RetentionClass("std", 100, kind), RetentionClass("long", 3000, kind))
    repo = make_encrypted(store, tmp_path, classes=classes)
    pack(repo, MemorySource(some_files(1)))
    clock.moment += timedelta(days=2)
    shard = live_shards(opened(store, tmp_path))[0]
    key = repo.keyrings.key_of(shard)
    (info,) = store.list_versions(key)
    if regulated:
        data = store.get(key).data
        clock.moment += timedelta(days=200)
        store.delete(key, version_id=info.version_id)
        clock.moment -= timedelta(days=200)
        store.put(key, data, lock=Lock(LockMode.GOVERNANCE, store.now() + timedelta(days=1)))
    else:
        assert about_keyrings(scrubbed(opened(store, tmp_path))) == []
        store.set_lock(key, info.version_id, Lock(LockMode.GOVERNANCE, store.now() + timedelta(days=9)))
    (finding,) = about_keyrings(scrubbed(opened(store, tmp_path)))
    assert ("not locked until" if regulated else "can be erased before") in finding.what


def test_without_the_key_service_nothing_passes_for_proved(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = Repository(world.store, PREFIX, replace(world.repo().workplace, key_service=None))
    with pytest.raises(UsageError, match="not configured here"):
        scrubbed(stranger)

    def sealed(*_: object) -> object:
        raise UnavailableError("the key service is sealed")

    monkeypatch.setattr(type(local_kek()), "unwrap", sealed)
    with pytest.raises(UnavailableError, match="sealed"):
        world.scrub()
    assert read_proofs(world.repo(), PLACE) == {}


def test_a_copy_that_cant_be_reached_stops_the_scrub_by_its_name(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> object:
        raise UnavailableError("no route to it")

    monkeypatch.setattr(world.copy, "list_versions", gone)
    monkeypatch.setattr(world.copy, "now", gone)
    with pytest.raises(UnavailableError, match="a place that keeps the repository's keys can't be used"):
        world.scrub()


def test_a_keyring_that_the_store_withholds_keeps_nobody_from_proving_the_others(world: World) -> None:
    faulty = FaultyStore(world.store)
    faulty.add(Rule(Action.FAIL, "list_versions", f"*{world.shard.sha256[:32]}.keys", times=None))
    report = world.scrub(faulty)
    (finding,) = about_keyrings(report)
    assert "the store is there" in finding.what
    assert report.shards == len(live_shards(world.repo()))


def test_a_survey_of_a_day_counts_what_scrubs_look_at(world: World) -> None:
    report = survey_keyrings(world.repo(), "default", DAY)
    shards = len(live_shards(world.repo()))
    assert (report.ok, report.keyrings, report.punctured, report.revision) == (True, shards, 0, 1)
    assert (report.places, report.behind, report.kek_oldest) == (2, 0, report.kek_current)
    world.puncture()
    report = survey_keyrings(world.repo(), "default", DAY)
    assert (report.ok, report.keyrings, report.punctured, report.revision) == (False, shards, 1, 2)
    assert (report.failures, report.check.failed) == (2, 2)
    assert survey_keyrings(world.repo(), "default", DAY + timedelta(1)).keyrings == 0


def test_a_rotation_of_the_kek_shows_in_the_survey(world: World) -> None:
    before = survey_keyrings(world.repo(), "default", DAY)
    local_kek().rotate()
    after = survey_keyrings(world.repo(), "default", DAY)
    assert (after.kek_current, after.kek_oldest) == (before.kek_current + 1, before.kek_oldest)
    assert (after.ok, after.behind) == (True, after.keyrings)


def test_superseded_shards_count_as_long_as_they_are_there(world: World) -> None:
    before = survey_keyrings(world.repo(), "default", DAY).keyrings
    erase(world.repo(), some_files(30)[0].uid)
    repack(world.repo())
    after = survey_keyrings(world.repo(), "default", DAY)
    assert after.ok
    assert after.keyrings > before


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("harm", ["gone", "hidden", "damaged", "buried"])
def test_what_is_found_is_put_right_from_a_copy(world: World, at: int, harm: str) -> None:
    store, key = world.places()[at]
    assert isinstance(store, MemoryStore)
    if harm == "gone":
        for info in list(store.list_versions(key)):
            store.delete(key, version_id=info.version_id)
    elif harm == "hidden":
        store.delete(key)
    elif harm == "damaged":
        edit_bytes(store, key, flip(200))
    else:
        store.put(key, b"junk")
    assert not world.scrub().ok
    repo = world.repo()
    assert execute_restore(repo, plan_restore(repo)).ok
    report = world.scrub()
    assert (report.ok, about_keyrings(report)) == (True, [])
    assert list_damage(world.repo()).ok
