"""The slot log and its sidecar: what a slot holds, folded from everything that ever happened to it.

Here is what the records mean; how they are stored is `store.chain`. Planning what to append belongs to `operations`.
Records are documented field by field in docs/protocol.md, "Slot log records".
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vera_core.errors import IncompatibleError, IntegrityError, PreconditionError
from vera_core.model import Lock, LockMode, Origin, Slot, format_time, parse_time
from vera_core.store.base import ABSENT, Condition, MissingObjectError
from vera_core.store.chain import ChainedLog, Head, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from vera_core.keyspace import Keyspace
    from vera_core.store.base import Blob, ObjectStore
    from vera_core.store.chain import Finding, LogOptions, Record

SIDECAR_FORMAT = 1
SIDECAR_ATTEMPTS = 20
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
    def from_json(cls, number: int, body: Mapping[str, Any]) -> ShardRef:
        """The inverse of `to_json`; KeyError, TypeError or ValueError where it is none."""
        return cls(
            number=number,
            key=str(body["key"]),
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
    return struct.pack(f"<{len(keys)}I", *sorted({key & 0xFFFFFFFF for key in keys})) if keys else b""


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

    `shards` are live, by the record that brought them; `dead` holds the ordinals erased per origin commit; `erased` the
    uids that a packer must not bring back (only complete when read from the log: a sidecar does not carry it).
    """

    slot: Slot
    head: Head = field(default_factory=Head)
    shards: dict[int, list[ShardRef]] = field(default_factory=dict)
    superseded: list[ShardRef] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    dead: dict[int, set[int]] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    condemned: set[tuple[str, str]] = field(default_factory=set)
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
            erased=set(self.erased),
            condemned=set(self.condemned),
            strays=list(self.strays),
            records=list(self.records),
        )

    def longest_lock(self) -> datetime | None:
        """The latest end of any shard's lock: what the log's own records must be locked for."""
        return max((shard.lock.until for shard in [*self.live(), *self.superseded]), default=None)

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
        except (KeyError, TypeError, ValueError) as error:
            raise IntegrityError(
                f"slot log record {record.number} of type {record.type!r} can't be understood: {error!r}",
                slot=self.slot, version_id=record.version_id,
            ) from error  # fmt: skip
        self.head = Head(record.number, record.digest)
        self.records.append(record)


def _apply_commit(state: SlotState, record: Record) -> None:
    body = record.body
    if int(body["n_bits"]) != state.slot.n_bits:
        # Routed otherwise than the day's active epoch says: counts for nothing (DESIGN section 2).
        state.strays.append(record.number)
        return
    shard = None if body["shard"] is None else ShardRef.from_json(record.number, body["shard"])
    if shard is not None and (shard.key, shard.version_id) in state.condemned:
        state.strays.append(record.number)
        return
    first, end = body["part"]
    part = Part(
        number=record.number,
        source=str(body["source"]),
        window=str(body["window"]),
        revision=int(body["revision"]),
        manifest=str(body["manifest"]),
        first=int(first),
        end=int(end),
        archived=int(body["rows"]["archived"]),
        equal=int(body["rows"]["equal"]),
        rejects={reason: tuple((int(a), int(b)) for a, b in ranges) for reason, ranges in body["rejects"].items()},
        shard=shard,
    )
    if any(other.first < part.end and part.first < other.end for other in state.covered(part.manifest)):
        # A second packer of rows that an earlier record already accounts for (I2).
        state.strays.append(record.number)
        return
    state.parts.append(part)
    if shard is not None:
        state.shards[record.number] = [shard]


def _apply_repack(state: SlotState, record: Record) -> None:
    replaced = {(str(item["key"]), str(item["version_id"])) for item in record.body["replaces"]}
    # A shard that was stored again byte for byte keeps the number that its entries' origins go by.
    fresh = [ShardRef.from_json(int(item.get("number", record.number)), item) for item in record.body["shards"]]
    if not replaced <= {(shard.key, shard.version_id) for shard in state.live()}:
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


def _apply_tombstone(state: SlotState, record: Record) -> None:
    for commit, ordinal in record.body["versions"]:
        state.dead.setdefault(int(commit), set()).add(int(ordinal))
    state.erased.add(str(record.body["uid"]))


def _apply_condemn(state: SlotState, record: Record) -> None:
    named = {shard.version_id for shard in [*state.live(), *state.superseded]}
    for item in record.body["versions"]:
        if str(item["version_id"]) not in named:
            state.condemned.add((str(item["key"]), str(item["version_id"])))


_HANDLERS: dict[str, Callable[[SlotState, Record], None]] = {
    "commit": _apply_commit,
    "repack": _apply_repack,
    "tombstone": _apply_tombstone,
    "condemn": _apply_condemn,
}


def encode_sidecar(state: SlotState) -> bytes:
    """The sidecar's bytes: canonical JSON of what a reader needs, and the SHA-256 of it."""
    dead = {str(commit): _bitmap(ordinals) for commit, ordinals in sorted(state.dead.items())}
    body = {
        "format": SIDECAR_FORMAT,
        "slot": str(state.slot),
        "n_bits": state.slot.n_bits,
        "applied": state.head.number,
        "digest": state.head.digest,
        "shards": [{"number": shard.number, **shard.to_json()} for shard in state.live()],
        "dead": dead,
        "holds": [],
    }
    return canonical({"body": body, "sha256": hashlib.sha256(canonical(body)).hexdigest()})


