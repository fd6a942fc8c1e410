"""Erasure requests: what was asked, who approved it, what became of it, as locked, chained records of each request.

The records' fields are documented in docs/protocol.md, "Erasure requests". Erasing itself, and which requests need an
approval, belongs to `operations`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from vera_core.decisions import (
    DecisionLog,
    Folding,
    Request,
    apply_approve,
    apply_decline,
    checked_place,
    same_person,
)
from vera_core.errors import UsageError
from vera_core.model import Slot, check_name, check_uid, day_text, format_time, parse_day, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from vera_core.store.chain import Record


class Ground(StrEnum):
    """Why a file must be kept although its erasure was asked for: the paragraph of the GDPR."""

    OBLIGATION = "Art. 17(3)(b)"
    CLAIMS = "Art. 17(3)(e)"


@dataclass(frozen=True, slots=True)
class Target:
    """A file that shall be erased; `created_at` is None where its uid carries a trusted time."""

    uid: str
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NamedTarget:
    """A file as the request of an encrypted repository names it, whose records may show neither uid nor time."""

    name: str
    slot: Slot


AnyTarget = Target | NamedTarget
"""A file of a request, as it is asked for or as it is stored."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file is not erased now; `until` is when that ends, None where nobody knows."""

    ground: Ground
    detail: str
    until: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in `refuse` records."""
        until = None if self.until is None else format_time(self.until)
        return {"ground": self.ground.value, "detail": self.detail, "until": until}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Refusal:
        """The inverse of `to_json`."""
        until = None if body["until"] is None else parse_time(body["until"])
        return cls(Ground(body["ground"]), str(body["detail"]), until)


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate as stored: document and signature, the time and number of the record, and its SHA-256 (hex)."""

    document: Mapping[str, Any]
    signature: str
    time: datetime
    number: int
    sha256: str


@dataclass(frozen=True, slots=True)
class ErasureRequest(Request):
    """A request as of its last record. Files are named by their place in `targets`.

    `requester` asked for it, `recorder` stored it here, mostly the same person; `received` is when the person asked,
    from which the law's month counts. A file is in `erased`, `missing` (not found) or `refused` once it was tried; else
    it is still open. `last_erased` is when it was said for the last time that files are erased. `destroyed` are those
    of which certificates say that their keys are, in an encrypted repository.
    """

    recorder: str
    received: datetime
    targets: tuple[AnyTarget, ...]
    erased: frozenset[int] = frozenset()
    missing: frozenset[int] = frozenset()
    refused: Mapping[int, Refusal] = field(default_factory=dict)
    hidden_until: datetime | None = None
    last_erased: datetime | None = None
    finished: datetime | None = None
    destroyed: frozenset[int] = frozenset()
    certificates: tuple[Certified, ...] = ()

    @property
    def keyed(self) -> bool:
        """Whether it is one of an encrypted repository: then an erasure ends with the destruction of keys."""
        return any(isinstance(target, NamedTarget) for target in self.targets)

    @property
    def undestroyed(self) -> list[int]:
        """The files that are out of sight, but not certified to have no key any more; also of a declined request."""
        return sorted(self.erased - self.destroyed) if self.keyed else []

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do for it."""
        return not self.open and not self.undestroyed

    @property
    def open(self) -> list[int]:
        """The files that are still to be erased, whether they may be now or not."""
        if self.decliner:
            return []
        return [place for place in range(len(self.targets)) if place not in self.erased and place not in self.missing]

    def due(self, now: datetime) -> list[int]:
        """The open files that nothing is known to forbid at `now`; a ground without end is asked for every time."""
        found = []
        for place in self.open:
            refusal = self.refused.get(place)
            if refusal is None or refusal.until is None or refusal.until <= now:
                found.append(place)
        return found

    def is_party(self, who: str) -> bool:
        """Whether `who` asked for it or brought it here, and so can't approve it; case and spaces don't matter."""
        return same_person(who, self.requester) or same_person(who, self.recorder)


def a_month_after(moment: datetime) -> datetime:
    """The same day and time of the next month, or that month's last day where it has no such day."""
    next_month = moment.replace(day=1) + timedelta(days=32)
    for day in range(moment.day, 0, -1):
        try:
            return next_month.replace(day=day)
        except ValueError:
            continue
    raise AssertionError


