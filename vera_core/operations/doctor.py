"""The doctor: finds what a crash or a stranger left behind, and puts right what can be put right without a doubt.

It seals commits whose locks are too short, extends those of tenant keys, rebuilds sidecars, sets and lifts S3 legal
holds as the slot logs say, and removes delete markers over shards and records, and unlocked versions over records
(strangers.py finds those outside the slots). Locks and holds are asked of the store, whatever the sidecar says. Garbage
(shard versions that no record names) is listed with its bytes and cost; deleting it is `vera gc`'s business.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.errors import VeraError
from vera_core.keyspace import KeyKind, keyring_of
from vera_core.operations.commit import LOCK_TOLERANCE, is_unsealed, seal
from vera_core.operations.cost import S3_STANDARD_IA, monthly
from vera_core.operations.key_doctor import KeysHealth, examine_keys, extend_tenant_key
from vera_core.operations.legal_holds import legal_hold_work, sync_legal_holds
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.strangers import record_places, removable
from vera_core.operations.walk import all_slots
from vera_core.routing import EpochState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.slots import SlotState

PLACES_AUDITED = 1000
"""So many places an intent names; a log record has its limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What is to be done at one place: a slot, or the records under a key prefix outside the slots (`slot` is None).

    `removals` name the versions and markers, by VersionId, that are no data and go; `tenant_key` is a tenant whose key
    must be locked longer, and until when.
    """

    place: str
    slot: Slot | None = None
    unsealed: int = 0
    records: int = 0
    legal_holds: int = 0
    sidecar: str = ""
    removals: tuple[Finding, ...] = ()
    tenant_key: tuple[str, datetime] | None = None
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorPlan(Report):
    """What the doctor found. `findings` are what it can't put right; `garbage` versions cost money and nothing else.

    `keys` is how the keys of an encrypted repository are.
    """

    slots: int = figure("slots examined")
    unsealed: int = figure("unsealed commits")
    records: int = figure("slot log records with short locks")
    legal_holds: int = figure("legal holds to set or lift")
    sidecars: int = figure("sidecars to rebuild")
    removals: int = figure("markers and strangers' versions to remove")
    garbage: int = figure("garbage shard versions", "objects")
    garbage_bytes: int = figure("garbage", "bytes")
    garbage_cost: float = figure("garbage costs", "USD/month")
    tenant_keys: int = figure("tenant keys with short locks")
    diagnoses: tuple[Diagnosis, ...] = ()
    keys: KeysHealth | None = None
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorReport(Report):
    """What the doctor did."""

    sealed: int = figure("commits rolled forward")
    records: int = figure("slot log records locked longer")
    legal_holds: int = figure("legal holds set or lifted")
    sidecars: int = figure("sidecars rebuilt")
    removed: int = figure("markers and unlocked versions removed")
    tenant_keys: int = figure("tenant keys locked longer")
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class _Survey:
    """What has been seen so far."""

    diagnoses: list[Diagnosis] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    slots: int = 0
    garbage: int = 0
    garbage_bytes: int = 0
    longest: dict[str, datetime | None] = field(default_factory=dict)
    """The end of the longest lock of each tenant's shards."""


def plan_doctor(
    repo: Repository, *, tenant: str | None = None, progress: Callable[[int], None] | None = None
) -> DoctorPlan:
    """Examines the records and slots of one tenant, or of all and those of the repository; changes nothing.

    `progress` gets the number of slots done.
    """
    began = time.monotonic()
    repo.refresh_config()
    survey = _Survey()
    for epoch in repo.config.routing.epochs:
        if epoch.state is EpochState.PENDING:
            survey.findings.append(
                Finding(
                    what=f"the routing epoch from {epoch.from_day} is pending; packers of those days wait for it",
                    todo=f"Run `vera epoch {epoch.from_day} {epoch.n_bits}` again to settle it.",
                    severity="warning",
                )
            )
    for place, look in record_places(repo, tenant):
        with _told(survey, place):
            removals = tuple(removable(repo, look()))
            if removals:
                survey.diagnoses.append(Diagnosis(place=place, removals=removals))
    for slot in all_slots(repo, tenant=tenant):
        with _told(survey, str(slot), slot):
            _examine(repo, slot, survey)
        survey.slots += 1
        if progress is not None:
            progress(survey.slots)
    health = examine_keys(repo, survey.longest)
    if health is not None:
        survey.findings += health.findings
        survey.diagnoses += [Diagnosis(place=repo.keys.tenant_key(one[0]), tenant_key=one) for one in health.short]
    diagnoses = tuple(survey.diagnoses)
    return DoctorPlan(
        ok=not diagnoses and not any(finding.severity == "error" for finding in survey.findings),
        slots=survey.slots,
        unsealed=sum(item.unsealed for item in diagnoses),
        records=sum(item.records for item in diagnoses),
        legal_holds=sum(item.legal_holds for item in diagnoses),
        sidecars=sum(bool(item.sidecar) for item in diagnoses),
        removals=sum(len(item.removals) for item in diagnoses),
        garbage=survey.garbage,
        garbage_bytes=survey.garbage_bytes,
        garbage_cost=monthly(S3_STANDARD_IA, objects=survey.garbage, stored_bytes=survey.garbage_bytes),
        tenant_keys=sum(item.tenant_key is not None for item in diagnoses),
        diagnoses=diagnoses,
        keys=health,
        findings=tuple(survey.findings),
        seconds=time.monotonic() - began,
    )


