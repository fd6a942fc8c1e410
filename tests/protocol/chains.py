"""Chained logs to try things on: what the tests of this folder share about `store.chain`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from vera_core.model import Lock, LockMode
from vera_core.store.chain import ChainedLog, Head, LogOptions, Record

if TYPE_CHECKING:
    from vera_core.store.base import ObjectStore

PREFIX = "r/log/"


def chain(store: ObjectStore, options: LogOptions | None = None) -> ChainedLog:
    return ChainedLog(store, PREFIX, lambda number: f"{PREFIX}{number:06d}.json", options or LogOptions())


def until(days: float = 30) -> Lock:
    return Lock(LockMode.GOVERNANCE, (datetime.now(UTC) + timedelta(days=days)).replace(microsecond=0))


def append(log: ChainedLog, head: Head, **body: Any) -> Record:
    lock = until() if log.options.locked else None
    return log.append(head, {"type": "test", **body}, lock=lock, now=datetime.now(UTC))


def grow(log: ChainedLog, count: int) -> list[Record]:
    """Appends `count` records, numbered in their field `value`."""
    records: list[Record] = []
    head = Head()
    for value in range(count):
        records.append(append(log, head, value=value))
        head = head_of(records[-1])
    return records


def head_of(record: Record) -> Head:
    return Head(record.number, record.digest)


def values(records: list[Record]) -> list[Any]:
    return [record.body["value"] for record in records]