def request_body(request: ErasureRequest) -> dict[str, Any]:
    """The first record of a request.

    Raises:
        UsageError: it names no file, its reason is empty, or a uid or its id is not valid.
    """
    check_name(request.id, "request id")
    for target in request.targets:
        if isinstance(target, Target):
            check_uid(target.uid)
    if not request.targets:
        raise UsageError("the request names no file", request=request.id)
    if not request.reason.strip():
        raise UsageError("an erasure needs a reason", todo="Give one with --reason.", request=request.id)
    return {
        "type": "request",
        "tenant": request.tenant,
        "request": request.id,
        "reason": request.reason,
        "actor": request.recorder,
        "requested_by": request.requester,
        "received": format_time(request.received),
        "targets": [_target_json(target) for target in request.targets],
    }


def _target_json(target: AnyTarget) -> dict[str, Any]:
    if isinstance(target, NamedTarget):
        slot = target.slot
        return {"name": target.name, "day": day_text(slot.day), "index": slot.index, "n_bits": slot.n_bits}
    return {"uid": target.uid, "created_at": None if target.created_at is None else format_time(target.created_at)}


def _target(tenant: str, item: Mapping[str, Any]) -> AnyTarget:
    """The inverse of `_target_json`."""
    if "name" in item:
        slot = Slot(tenant, parse_day(item["day"]), int(item["index"]), int(item["n_bits"]))
        return NamedTarget(str(item["name"]), slot)
    return Target(str(item["uid"]), None if item["created_at"] is None else parse_time(item["created_at"]))


def _apply_request(_before: ErasureRequest | None, record: Record) -> ErasureRequest:
    body = record.body
    return ErasureRequest(
        tenant=str(body["tenant"]),
        id=str(body["request"]),
        reason=str(body["reason"]),
        requester=str(body["requested_by"]),
        recorder=str(body["actor"]),
        received=parse_time(body["received"]),
        targets=tuple(_target(str(body["tenant"]), item) for item in body["targets"]),
    )


def _apply_refuse(before: ErasureRequest | None, record: Record) -> ErasureRequest:
    assert before is not None
    refused = dict(before.refused)
    for item in record.body["refusals"]:
        refused[checked_place(item["target"], before.targets, "files")] = Refusal.from_json(item)
    return replace(before, refused=refused)


def _apply_done(before: ErasureRequest | None, record: Record) -> ErasureRequest:
    assert before is not None
    body = record.body
    erased = before.erased | {checked_place(place, before.targets, "files") for place in body["erased"]}
    missing = before.missing | {checked_place(place, before.targets, "files") for place in body["missing"]}
    missing -= erased
    ends = [] if body["hidden_until"] is None else [parse_time(body["hidden_until"])]
    if before.hidden_until is not None:
        ends.append(before.hidden_until)
    after = replace(
        before,
        erased=erased,
        missing=missing,
        refused={place: item for place, item in before.refused.items() if place not in erased | missing},
        hidden_until=max(ends, default=None),
        last_erased=parse_time(body["time"]) if body["erased"] else before.last_erased,
    )
    return _ended(after, record)


def _apply_certificate(before: ErasureRequest | None, record: Record) -> ErasureRequest:
    assert before is not None
    document = record.body["certificate"]
    places = {checked_place(item["place"], before.targets, "files") for item in document["files"]}
    signature = str(record.body["signature"])
    certified = Certified(document, signature, parse_time(record.body["time"]), record.number, record.digest)
    after = replace(
        before,
        destroyed=before.destroyed | (places & before.erased),
        certificates=(*before.certificates, certified),
    )
    return _ended(after, record)


def _ended(after: ErasureRequest, record: Record) -> ErasureRequest:
    return replace(after, finished=parse_time(record.body["time"])) if after.is_over else after


HANDLERS: dict[str, Callable[[ErasureRequest | None, Record], ErasureRequest]] = {
    "request": _apply_request,
    "approve": apply_approve,
    "decline": apply_decline,
    "refuse": _apply_refuse,
    "done": _apply_done,
    "certificate": _apply_certificate,
}
"""Which types of record there are, and what each does."""


fold = Folding(
    HANDLERS,
    of="an erasure request",
    unexpected="which this VERA does not expect there",
    todo="Nothing is erased by it. Compare the record with a replica of the bucket, or make a new request.",
)


class RequestLog(DecisionLog[ErasureRequest]):
    """The log of one erasure request."""

    WHAT = "erasure request"
    LISTED_BY = "vera erasures"

    def prefix(self) -> str:
        """See `DecisionLog.prefix`."""
        return self.keys.request_prefix(self.tenant, self.id)

    def key(self, number: int) -> str:
        """See `DecisionLog.key`."""
        return self.keys.request(self.tenant, self.id, number)

    def fold(self, before: ErasureRequest | None, record: Record) -> ErasureRequest:
        """See `DecisionLog.fold`."""
        return fold(before, record)