def execute_doctor(repo: Repository, plan: DoctorPlan) -> DoctorReport:
    """Puts right what `plan` found: removes exactly the versions it names, and seals and rebuilds what it finds now.

    Raises:
        IncompatibleError: the repository no longer takes writes from this version.
    """
    began = time.monotonic()
    if not plan.diagnoses:
        return DoctorReport(findings=plan.findings, seconds=time.monotonic() - began)
    repo.writable_config()
    intent = repo.audit.intent("doctor", {"places": [item.place for item in plan.diagnoses][:PLACES_AUDITED]})
    sealed = records = legal_holds = sidecars = removed = tenant_keys = 0
    findings = list(plan.findings)
    for item in plan.diagnoses:
        if item.error:
            continue
        try:
            for stranger in item.removals:
                repo.store.delete(stranger.key, version_id=stranger.version_id)
                removed += 1
            if item.tenant_key is not None:
                extend_tenant_key(repo, *item.tenant_key)
                tenant_keys += 1
            if item.slot is not None:
                log = repo.slot_log(item.slot)
                state = log.load()
                records += _short_records(repo, state)
                sealed += seal(repo, log, state, after=0)
                legal_holds += sync_legal_holds(repo, log, state)
                if state.records:
                    sidecars += log.rebuild_sidecar(state, repo.clock.now())
        except VeraError as error:
            findings.append(_finding(error, item.place))
    done = {"sealed": sealed, "records": records, "legal_holds": legal_holds, "sidecars": sidecars, "removed": removed}
    repo.audit.outcome(intent, "done", done)
    return DoctorReport(
        ok=not any(finding.severity == "error" for finding in findings),
        sealed=sealed, records=records, legal_holds=legal_holds, sidecars=sidecars, removed=removed,
        tenant_keys=tenant_keys, findings=tuple(findings), seconds=time.monotonic() - began,
    )  # fmt: skip


@contextmanager
def _told(survey: _Survey, place: str, slot: Slot | None = None) -> Iterator[None]:
    """Makes an error in the block a finding about `place`, and goes on with the next one."""
    try:
        yield
    except VeraError as error:
        survey.findings.append(_finding(error, place))
        survey.diagnoses.append(Diagnosis(place=place, slot=slot, error=error.what))


def _finding(error: VeraError, place: str) -> Finding:
    return Finding(what=error.what, key=error.where.get("key", place), todo=error.todo)


def _examine(repo: Repository, slot: Slot, survey: _Survey) -> None:
    log = repo.slot_log(slot)
    state, foreign = log.survey()
    versions = _shard_versions(repo, slot)
    _judge_versions(versions, state, survey)
    before, longest = survey.longest.get(slot.tenant), state.longest_lock()
    survey.longest[slot.tenant] = longest if before is None else max(before, longest or before)
    sidecar = log.sidecar_trouble(state)
    unsealed = sum(is_unsealed(repo, shard) for shard in state.live())
    records = _short_records(repo, state)
    removals = (*removable(repo, foreign), *versions.markers)
    legal_holds = legal_hold_work(repo, state)
    if unsealed or records or legal_holds or sidecar or removals:
        survey.diagnoses.append(
            Diagnosis(
                place=str(slot), slot=slot, unsealed=unsealed, records=records, legal_holds=legal_holds,
                sidecar=sidecar, removals=removals,
            )
        )  # fmt: skip


def _short_records(repo: Repository, state: SlotState) -> int:
    """How many of a slot's records the store would let go before a shard that they speak of."""
    longest = state.longest_lock()
    if not repo.config.locked or longest is None or longest <= repo.clock.now():
        return 0
    return sum(record.lock is not None and record.lock.until < longest - LOCK_TOLERANCE for record in state.records)


@dataclass(slots=True)
class _ShardVersions:
    """What lies under a slot's shard keys: sizes by VersionId, and delete markers; and the keys of its keyrings."""

    sizes: dict[str, int] = field(default_factory=dict)
    markers: list[Finding] = field(default_factory=list)
    keyrings: set[str] = field(default_factory=set)


def _shard_versions(repo: Repository, slot: Slot) -> _ShardVersions:
    found = _ShardVersions()
    for info in repo.store.list_versions(repo.keys.slot_prefix(slot)):
        kind = repo.keys.parse(info.key).kind
        if kind is KeyKind.KEYRING and info.is_latest and not info.is_delete_marker:
            found.keyrings.add(info.key)
        if kind is not KeyKind.SHARD:
            continue
        if info.is_delete_marker:
            what = "delete marker over a shard"
            found.markers.append(Finding(what=what, key=info.key, version_id=info.version_id, severity="warning"))
        else:
            found.sizes[info.version_id] = info.size
    return found


def _judge_versions(versions: _ShardVersions, state: SlotState, survey: _Survey) -> None:
    """Counts garbage among the slot's shard versions, and tells of shards that are gone."""
    named = {shard.version_id for shard in [*state.live(), *state.superseded]}
    garbage = [size for version_id, size in versions.sizes.items() if version_id not in named]
    survey.garbage += len(garbage)
    survey.garbage_bytes += sum(garbage)
    for shard in state.live():
        if shard.version_id not in versions.sizes:
            survey.findings.append(
                Finding(
                    what="a committed shard is gone",
                    key=shard.key,
                    version_id=shard.version_id,
                    todo="Restore it from a replica, or pack its window again from the source.",
                )
            )
        elif shard.keyring and keyring_of(shard.key) not in versions.keyrings:
            what = "the keyring of a committed shard is gone or hidden"
            todo = "Run `vera keys restore`, which puts it back from a registered copy."
            survey.findings.append(Finding(what=what, key=keyring_of(shard.key), todo=todo))
