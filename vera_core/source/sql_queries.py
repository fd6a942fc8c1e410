"""The statements of a SQL source, and nothing that runs them: what is selected, which rows, in which order.

Columns are named as the settings name them, without types, so that drivers give and take their own values. Where
databases differ, small tables say how.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from operator import ge, gt
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from vera_core.source.base import Window
from vera_core.source.mapping import ContentKind, TimeType
from vera_core.source.sql_dialects import (
    BINARY_ORDER,
    MICROS,
    NUMBER_TYPES,
    STAMPS,
    TOLD_APART,
    exact,
    holds_bytes,
    in_micros,
    utf8,
)
from vera_core.source.sql_rows import CLASS, LATE, MEDIA, METADATA, PLACE, ROW_KEY, SIZE, TENANT, TIME, UID
from vera_core.source.times import END_TEXT, FACTORS, FIRST_TEXT, MAX_MICROS, MIN_MICROS, TimeReader

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from sqlalchemy.sql.elements import ColumnElement

    from vera_core.source.mapping import SourceSettings

ANY = "any"
"""Stands for a name where only the day of a window matters."""
SHIFTED = ("_" * 10 + "%+%", "_" * 10 + "%-%")
"""Texts with an offset behind the date, which may be in a window of another day than their own..."""
UNSHIFTED = "%+00:00"
"""... if it is not this one."""


@dataclass(frozen=True)
class Queries:
    """Statements over one table or view for one tenant. `types` are the reflected column types, `key` the row key."""

    settings: SourceSettings
    dialect: str
    types: Mapping[str, Any]
    key: str
    tenant: str

    @cached_property
    def table(self) -> sa.TableClause:
        """The table or view, with the columns that the settings name."""
        return sa.table(
            self.settings.table, *(sa.column(name) for name in self.types), schema=self.settings.schema_name or None
        )

    @cached_property
    def times(self) -> TimeReader:
        """Reads what `selected` gives for created_at."""
        column = self.settings.created_at
        return TimeReader(column, in_micros(self.dialect, column))

    @cached_property
    def selected(self) -> dict[str, ColumnElement[Any]]:
        """What is selected of a row, by role; what pages are ordered by (`keys`) comes first."""
        s = self.settings
        chosen: dict[str, ColumnElement[Any]] = {TIME: self._time_value()}
        chosen |= {UID + name: self.column(name) for name in s.uid_columns}
        optional = {TENANT: s.tenant.column, CLASS: s.retention_class.column, MEDIA: s.media_type.column}
        chosen |= {role: self.column(name) for role, name in optional.items() if name}
        chosen |= {METADATA + name: self.column(column) for name, column in s.metadata.items()}
        inline = s.content.kind is ContentKind.INLINE
        if not inline:
            chosen[PLACE] = self.column(s.content.column)
        if s.size:
            declared = self.column(s.size)
            chosen[SIZE] = sa.func.coalesce(declared, self.content_size()) if inline else declared
        elif inline:
            chosen[SIZE] = self.content_size()
        if s.late is not None:
            chosen[LATE] = self.column(s.late.column)
        if self.key and inline:
            chosen[ROW_KEY] = self.column(self.key)
        return chosen

    @cached_property
    def keys(self) -> tuple[ColumnElement[Any], ...]:
        """What pages are ordered by, and cut between: created_at, and the uid where the database tells uids apart."""
        return (self.time, *self._uids) if self.dialect in TOLD_APART else (self.time,)

    @cached_property
    def _uids(self) -> tuple[ColumnElement[Any], ...]:
        return tuple(self.column(name) for name in self.settings.uid_columns)

    def page(self, window: Window, start: Sequence[Any] | None, limit: int) -> sa.Select[Any]:
        """Rows of a window with a uid, in order of `keys`, from the raw key `start` on (inclusive)."""
        return self._page(window, start, limit, ge)

    def same_key(self, window: Window, key: Sequence[Any]) -> sa.Select[Any]:
        """The rows with one raw value of `keys`, however many."""
        return sa.select(*self.selected.values()).where(
            self._inside(window), self.has_key(key), *(uid.is_not(None) for uid in self._uids), self.mine()
        )

    def after_key(self, window: Window, key: Sequence[Any], limit: int) -> sa.Select[Any]:
        """As `page`, from behind the raw key on."""
        return self._page(window, key, limit, gt)

    def named(self, window: Window, uids: Sequence[str]) -> sa.Select[Any]:
        """The rows of a window with one of some uids, of a source whose uids are no template; some others besides."""
        return sa.select(*self.selected.values()).where(
            self._inside(window), self.among(self.settings.uid, uids), self.mine()
        )

    def has_key(self, key: Sequence[Any]) -> ColumnElement[bool]:
        """Whether a row has those raw values of created_at and, as many as are given, the uid's columns."""
        since = self._bind(self.times.parameter(key[0]))
        same = (self._same(column, value) for column, value in zip(self._uids, key[1:], strict=False))
        return sa.and_(self.time == since, *same)

    def _same(self, column: ColumnElement[Any], value: object) -> ColumnElement[bool]:
        if self.dialect in TOLD_APART or not isinstance(value, str):
            same: ColumnElement[bool] = column == _bound(value)
            return same
        # Both: the first finds the row by an index, the second tells it from those that the collation takes for it.
        return sa.and_(column == value, sa.cast(utf8(column), sa.LargeBinary) == value.encode())

    def among(self, name: str, texts: Sequence[str]) -> ColumnElement[bool]:
        """Whether a column has one of some values, given as text."""
        values: list[object] = [self.key_value(name, text) for text in texts]
        if self.dialect == "sqlite":
            # A column of a view has no type by which SQLite would compare a text with a number.
            values += [int(text) for text in texts if text.isdecimal() and text.isascii() and len(text) < 19]
        return self.column(name).in_(values)

    def nameless(self, window: Window) -> sa.Select[Any]:
        """Rows of a window whose uid is null."""
        return sa.select(*self.selected.values()).where(
            self._inside(window), sa.or_(*(uid.is_(None) for uid in self._uids)), self.mine()
        )

    def extremes(self) -> sa.Select[Any]:
        """The least and the greatest created_at that is a time."""
        value = self._time_value
        return sa.select(value(sa.func.min(self.time)), value(sa.func.max(self.time))).where(self.timed(), self.mine())

    def untimed(self, limit: int) -> sa.Select[Any]:
        """created_at (as text) and the uid's columns of rows whose time is none."""
        missing = sa.or_(self.time.is_(None), sa.not_(self.timed()))
        text = sa.cast(self.column(self.settings.created_at.column), sa.Text)
        return sa.select(text, *self._uids).where(missing, self.mine()).limit(limit)

    def newest(self) -> sa.Select[Any]:
        """The greatest value of the late column, of all tenants."""
        return sa.select(sa.func.max(self.late))

    def late_times(self, after: object, upto: object, before: date) -> sa.Select[Any]:
        """created_at of rows before a day whose late value is in (after, upto]."""
        # Where values and days don't match exactly, some rows too many; whoever reads them looks at each.
        high = self.times.bounds(any_window(before))[0 if self.times.exact() else 1]
        return sa.select(self._time_value()).where(
            sa.true() if after is None else self.late > after,
            self.late <= upto,
            self.timed(),
            self.time < self._bind(high),
            self.mine(),
        )

    @property
    def late(self) -> ColumnElement[Any]:
        """The monotonic column."""
        assert self.settings.late is not None
        return self.column(self.settings.late.column)

    @cached_property
    def time(self) -> ColumnElement[Any]:
        """created_at as it is compared and ordered."""
        name = self.settings.created_at.column
        column = self.column(name)
        if self.settings.created_at.type is not TimeType.TEXT:
            return column
        if self.dialect != "mysql":
            return column.collate(BINARY_ORDER[self.dialect]) if self.dialect in BINARY_ORDER else column
        # A collation that is binary already keeps its index; another one's index is of no use here.
        binary = str(getattr(self.types[name], "collation", "")).endswith("_bin")
        return column if binary else exact(column)

    def column(self, name: str) -> ColumnElement[Any]:
        """A column by name."""
        return self.table.c[name]

    def mine(self) -> ColumnElement[bool]:
        """Rows of the tenant; the first tenant also reports those that belong to none."""
        given = self.settings.tenant
        if not given.column:
            return sa.true()
        column = self.column(given.column)
        values = [self.key_value(given.column, value) for value, tenant in given.map.items() if tenant == self.tenant]
        owned = column.in_(values)
        if self.tenant != self.settings.tenants[0]:
            return owned
        return sa.or_(owned, column.is_(None), column.not_in([self.key_value(given.column, v) for v in given.map]))

    def key_value(self, name: str, text: str) -> object:
        """A value in text as the column compares it."""
        if isinstance(self.types[name], NUMBER_TYPES) and text.lstrip("-").isdigit():
            return int(text)
        return text

    def content_bytes(self) -> ColumnElement[Any]:
        """The inline content as bytes (text in UTF-8)."""
        column = self.column(self.settings.content.column)
        kind = self.types[self.settings.content.column]
        if self.dialect == "sqlite":
            return sa.cast(column, sa.LargeBinary)
        if holds_bytes(kind):
            return column
        if self.dialect == "postgresql":
            return sa.func.convert_to(sa.cast(column, sa.Text), "UTF8")
        if self.dialect == "mysql":
            return sa.cast(utf8(column), sa.LargeBinary)
        return column

    def content_size(self) -> ColumnElement[Any]:
        """Bytes of the inline content, without reading it where the database knows."""
        column = self.column(self.settings.content.column)
        if self.dialect == "sqlite":
            blob = sa.func.typeof(column) == "blob"
            return sa.case((blob, sa.func.length(column)), else_=sa.func.length(self.content_bytes()))
        return sa.func.octet_length(self.content_bytes())

    def _page(
        self, window: Window, key: Sequence[Any] | None, limit: int, beyond: Callable[[Any, Any], ColumnElement[bool]]
    ) -> sa.Select[Any]:
        since = None if key is None else self.times.parameter(key[0])
        query = sa.select(*self.selected.values()).where(
            self._inside(window, since), *(uid.is_not(None) for uid in self._uids), self.mine()
        )
        if key is not None:
            values = (self._bind(since), *map(_bound, key[1:]))
            query = query.where(beyond(_row(self.keys), _row(values)))
        return query.order_by(*self.keys).limit(limit)

    def _inside(self, window: Window, since: object = None) -> ColumnElement[bool]:
        """Rows of a window, and some of its neighbours; with the raw time `since`, none before that."""
        low, high = self.times.bounds(window)
        # One lower bound, as SQLite looks up one only: with two, each page could read all those before it again.
        inside = sa.and_(self.time >= self._bind(low if since is None else since), self.time < self._bind(high))
        if self.settings.created_at.type is not TimeType.TEXT:
            return inside
        low, high = self.times.plain_bounds(window)
        shifted = sa.and_(sa.or_(*(self.time.like(form) for form in SHIFTED)), self.time.not_like(UNSHIFTED))
        return sa.and_(inside, sa.or_(sa.and_(self.time >= low, self.time < high), shifted))

    def timed(self) -> ColumnElement[bool]:
        """Rows whose created_at is a time in year 1 to 9999."""
        kind = self.settings.created_at.type
        if kind is TimeType.TEXT:
            ranged = sa.and_(self.time >= FIRST_TEXT, self.time < END_TEXT)
        elif kind in FACTORS:
            ranged = sa.and_(self.time >= MIN_MICROS // FACTORS[kind], self.time <= MAX_MICROS // FACTORS[kind])
        else:
            low, high = (self._bind(self.times.moment(micros)) for micros in (MIN_MICROS, MAX_MICROS))
            ranged = sa.and_(self.time >= low, self.time <= high)
        if self.dialect != "sqlite":
            return ranged
        # SQLite columns hold values of any type; those of another one sort elsewhere, and so are in no window.
        types = ("text",) if kind is TimeType.TEXT else ("integer", "real")
        return sa.and_(sa.func.typeof(self.time).in_(types), ranged)

    def _time_value(self, value: ColumnElement[Any] | None = None) -> ColumnElement[Any]:
        """created_at (or an aggregate of it) as it is read."""
        column = self.column(self.settings.created_at.column) if value is None else value
        return MICROS[self.dialect](column) if self.times.in_micros else column

    def _bind(self, value: object) -> Any:
        kind = self.settings.created_at.type
        if kind in STAMPS:
            return sa.literal(value, sa.TIMESTAMP(timezone=kind is TimeType.TIMESTAMPTZ))
        return _bound(value)


def _row(values: Sequence[Any]) -> Any:
    """What compares as these values do, one after the other."""
    return values[0] if len(values) == 1 else sa.tuple_(*values)


def _bound(value: Any) -> Any:
    """A raw value as a statement takes it: text that is no UTF-8, which SQLite may hold, as its bytes."""
    if not isinstance(value, str) or value.isascii():
        return value
    data = value.encode("utf-8", "surrogateescape")
    if value == data.decode("utf-8", "replace"):
        return value
    # Joined with nothing, as a cast by itself would have numbers compared as texts.
    return sa.cast(sa.literal(data, sa.LargeBinary), sa.Text).concat("")


def any_window(day: date) -> Window:
    """A window of which only the day matters."""
    return Window(ANY, ANY, day)
