"""Legal holds: placing and releasing them, by case, on all living versions of files (docs/protocol.md, Holds).

A hold is in force with its record in the slot's log, and acknowledged once the store holds the shards too, which is
legal_holds.py's business. It covers the versions that are there: later ones are held by placing it again.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.errors import NotFoundError, UsageError
from vera_core.operations.audited import audited
from vera_core.operations.commit import sealed_number, settle
from vera_core.operations.legal_holds import sync_legal_holds
from vera_core.operations.lookup import ShardReaders, versions_of
from vera_core.operations.report import Report, figure
from vera_core.operations.slotwise import append, by_slot, chunks, each_slot, until_in
from vera_core.operations.walk import all_slots
from vera_core.slotrecords import entries_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vera_core.erasures import Target
    from vera_core.model import Origin, Slot
    from vera_core.operations.lookup import Version
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import SlotState

MAX_CASE = 128
UIDS_NAMED = 10


class Outcome(StrEnum):
    """What becomes of a file."""

    PLANNED = "to be done"
    DONE = "done"
    BEFORE = "done before"
    ERASED = "erased"
    MISSING = "not found"


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldOrder:
    """Which files of a tenant a case needs, or needs no more, and why. A release without files is of the whole case."""

    tenant: str
    case: str
    reason: str
    targets: tuple[Target, ...]
    release: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FileHold:
    """What becomes, or became, of one file: `versions` are those that this holds or releases.

    `uid` is its name where nobody has told this process the uid. `cases` are all that hold any of its versions
    afterwards.
    """

    uid: str
    slot: str
    outcome: Outcome
    versions: tuple[Origin, ...] = ()
    cases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReport(Report):
    """What placing or releasing came to, file by file, or in a plan would come to. `ok` unless a file is not there."""

    tenant: str
    case: str
    release: bool
    files: tuple[FileHold, ...]
    requested: int = figure("files", "files")
    changed: int = figure("held or released by this", "files")
    before: int = figure("done before", "files")
    missing: int = figure("not found or erased", "files")


def plan_hold(repo: Repository, order: HoldOrder, progress: Callable[[int], None] | None = None) -> HoldReport:
    """What `execute_hold` would come to; changes nothing.

    Raises:
        UsageError: the case or the reason is missing, no file is named, or a uid needs a created_at.
        NotFoundError: a whole case is to be released that holds nothing.
        IntegrityError: a slot can't be read.
    """
    began = time.monotonic()
    _check(order)
    repo.refresh_config()

    def plan(slot: Slot, names: Mapping[str, str]) -> list[FileHold]:
        return list(_judged(repo, order, repo.slot_log(slot).load(), names).values())

    files, failed = each_slot(_slots(repo, order), plan, progress)
    if failed is not None:
        raise failed
    return replace(_report(order, files), seconds=time.monotonic() - began)


def execute_hold(repo: Repository, order: HoldOrder, progress: Callable[[int], None] | None = None) -> HoldReport:
    """Places or releases a hold; run again after a crash it ends in the same place.

    Raises:
        UsageError, IntegrityError: as `plan_hold`.
        NotFoundError: a file is not archived, was erased, or (release) was never held for the case; nothing was done.
        UnsafeStoreError: the store takes no legal holds; VERA keeps the files all the same.
        UnavailableError: some slot could not be read or written; the others are done.
    """
    began = time.monotonic()
    repo.writable_config()
    _refuse_unknown(plan_hold(repo, order))
    slots = _slots(repo, order)
    operation = "release" if order.release else "hold"
    with audited(repo, operation, {"tenant": order.tenant, "case": order.case, "slots": len(slots)}) as outcome:
        files, failed = each_slot(slots, lambda slot, names: _execute(repo, order, slot, names), progress)
        if failed is not None:
            raise failed
        report = _report(order, files)
        outcome.update(changed=report.changed, before=report.before, missing=report.missing)
    return replace(report, seconds=time.monotonic() - began)


def _check(order: HoldOrder) -> None:
    if not 1 <= len(order.case) <= MAX_CASE or not order.case.isprintable() or not order.case.strip():
        raise UsageError(f"{order.case!r} is no case id", todo=f"Give 1 to {MAX_CASE} printable characters.")
    if not order.reason.strip():
        raise UsageError("a hold or release needs a reason", todo="Give one with --reason.", case=order.case)
    if not order.targets and not order.release:
        raise UsageError("no file is named", todo="Name the uids to hold.", case=order.case)


def _slots(repo: Repository, order: HoldOrder) -> Mapping[Slot, Mapping[str, str]]:
    """The files concerned in each slot: what the slot calls them, and the uids where they were told."""
    if order.targets:
        return by_slot(repo, order.tenant, order.targets)
    found: dict[Slot, Mapping[str, str]] = {}
    for slot in all_slots(repo, tenant=order.tenant):
        held = repo.slot_log(slot).current().holds.get(order.case)
        if held:
            found[slot] = {name: name for name in held.values()}
    if not found:
        raise NotFoundError("no file is held for this case", case=order.case, tenant=order.tenant)
    return found


def _refuse_unknown(plan: HoldReport) -> None:
    unknown = [file.uid for file in plan.files if file.outcome in (Outcome.MISSING, Outcome.ERASED)]
    if unknown:
        what = "were never held for this case" if plan.release else "are not archived, or erased"
        raise NotFoundError(
            f"{len(unknown)} of {plan.requested} files {what}; nothing was done",
            todo="Check uids, their created_at days and the tenant; --dry-run tells of each file.",
            case=plan.case, tenant=plan.tenant, uids=", ".join(unknown[:UIDS_NAMED]),
        )  # fmt: skip


def _execute(repo: Repository, order: HoldOrder, slot: Slot, names: Mapping[str, str]) -> list[FileHold]:
    log = repo.slot_log(slot)
    state = log.load()
    sealed = sealed_number(log, state)
    done: dict[str, FileHold] = {}

    def step() -> list[FileHold]:
        files = _judged(repo, order, state, names)
        planned = {name: file.versions for name, file in files.items() if file.outcome is Outcome.PLANNED}
        for chunk in chunks(planned):
            _append(repo, order, (log, state), chunk)
            done.update((name, replace(files[name], outcome=Outcome.DONE)) for name in chunk)
        return list((files | done).values())

    files = until_in(log, state, step)
    settle(repo, log, state, sealed)
    sync_legal_holds(repo, log, state)
    return files


def _append(
    repo: Repository, order: HoldOrder, to: tuple[SlotLog, SlotState], versions: Mapping[str, Sequence[Origin]]
) -> None:
    body = {
        "type": "release" if order.release else "hold",
        "case": order.case,
        "reason": order.reason,
        "actor": repo.workplace.actor,
        "entries": entries_json(versions),
    }
    append(repo, *to, body)


def _judged(repo: Repository, order: HoldOrder, state: SlotState, names: Mapping[str, str]) -> dict[str, FileHold]:
    """What is to become of each file, by its name, as the slot's state is."""
    if order.release:
        return _to_release(order, state, names)
    readers = ShardReaders(repo)
    key = repo.naming(state.slot.tenant).key
    found = {name: versions_of(readers, state, name, key(name)) for name in names}
    return {name: _to_hold(order, state, uid, found[name]) for name, uid in names.items()}