def decode_sidecar(slot: Slot, data: bytes) -> SlotState | None:
    """What a sidecar states, or None where it is damaged, foreign or of another format: then the log decides."""
    try:
        outer = json.loads(data)
        body = outer["body"]
        good = (
            outer["sha256"] == hashlib.sha256(canonical(body)).hexdigest()
            and body["format"] == SIDECAR_FORMAT
            and (body["slot"], body["n_bits"]) == (str(slot), slot.n_bits)
        )
        if not good:
            return None
        state = SlotState(slot, Head(int(body["applied"]), str(body["digest"])))
        for item in body["shards"]:
            shard = ShardRef.from_json(int(item["number"]), item)
            state.shards.setdefault(shard.number, []).append(shard)
        state.dead = {int(commit): _ordinals(bitmap) for commit, bitmap in body["dead"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return None
    return state


def _bitmap(ordinals: set[int]) -> str:
    bits = 0
    for ordinal in ordinals:
        bits |= 1 << ordinal
    return base64.b64encode(bits.to_bytes(max(ordinals, default=0) // 8 + 1, "little")).decode()


def _ordinals(bitmap: str) -> set[int]:
    data = base64.b64decode(bitmap, validate=True)
    return {at * 8 + bit for at, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1}


@dataclass(slots=True)
class SlotLog:
    """One slot's log and sidecar in the store."""

    store: ObjectStore
    keys: Keyspace
    slot: Slot
    options: LogOptions

    @property
    def chain(self) -> ChainedLog:
        """The log as a chain of records."""
        return ChainedLog(
            self.store, self.keys.log_prefix(self.slot), lambda n: self.keys.log(self.slot, n), self.options
        )

    def load(self) -> SlotState:
        """The state folded from the whole log, as packers need it.

        Raises:
            IntegrityError, IncompatibleError: nothing of the slot can be trusted (fail closed).
        """
        return self.survey()[0]

    def survey(self) -> tuple[SlotState, list[Finding]]:
        """As `load`, and what else lies under the log's keys."""
        records, findings = self.chain.survey()
        state = SlotState(self.slot)
        for record in records:
            state.apply(record)
        return state, findings

    def current(self) -> SlotState:
        """The state as readers need it: the sidecar, brought up to date by probing the next record number.

        Two requests where the sidecar is whole and current. Without a usable sidecar the log is read.
        """
        state = self.read_sidecar()
        if state is None:
            return self.load()
        self.refresh(state)
        return state

    def refresh(self, state: SlotState) -> bool:
        """Applies the records that came after `state`; whether there were any. One request in the usual case."""
        fresh = self.chain.read_from(state.head)
        for record in fresh:
            state.apply(record)
        return bool(fresh)

    def read_sidecar(self) -> SlotState | None:
        """The sidecar's state, None where there is no usable one. One request."""
        blob = self._sidecar_blob()
        return None if blob is None else decode_sidecar(self.slot, blob.data)

    def write_sidecar(self, state: SlotState) -> None:
        """Stores `state` as the sidecar by compare-and-swap, unless a newer one of this slot is there already.

        Raises:
            PreconditionError: others kept winning; the sidecar they wrote is at least as new as any reader needs.
        """
        data = encode_sidecar(state)
        for attempt in range(SIDECAR_ATTEMPTS):
            old = self._sidecar_blob()
            there = None if old is None else decode_sidecar(self.slot, old.data)
            if there is not None and there.head.number > state.head.number:
                return
            try:
                self._swap_sidecar(old, data)
            except PreconditionError:
                if attempt == SIDECAR_ATTEMPTS - 1:
                    raise
            else:
                return

    def rebuild_sidecar(self, state: SlotState) -> bool:
        """Puts the sidecar of `state` (from the whole log) in the place of whatever is there; whether it had to.

        Raises:
            PreconditionError: a packer is writing it at this moment.
        """
        return self._swap_sidecar(self._sidecar_blob(), encode_sidecar(state))

    def _sidecar_blob(self) -> Blob | None:
        try:
            return self.store.get(self.keys.sidecar(self.slot))
        except MissingObjectError:
            return None

    def _swap_sidecar(self, old: Blob | None, data: bytes) -> bool:
        """Puts `data` in the place of exactly `old`, whose version is then removed; whether it had to."""
        if old is not None and old.data == data:
            return False
        key = self.keys.sidecar(self.slot)
        condition = ABSENT if old is None else Condition(old.etag)
        self.store.put(key, data, condition=condition, content_type="application/json")
        if old is not None:
            # Derived and unlocked: kept versions would be one more object per commit.
            self.store.delete(key, version_id=old.version_id)
        return True

    def before(self, state: SlotState, number: int) -> SlotState:
        """The state as it was before record `number`; `state` must come from the whole log."""
        past = SlotState(self.slot)
        for record in state.records[: number - 1]:
            past.apply(record)
        return past

    def append(self, state: SlotState, body: Mapping[str, Any], *, lock: Lock | None, now: datetime) -> Record:
        """Appends a record planned on `state` and applies it.

        Raises:
            LostAppendError: another record came first; `state` is unchanged: refresh it and plan again.
        """
        record = self.chain.append(state.head, body, lock=lock, now=now)
        state.apply(record)
        return record
