"""What a database says of a table, against what the settings say of it: columns, their types, the row key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from vera_core.errors import UsageError
from vera_core.source.mapping import TimeType
from vera_core.source.sql_dialects import NUMBER_TYPES, STAMPS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy.engine import Engine

    from vera_core.source.mapping import SourceSettings, TimeColumn


def check_columns(settings: SourceSettings, types: Mapping[str, Any], dialect: str) -> None:
    """Compares the settings with what the database says of the table.

    Raises:
        UsageError: a column is not there, or created_at is declared as what it is not.
    """
    s = settings
    named = [
        *s.uid_columns, s.created_at.column, s.content.column, s.primary_key, s.size, s.media_type.column,
        s.tenant.column, s.retention_class.column, s.late.column if s.late else "", *s.metadata.values(),
    ]  # fmt: skip
    check_present(s.table, named, types)
    check_time("created_at", s.created_at, types, dialect)


def check_present(table: str, named: Iterable[str], types: Mapping[str, Any]) -> None:
    """Makes sure that the table has the columns that settings name; "" names none.

    Raises:
        UsageError: one is not there.
    """
    for name in filter(None, named):
        if name not in types:
            raise UsageError(f"table {table} has no column {name!r}", todo=f"It has: {', '.join(types)}.", table=table)


def check_time(setting: str, column: TimeColumn, types: Mapping[str, Any], dialect: str) -> None:
    """Compares what a setting says of a time column with what the database says of it.

    Raises:
        UsageError: it is declared as what it is not.
    """
    declared = column.type
    if dialect == "sqlite" and declared in STAMPS:
        raise UsageError(
            f"SQLite has no {declared}; it keeps times as text or numbers",
            todo=f'Declare {setting} with type = "text" (and a zone if the texts have none) or an epoch type.',
            column=column.column,
        )
    if dialect in _SUITS and not _SUITS[dialect][declared](types[column.column]):
        raise UsageError(
            f"{setting} is declared {declared}, but the column's type is {types[column.column]}",
            todo="Declare what it is: " + ", ".join(TimeType) + ".", column=column.column,
        )  # fmt: skip


_OTHERS: dict[TimeType, Callable[[Any], bool]] = {
    TimeType.TEXT: lambda kind: isinstance(kind, sa.String),
    TimeType.EPOCH_S: lambda kind: isinstance(kind, NUMBER_TYPES),
    TimeType.EPOCH_MS: lambda kind: isinstance(kind, NUMBER_TYPES),
    TimeType.EPOCH_US: lambda kind: isinstance(kind, NUMBER_TYPES),
}
_SUITS: dict[str, dict[TimeType, Callable[[Any], bool]]] = {
    "postgresql": _OTHERS
    | {
        TimeType.TIMESTAMPTZ: lambda kind: isinstance(kind, sa.DateTime) and bool(kind.timezone),
        TimeType.TIMESTAMP: lambda kind: (
            isinstance(kind, (sa.DateTime, sa.Date)) and not getattr(kind, "timezone", False)
        ),
    },
    # TIMESTAMP is kept in UTC and DATETIME as somebody's clock read.
    "mysql": _OTHERS
    | {
        TimeType.TIMESTAMPTZ: lambda kind: isinstance(kind, sa.TIMESTAMP),
        TimeType.TIMESTAMP: lambda kind: isinstance(kind, sa.Date | sa.DateTime) and not isinstance(kind, sa.TIMESTAMP),
    },
}
"""Which column types of a database each declaration fits."""


def reflect(engine: Engine, settings: SourceSettings) -> tuple[dict[str, Any], str]:
    """Column types by name, and the one column of the primary key ("" if there is none, as in a view).

    Raises:
        sqlalchemy.exc.NoSuchTableError: there is no such table or view.
    """
    types = column_types(engine, settings.table, settings.schema_name)
    keys = sa.inspect(engine).get_pk_constraint(settings.table, schema=settings.schema_name or None)
    only = keys["constrained_columns"][0] if len(keys["constrained_columns"]) == 1 else ""
    return types, settings.primary_key or ("" if (only,) == settings.uid_columns else only)


def column_types(engine: Engine, table: str, schema_name: str) -> dict[str, Any]:
    """The types of a table's or view's columns by name.

    Raises:
        sqlalchemy.exc.NoSuchTableError: there is no such table or view.
    """
    columns = sa.inspect(engine).get_columns(table, schema=schema_name or None)
    return {str(column["name"]): column["type"] for column in columns}
