"""Any table or view as a source: pages of a window by keyset, bounds, late rows; contents by their places.

Reads only, in short transactions, a page each, so that a restart of the database costs a page and nobody waits for a
long reader. Statements are sql_queries.py's business, rows sql_rows.py's, inline contents inline.py's.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import date, datetime
from decimal import Decimal
from itertools import chain, groupby, repeat
from typing import TYPE_CHECKING, Any

from vera_core.errors import UsageError
from vera_core.model import from_micros
from vera_core.source.base import Bounds, LateRows, LocalContents, Unreadable, Window, day_of, moment_of
from vera_core.source.database import all_records, connect, connected, page_columns, translated
from vera_core.source.examination import Examination
from vera_core.source.files import LocalFiles
from vera_core.source.inline import InlineContents
from vera_core.source.mapping import ContentKind, TimeType
from vera_core.source.objects import S3Contents
from vera_core.source.rows import FILE_PLACE, S3_PLACE, Reject, RejectReason, shown
from vera_core.source.sql_checks import check_columns, reflect
from vera_core.source.sql_queries import Queries
from vera_core.source.sql_rows import RowMaker, canonical
from vera_core.source.times import text_day

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import sqlalchemy as sa
    from sqlalchemy.engine import Engine

    from vera_core.source.base import Fetched, Terms
    from vera_core.source.mapping import SourceSettings
    from vera_core.source.rows import RawBatch, Row, RowBatch

PAGE_ROWS = 1 << 14
STREAM_ROWS = 1 << 10
NO_LATE_COLUMN = (
    "Rows that appear or change after their day was frozen are not found: the settings name no late column that grows "
    "with every insert and change."
)


def open_sources(name: str, settings: SourceSettings, terms: Terms) -> tuple[SqlSource, ...]:
    """A source for each tenant that the settings declare, sharing connections.

    Raises:
        UsageError: the settings don't fit the database.
        UnavailableError: it can't be reached.
    """
    engine = connect(settings.database_url())
    with translated(engine):
        types, key = reflect(engine, settings)
    check_columns(settings, types, engine.dialect.name)
    if settings.content.kind is ContentKind.INLINE and not key and settings.uid not in types:
        raise UsageError(
            "contents in rows are found by uid, which a template does not tell, and the table has no primary key",
            todo="Name a column that tells all rows apart: primary_key = ...", source=name,
        )  # fmt: skip
    if settings.retention_class.value and settings.retention_class.value not in terms.classes:
        raise UsageError(
            f"the repository has no retention class {settings.retention_class.value!r}",
            todo=f"It has: {', '.join(sorted(terms.classes))}.", source=name,
        )  # fmt: skip
    return tuple(
        SqlSource(name, engine, Queries(settings, engine.dialect.name, types, key, tenant), terms)
        for tenant in settings.tenants
    )


class SqlSource:
    """The rows of one tenant in a table or view; see `Source`."""

    def __init__(self, name: str, engine: Engine, queries: Queries, terms: Terms) -> None:
        settings = queries.settings
        self.name = name
        self.tenant = queries.tenant
        self._terms = terms
        self._engine = engine
        self._queries = queries
        self._files = LocalFiles(settings.content.roots, terms.inline_limit)
        self._objects = S3Contents(settings.content.buckets, terms.inline_limit)
        locate: dict[ContentKind, Callable[[Sequence[object]], Sequence[str | Unreadable]]] = {
            ContentKind.PATH: self._files.located,
            ContentKind.S3: self._objects.located,
        }
        roles = tuple(queries.selected)
        kind = settings.content.kind
        self._maker = RowMaker(settings, terms, self.tenant, queries.times, roles, locate.get(kind))
        self._inline = InlineContents(engine, queries, self._maker, terms.inline_limit)

    @property
    def blind_spots(self) -> tuple[str, ...]:
        """See `Source.blind_spots`."""
        return () if self._queries.settings.late is not None else (NO_LATE_COLUMN,)

    @property
    def examination(self) -> Examination:
        """Questions about the whole table, for a look at it before a migration."""
        return Examination(self._engine, self._queries)

    @property
    def local(self) -> LocalContents | None:
        """See `LocalSource.local`."""
        settings = self._queries.settings.content
        if settings.kind is not ContentKind.PATH:
            return None
        return LocalContents(settings.roots, self._terms.inline_limit, _paths_of)

    def batches(self, window: Window) -> Iterator[RawBatch]:
        """See `Source.batches`."""
        for page in chain(self._pages(window), self._stream(self._queries.nameless(window))):
            batch, places = self._maker.batch(page, window)
            if places:
                yield batch

    def _pages(self, window: Window) -> Iterator[list[list[Any]]]:
        """Every record with a uid once, in columns; a page of them, or all those that share a key, at a time."""
        query = self._queries.page(window, None, PAGE_ROWS)
        while True:
            page = page_columns(self._engine, query)
            count = len(page[0])
            if count < PAGE_ROWS:
                yield page
                return
            # The last key may have more rows than fit: the next page begins with it again, from its first row on.
            last = self._key(page, -1)
            if self._key(page, 0) == last:
                yield from self._stream(self._queries.same_key(window, last))
                query = self._queries.after_key(window, last, PAGE_ROWS)
                continue
            while self._key(page, count - 1) == last:
                count -= 1
            yield [column[:count] for column in page]
            query = self._queries.page(window, last, PAGE_ROWS)

    def fetch(self, rows: Sequence[Row]) -> Iterator[Fetched]:
        """See `Source.fetch`."""
        for kind, group in groupby(rows, key=_place_kind):
            if kind == FILE_PLACE:
                yield from self._files.fetch_many([(row.place.removeprefix(FILE_PLACE), row.size) for row in group])
            elif kind == S3_PLACE:
                yield from self._objects.fetch([(row.place, row.size) for row in group])
            else:
                yield from self._inline.fetch(list(group))

    def bounds(self) -> Bounds | None:
        """See `Source.bounds`; up to a day wider where the column's order is not exactly that of the times."""
        low, high = self._all(self._queries.extremes())[0]
        if low is None:
            return None
        if self._queries.settings.created_at.type is TimeType.TEXT:
            first, last = text_day(low), text_day(high)
        else:
            found = self._queries.times.micros([low, high])
            assert not found.troubles
            first_micros, last_micros = found.values.tolist()
            if self._queries.times.exact():
                return Bounds(from_micros(first_micros), from_micros(last_micros))
            first, last = day_of(first_micros), day_of(last_micros)
        return Bounds(moment_of(_shifted(first, -1)), moment_of(_shifted(last, 1)))

    def untimed(self, limit: int) -> Iterator[Reject]:
        """See `Source.untimed`."""
        for value, *columns in self._all(self._queries.untimed(limit)):
            uid = self._maker.uid_of(columns)
            reason = RejectReason.NULL_TIME if value is None else RejectReason.BAD_TIME
            detail = "created_at is null" if value is None else f"created_at is {shown(value)}"
            yield Reject(shown(canonical(uid) or uid), reason.value, detail)

    def late(self, mark: str, *, before: date) -> LateRows:
        """See `Source.late`.

        A value counts only once it was seen `settle_seconds` ago: until then a transaction may still be running that
        has drawn a smaller one.
        """
        settings = self._queries.settings.late
        if settings is None:
            return LateRows()
        newest = self._all(self._queries.newest())[0][0]
        now = int(time.time())
        if not mark:
            return LateRows({}, _mark(newest, newest, now))
        done, seen, since = _parse_mark(mark)
        if seen is None:
            return LateRows({}, _mark(done, newest, now))
        if now - since < settings.settle_seconds:
            return LateRows({}, mark)
        days: Counter[date] = Counter()
        if done is None or done < seen:
            query = self._queries.late_times(done, seen, before)
            for (values,) in self._stream(query):
                found = self._queries.times.micros(values)
                timed = [micros for at, micros in enumerate(found.values.tolist()) if at not in found.troubles]
                days.update(day for day in map(day_of, timed) if day < before)
        return LateRows(dict(sorted(days.items())), _mark(seen, newest, now))

    def _key(self, page: Sequence[Sequence[Any]], at: int) -> tuple[Any, ...]:
        """What orders a record: the roles that stand first."""
        return tuple(page[role][at] for role in range(len(self._queries.keys)))

    def _all(self, query: sa.Select[Any]) -> list[Sequence[Any]]:
        return all_records(self._engine, query)

    def _stream(self, query: sa.Select[Any]) -> Iterator[list[list[Any]]]:
        """The records of a query of any size, in parts, in columns."""
        with connected(self._engine) as connection:
            result = connection.execution_options(yield_per=STREAM_ROWS).execute(query)
            for part in result.partitions():
                yield [list(column) for column in zip(*part, strict=True)]


