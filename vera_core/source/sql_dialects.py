"""Where databases differ: how they order texts, count microseconds, compare bytes. Nothing runs here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from vera_core.source.mapping import TimeType

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.sql.elements import ColumnElement

    from vera_core.source.mapping import TimeColumn

BINARY_ORDER = {"postgresql": "C", "sqlite": "BINARY", "mysql": "utf8mb4_bin"}
"""The collation under which ISO 8601 texts sort by time."""
TOLD_APART = frozenset({"postgresql", "sqlite"})
"""Databases that tell all texts apart. MySQL's collations don't (case, accents, blanks at the end), so that there pages
are cut between two times, never between two uids."""
STAMPS = {TimeType.TIMESTAMP, TimeType.TIMESTAMPTZ}
NUMBER_TYPES = (sa.Integer, sa.Numeric)


def _postgresql_micros(column: ColumnElement[Any]) -> ColumnElement[Any]:
    # Exact: PostgreSQL keeps whole microseconds, and rounding undoes what a double loses on old versions.
    seconds = sa.extract("epoch", column)
    return sa.cast(sa.func.round(sa.cast(seconds, sa.Numeric) * 1_000_000), sa.BigInteger)


def _mysql_micros(column: ColumnElement[Any]) -> ColumnElement[Any]:
    return sa.func.timestampdiff(sa.text("MICROSECOND"), sa.literal_column("'1970-01-01'"), column)


MICROS: dict[str, Callable[[ColumnElement[Any]], ColumnElement[Any]]] = {
    "postgresql": _postgresql_micros,
    "mysql": _mysql_micros,
}
"""How databases turn a timestamp into microseconds since 1970, exactly; of one without a zone, as its clock reads."""


def in_micros(dialect: str, column: TimeColumn) -> bool:
    """Whether the database itself turns a column's times into microseconds (by `MICROS`)."""
    return dialect in MICROS and column.type in STAMPS


def utf8(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A text of MySQL in UTF-8, whatever its column is in."""
    return sa.func.convert(column.op("USING")(sa.literal_column("utf8mb4")))


def exact(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """A text of MySQL as its bytes compare."""
    return utf8(column).collate(BINARY_ORDER["mysql"])


def holds_bytes(kind: Any) -> bool:
    """Whether columns of a reflected type hold bytes."""
    try:
        return kind.python_type is bytes
    except NotImplementedError:
        return False
