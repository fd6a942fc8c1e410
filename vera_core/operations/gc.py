"""`vera gc`: deletes shard versions that count no more: garbage, and superseded shards whose lock has ended.

First a version is condemned in its slot's log, so that no record brings it back; after a grace period it is deleted by
VersionId, once the log was read again (docs/protocol.md, "Garbage"). A keyring goes the same way once no version of its
shard is there, as where the upload never came. Superseded shards that must wait get the tag by which the store may move
them to a cold storage class meanwhile (cold.py).
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.errors import RestrictedError, UsageError
from vera_core.keyspace import KeyKind, keyring_of, shard_of
from vera_core.model import Lock
from vera_core.operations.audited import audited
from vera_core.operations.cold import ColdTags
from vera_core.operations.commit import sealed_number, settle
from vera_core.operations.cost import S3_STANDARD_IA, monthly
from vera_core.operations.ends import Ends, ends_of
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.repository import SHORT_LOCK
from vera_core.operations.told import look_at_each, none_is_wrong, told
from vera_core.store.base import MissingObjectError
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import datetime

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import SlotState
    from vera_core.store.base import VersionInfo

GRACE = timedelta(days=1)
"""Between condemning and deleting: longer than any reader trusts what it knows of a slot, or a link is valid."""
LEAST_GRACE = timedelta(hours=1)
VERSIONS_AUDITED = 1000
CONDEMNED_AT_ONCE = 10_000
"""Versions that one record names."""
APPENDS = 64


class Sort(StrEnum):
    """Why a version does not count."""

    GARBAGE = "garbage"
    SUPERSEDED = "superseded"


class Step(StrEnum):
    """What is to be done next with a version."""

    CONDEMN = "condemn"
    DELETE = "delete"
    WAIT = "wait"


@dataclass(frozen=True, slots=True, kw_only=True)
class GcLine:
    """A version of a shard or keyring that does not count: its bytes, what is next, and why it must wait.

    `due` is when it can be deleted, as far as can be known now; None where a legal hold has no end. `tag`: it is
    superseded, has to wait and gets its tag now.
    """

    slot: Slot
    key: str
    version_id: str
    size: int
    sort: Sort
    step: Step
    due: datetime | None
    why: str = ""
    tag: bool = False

    @property
    def name(self) -> tuple[str, str]:
        """How records condemn it: a shard by key and VersionId, a keyring by its shard's key alone."""
        return _condemnable(self.key, self.version_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class GcPlan(Report):
    """What a collection would do now: each version that does not count, with its next step."""

    grace: timedelta
    lines: tuple[GcLine, ...] = ()
    findings: tuple[Finding, ...] = ()
    slots: int = figure("slots examined")
    condemn: int = figure("versions to condemn", "objects")
    delete: int = figure("versions to delete", "objects")
    delete_bytes: int = figure("to delete", "bytes")
    saved: float = figure("deleting saves", "USD/month")
    waiting: int = figure("versions that must wait", "objects")
    waiting_bytes: int = figure("that must wait", "bytes")
    waiting_cost: float = figure("waiting costs", "USD/month")
    tag: int = figure("superseded versions to tag for cold storage", "objects")


@dataclass(frozen=True, slots=True, kw_only=True)
class GcReport(Report):
    """What a collection did. `kept` are versions that could not be deleted after all, and why."""

    findings: tuple[Finding, ...] = ()
    kept: tuple[GcLine, ...] = ()
    condemned: int = figure("versions condemned", "objects")
    deleted: int = figure("versions deleted", "objects")
    deleted_bytes: int = figure("deleted", "bytes")
    tagged: int = figure("versions tagged for cold storage", "objects")
    saved: float = figure("saved", "USD/month")


def plan_gc(
    repo: Repository,
    slots: Iterable[Slot],
    *,
    grace: timedelta = GRACE,
    progress: Callable[[int], None] | None = None,
) -> GcPlan:
    """Finds what does not count in these slots; changes nothing. `progress` gets the number of slots examined.

    Raises:
        UsageError: the grace period is shorter than an hour: readers could still use what is deleted then.
    """
    began = time.monotonic()
    if grace < LEAST_GRACE:
        raise UsageError(f"a grace period of {grace} is too short", todo="Give an hour or more.")
    repo.refresh_config()
    tags = ColdTags(repo.store)
    found, findings, count = look_at_each(slots, lambda slot: _lines(repo, slot, grace, tags), progress)
    findings += tags.findings()
    lines = [line for each in found for line in each]
    delete = [line for line in lines if line.step is Step.DELETE]
    waiting = [line for line in lines if line.step is Step.WAIT]
    return GcPlan(
        ok=none_is_wrong(findings), grace=grace, lines=tuple(lines), findings=tuple(findings), slots=count,
        condemn=sum(line.step is Step.CONDEMN for line in lines), delete=len(delete), delete_bytes=_size(delete),
        saved=_cost(delete), waiting=len(waiting), waiting_bytes=_size(waiting), waiting_cost=_cost(waiting),
        tag=sum(line.tag for line in lines), seconds=time.monotonic() - began,
    )  # fmt: skip


def execute_gc(repo: Repository, plan: GcPlan, *, progress: Callable[[int], None] | None = None) -> GcReport:
    """Condemns, deletes and tags what the plan names, as far as the logs, read again, still allow; safe to run again.

    `progress` gets the number of versions done.

    Raises:
        UnavailableError: the store can't be reached; run it again.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    began = time.monotonic()
    by_slot: defaultdict[Slot, list[GcLine]] = defaultdict(list)
    for line in plan.lines:
        if line.step is not Step.WAIT or line.tag:
            by_slot[line.slot].append(line)
    if not by_slot:
        return GcReport(ok=plan.ok, findings=plan.findings, seconds=time.monotonic() - began)
    repo.writable_config()
    findings = list(plan.findings)
    deleted: list[GcLine] = []
    kept: list[GcLine] = []
    condemned = tagged = done = 0
    tags = ColdTags(repo.store)
    acting = [line for lines in by_slot.values() for line in lines]
    subject = {
        "slots": len(by_slot),
        "condemn": plan.condemn,
        "tag": plan.tag,
        "delete": [[line.key, line.version_id] for line in acting if line.step is Step.DELETE][:VERSIONS_AUDITED],
    }
    with audited(repo, "gc", subject) as outcome:
        for slot, lines in by_slot.items():
            with told(findings, slot):
                condemned += _condemn(repo, slot, [line for line in lines if line.step is Step.CONDEMN])
                for line in _delete(repo, slot, [line for line in lines if line.step is Step.DELETE], plan.grace):
                    (deleted if line.step is Step.DELETE else kept).append(line)
                tagged += _tag(repo, slot, [line for line in lines if line.tag], tags)
            done += len(lines)
            if progress is not None:
                progress(done)
        outcome |= {
            "condemned": condemned,
            "tagged": tagged,
            "deleted": len(deleted),
            "versions": [[line.key, line.version_id] for line in deleted][:VERSIONS_AUDITED],
        }
    findings += tags.findings()
    return GcReport(
        ok=none_is_wrong(findings), findings=tuple(findings), kept=tuple(kept), condemned=condemned,
        deleted=len(deleted), deleted_bytes=_size(deleted), tagged=tagged, saved=_cost(deleted),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _lines(repo: Repository, slot: Slot, grace: timedelta, tags: ColdTags) -> list[GcLine]:
    """What does not count in a slot."""
    state = repo.slot_log(slot).load()
    ends = ends_of(state)
    infos = [info for info in repo.store.list_versions(repo.keys.slot_prefix(slot)) if not info.is_delete_marker]
    kinds = {info.key: repo.keys.parse(info.key).kind for info in infos}
    needed = {keyring_of(key) for key, kind in kinds.items() if kind is KeyKind.SHARD}
    unneeded = {key for key, kind in kinds.items() if kind is KeyKind.KEYRING} - needed
    found = []
    for info in infos:
        collected = kinds[info.key] is KeyKind.SHARD or info.key in unneeded
        if collected and not _counts(state, _condemnable(info.key, info.version_id)):
            # What vanishes meanwhile was deleted by another collector.
            with suppress(MissingObjectError):
                line = _judge(repo, state, info, ends, grace)
                tag = _may_go_cold(repo, line, ends, grace) and tags.is_missing(info.key, info.version_id)
                found.append(replace(line, tag=tag))
    return found


def _condemnable(key: str, version_id: str) -> tuple[str, str]:
    """See `GcLine.name`."""
    return (shard_of(key), "") if key.endswith(".keys") else (key, version_id)


def _counts(state: SlotState, name: tuple[str, str]) -> bool:
    """Whether what a record would condemn by that name is live."""
    return any(name in {(shard.key, shard.version_id), (shard.key, "")} for shard in state.live())


def _may_go_cold(repo: Repository, line: GcLine, ends: Ends, grace: timedelta) -> bool:
    """Whether a version was superseded so long ago that nobody reads it, and waits for more than its grace period."""
    now = repo.clock.now()
    since = ends.superseded.get((line.key, line.version_id))
    waits = line.step is Step.WAIT and (line.due is None or line.due > now + grace)
    return waits and since is not None and since + grace <= now


def _judge(repo: Repository, state: SlotState, info: VersionInfo, ends: Ends, grace: timedelta) -> GcLine:
    """The next step of a version that is not live."""
    now = repo.clock.now()
    since = ends.condemned.get(_condemnable(info.key, info.version_id))
    superseded = (info.key, info.version_id) in ends.superseded
    lock = repo.store.get_lock(info.key, info.version_id) if repo.config.locked else None
    end = now if lock is None else lock.until
    line = GcLine(
        slot=state.slot, key=info.key, version_id=info.version_id, size=info.size,
        sort=Sort.SUPERSEDED if superseded else Sort.GARBAGE, step=Step.WAIT, due=None,
    )  # fmt: skip
    # Of a hold that no log tells of only the store knows, which refuses then.
    if any(record.type == "hold" for record in state.records) and repo.store.get_hold(info.key, info.version_id):
        return replace(line, why="under a legal hold")
    if since is not None:
        due = max(end, since + grace)
        why = "locked" if due == end and end > now else "condemned, in its grace period"
        return replace(line, due=due, why=why) if due > now else replace(line, due=due, step=Step.DELETE)
    # Garbage of today may be what a packer is about to commit.
    young = now if superseded else info.last_modified + SHORT_LOCK
    begin = max(end, young)
    if begin > now:
        return replace(line, due=begin + grace, why="locked" if end == begin else "uploaded within a day")
    return replace(line, due=now + grace, step=Step.CONDEMN)


def _condemn(repo: Repository, slot: Slot, lines: Sequence[GcLine]) -> int:
    """Condemns versions that still don't count; returns how many."""
    if not lines:
        return 0
    log = repo.slot_log(slot)
    state = log.load()
    sealed = sealed_number(log, state)
    wanted = list(dict.fromkeys(line.name for line in lines))
    done = 0
    for _ in range(APPENDS):
        names = [name for name in wanted if name not in state.condemned and not _counts(state, name)]
        if not names:
            break
        done += _append_condemn(repo, log, state, names[:CONDEMNED_AT_ONCE])
    settle(repo, log, state, sealed)
    return done


def _append_condemn(repo: Repository, log: SlotLog, state: SlotState, names: Sequence[tuple[str, str]]) -> int:
    """Appends a record; 0 where another came first, which `state` knows then."""
    now = repo.clock.now()
    until = repo.record_until(state.longest_lock() or now)
    body = {"type": "condemn", "versions": [{"key": key, "version_id": version_id} for key, version_id in names]}
    try:
        log.append(state, body, lock=Lock(repo.config.lock_mode, until) if repo.config.locked else None, now=now)
    except LostAppendError:
        log.refresh(state)
        return 0
    return len(names)


def _delete(repo: Repository, slot: Slot, lines: Sequence[GcLine], grace: timedelta) -> list[GcLine]:
    """Deletes versions that may still be deleted; returns what became of each: deleted, or why it was kept."""
    if not lines:
        return []
    log = repo.slot_log(slot)
    state = log.load()
    sealed = sealed_number(log, state)
    ends = ends_of(state)
    done: list[GcLine] = []
    for line in lines:
        if log.refresh(state):
            ends = ends_of(state)
        if line.name not in ends.condemned or _counts(state, line.name):
            done.append(replace(line, step=Step.WAIT, due=None, why="it counts again"))
            continue
        try:
            info = repo.store.head(line.key, version_id=line.version_id)
            judged = _judge(repo, state, info, ends, grace)
            if judged.step is Step.DELETE:
                _delete_version(repo, line)
                _delete_keyring(repo, state, line)
            done.append(judged)
        except MissingObjectError:
            # Somebody else was quicker.
            continue
        except RestrictedError as refused:
            done.append(replace(line, step=Step.WAIT, due=None, why=f"the store refuses: {refused.what}"))
    # Whoever condemned may have died before this.
    settle(repo, log, state, sealed)
    return done


def _delete_version(repo: Repository, line: GcLine) -> None:
    """Deletes a version; of a keyring every other one, too, in every place.

    Raises:
        RestrictedError: a lock or legal hold keeps it.
    """
    if not line.key.endswith(".keys"):
        repo.store.delete(line.key, version_id=line.version_id)
    elif not repo.keyrings.delete(shard_of(line.key)):
        raise RestrictedError("a version of the keyring is locked in one of the places that keep it", key=line.key)


def _delete_keyring(repo: Repository, state: SlotState, line: GcLine) -> None:
    """Deletes the keyring of a shard of which this was the last version; one that is locked longer goes as garbage."""
    is_live = any(shard.key == line.key for shard in state.live())
    if not any(shard.key == line.key and shard.keyring for shard in state.superseded) or is_live:
        return
    infos = repo.store.list_versions(line.key)
    if not any(info.key == line.key and not info.is_delete_marker for info in infos):
        repo.keyrings.delete(line.key)


def _tag(repo: Repository, slot: Slot, lines: Sequence[GcLine], tags: ColdTags) -> int:
    """Tags versions that still are superseded; returns how many."""
    if not lines:
        return 0
    state = repo.slot_log(slot).load()
    superseded = {(shard.key, shard.version_id) for shard in state.superseded}
    superseded -= {(shard.key, shard.version_id) for shard in state.live()}
    return sum(tags.set(line.key, line.version_id) for line in lines if (line.key, line.version_id) in superseded)


def _size(lines: Iterable[GcLine]) -> int:
    return sum(line.size for line in lines)


def _cost(lines: Sequence[GcLine]) -> float:
    return monthly(S3_STANDARD_IA, objects=len(lines), stored_bytes=_size(lines))
