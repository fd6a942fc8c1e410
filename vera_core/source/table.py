"""Rows as Arrow tables: the columns of a manifest, their total order, and the bytes that are digested.

Hot: every row of every window passes through here, so everything works on whole columns. Files and merging are the
business of sorting.py and manifest.py.
"""

from __future__ import annotations

import hashlib
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from vera_core.keys.naming import PLAIN
from vera_core.model import format_time, from_micros
from vera_core.routing import DAY_MICROS
from vera_core.source.rows import KEYED_PLACE, RejectReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from vera_core.keys.naming import Naming
    from vera_core.routing import Routing
    from vera_core.source.rows import RawBatch

SCHEMA = pa.schema(
    [
        ("slot_day", pa.date32()),
        ("slot_index", pa.uint32()),
        ("slot_bits", pa.uint8()),
        ("retention_class", pa.string()),
        ("key", pa.uint64()),
        ("uid", pa.string()),
        ("created_at", pa.timestamp("us", "UTC")),
        ("late", pa.string()),
        ("place", pa.string()),
        ("size", pa.int64()),
        ("media_type", pa.string()),
        ("metadata", pa.string()),
        ("reject", pa.string()),
        ("detail", pa.string()),
    ]
)
"""Columns in the order in which they are digested. Slot and key are null for rejected rows, size where undeclared."""

NAMED_SCHEMA = SCHEMA.append(pa.field("name", pa.string())).append(pa.field("identity", pa.string()))
"""Those of an encrypted repository's rows while they are worked on: with their name, and their identity as a place.

`key` is the name's, or for rejected rows the identity's, as nobody looks for them by name and many can have one.
"""

FEW_VALUES = ["retention_class", "media_type", "metadata", "late", "reject", "detail"]
"""Columns that usually hold few different texts."""

_DIGESTED: dict[str, np.dtype[Any]] = {
    "slot_day": np.dtype("<i4"),
    "slot_index": np.dtype("<u4"),
    "slot_bits": np.dtype("u1"),
    "key": np.dtype("<u8"),
    "created_at": np.dtype("<i8"),
    "size": np.dtype("<i8"),
}
_TIE_BREAKERS = ("uid", "created_at", "late", "place", "size", "media_type", "metadata", "reject", "detail")
EPOCH_ORDINAL = 719_163
REJECTED = 1 << 63
"""The least of the `groups` of rejected rows."""

# Of the whole process. Arrow's own allocator keeps 60 MB for the 30 that freezing a window needs at a time.
pa.set_memory_pool(pa.system_memory_pool())


def to_table(batch: RawBatch, routing: Routing, naming: Naming = PLAIN) -> pa.Table:
    """Adds slots, keys and names to rows; a uid whose own time disagrees with its row's makes a reject.

    The table has `SCHEMA` where names are uids, else `NAMED_SCHEMA`. Slots follow from the uid either way.
    """
    micros = np.array(batch.created_at, np.int64)
    routed = micros
    if routing.schemes:
        own = zip(map(routing.uid_micros, batch.uid), batch.created_at, strict=True)
        routed = np.array([given if said is None else said for said, given in own], np.int64)
        batch = _agreeing(batch, routed)
    rejected = np.array(list(map(bool, batch.reject)), bool) if any(batch.reject) else None
    keys = _keys(batch.uid)
    days = np.floor_divide(routed, DAY_MICROS)
    bits = _bits(days, routing)
    # A shift by all 64 bits is not defined, so one bit is always shifted separately.
    index = keys >> np.uint64(1) >> (np.uint64(63) - bits.astype(np.uint64))
    arrays = [
        pa.array(days.astype(np.int32), mask=rejected).cast(pa.date32()),
        pa.array(index.astype(np.uint32), mask=rejected),
        pa.array(bits, mask=rejected),
        _texts(batch.retention_class),
        pa.array(keys, mask=rejected),
        pa.array(batch.uid, pa.string()),
        pa.array(micros).cast(SCHEMA.field("created_at").type),
        _texts(batch.late),
        _texts(batch.place),
        pa.array(batch.size, pa.int64()),
        _texts(batch.media_type),
        _texts(batch.metadata),
        _texts(batch.reject),
        _texts(batch.detail),
    ]
    table = pa.Table.from_arrays(arrays, schema=SCHEMA)
    return table if naming.tenant_key is None else _named(table, batch, naming)


