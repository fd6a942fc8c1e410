"""Readmitting an erased uid: its later rows may be archived again. What was erased stays erased."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import NotFoundError, UsageError
from vera_core.model import check_name
from vera_core.operations.audited import audited
from vera_core.operations.commit import sealed_number, settle
from vera_core.operations.report import Report
from vera_core.operations.slotwise import append, place_of, until_in

if TYPE_CHECKING:
    from vera_core.erasures import Target
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class Readmission:
    """Which file may be archived again, of which tenant, on whose request, and why."""

    tenant: str
    target: Target
    request: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadmitReport(Report):
    """The uid that may be archived again, and its slot."""

    uid: str
    slot: str


def readmit(repo: Repository, wanted: Readmission) -> ReadmitReport:
    """Lets later rows of an erased uid be archived again; running it again changes nothing.

    Raises:
        UsageError: there is no reason or request id, or the uid needs a created_at.
        NotFoundError: no file of that uid was erased.
    """
    began = time.monotonic()
    repo.writable_config()
    check_name(wanted.request, "request id")
    if not wanted.reason.strip():
        raise UsageError("a readmission needs a reason", todo="Give one with --reason.")
    uid = wanted.target.uid
    slot, name = place_of(repo, wanted.tenant, wanted.target)
    log = repo.slot_log(slot)
    state = log.load()
    if not _was_erased(state, name):
        raise NotFoundError(
            "no file of that uid was erased",
            todo="Check the uid, its created_at day and the tenant.",
            uid=uid,
            slot=slot,
        )
    with audited(repo, "readmit", {"slot": str(slot), "request": wanted.request}):
        sealed = sealed_number(log, state)
        _append(repo, wanted, name, (log, state))
        settle(repo, log, state, sealed)
    return ReadmitReport(uid=uid, slot=str(slot), seconds=time.monotonic() - began)


def _was_erased(state: SlotState, name: str) -> bool:
    strays = set(state.strays)
    tombstones = (item for item in state.records if item.type == "tombstone" and item.number not in strays)
    return any(entry["uid"] == name for record in tombstones for entry in record.body["entries"])


def _append(repo: Repository, wanted: Readmission, name: str, to: tuple[SlotLog, SlotState]) -> None:
    log, state = to
    body = {
        "type": "readmit",
        "uid": name,
        "request": wanted.request,
        "reason": wanted.reason,
        "actor": repo.workplace.actor,
    }

    def step() -> None:
        if name in state.erased:
            append(repo, log, state, body)

    until_in(log, state, step)
