"""What each type of slot log record does to a slot's state: one handler a type, and the fold over them. Pure; no I/O.

The state itself is slots.py, storing the records slotlog.py; planning what to append belongs to `operations`. Records
are documented field by field in docs/protocol.md, "Slot log records".
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vera_core.errors import IncompatibleError, IntegrityError
from vera_core.model import Origin, parse_time
from vera_core.slots import MALFORMED, Part, Retention, ShardRef
from vera_core.store.chain import Head, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from vera_core.slots import SlotState

MAX_ORDINAL = (1 << 32) - 1


def apply(state: SlotState, record: Record) -> None:
    """Folds the next record in.

    Raises:
        IncompatibleError: a type of record that this version does not know: it must not be ignored.
        IntegrityError: a record of a known type that can't be understood.
    """
    if record.number != state.head.number + 1:
        raise ValueError(f"record {record.number} can't follow {state.head.number}")
    handler = HANDLERS.get(record.type)
    if handler is None:
        raise IncompatibleError(
            f"slot log record {record.number} is of type {record.type!r}, which this VERA does not know",
            todo="Use a newer VERA.", slot=state.slot,
        )  # fmt: skip
    try:
        handler(state, record)
    except MALFORMED as error:
        raise IntegrityError(
            f"slot log record {record.number} of type {record.type!r} can't be understood: {error!r}",
            todo="Nothing of the slot is read. Compare the record with a replica of the bucket.",
            slot=state.slot, version_id=record.version_id,
        ) from error  # fmt: skip
    state.head = Head(record.number, record.digest)
    state.records.append(record)


def check_next(state: SlotState, body: Mapping[str, Any]) -> None:
    """Makes sure that a record with `body` could be read as the next one; the state stays as it is.

    Raises:
        IntegrityError, IncompatibleError: it could not.
    """
    apply(state.snapshot(), Record(state.head.number + 1, dict(body), "", "", None))


def entries_json(versions: Mapping[str, Iterable[Origin]]) -> list[dict[str, Any]]:
    """The `entries` field of a record that names versions: of which uids, which ones."""
    return [{"uid": uid, "versions": [list(origin) for origin in origins]} for uid, origins in versions.items()]


def repack_anchor(old: Iterable[ShardRef], new: Iterable[ShardRef], left_out: Iterable[Origin] = ()) -> dict[str, Any]:
    """The `anchor` of a repack: which bytes stand in the place of which, and the erased versions that stayed behind."""
    return {
        "old": _identities(old),
        "new": _identities(new),
        "left_out": [list(origin) for origin in sorted(left_out)],
    }


def _identities(shards: Iterable[ShardRef]) -> list[dict[str, str]]:
    ordered = sorted(shards, key=lambda shard: (shard.key, shard.version_id))
    return [{"key": shard.key, "version_id": shard.version_id, "sha256": shard.sha256} for shard in ordered]


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
    if _overlaps(ranges, first, end) or (shard is not None and _is_spent(state, [shard])):
        # Rows that an earlier record accounts for already (I2).
        state.strays.append(record.number)
        return
    state.accounted[part.manifest] = _merged(ranges, first, end)
    state.parts.append(part)
    if shard is not None:
        state.shards[record.number] = [shard]
        state.named_by[shard.version_id] = record.number


def _is_spent(state: SlotState, fresh: list[ShardRef]) -> bool:
    """Whether one of these versions can't begin to count: it does already, or was given up to be deleted."""
    names = {(shard.key, shard.version_id) for shard in fresh}
    live = {(shard.key, shard.version_id) for shard in state.live()}
    return not names.isdisjoint(live) or any(state.is_condemned(*name) for name in names)


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
    old = [shard for shard in state.live() if (shard.key, shard.version_id) in replaced]
    left_out = _origins(record.body["anchor"]["left_out"])
    stay = any(state.is_held(origin) or not state.is_dead(origin) for origin in left_out)
    if len(old) < len(replaced) or _is_spent(state, fresh) or stay:
        # Somebody else was first, or a version that is not erased, or held, would be left behind.
        state.strays.append(record.number)
        return
    if record.body["anchor"] != repack_anchor(old, fresh, left_out):
        raise ValueError("the anchor does not say what is replaced by what")
    _supersede(state, old)
    for shard in fresh:
        state.shards.setdefault(shard.number, []).append(shard)
        state.named_by[shard.version_id] = record.number


def _supersede(state: SlotState, old: list[ShardRef]) -> None:
    for number, shards in list(state.shards.items()):
        gone = [shard for shard in shards if shard in old]
        state.superseded.extend(gone)
        state.shards[number] = [shard for shard in shards if shard not in gone]
        if not state.shards[number]:
            del state.shards[number]


