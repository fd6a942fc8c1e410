"""Requests to dispose of shards whose retention has ended: what was asked, who approved it, what became of each shard.

The records' fields are documented in docs/protocol.md, "Disposal requests". Which shards may go is a matter of
`operations`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from vera_core.decisions import DecisionLog, Folding, Request, apply_approve, apply_decline, checked_place
from vera_core.errors import UsageError
from vera_core.model import check_name, format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from vera_core.store.chain import Record


@dataclass(frozen=True, slots=True)
class EndedShard:
    """A shard whose retention has ended; `slot` as `tenant/day/index`, `entries` are versions, `size` bytes."""

    slot: str
    key: str
    version_id: str
    sha256: str
    retention_class: str
    entries: int
    size: int
    locked_until: datetime

    def to_json(self) -> dict[str, Any]:
        """As it stands in `request` records."""
        return {**asdict(self), "locked_until": format_time(self.locked_until)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> EndedShard:
        """The inverse of `to_json`."""
        return cls(
            slot=str(body["slot"]),
            key=str(body["key"]),
            version_id=str(body["version_id"]),
            sha256=str(body["sha256"]),
            retention_class=str(body["retention_class"]),
            entries=int(body["entries"]),
            size=int(body["size"]),
            locked_until=parse_time(body["locked_until"]),
        )


@dataclass(frozen=True, slots=True)
class Disposal(Request):
    """A request as of its last record. Shards are named by their place in `shards`.

    A shard is in `disposed`, or in `kept` with the reason, once it was tried; else it is still open.
    """

    shards: tuple[EndedShard, ...]
    disposed: frozenset[int] = frozenset()
    kept: Mapping[int, str] = field(default_factory=dict)
    finished: datetime | None = None

    @property
    def open(self) -> list[int]:
        """The shards that are still to be disposed of."""
        return [] if self.decliner else [at for at in range(len(self.shards)) if at not in self.disposed]


def disposal_body(disposal: Disposal) -> dict[str, Any]:
    """The first record of a request.

    Raises:
        UsageError: its reason is empty, or its id is not valid.
    """
    check_name(disposal.id, "request id")
    if not disposal.reason.strip():
        raise UsageError("a disposal needs a reason", todo="Give one with --reason.", request=disposal.id)
    return {
        "type": "request",
        "tenant": disposal.tenant,
        "request": disposal.id,
        "reason": disposal.reason,
        "actor": disposal.requester,
        "shards": [shard.to_json() for shard in disposal.shards],
    }


def _apply_request(_before: Disposal | None, record: Record) -> Disposal:
    body = record.body
    return Disposal(
        tenant=str(body["tenant"]),
        id=str(body["request"]),
        reason=str(body["reason"]),
        requester=str(body["actor"]),
        shards=tuple(EndedShard.from_json(item) for item in body["shards"]),
    )


def _apply_done(before: Disposal | None, record: Record) -> Disposal:
    assert before is not None
    disposed = before.disposed | {checked_place(at, before.shards, "shards") for at in record.body["disposed"]}
    kept = {checked_place(item["shard"], before.shards, "shards"): str(item["why"]) for item in record.body["kept"]}
    left = {at: why for at, why in {**before.kept, **kept}.items() if at not in disposed}
    return replace(before, disposed=disposed, kept=left, finished=parse_time(record.body["time"]))


HANDLERS: dict[str, Callable[[Disposal | None, Record], Disposal]] = {
    "request": _apply_request,
    "approve": apply_approve,
    "decline": apply_decline,
    "done": _apply_done,
}
"""Which types of record there are, and what each does."""


fold = Folding(
    HANDLERS,
    of="a disposal",
    unexpected="which this VERA does not expect",
    todo="Nothing is disposed of by it. Compare the record with a replica, or make a new request.",
)


class DisposalLog(DecisionLog[Disposal]):
    """The log of one request for a disposal."""

    WHAT = "disposal request"
    LISTED_BY = "vera dispose list"

    def prefix(self) -> str:
        """See `DecisionLog.prefix`."""
        return self.keys.disposal_prefix(self.tenant, self.id)

    def key(self, number: int) -> str:
        """See `DecisionLog.key`."""
        return self.keys.disposal(self.tenant, self.id, number)

    def fold(self, before: Disposal | None, record: Record) -> Disposal:
        """See `DecisionLog.fold`."""
        return fold(before, record)
