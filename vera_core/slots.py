"""What a slot holds, folded from the records of everything that ever happened to it. Pure; no I/O.

How the records and the sidecar are stored is slotlog.py; planning what to append belongs to `operations`. Records are
documented field by field in docs/protocol.md, "Slot log records".
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vera_core.errors import IncompatibleError, IntegrityError, VeraError
from vera_core.keyspace import Keyspace
from vera_core.model import Lock, LockMode, Origin, Slot, format_time, parse_time
from vera_core.store.chain import Head, Record, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime


MAX_ORDINAL = (1 << 32) - 1
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, VeraError)
"""What reading a value from JSON that somebody else wrote may raise."""
FILTER_ENTRIES = 256
"""Shards up to this many entries carry the low 32 bits of every key, so that a reader skips them without a request."""


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A shard as its record names it.

    `number` is the record that brought it: the commit part of the origin of every entry that carries none. `sha256`
    (hex) is over all bytes; sizes are bytes; `keys` is the little-endian u32 list of a small shard's keys, else empty.
    """

    number: int
    key: str
    version_id: str
    sha256: str
    size: int
    entries: int
    content_bytes: int
    stored_bytes: int
    min_key: int
    max_key: int
    retention_class: str
    lock: Lock
    keys: bytes = b""

    def may_hold(self, key: int) -> bool:
        """Whether an entry with that u64 key can be in the shard."""
        if not self.entries or not self.min_key <= key <= self.max_key:
            return False
        return not self.keys or struct.pack("<I", key & 0xFFFFFFFF) in _words(self.keys)

    def to_json(self) -> dict[str, Any]:
        """As it stands in commit records and in the sidecar (there with `number`)."""
        return {
            "key": self.key,
            "version_id": self.version_id,
            "sha256": self.sha256,
            "size": self.size,
            "entries": self.entries,
            "content_bytes": self.content_bytes,
            "stored_bytes": self.stored_bytes,
            "min_key": f"{self.min_key:016x}",
            "max_key": f"{self.max_key:016x}",
            "class": self.retention_class,
            "lock": {"mode": self.lock.mode.value, "until": format_time(self.lock.until)},
            "keys": base64.b64encode(self.keys).decode(),
        }

    @classmethod
    def from_json(cls, slot: Slot, number: int, body: Mapping[str, Any]) -> ShardRef:
        """The inverse of `to_json`; one of `MALFORMED` where it is none, or names an object outside the slot (I8)."""
        key = str(body["key"])
        name = Keyspace().shard(slot, bytes.fromhex(body["sha256"]))
        if key != name and not key.endswith(f"/{name}"):
            raise ValueError(f"{key!r} is no shard of {slot}")
        return cls(
            number=number,
            key=key,
            version_id=str(body["version_id"]),
            sha256=str(body["sha256"]),
            size=int(body["size"]),
            entries=int(body["entries"]),
            content_bytes=int(body["content_bytes"]),
            stored_bytes=int(body["stored_bytes"]),
            min_key=int(body["min_key"], 16),
            max_key=int(body["max_key"], 16),
            retention_class=str(body["class"]),
            lock=Lock(LockMode(body["lock"]["mode"]), parse_time(body["lock"]["until"])),
            keys=base64.b64decode(body["keys"], validate=True),
        )


def _words(data: bytes) -> set[bytes]:
    return {data[at : at + 4] for at in range(0, len(data), 4)}