def shown(table: pa.Table, first_micros: int) -> pa.Table:
    """What an encrypted repository's manifest shows of rows with `NAMED_SCHEMA`: a table with `SCHEMA`.

    Their slots, classes, keys and reasons stay; the name stands for the uid, the window's first moment for the time,
    the identity for the place.
    """
    count = len(table)
    nothing = pa.repeat(pa.scalar("", pa.string()), count)
    said = {
        "uid": table.column("name"),
        "created_at": pa.repeat(pa.scalar(first_micros, SCHEMA.field("created_at").type), count),
        "late": nothing,
        "place": table.column("identity"),
        "size": pa.nulls(count, pa.int64()),
        "media_type": nothing,
        "metadata": nothing,
        "detail": nothing,
    }
    columns = [said[name] if name in said else table.column(name) for name in SCHEMA.names]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def sorted_table(table: pa.Table) -> pa.Table:
    """The table in the manifest's total order.

    By slot day, slot index, retention class, key, then the tie breakers name, uid, created_at, late, place and all that
    is left; rejected rows last. Rows that compare equal are equal.
    """
    group, key = groups(table), numbers(table, "key").astype(np.uint64, copy=False)
    order = np.lexsort((key, group))
    group, key = group[order], key[order]
    equal = (group[1:] == group[:-1]) & (key[1:] == key[:-1])
    if not equal.any():
        return table.take(pa.array(order))
    bounds = np.flatnonzero(np.diff(np.concatenate(([False], equal, [False])).astype(np.int8)))
    for first, last in bounds.reshape(-1, 2):
        ties = order[first : last + 1]
        columns = [table.column(name).take(pa.array(ties)) for name in _tie_breakers(table)]
        values = [_plain(column) for column in columns]
        ranks = sorted(range(len(ties)), key=lambda at, values=values: tuple(v[at] for v in values))  # type: ignore[misc]
        order[first : last + 1] = ties[ranks]
    return table.take(pa.array(order))


def tie_key(table: pa.Table, at: int) -> tuple[Any, ...]:
    """What orders row `at` among rows of the same group and key."""
    return tuple(_plain(table.column(name).slice(at, 1))[0] for name in _tie_breakers(table))


def class_ranks(names: Iterable[str]) -> dict[str, int]:
    """A number for each retention class, in the order of their names."""
    return {name: rank for rank, name in enumerate(sorted(names))}


def groups(table: pa.Table, ranks: Mapping[str, int] | None = None) -> NDArray[np.uint64]:
    """A number for each row that orders and tells apart slot day, slot index and retention class; rejects are highest.

    Numbers of different tables compare if both were made with the same `ranks` of all classes.
    """
    coded = _one(table.column("retention_class")).dictionary_encode()
    names = coded.dictionary.to_pylist()
    known = class_ranks(names) if ranks is None else ranks
    rank = np.array([known[name] for name in names], np.uint64)
    low = rank[coded.indices.to_numpy()] if names else np.zeros(0, np.uint64)
    days = (numbers(table, "slot_day").astype(np.int64) + EPOCH_ORDINAL).astype(np.uint64)
    index = numbers(table, "slot_index").astype(np.uint64)
    group: NDArray[np.uint64] = days << np.uint64(40) | index << np.uint64(24) | low
    slot_day = _one(table.column("slot_day"))
    if not slot_day.null_count:
        return group
    rejected: NDArray[np.bool_] = slot_day.is_null().to_numpy(zero_copy_only=False)
    group[rejected] = np.uint64(REJECTED) | low[rejected]
    return group


def numbers(table: pa.Table, name: str) -> NDArray[Any]:
    """A number column as digested: nulls are 0, an undeclared size -1."""
    column = _one(table.column(name))
    if pa.types.is_date32(column.type):
        column = column.cast(pa.int32())
    elif pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    if column.null_count:
        column = column.fill_null(-1 if name == "size" else 0)
    values: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return values


