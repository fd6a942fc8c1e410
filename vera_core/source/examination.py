"""Questions about a table as a whole, asked before a migration: what is in it, and what VERA's queries need of it.

Each is one statement over the whole table, or over a sample; what follows from the answers is the operation's business.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from vera_core.routing import DAY_MICROS
from vera_core.source.base import EPOCH_DAY, Unreadable, Window
from vera_core.source.database import all_records, translated
from vera_core.source.mapping import TimeType
from vera_core.source.rows import Row, parse_metadata
from vera_core.source.sql_dialects import STAMPS, utf8
from vera_core.source.sql_rows import canonical
from vera_core.source.times import FACTORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy.engine import Engine
    from sqlalchemy.sql.elements import ColumnElement

    from vera_core.source.base import Source
    from vera_core.source.rows import RawRow
    from vera_core.source.sql_queries import Queries

INDEX_NAME = "vera_by_time"
NAMED = 20
"""Duplicates that are named."""


class Role(NamedTuple):
    """What a column is used for: the setting that names it, its name, and its type as the database says."""

    setting: str
    column: str
    type: str


class Index(NamedTuple):
    """An index of the table."""

    name: str
    columns: tuple[str, ...]
    unique: bool


class DayRows(NamedTuple):
    """Rows of a day, and the bytes that they declare (0 where nobody says)."""

    rows: int
    declared: int


class Duplicate(NamedTuple):
    """A uid that several rows have."""

    uid: str
    rows: int


@dataclass(frozen=True, slots=True)
class Examination:
    """The questions, for one tenant of a source.

    Raises (all methods):
        UnavailableError: the database can't be reached.
        UsageError: it refuses a statement.
    """

    engine: Engine
    queries: Queries

    def roles(self) -> list[Role]:
        """The columns that the settings use, and for what."""
        s = self.queries.settings
        named = [*(("uid", name) for name in s.uid_columns), ("created_at", s.created_at.column)]
        named += [("content", s.content.column), ("size", s.size), ("media_type", s.media_type.column)]
        named += [("tenant", s.tenant.column), ("retention_class", s.retention_class.column)]
        named += [("late", s.late.column if s.late else ""), ("primary_key", self.queries.key)]
        named += [(f"metadata {name}", column) for name, column in s.metadata.items()]
        return [Role(setting, column, str(self.queries.types[column])) for setting, column in named if column]

    def indexes(self) -> list[Index]:
        """The table's indexes, the primary key's first; none of a view."""
        s = self.queries.settings
        with translated(self.engine):
            inspector = sa.inspect(self.engine)
            key = inspector.get_pk_constraint(s.table, schema=s.schema_name or None)
            found = inspector.get_indexes(s.table, schema=s.schema_name or None)
        primary = tuple(key["constrained_columns"] or ())
        listed = [Index("the primary key", primary, unique=True)] if primary else []
        for item in found:
            columns = tuple(name or "" for name in item["column_names"])
            listed.append(Index(item["name"] or "", columns, bool(item["unique"])))
        return listed

    def index_statement(self, columns: Sequence[str], name: str = INDEX_NAME) -> str:
        """The statement that makes an index over these columns, for an administrator to read and run."""
        s, quote = self.queries.settings, self.engine.dialect.identifier_preparer
        told = [self._collated(column, quote.quote(column)) for column in columns]
        table = ".".join(quote.quote(part) for part in (s.schema_name, s.table) if part)
        # Without CONCURRENTLY PostgreSQL would keep the business from writing meanwhile.
        how = "INDEX CONCURRENTLY" if self.queries.dialect == "postgresql" else "INDEX"
        return f"CREATE {how} {quote.quote(name)} ON {table} ({', '.join(told)})"

    def paging_columns(self) -> tuple[str, ...]:
        """What an index must begin with so that every page is found at once; the first of them is nearly as good."""
        s = self.queries.settings
        more = s.uid_columns if len(self.queries.keys) > 1 else ()
        return (s.created_at.column, *more)

    def days(self) -> dict[date, DayRows]:
        """Rows of each day, in order: by the date that the column itself writes, so that a zone may move some hours.

        Rows without a time are in none. Reads the whole table, or an index of it.
        """
        number = self._day().label("day")
        declared = self.queries.settings.size
        size: ColumnElement[Any] = self.queries.column(declared) if declared else sa.literal(0)
        query = (
            sa.select(number, sa.func.count(), sa.func.coalesce(sa.func.sum(size), 0))
            .where(self.queries.timed(), self.queries.mine())
            .group_by(sa.literal_column("1") if self.queries.dialect != "sqlite" else number)
        )
        found: dict[date, DayRows] = {}
        for value, rows, size_sum in all_records(self.engine, query):
            day = _as_day(value)
            if day is not None:
                before = found.get(day, DayRows(0, 0))
                found[day] = DayRows(before.rows + int(rows), before.declared + int(size_sum))
        return dict(sorted(found.items()))

    def missing(self) -> dict[str, int]:
        """How many rows have no usable time, no uid, no content; and no late value, where there is such a column."""
        q, s = self.queries, self.queries.settings
        conditions = {
            "created_at": sa.or_(q.time.is_(None), sa.not_(q.timed())),
            "uid": sa.or_(*(q.column(name).is_(None) for name in s.uid_columns)),
            "content": q.column(s.content.column).is_(None),
        }
        if s.late is not None:
            conditions["late"] = q.late.is_(None)
        counts = [
            sa.func.coalesce(sa.func.sum(sa.case((condition, 1), else_=0)), 0) for condition in conditions.values()
        ]
        (record,) = all_records(self.engine, sa.select(*counts).select_from(q.table).where(q.mine()))
        return dict(zip(conditions, map(int, record), strict=True))

    def duplicates(self) -> tuple[int, list[Duplicate]]:
        """How many uids several rows have, and the most frequent ones. Sorts or hashes the whole table."""
        q = self.queries
        columns = [q.column(name) for name in q.settings.uid_columns]
        groups = [sa.cast(utf8(column), sa.LargeBinary) for column in columns] if q.dialect == "mysql" else columns
        labelled = [group.label(f"u{number}") for number, group in enumerate(groups)]
        several = (
            sa.select(*labelled, sa.func.count().label("rows"))
            .where(*(column.is_not(None) for column in columns), q.mine())
            .group_by(*groups)
            .having(sa.func.count() > 1)
        ).subquery()
        (total,) = all_records(self.engine, sa.select(sa.func.count()).select_from(several))[0]
        query = sa.select(several).order_by(several.c.rows.desc()).limit(NAMED)
        named = [
            Duplicate("|".join(_text(value) for value in values), int(rows))
            for *values, rows in all_records(self.engine, query)
        ]
        return int(total), named

    def _day(self) -> ColumnElement[Any]:
        column = self.queries.settings.created_at
        value = self.queries.column(column.column)
        if column.type is TimeType.TEXT:
            return sa.func.substr(value, 1, 10)
        if column.type in FACTORS:
            return sa.func.floor(value / sa.literal_column(str(DAY_MICROS // FACTORS[column.type])))
        if self.queries.dialect == "postgresql" and column.type is TimeType.TIMESTAMPTZ:
            value = sa.func.timezone("UTC", value)
        assert column.type in STAMPS
        return sa.cast(value, sa.Date)

    def _collated(self, column: str, quoted: str) -> str:
        time = self.queries.settings.created_at
        binary = self.queries.dialect == "postgresql" and time.type is TimeType.TEXT and column == time.column
        return f'{quoted} COLLATE "C"' if binary else quoted


class Sample(NamedTuple):
    """Some rows with their contents; `unreadable` ones by reason, with an example of each."""

    contents: list[bytes]
    media_types: list[str]
    rows: list[RawRow]
    unreadable: dict[str, tuple[int, str]]


def sample(source: Source, days: Sequence[date], *, each: int, most_bytes: int) -> Sample:
    """The first `each` rows of some days that can be archived, with the contents that fit into `most_bytes` in all.

    Raises:
        UnavailableError: the source can't be reached.
    """
    found = Sample([], [], [], {})
    total = 0
    for day in days:
        window = Window(source.name, source.tenant, day)
        for raw, content in _contents(source, window, each):
            found.rows.append(raw)
            if isinstance(content, Unreadable):
                count, example = found.unreadable.get(content.reason, (0, f"{raw.uid}: {content.detail}"))
                found.unreadable[content.reason] = (count + 1, example)
            elif isinstance(content, bytes) and total + len(content) <= most_bytes:
                total += len(content)
                found.contents.append(content)
                found.media_types.append(raw.media_type)
    return found


def _contents(source: Source, window: Window, count: int) -> Iterator[tuple[RawRow, object]]:
    rows = list(islice((row for batch in source.batches(window) for row in batch.rows()), count))
    for row in rows:
        if row.reject:
            yield row, Unreadable(row.reject, row.detail)
    good = [row for row in rows if not row.reject]
    yield from zip(good, source.fetch([_as_row(row) for row in good]), strict=True)


def _as_row(raw: RawRow) -> Row:
    """The row as a manifest would have it, but for slot and key, which no source looks at."""
    return Row(
        raw.uid, raw.created_at, None, raw.retention_class, 0, raw.place, raw.size, raw.media_type,
        parse_metadata(raw.metadata), raw.late, raw.reject, raw.detail, raw.uid,
    )  # fmt: skip


def _as_day(value: object) -> date | None:
    """A group's value as a day; None for a text that names none."""
    if isinstance(value, date):
        return value
    try:
        if isinstance(value, str):
            return date.fromisoformat(value)
        return EPOCH_DAY + timedelta(days=int(str(value).partition(".")[0]))
    except (ValueError, OverflowError):
        return None


def _text(value: object) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else canonical(value) or ""