def small_filter(keys: list[int]) -> bytes:
    """The `keys` field of a shard with these u64 keys: empty above `FILTER_ENTRIES`."""
    if len(keys) > FILTER_ENTRIES:
        return b""
    low = sorted({key & 0xFFFFFFFF for key in keys})
    return struct.pack(f"<{len(low)}I", *low)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows [first, end) of a manifest that a commit accounts for.

    Each is archived in `shard` (None if no row was), equal to the uid's latest version, or rejected for a named reason
    (`rejects`: reason -> ranges of row numbers).
    """

    number: int
    source: str
    window: str
    revision: int
    manifest: str
    first: int
    end: int
    archived: int
    equal: int
    rejects: Mapping[str, tuple[tuple[int, int], ...]]
    shard: ShardRef | None

    @property
    def rejected(self) -> int:
        """Number of rejected rows."""
        return sum(end - first for ranges in self.rejects.values() for first, end in ranges)


@dataclass(slots=True)
class SlotState:
    """A slot as of record `head.number`.

    `shards` are live, by the commit part of their entries' origin; `dead` holds the ordinals erased per origin commit;
    `accounted` the rows per manifest digest that commits account for, as merged ranges; `condemned` the (key,
    VersionId) that no record may bring any more. The rest is complete only where it was read from the log, as packers
    do, for readers don't need it: `erased` are the uids that must not be brought back, `named_by` the record that made
    a VersionId live, `strays` the numbers of records that count for nothing.
    """

    slot: Slot
    head: Head = field(default_factory=Head)
    shards: dict[int, list[ShardRef]] = field(default_factory=dict)
    superseded: list[ShardRef] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    dead: dict[int, set[int]] = field(default_factory=dict)
    accounted: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    condemned: set[tuple[str, str]] = field(default_factory=set)
    erased: set[str] = field(default_factory=set)
    named_by: dict[str, int] = field(default_factory=dict)
    strays: list[int] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    def live(self) -> list[ShardRef]:
        """The live shards, oldest first."""
        return [shard for number in sorted(self.shards) for shard in self.shards[number]]

    def is_dead(self, origin: Origin) -> bool:
        """Whether that version was erased."""
        return origin.ordinal in self.dead.get(origin.commit, ())

    def snapshot(self) -> SlotState:
        """A copy that later records do not change."""
        return SlotState(
            slot=self.slot,
            head=self.head,
            shards={number: list(shards) for number, shards in self.shards.items()},
            superseded=list(self.superseded),
            parts=list(self.parts),
            dead={commit: set(ordinals) for commit, ordinals in self.dead.items()},
            accounted={manifest: list(ranges) for manifest, ranges in self.accounted.items()},
            condemned=set(self.condemned),
            erased=set(self.erased),
            named_by=dict(self.named_by),
            strays=list(self.strays),
            records=list(self.records),
        )

    def longest_lock(self) -> datetime | None:
        """The latest end of any shard's lock: what the log's own records must be locked for."""
        return max((shard.lock.until for shard in [*self.live(), *self.superseded]), default=None)

    def brought_after(self, number: int) -> list[ShardRef]:
        """The live shards that records after `number` made live, oldest first; the state must come from the log."""
        return [shard for shard in self.live() if self.named_by[shard.version_id] > number]

    def covered(self, manifest: str) -> list[Part]:
        """The parts of that manifest (digest) which commits account for, in row order."""
        return sorted((part for part in self.parts if part.manifest == manifest), key=lambda part: part.first)

    def apply(self, record: Record) -> None:
        """Folds the next record in.

        Raises:
            IncompatibleError: a type of record that this version does not know: it must not be ignored.
            IntegrityError: a record of a known type that can't be understood.
        """
        if record.number != self.head.number + 1:
            raise ValueError(f"record {record.number} can't follow {self.head.number}")
        handler = _HANDLERS.get(record.type)
        if handler is None:
            raise IncompatibleError(
                f"slot log record {record.number} is of type {record.type!r}, which this VERA does not know",
                todo="Use a newer VERA.", slot=self.slot,
            )  # fmt: skip
        try:
            handler(self, record)
        except MALFORMED as error:
            raise IntegrityError(
                f"slot log record {record.number} of type {record.type!r} can't be understood: {error!r}",
                todo="Nothing of the slot is read. Compare the record with a replica of the bucket.",
                slot=self.slot, version_id=record.version_id,
            ) from error  # fmt: skip
        self.head = Head(record.number, record.digest)
        self.records.append(record)

    def to_json(self) -> dict[str, Any]:
        """What a reader needs, as it stands in the sidecar."""
        return {
            "slot": str(self.slot),
            "n_bits": self.slot.n_bits,
            "shards": [{"number": shard.number, **shard.to_json()} for shard in self.live()],
            "dead": {str(commit): _bitmap(ordinals) for commit, ordinals in sorted(self.dead.items())},
            "accounted": self.accounted,
            "condemned": sorted(self.condemned),
            "holds": [],
        }

    @classmethod
    def from_json(cls, slot: Slot, head: Head, body: Mapping[str, Any]) -> SlotState:
        """The inverse of `to_json`; one of `MALFORMED` where it is none, or another slot's."""
        if (body["slot"], body["n_bits"]) != (str(slot), slot.n_bits):
            raise ValueError(f"{body['slot']!r} is not {slot}")
        state = cls(slot, head)
        for item in body["shards"]:
            shard = ShardRef.from_json(slot, int(item["number"]), item)
            state.shards.setdefault(shard.number, []).append(shard)
        state.dead = {int(commit): _ordinals(bitmap) for commit, bitmap in body["dead"].items()}
        state.accounted = {
            str(manifest): [(int(first), int(end)) for first, end in ranges]
            for manifest, ranges in body["accounted"].items()
        }
        state.condemned = {(str(key), str(version_id)) for key, version_id in body["condemned"]}
        return state

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over head and `to_json`: what a sidecar is held to."""
        return hashlib.sha256(
            canonical({"head": self.head.digest, "n": self.head.number, **self.to_json()})
        ).hexdigest()

    def check_next(self, body: Mapping[str, Any]) -> None:
        """Makes sure that a record with `body` could be read as the next one; the state stays as it is.

        Raises:
            IntegrityError, IncompatibleError: it could not.
        """
        self.snapshot().apply(Record(self.head.number + 1, dict(body), "", "", None))


def _apply_commit(state: SlotState, record: Record) -> None:
    body = record.body
    if int(body["n_bits"]) != state.slot.n_bits:
        # Routed otherwise than the day's active epoch says: counts for nothing (DESIGN section 2).
        state.strays.append(record.number)
        return
    shard = None if body["shard"] is None else ShardRef.from_json(state.slot, record.number, body["shard"])
    first, end = (int(row) for row in body["part"])
    if not 0 <= first < end:
        raise ValueError(f"rows {first} to {end} are no part")
    part = Part(
        number=record.number,
        source=str(body["source"]),
        window=str(body["window"]),
        revision=int(body["revision"]),
        manifest=str(body["manifest"]),
        first=first,
        end=end,
        archived=int(body["rows"]["archived"]),
        equal=int(body["rows"]["equal"]),
        rejects={reason: tuple((int(a), int(b)) for a, b in ranges) for reason, ranges in body["rejects"].items()},
        shard=shard,
    )
    ranges = state.accounted.get(part.manifest, [])
    if _overlaps(ranges, first, end) or (shard is not None and (shard.key, shard.version_id) in state.condemned):
        # Rows that an earlier record accounts for already (I2), or a version that was given up to be deleted.
        state.strays.append(record.number)
        return
    state.accounted[part.manifest] = _merged(ranges, first, end)
    state.parts.append(part)
    if shard is not None:
        state.shards[record.number] = [shard]
        state.named_by[shard.version_id] = record.number


def _overlaps(ranges: list[tuple[int, int]], first: int, end: int) -> bool:
    return any(a < end and first < b for a, b in ranges)


def _merged(ranges: list[tuple[int, int]], first: int, end: int) -> list[tuple[int, int]]:
    """Sorted, disjoint ranges with [first, end) added; neighbours become one."""
    merged: list[tuple[int, int]] = []
    for a, b in sorted([*ranges, (first, end)]):
        if merged and merged[-1][1] == a:
            merged[-1] = (merged[-1][0], b)
        else:
            merged.append((a, b))
    return merged


def _apply_repack(state: SlotState, record: Record) -> None:
    replaced = {(str(item["key"]), str(item["version_id"])) for item in record.body["replaces"]}
    # A shard that was stored again byte for byte keeps the number that its entries' origins go by.
    fresh = [
        ShardRef.from_json(state.slot, int(item.get("number", record.number)), item) for item in record.body["shards"]
    ]
    named = {(shard.key, shard.version_id) for shard in fresh}
    if not replaced <= {(shard.key, shard.version_id) for shard in state.live()} or named & state.condemned:
        state.strays.append(record.number)
        return
    for number, shards in list(state.shards.items()):
        gone = [shard for shard in shards if (shard.key, shard.version_id) in replaced]
        state.superseded.extend(gone)
        state.shards[number] = [shard for shard in shards if shard not in gone]
        if not state.shards[number]:
            del state.shards[number]
    for shard in fresh:
        state.shards.setdefault(shard.number, []).append(shard)
        state.named_by[shard.version_id] = record.number


def _apply_tombstone(state: SlotState, record: Record) -> None:
    versions = [Origin(int(commit), int(ordinal)) for commit, ordinal in record.body["versions"]]
    if not all(origin.commit > 0 and 0 <= origin.ordinal <= MAX_ORDINAL for origin in versions):
        raise ValueError(f"{record.body['versions']!r} are no versions")
    state.erased.add(str(record.body["uid"]))
    for origin in versions:
        state.dead.setdefault(origin.commit, set()).add(origin.ordinal)


def _apply_condemn(state: SlotState, record: Record) -> None:
    # Without effect on what is live already: who condemned it lost the race with its commit, and must not delete it.
    state.condemned |= {(str(item["key"]), str(item["version_id"])) for item in record.body["versions"]}


_HANDLERS: dict[str, Callable[[SlotState, Record], None]] = {
    "commit": _apply_commit,
    "repack": _apply_repack,
    "tombstone": _apply_tombstone,
    "condemn": _apply_condemn,
}


def _bitmap(ordinals: set[int]) -> str:
    bits = bytearray(max(ordinals, default=0) // 8 + 1)
    for ordinal in ordinals:
        bits[ordinal >> 3] |= 1 << (ordinal & 7)
    return base64.b64encode(bits).decode()


def _ordinals(bitmap: str) -> set[int]:
    data = base64.b64decode(bitmap, validate=True)
    return {at * 8 + bit for at, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1}