def _place_kind(row: Row) -> str:
    return next((kind for kind in (FILE_PLACE, S3_PLACE) if row.place.startswith(kind)), "")


def _paths_of(batch: RowBatch) -> list[str]:
    cut = len(FILE_PLACE)
    if all(map(str.startswith, batch.places, repeat(FILE_PLACE))):
        return [place[cut:] for place in batch.places]
    return [place[cut:] if place.startswith(FILE_PLACE) else "" for place in batch.places]


def _shifted(day: date, days: int) -> date:
    ordinal = day.toordinal() + days
    return date.fromordinal(min(max(ordinal, date.min.toordinal()), date.max.toordinal()))


def _mark(done: object, seen: object, since: int) -> str:
    return json.dumps({"done": _typed(done), "seen": _typed(seen), "since": since})


def _parse_mark(mark: str) -> tuple[Any, Any, int]:
    """(values up to here are done, the newest value at that time, that time in seconds since 1970)."""
    try:
        content = json.loads(mark)
        return _untyped(content["done"]), _untyped(content["seen"]), int(content["since"])
    except (ValueError, KeyError, TypeError, ArithmeticError) as error:
        raise UsageError(
            f"the mark {mark!r} of the late column can't be understood",
            todo="Restore the table late_marks of our schema from a backup.",
        ) from error


_KINDS: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "Decimal": Decimal,
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "str": str,
}


def _typed(value: object) -> list[str] | None:
    """A value of the late column with its type, as JSON."""
    if value is None:
        return None
    kind = type(value).__name__
    if kind not in _KINDS:
        raise UsageError(
            f"the late column holds a {kind}", todo="Map one that holds whole numbers, times or texts that only grow."
        )
    return [kind, canonical(value) or ""]


def _untyped(content: Sequence[str] | None) -> object:
    return None if content is None else _KINDS[content[0]](content[1])
