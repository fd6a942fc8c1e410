"""What a slot holds: its shards, the rows that are accounted for, what was erased. Pure; no I/O.

What the records of its log do to it is slotrecords.py; how they and the sidecar are stored is slotlog.py. The sidecar's
fields are documented in docs/protocol.md, "The sidecar".
"""

from __future__ import annotations

import base64
import hashlib
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from vera_core.errors import VeraError
from vera_core.keyspace import Keyspace
from vera_core.model import Lock, LockMode, Origin, Slot, format_time, parse_time
from vera_core.store.chain import Head, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vera_core.store.chain import Record


MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, VeraError)
"""What reading a value from JSON that somebody else wrote may raise."""
FILTER_ENTRIES = 256
"""Shards up to this many entries carry the low 32 bits of every key, so that a reader skips them without a request."""


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A shard as its record names it.

    `number` is the record that brought it: the commit part of the origin of every entry that carries none. `sha256`
    (hex) is over all bytes; sizes are bytes; `keys` is the little-endian u32 list of a small shard's keys, else empty.
    `keyring` is the least revision of its keyring that counts, 0 where the shard is not encrypted.
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
    keyring: int = 0

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
            "keyring": self.keyring,
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
            keyring=_revision(body["keyring"]),
        )


def _revision(number: Any) -> int:
    if not isinstance(number, int) or not 0 <= number < 1 << 32:
        raise ValueError(f"{number!r} is no revision of a keyring")
    return number


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


class Retention(NamedTuple):
    """An extension of one version's retention: the record that brought the copy which keeps it, and until when."""

    number: int
    until: datetime


@dataclass(slots=True)
class SlotState:
    """A slot as of record `head.number`.

    `shards` are live, by the commit part of their entries' origin; `dead` holds the ordinals erased per origin commit;
    `accounted` the rows per manifest digest that commits account for, as merged ranges; `condemned` the (key,
    VersionId) that no record may bring any more (a VersionId of "" stands for all of that key); `holds` the uid of each
    version under legal hold, by case; `retained` the versions whose retention was extended. The rest is complete only
    where it was read from the log, as packers do, for readers don't need it: `superseded` are the shards that are live
    no more, for a repack replaced or a disposal ended them, `erased` the uids that must not be brought back, `named_by`
    the record that made a VersionId live, `strays` the numbers of records that count for nothing.
    """

    slot: Slot
    head: Head = field(default_factory=Head)
    shards: dict[int, list[ShardRef]] = field(default_factory=dict)
    superseded: list[ShardRef] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)
    dead: dict[int, set[int]] = field(default_factory=dict)
    accounted: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    condemned: set[tuple[str, str]] = field(default_factory=set)
    holds: dict[str, dict[Origin, str]] = field(default_factory=dict)
    retained: dict[Origin, Retention] = field(default_factory=dict)
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

    def is_held(self, origin: Origin) -> bool:
        """Whether any case holds that version: then nobody erases it, leaves it behind or disposes of it."""
        return any(origin in versions for versions in self.holds.values())

    def is_condemned(self, key: str, version_id: str = "") -> bool:
        """Whether no record may bring that version of a shard any more; without a VersionId, the shard at all."""
        return not self.condemned.isdisjoint(((key, version_id), (key, "")))

    def holds_of(self, origin: Origin) -> list[str]:
        """The cases that hold that version, in order."""
        return sorted(case for case, versions in self.holds.items() if origin in versions)

    def held(self) -> dict[str, list[Origin]]:
        """The versions that any case holds, by uid."""
        found: dict[str, set[Origin]] = {}
        for versions in self.holds.values():
            for origin, uid in versions.items():
                found.setdefault(uid, set()).add(origin)
        return {uid: sorted(origins) for uid, origins in sorted(found.items())}

    def retained_until(self, origin: Origin) -> datetime | None:
        """Until when an extension keeps that version; None where its shard's class alone does."""
        retention = self.retained.get(origin)
        return None if retention is None else retention.until

    def is_copy(self, shard: ShardRef) -> bool:
        """Whether it is the copy that an extension made: its versions lie in other shards too, or did."""
        return any(retention.number == shard.number for retention in self.retained.values())

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
            holds={case: dict(versions) for case, versions in self.holds.items()},
            retained=dict(self.retained),
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

    def to_json(self) -> dict[str, Any]:
        """What a reader needs, as it stands in the sidecar."""
        return {
            "slot": str(self.slot),
            "n_bits": self.slot.n_bits,
            "shards": [{"number": shard.number, **shard.to_json()} for shard in self.live()],
            "dead": {str(commit): _bitmap(ordinals) for commit, ordinals in sorted(self.dead.items())},
            "accounted": self.accounted,
            "condemned": sorted(self.condemned),
            "holds": [
                {"case": case, "versions": [[*origin, uid] for origin, uid in sorted(versions.items())]}
                for case, versions in sorted(self.holds.items())
            ],
            "retained": [
                [*origin, number, format_time(until)] for origin, (number, until) in sorted(self.retained.items())
            ],
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
        state.holds = {
            str(item["case"]): {Origin(int(commit), int(at)): str(uid) for commit, at, uid in item["versions"]}
            for item in body["holds"]
        }
        state.retained = {
            Origin(int(commit), int(at)): Retention(int(number), parse_time(until))
            for commit, at, number, until in body["retained"]
        }
        return state

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 over head and `to_json`: what a sidecar is held to."""
        return hashlib.sha256(
            canonical({"head": self.head.digest, "n": self.head.number, **self.to_json()})
        ).hexdigest()


def _bitmap(ordinals: set[int]) -> str:
    bits = bytearray(max(ordinals, default=0) // 8 + 1)
    for ordinal in ordinals:
        bits[ordinal >> 3] |= 1 << (ordinal & 7)
    return base64.b64encode(bits).decode()


def _ordinals(bitmap: str) -> set[int]:
    data = base64.b64decode(bitmap, validate=True)
    return {at * 8 + bit for at, byte in enumerate(data) if byte for bit in range(8) if byte >> bit & 1}