def block_digest(table: pa.Table) -> str:
    """Hex SHA-256 over the canonical bytes of a block of rows (docs/sources.md, "The digest of a manifest")."""
    digest = hashlib.sha256(len(table).to_bytes(4, "little"))
    for name in table.column_names:
        kind = _DIGESTED.get(name)
        if kind is not None:
            digest.update(np.ascontiguousarray(numbers(table, name).astype(kind, copy=False)).data)
            continue
        lengths, data = _text_bytes(_one(table.column(name)))
        digest.update(lengths.data)
        digest.update(data)
    return digest.hexdigest()


def _text_bytes(column: pa.Array) -> tuple[NDArray[np.uint32], memoryview]:
    """Length of each text in bytes, and all texts end to end."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(pa.string())
    count = len(column)
    if not count:
        return np.zeros(0, "<u4"), memoryview(b"")
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, "<i4", count + 1, column.offset * 4)
    whole = memoryview(b"") if data is None else memoryview(data)
    return np.diff(bounds).astype("<u4"), whole[int(bounds[0]) : int(bounds[-1])]


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """Values that compare with each other: times as numbers, an undeclared size as -1."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    values: list[Any] = column.to_pylist()
    return [-1 if value is None else value for value in values] if column.null_count else values


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _texts(values: Sequence[str]) -> pa.Array:
    """A text column; quicker where all texts are the same."""
    if values and values.count(values[0]) == len(values):
        return pa.repeat(pa.scalar(values[0], pa.string()), len(values))
    return pa.array(values, pa.string())


def _keys(uids: Sequence[str]) -> NDArray[np.uint64]:
    sha256 = hashlib.sha256
    digests = b"".join([sha256(uid.encode()).digest()[:8] for uid in uids])
    return np.frombuffer(digests, ">u8").astype(np.uint64)


def _named(table: pa.Table, batch: RawBatch, naming: Naming) -> pa.Table:
    """Rows with names, identities, and the keys that follow from these."""
    names, identities = naming.names(batch.uid), [row.hex() for row in naming.identities(batch.facts())]
    sorted_by = [row if reject else name for name, row, reject in zip(names, identities, batch.reject, strict=True)]
    keys = np.frombuffer(bytes.fromhex("".join([digits[:16] for digits in sorted_by])), ">u8").astype(np.uint64)
    table = table.set_column(SCHEMA.get_field_index("key"), SCHEMA.field("key"), pa.array(keys))
    places = [KEYED_PLACE + row for row in identities]
    return pa.Table.from_arrays([*table.columns, pa.array(names, pa.string()), pa.array(places)], schema=NAMED_SCHEMA)


def _tie_breakers(table: pa.Table) -> tuple[str, ...]:
    return ("name", *_TIE_BREAKERS) if "name" in table.column_names else _TIE_BREAKERS


def _agreeing(batch: RawBatch, routed: NDArray[np.int64]) -> RawBatch:
    """The batch, with those rows rejected whose uid's own time (in `routed`) is over one day away from theirs."""
    rejects, details = list(batch.reject), list(batch.detail)
    for at in np.flatnonzero(np.abs(routed - np.array(batch.created_at, np.int64)) > DAY_MICROS).tolist():
        if not rejects[at]:
            said, given = (format_time(from_micros(int(micros))) for micros in (routed[at], batch.created_at[at]))
            rejects[at], details[at] = RejectReason.TIME_DISAGREES.value, f"the uid says {said}, the row {given}"
    return batch._replace(reject=rejects, detail=details)


def _bits(days: NDArray[np.int64], routing: Routing) -> NDArray[np.uint8]:
    """`n_bits` of each day (counted since 1970)."""
    distinct, inverse = np.unique(days, return_inverse=True)
    known = [routing.n_bits(date.fromordinal(day + EPOCH_ORDINAL)) for day in distinct.tolist()]
    return np.array(known, np.uint8)[inverse]
