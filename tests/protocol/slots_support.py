"""Slots to try things on: shards that need no bytes, records of every type, logs in any store."""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from vera_core.keyspace import Keyspace
from vera_core.model import Lock, LockMode, Origin, Slot, format_time
from vera_core.slotlog import SlotLog
from vera_core.slotrecords import entries_json, repack_anchor
from vera_core.slots import ShardRef, SlotState, small_filter
from vera_core.store.chain import LogOptions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vera_core.store.base import ObjectStore
    from vera_core.store.chain import Record

KEYS = Keyspace("archive")
SLOT = Slot("default", date(2026, 3, 1), 0x2A, 8)
FAR = datetime(2096, 1, 1, tzinfo=UTC)


def slot_log(store: ObjectStore, slot: Slot = SLOT, options: LogOptions | None = None) -> SlotLog:
    return SlotLog(store, KEYS, slot, options or LogOptions())


def shard(name: str, number: int = 1, *, keys: Iterable[int] = (5,), slot: Slot = SLOT) -> ShardRef:
    """A shard of which only the name is real."""
    listed = sorted(keys)
    digest = hashlib.sha256(name.encode()).digest()
    return ShardRef(
        number=number,
        key=KEYS.shard(slot, digest),
        version_id=f"v-{name}",
        sha256=digest.hex(),
        size=1000,
        entries=len(listed),
        content_bytes=10,
        stored_bytes=9,
        min_key=listed[0] if listed else 0,
        max_key=listed[-1] if listed else 0,
        retention_class="std",
        lock=Lock(LockMode.GOVERNANCE, FAR),
        keys=small_filter(listed),
    )


def commit(
    first: int, end: int, ref: ShardRef | None = None, *, manifest: str = "m", n_bits: int = SLOT.n_bits
) -> dict[str, Any]:
    return {
        "type": "commit",
        "source": "docs",
        "window": "20260301",
        "revision": 1,
        "lane": "",
        "manifest": manifest,
        "part": [first, end],
        "rows": {"archived": 0 if ref is None else end - first, "equal": 0, "rejected": 0},
        "rejects": {} if ref is not None else {"unreadable": [[first, end]]},
        "toolchain": "test",
        "config": 1,
        "n_bits": n_bits,
        "shard": None if ref is None else ref.to_json(),
        "writer": "w",
    }


def tombstone(uid: str, *versions: tuple[int, int], **more: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Of the versions of a uid; `more` has those of further uids."""
    return {
        "type": "tombstone",
        "request": "r-1",
        "reason": "Art. 17(1)(b)",
        "actor": "dpo@bank.example",
        "entries": entries_json(
            {uid: map(Origin._make, versions)} | {u: map(Origin._make, v) for u, v in more.items()}
        ),
    }


def readmit(uid: str) -> dict[str, Any]:
    return {"type": "readmit", "uid": uid, "request": "r-2", "reason": "a new contract", "actor": "dpo@bank.example"}


def repack(
    old: ShardRef, *fresh: ShardRef, keep_number: bool = True, left_out: Iterable[Origin] = ()
) -> dict[str, Any]:
    return {
        "type": "repack",
        "reason": "damaged",
        "replaces": [{"key": old.key, "version_id": old.version_id}],
        "shards": [{**ref.to_json(), **({"number": ref.number} if keep_number else {})} for ref in fresh],
        "anchor": repack_anchor([old], fresh, left_out),
        "writer": "w",
    }


def hold(uid: str, *versions: tuple[int, int], case: str = "case-1") -> dict[str, Any]:
    return {
        "type": "hold",
        "case": case,
        "reason": "litigation",
        "actor": "counsel@bank.example",
        "entries": entries_json({uid: map(Origin._make, versions)}),
    }


def release(uid: str, *versions: tuple[int, int], case: str = "case-1") -> dict[str, Any]:
    return {**hold(uid, *versions, case=case), "type": "release"}


def retain(ref: ShardRef, uid: str, *versions: tuple[int, int], until: datetime = FAR) -> dict[str, Any]:
    return {
        "type": "retain",
        "reason": "an audit",
        "actor": "records@bank.example",
        "until": format_time(until),
        "entries": entries_json({uid: map(Origin._make, versions)}),
        "shard": ref.to_json(),
        "writer": "w",
    }


def dispose(*refs: ShardRef) -> dict[str, Any]:
    named = [{"key": ref.key, "version_id": ref.version_id} for ref in refs]
    return {"type": "dispose", "shards": named, "request": "d-1", "actor": "records@bank.example"}


def condemn(*refs: ShardRef) -> dict[str, Any]:
    return {"type": "condemn", "versions": [{"key": ref.key, "version_id": ref.version_id} for ref in refs]}


def put(log: SlotLog, state: SlotState, body: dict[str, Any]) -> Record:
    lock = Lock(LockMode.GOVERNANCE, FAR + timedelta(days=1)) if log.options.locked else None
    return log.append(state, body, lock=lock, now=datetime.now(UTC))


def grown(log: SlotLog, *bodies: dict[str, Any]) -> SlotState:
    """Appends records and returns the state after them."""
    state = log.load()
    for body in bodies:
        put(log, state, body)
    return state
