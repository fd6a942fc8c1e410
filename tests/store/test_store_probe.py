"""The probe: honest stores pass, and each kind of dishonest one is found out by the promise that it breaks."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from vera_core.errors import (
    NotFoundError,
    PreconditionError,
    RestrictedError,
    UnavailableError,
    UnsafeStoreError,
    UsageError,
)
from vera_core.keyspace import Keyspace
from vera_core.model import LockMode
from vera_core.store.base import LifecycleRule
from vera_core.store.cold import COLD, SUPERSEDED, lifecycle_configuration
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore, Version
from vera_core.store.probe import ProbeReport, Promise, Topic, Verdict, hygiene, probe
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import S3Options

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from vera_core.model import Lock
    from vera_core.store.base import BucketState, Condition, Stored, VersionInfo


def clock() -> datetime:
    """Runs twenty times as fast as ours, so that nobody waits for the end of locks."""
    return START + 20 * (datetime.now(UTC) - START)


START = datetime.now(UTC)


def promise(report: ProbeReport, name: str) -> Promise:
    return next(item for item in report.promises if item.name == name)


def not_held(report: ProbeReport) -> set[str]:
    return {item.name for item in report.promises if item.required and item.verdict is not Verdict.HELD}


# ---------------------------------------------------------------------- honest stores


def check_honest(report: ProbeReport) -> None:
    assert not_held(report) == set()
    assert report.atomic_conditional_put
    assert report.enforced_locks
    assert report.exact_content
    assert report.hygiene
    assert report.left_behind == ()
    assert {item.topic for item in report.promises} == set(Topic)
    assert all(item.meaning and item.evidence for item in report.promises)
    assert promise(report, "legal holds").verdict is Verdict.HELD
    assert promise(report, "object tags").verdict is Verdict.HELD


def test_the_model_passes() -> None:
    store = MemoryStore()
    report = probe(store, prefix="archive", lock_seconds=3)
    check_honest(report)
    assert report.tells_markers
    assert promise(report, "clocks agree").verdict is Verdict.HELD
    assert list(store.list_versions("")) == []


def test_a_real_server_passes(s3_store: S3Store) -> None:
    report = probe(s3_store, prefix="archive", lock_seconds=8)
    check_honest(report)
    assert not report.tells_markers
    assert "1 won, 15 were refused" in promise(report, "one winner, if-none-match").evidence
    assert list(s3_store.list_versions("")) == []


# ---------------------------------------------------------------------- dishonest stores


class RacyStore(MemoryStore):
    """Looks whether the condition holds, and only then stores: as if there were no such thing as another writer."""

    def put(
        self,
        key: str,
        data: bytes,
        *,
        condition: Condition | None = None,
        lock: Lock | None = None,
        content_type: str = "application/octet-stream",
    ) -> Stored:
        if condition is not None:
            there = [info for info in self.list_versions(key) if info.is_latest and not info.is_delete_marker]
            if (there[0].etag if there else None) != condition.etag:
                raise PreconditionError("somebody was there first", bucket=self.bucket, key=key)
            time.sleep(0.01)
        return super().put(key, data, lock=lock)


class LosersBytesStore(MemoryStore):
    """Refuses the losers of a race, but keeps their bytes."""

    def put(
        self,
        key: str,
        data: bytes,
        *,
        condition: Condition | None = None,
        lock: Lock | None = None,
        content_type: str = "application/octet-stream",
    ) -> Stored:
        try:
            return super().put(key, data, condition=condition, lock=lock)
        except PreconditionError:
            super().put(key, data)
            raise


class DeletableStore(MemoryStore):
    """Deletes what is locked."""

    def delete(self, key: str, *, version_id: str | None = None, bypass_governance: bool = False) -> None:
        if version_id is not None:
            self._keys[key] = [version for version in self._keys[key] if version.version_id != version_id]
        else:
            super().delete(key)


class BypassableStore(MemoryStore):
    """Lets the governance bypass open COMPLIANCE too."""

    def _is_locked(self, version: object, *, bypass: bool) -> bool:
        return not bypass and super()._is_locked(version, bypass=bypass)  # type: ignore[arg-type]


class SilentStore(MemoryStore):
    """Reports the deletion of locked versions as done, and does not do it."""

    def delete(self, key: str, *, version_id: str | None = None, bypass_governance: bool = False) -> None:
        with suppress(RestrictedError):
            super().delete(key, version_id=version_id, bypass_governance=bypass_governance)


class BatchStore(MemoryStore):
    """Looks at locks in single deletions only."""

    def delete_batch(
        self, versions: Iterable[tuple[str, str]], *, bypass_governance: bool = False
    ) -> list[tuple[str, str, str]]:
        gone = set(versions)
        for key in {key for key, _ in gone}:
            self._keys[key] = [version for version in self._keys[key] if (key, version.version_id) not in gone]
        return []


class UnlockedPartsStore(MemoryStore):
    """Forgets the lock of multipart uploads."""

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        sha256: bytes,
        condition: Condition | None = None,
        lock: Lock | None = None,
        multipart: bool = False,
    ) -> Stored:
        return super().put_file(key, path, sha256=sha256, condition=condition, lock=None if multipart else lock)


class TrustingStore(MemoryStore):
    """Does not look at checksums."""

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        sha256: bytes,
        condition: Condition | None = None,
        lock: Lock | None = None,
        multipart: bool = False,
    ) -> Stored:
        return self.put(key, path.read_bytes(), condition=condition, lock=lock)


class LatestOnlyStore(MemoryStore):
    """Serves ranges of the current version, whichever was asked for."""

    def get_range(self, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        return self.get(key).data[start : start + length]


class ClippingStore(MemoryStore):
    """Answers a range beyond the end with what there is."""

    def get_range(self, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        return self.get(key, version_id=version_id).data[start : start + length]


class UnsortedStore(MemoryStore):
    """Lists delete markers after the versions, as boto3 and moto do."""

    def list_versions(self, prefix: str) -> Iterator[VersionInfo]:
        yield from sorted(super().list_versions(prefix), key=lambda info: (info.key, info.is_delete_marker))


LIARS = [
    (RacyStore, {"one winner, if-none-match", "one winner, if-match"}, "won,"),
    (LosersBytesStore, {"one winner, if-none-match", "one winner, if-match"}, "not the winner's"),
    (
        DeletableStore,
        {"no deletion", "no bypass", "governance", "multipart uploads are locked"},
        "",
    ),
    (BatchStore, {"no batch deletion"}, "the version is gone"),
    (BypassableStore, {"no bypass", "no shortening", "no downgrade"}, ""),
    (SilentStore, {"no deletion", "no bypass", "governance", "multipart uploads are locked"}, ""),
    (UnlockedPartsStore, {"multipart uploads are locked"}, "no lock is read"),
    (TrustingStore, {"wrong checksums are refused"}, "was stored"),
    (LatestOnlyStore, {"exact ranges"}, "other bytes"),
    (ClippingStore, {"exact ranges"}, "beyond the end"),
    (UnsortedStore, {"listings are in order"}, "3, 2, 1, marker"),
]


@pytest.mark.parametrize(("liar", "broken", "says"), LIARS)
def test_each_lie_is_found_out(liar: type[MemoryStore], broken: set[str], says: str) -> None:
    report = probe(liar(clock=clock), racers=8)
    assert not_held(report) == broken
    assert all(says in promise(report, name).evidence for name in broken)
    topics = {item.topic for item in report.promises if item.name in broken}
    assert report.atomic_conditional_put == (Topic.CONDITIONS not in topics)
    assert report.enforced_locks == (Topic.LOCKS not in topics)
    assert report.exact_content == (Topic.CONTENT not in topics)


class HoldlessStore(MemoryStore):
    """Offers no legal holds."""

    def set_hold(self, key: str, version_id: str, *, held: bool) -> None:
        raise UnsafeStoreError("the store does not offer this S3 function", key=key, version_id=version_id, held=held)


class ForgetfulStore(MemoryStore):
    """Takes legal holds and tells of them, and deletes what is held all the same."""

    def _refusal(self, version: Version, *, bypass: bool) -> str:
        return super()._refusal(replace(version, hold=False), bypass=bypass)


class DeafStore(MemoryStore):
    """Takes legal holds and forgets them."""

    def get_hold(self, key: str, version_id: str) -> bool:
        self.head(key, version_id=version_id)
        return False


@pytest.mark.parametrize(
    ("store", "says"),
    [
        (HoldlessStore, "the store takes none"),
        (ForgetfulStore, "the version could be deleted"),
        (DeafStore, "a legal hold was set, none is read"),
    ],
)
def test_a_store_without_legal_holds_can_hold_an_archive_and_it_is_told(store: type[MemoryStore], says: str) -> None:
    report = probe(store(clock=clock), racers=2)
    found = promise(report, "legal holds")
    assert (found.verdict, found.required, report.enforced_locks) == (Verdict.BROKEN, False, True)
    assert says in found.evidence
    assert report.left_behind == ()


def test_a_probe_that_can_not_look_at_its_hold_leaves_none_behind() -> None:
    store = FaultyStore(MemoryStore(clock=clock), [Rule(Action.FAIL, "get_hold")])
    report = probe(store, racers=2)
    assert promise(report, "legal holds").verdict is Verdict.UNKNOWN
    assert report.left_behind == ()


class TaglessStore(MemoryStore):
    """Offers no tags."""

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        raise UnsafeStoreError("the store does not offer this S3 function", bucket=self.bucket, answer="NotImplemented")


class TagsForgetfulStore(MemoryStore):
    """Takes tags and forgets them."""

    def get_tags(self, key: str, version_id: str) -> dict[str, str]:
        self.head(key, version_id=version_id)
        return {}


class TagsOfKeysStore(MemoryStore):
    """Knows tags of keys, not of versions."""

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        for info in self.list_versions(key):
            super().set_tags(key, info.version_id, tags)


class TagsAreCopiesStore(MemoryStore):
    """Loses the lock of what is tagged."""

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        super().set_tags(key, version_id, tags)
        version = self._read(key, version_id)
        self._replace(key, version, replace(version, lock=None))


@pytest.mark.parametrize(
    ("store", "says"),
    [
        (TaglessStore, "the store takes none (NotImplemented)"),
        (TagsForgetfulStore, "a tag was set, none is read"),
        (TagsOfKeysStore, "another version"),
        (TagsAreCopiesStore, "the lock is another"),
    ],
)
def test_a_store_without_tags_can_hold_an_archive_and_it_is_told(store: type[MemoryStore], says: str) -> None:
    report = probe(store(clock=clock), racers=2)
    found = promise(report, "object tags")
    assert (found.verdict, found.required) == (Verdict.BROKEN, False)
    assert says in found.evidence
    assert report.enforced_locks
    assert report.left_behind == ()


@pytest.fixture
def moto_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A bucket of moto, which knows lifecycle rules and keeps no lock."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (("ACCESS_KEY_ID", "x"), ("SECRET_ACCESS_KEY", "y"), ("REGION", "us-east-1")):
            monkeypatch.setenv(f"AWS_{name}", value)
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}")
        store = S3Store("moto", options=S3Options(attempts=1))
        store.create_bucket()
        yield store
    finally:
        server.stop()


def test_moto_is_refused(moto_store: S3Store) -> None:
    report = probe(moto_store, lock_seconds=5, racers=4)
    assert not report.enforced_locks
    assert promise(report, "no shortening").verdict is Verdict.BROKEN
    assert not report.exact_content


# ---------------------------------------------------------------------- stores that fail meanwhile


def test_a_store_that_fails_can_not_be_said_to_hold() -> None:
    store = FaultyStore(MemoryStore(clock=clock), [Rule(Action.FAIL, "get_lock", times=None)])
    report = probe(store, racers=4)
    assert not report.enforced_locks
    assert promise(report, "locks are kept").verdict is Verdict.UNKNOWN
    assert "injected" in promise(report, "locks are kept").evidence
    assert report.atomic_conditional_put


def test_lost_replies_in_every_race_can_not_be_said_to_hold() -> None:
    report = probe(
        FaultyStore(MemoryStore(clock=clock), [Rule(Action.REPEAT, "put", "*/race-*", times=None)]), racers=4
    )
    assert not report.atomic_conditional_put
    assert promise(report, "one winner, if-none-match").verdict is Verdict.UNKNOWN


def test_a_store_too_slow_for_the_locks_can_not_be_said_to_hold() -> None:
    store = FaultyStore(MemoryStore(), [Rule(Action.DELAY, "delete", "*/locked", seconds=2.2)])
    report = probe(store, racers=4, lock_seconds=2)
    assert promise(report, "no deletion").verdict is Verdict.UNKNOWN
    assert "too slowly" in promise(report, "no deletion").evidence


def test_a_store_that_refuses_everything_is_an_error() -> None:
    with pytest.raises(UnavailableError):
        probe(FaultyStore(MemoryStore(), [Rule(Action.FAIL, "put")]))
    with pytest.raises(NotFoundError):
        probe(MemoryStore(exists=False))


def test_what_can_not_be_removed_is_named() -> None:
    frozen = datetime.now(UTC)
    report = probe(MemoryStore(clock=lambda: frozen), racers=2, lock_seconds=1)
    assert [key.rsplit("/", 1)[1] for key in report.left_behind] == ["locked"]


def test_a_clock_that_is_off_is_told() -> None:
    fast = MemoryStore(clock=lambda: datetime.now(UTC) + timedelta(hours=1))
    found = promise(probe(fast, racers=2, lock_seconds=1), "clocks agree")
    assert found.verdict is Verdict.BROKEN
    assert not found.required
    assert "3600 s ahead" in found.evidence or "3599 s ahead" in found.evidence


# ---------------------------------------------------------------------- hygiene


def test_a_clean_bucket_has_no_findings(memory_store: MemoryStore) -> None:
    assert hygiene(memory_store, "archive") == []


def test_a_bucket_without_versioning_or_locks() -> None:
    store = MemoryStore(versioning=False, object_lock=False)
    assert [finding.name for finding in hygiene(store)] == ["versioning", "object lock"]
    assert not probe(store, racers=2).hygiene
    assert [finding.name for finding in hygiene(MemoryStore(exists=False))] == ["bucket"]


def test_a_default_retention_is_a_finding(memory_store: MemoryStore) -> None:
    memory_store.default_retention = (LockMode.GOVERNANCE, timedelta(days=3))
    (finding,) = hygiene(memory_store)
    assert finding.required
    assert "GOVERNANCE for 3 days" in finding.what
    assert "Remove" in finding.todo


@pytest.mark.parametrize(
    ("rule", "prefix", "found"),
    [
        ("", "archive", True),
        ("arch", "archive", True),
        ("archive/", "archive", True),
        ("archive/t/x", "archive", True),
        ("archive2/", "archive", False),
        ("logs/", "archive", False),
        ("logs/", "", True),
    ],
)
def test_expirations_count_where_they_meet_our_prefix(
    memory_store: MemoryStore, rule: str, prefix: str, found: bool
) -> None:
    memory_store.expirations = (LifecycleRule("tidy", rule),)
    assert [finding.name for finding in hygiene(memory_store, prefix)] == (["expiration"] if found else [])


def test_only_superseded_shards_may_be_moved_to_where_nothing_is_read(memory_store: MemoryStore) -> None:
    deep, ours = ("DEEP_ARCHIVE",), (("team", "archive"), SUPERSEDED)
    memory_store.transitions = (
        LifecycleRule("ours", "archive/t/", ours, deep),
        LifecycleRule("elsewhere", "logs/", (), deep),
        LifecycleRule("readable", "", (), ("GLACIER_IR", "STANDARD_IA")),
    )
    assert hygiene(memory_store, "archive") == []
    memory_store.transitions = (LifecycleRule("all", "", (("vera-state", "live"),), ("GLACIER", "STANDARD_IA")),)
    [finding] = hygiene(memory_store, "archive")
    assert (finding.name, finding.required) == ("transition", True)
    assert "GLACIER" in finding.what
    assert not probe(memory_store, prefix="archive", racers=2, lock_seconds=1).hygiene


def test_the_rule_that_vera_prints_is_taken_by_s3_and_by_the_daily_check(moto_store: S3Store) -> None:
    """Beside others; one that expires anything, by whatever tag, is refused as ever."""
    client = boto3.Session().client("s3")  # the default session keeps the credentials of whoever used it first
    aborts: Any = {
        "ID": "parts", "Status": "Enabled", "Filter": {"Prefix": ""},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    }  # fmt: skip
    for storage_class in COLD:
        configuration: Any = lifecycle_configuration(Keyspace("archive"), storage_class)
        configuration["Rules"].append(aborts)
        client.put_bucket_lifecycle_configuration(Bucket="moto", LifecycleConfiguration=configuration)
        state = moto_store.bucket_state()
        assert state.expirations == ()
        assert state.transitions == (LifecycleRule("vera-superseded", "archive/t/", (SUPERSEDED,), (storage_class,)),)
        assert hygiene(moto_store, "archive") == []
    tag: Any = {"Tag": {"Key": "vera-state", "Value": "superseded"}}
    for removing in ({"Expiration": {"Days": 9}}, {"NoncurrentVersionExpiration": {"NoncurrentDays": 9}}):
        rule: Any = {"ID": "tidy", "Status": "Enabled", "Filter": tag, **removing}
        client.put_bucket_lifecycle_configuration(Bucket="moto", LifecycleConfiguration={"Rules": [rule]})
        assert [finding.name for finding in hygiene(moto_store, "archive")] == ["expiration"]
    moves: Any = {"Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}
    for place, findings in (({"Prefix": "archive/"}, ["transition"]), (tag, []), ({"Prefix": "logs/"}, [])):
        rule = {"ID": "cold", "Status": "Enabled", "Filter": place, **moves}
        client.put_bucket_lifecycle_configuration(Bucket="moto", LifecycleConfiguration={"Rules": [rule]})
        assert [finding.name for finding in hygiene(moto_store, "archive")] == findings
    with pytest.raises(UsageError):
        lifecycle_configuration(Keyspace("archive"), "STANDARD_IA")


class SecretiveStore(MemoryStore):
    """Does not offer to read two of its settings."""

    def bucket_state(self) -> BucketState:
        return replace(super().bucket_state(), default_retention=None, expirations=None, transitions=None)


def test_settings_that_can_not_be_read_are_told_but_do_not_refuse() -> None:
    findings = hygiene(SecretiveStore())
    assert [(finding.name, finding.required) for finding in findings] == [
        ("default retention", False),
        ("expiration", False),
    ]
    report = probe(SecretiveStore(clock=clock), racers=2)
    assert report.hygiene
    assert promise(report, "hygiene: expiration").verdict is Verdict.UNKNOWN