def _apply_tombstone(state: SlotState, record: Record) -> None:
    _check_said(record, "request", "reason", "actor")
    entries = _entries(record)
    if any(state.is_held(origin) for _, origins in entries for origin in origins):
        # A hold beats an erasure, also one by a writer that does not know of holds.
        state.strays.append(record.number)
        return
    for uid, origins in entries:
        state.erased.add(uid)
        for origin in origins:
            state.dead.setdefault(origin.commit, set()).add(origin.ordinal)


def _apply_readmit(state: SlotState, record: Record) -> None:
    # Of later rows only: versions that are dead stay so.
    _check_said(record, "uid", "request", "reason", "actor")
    state.erased.discard(record.body["uid"])


def _apply_condemn(state: SlotState, record: Record) -> None:
    # Without effect on what is live already: who condemned it lost the race with its commit, and must not delete it.
    named = {(str(item["key"]), str(item["version_id"])) for item in record.body["versions"]}
    live = {(shard.key, "") for shard in state.live()}
    state.condemned |= named - live


def _apply_hold(state: SlotState, record: Record) -> None:
    _check_said(record, "case", "reason", "actor")
    named = {origin: uid for uid, origins in _entries(record) for origin in origins}
    if named:
        state.holds.setdefault(record.body["case"], {}).update(named)


def _apply_release(state: SlotState, record: Record) -> None:
    _check_said(record, "case", "reason", "actor")
    released = {origin for _, origins in _entries(record) for origin in origins}
    held = state.holds.pop(record.body["case"], {})
    left = {origin: uid for origin, uid in held.items() if origin not in released}
    if left:
        state.holds[record.body["case"]] = left


def _apply_retain(state: SlotState, record: Record) -> None:
    _check_said(record, "reason", "actor")
    until = parse_time(record.body["until"])
    shard = ShardRef.from_json(state.slot, record.number, record.body["shard"])
    if shard.lock.until < until:
        raise ValueError("the copy is locked for a shorter time than it is to be kept")
    before = {origin: state.retained.get(origin) for _, origins in _entries(record) for origin in origins}
    longer = {origin: old for origin, old in before.items() if old is None or old.until < until}
    if not longer or _is_spent(state, [shard]):
        # Nothing shortens a retention: of two extensions the longer one counts.
        state.strays.append(record.number)
        return
    state.shards[record.number] = [shard]
    state.named_by[shard.version_id] = record.number
    state.retained.update(dict.fromkeys(longer, Retention(record.number, until)))
    used = {retention.number for retention in state.retained.values()}
    unused = {old.number for old in longer.values() if old is not None} - used
    _supersede(state, [shard for number in unused for shard in state.shards.get(number, ())])


def _apply_puncture(state: SlotState, record: Record) -> None:
    # From now on readers refuse keyrings that could still open what was erased, wherever such a one is put back.
    revisions = {str(item["sha256"]): int(item["keyring"]) for item in record.body["shards"]}
    state.shards = {number: _raised(shards, revisions) for number, shards in state.shards.items()}
    state.superseded = _raised(state.superseded, revisions)


def _raised(shards: Iterable[ShardRef], revisions: Mapping[str, int]) -> list[ShardRef]:
    return [
        replace(shard, keyring=max(shard.keyring, revisions.get(shard.sha256, 0))) if shard.keyring else shard
        for shard in shards
    ]


def _apply_dispose(state: SlotState, record: Record) -> None:
    _check_said(record, "request", "actor")
    named = {(str(item["key"]), str(item["version_id"])) for item in record.body["shards"]}
    gone = [shard for shard in state.live() if (shard.key, shard.version_id) in named]
    if len(gone) < len(named):
        # Something happened to one of them that whoever approved this had not seen.
        state.strays.append(record.number)
        return
    _supersede(state, gone)


def _check_said(record: Record, *names: str) -> None:
    for name in names:
        if not isinstance(record.body[name], str):
            raise TypeError(f"{name} is {record.body[name]!r}")


def _entries(record: Record) -> list[tuple[str, list[Origin]]]:
    """The uids that a record names, with the versions of each."""
    return [(str(item["uid"]), _origins(item["versions"])) for item in record.body["entries"]]


def _origins(pairs: Any) -> list[Origin]:
    origins = [Origin(int(commit), int(ordinal)) for commit, ordinal in pairs]
    if not all(origin.commit > 0 and 0 <= origin.ordinal <= MAX_ORDINAL for origin in origins):
        raise ValueError(f"{pairs!r} are no versions")
    return origins


HANDLERS: dict[str, Callable[[SlotState, Record], None]] = {
    "commit": _apply_commit,
    "repack": _apply_repack,
    "tombstone": _apply_tombstone,
    "puncture": _apply_puncture,
    "readmit": _apply_readmit,
    "hold": _apply_hold,
    "release": _apply_release,
    "retain": _apply_retain,
    "condemn": _apply_condemn,
    "dispose": _apply_dispose,
}
"""Which types of record there are, and what each does."""