def _to_hold(order: HoldOrder, state: SlotState, uid: str, versions: Sequence[Version]) -> FileHold:
    found = [version.origin for version in versions]
    living = [origin for origin in found if not state.is_dead(origin)]
    cases = {case for origin in living for case in state.holds_of(origin)}
    file = FileHold(
        uid=uid, slot=str(state.slot), outcome=Outcome.BEFORE, cases=tuple(sorted({*cases, order.case}))
    )  # fmt: skip
    if not living:
        return replace(file, outcome=Outcome.ERASED if found else Outcome.MISSING, cases=())
    fresh = tuple(origin for origin in living if order.case not in state.holds_of(origin))
    return replace(file, outcome=Outcome.PLANNED, versions=fresh) if fresh else file


def _to_release(order: HoldOrder, state: SlotState, names: Mapping[str, str]) -> dict[str, FileHold]:
    own: defaultdict[str, list[Origin]] = defaultdict(list)
    cases: defaultdict[str, set[str]] = defaultdict(set)
    for case, versions in state.holds.items():
        for origin, name in sorted(versions.items()):
            if case == order.case:
                own[name].append(origin)
            else:
                cases[name].add(case)
    ever = {
        item["uid"]
        for record in state.records
        if record.type == "hold" and record.body["case"] == order.case
        for item in record.body["entries"]
    }
    return {
        name: FileHold(
            uid=uid,
            slot=str(state.slot),
            outcome=Outcome.PLANNED if name in own else Outcome.BEFORE if name in ever else Outcome.MISSING,
            versions=tuple(own.get(name, ())),
            cases=tuple(sorted(cases.get(name, ()))),
        )
        for name, uid in names.items()
    }


def _report(order: HoldOrder, files: Sequence[FileHold]) -> HoldReport:
    counts = Counter(file.outcome for file in files)
    missing = counts[Outcome.MISSING] + counts[Outcome.ERASED]
    return HoldReport(
        ok=not missing, tenant=order.tenant, case=order.case, release=order.release, files=tuple(files),
        requested=len(files), changed=counts[Outcome.PLANNED] + counts[Outcome.DONE], before=counts[Outcome.BEFORE],
        missing=missing,
    )  # fmt: skip
