"""Contents in the rows themselves: read by row key where there is one, else by uid and time.

Never more than a few MiB at a time, whatever the rows declare. Statements come from sql_queries.py.
"""

from __future__ import annotations

import io
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import sqlalchemy as sa

from vera_core.source.base import BigContent, Unreadable, day_of
from vera_core.source.database import all_records, connected, page_columns, translated
from vera_core.source.rows import ROW_PLACE, RejectReason, metadata_text
from vera_core.source.sql_queries import any_window
from vera_core.source.sql_rows import canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import date

    from sqlalchemy.engine import Connection, Engine
    from sqlalchemy.sql.elements import ColumnElement

    from vera_core.source.base import Fetched
    from vera_core.source.rows import RawRow, Row
    from vera_core.source.sql_queries import Queries
    from vera_core.source.sql_rows import RowMaker

GROUP_BYTES = 8 << 20
"""Declared bytes that are asked for at a time."""
CHUNK = 8 << 20
"""Bytes of a big content that are asked for at a time."""
GONE = Unreadable(RejectReason.GONE, "the row is not in the source any more, or it changed")
AMBIGUOUS = Unreadable(
    RejectReason.AMBIGUOUS,
    "several rows have this uid and time but other contents, and no primary key tells them apart",
)


@dataclass(frozen=True, slots=True)
class InlineContents:
    """Reads the content column; contents above `limit` bytes are streamed."""

    engine: Engine
    queries: Queries
    maker: RowMaker
    limit: int

    def fetch(self, rows: Sequence[Row]) -> Iterator[Fetched]:
        """The contents of rows, in order."""
        group: list[Row] = []
        weight = 0
        for row in rows:
            size = row.size or 0
            if group and weight + size > GROUP_BYTES:
                yield from self._group(group)
                group, weight = [], 0
            group.append(row)
            weight += size
        if group:
            yield from self._group(group)

    def _group(self, rows: Sequence[Row]) -> Iterator[Fetched]:
        # No row may bring more than the largest one declares, and none more than the limit.
        most = min(self.limit, max(row.size or 0 for row in rows))
        if all(row.place.startswith(ROW_PLACE) for row in rows):
            yield from self._by_key(rows, most)
        else:
            yield from self._by_uid(rows, most)

    def _by_key(self, rows: Sequence[Row], most: int) -> Iterator[Fetched]:
        name = self.queries.key
        keys = [row.place.removeprefix(ROW_PLACE) for row in rows]
        query = sa.select(self.queries.column(name), *self._content(most))
        records = self._all(query.where(self.queries.among(name, keys), self.queries.mine()))
        found = {canonical(key): (size, content) for key, size, content in records}
        for row, key in zip(rows, keys, strict=True):
            if key not in found:
                yield GONE
                continue
            yield self._judge(row, _Found(*found[key], partial(self.queries.among, name, [key])))

    def _by_uid(self, rows: Sequence[Row], most: int) -> Iterator[Fetched]:
        uids: dict[date, list[str]] = defaultdict(list)
        for row in rows:
            uids[day_of(row.created_at)].append(row.uid)
        found: dict[tuple[object, ...], list[_Found]] = defaultdict(list)
        for day, wanted in uids.items():
            window = any_window(day)
            query = self.queries.named(window, wanted).add_columns(*self._content(most))
            *page, sizes, contents = page_columns(self.engine, query)
            batch, places = self.maker.batch(page, window)
            for at, raw in zip(places, batch.rows(), strict=True):
                key = tuple(page[role][at] for role in range(1 + len(self.queries.settings.uid_columns)))
                found[_identity(raw)].append(_Found(sizes[at], contents[at], partial(self.queries.has_key, key)))
        for row in rows:
            candidates = found[_identity(row)]
            fitting = [one for one in candidates if one.size == row.size] or candidates
            if not fitting:
                yield GONE
            elif (len(fitting) > 1 and (fitting[0].size or 0) > most) or len({one.data for one in fitting}) > 1:
                yield AMBIGUOUS
            else:
                yield self._judge(row, fitting[0])

    def _judge(self, row: Row, found: _Found) -> Fetched:
        """What the row found for a manifest row gives."""
        size = found.size
        if size is None:
            return Unreadable(RejectReason.MISSING_CONTENT, "the content is null")
        if row.size is not None and size != row.size:
            return Unreadable(RejectReason.WRONG_SIZE, f"the content has {size} bytes, declared are {row.size}")
        if size > self.limit:
            return BigContent(size, lambda: self._stream(size, found.where()))
        data = found.data
        if len(data) != size:
            return Unreadable(RejectReason.WRONG_SIZE, f"the content has {len(data)} bytes, the database says {size}")
        return data

    def _content(self, most: int) -> tuple[ColumnElement[Any], ColumnElement[Any]]:
        """Size and content; the content is null where it is larger than `most`."""
        size = self.queries.content_size()
        return size, sa.case((size <= most, self.queries.content_bytes()))

    def _all(self, query: sa.Select[Any]) -> list[Sequence[Any]]:
        return all_records(self.engine, query)

    def _stream(self, size: int, where: ColumnElement[bool]) -> BinaryIO:
        return cast("BinaryIO", io.BufferedReader(_ContentStream(self, size, where), CHUNK))

    def read_part(self, connection: Connection, at: int, count: int, where: ColumnElement[bool]) -> bytes:
        """`count` bytes of a content from `at` on; none if the row is gone."""
        part = sa.func.substr(self.queries.content_bytes(), at + 1, count)
        records = connection.execute(sa.select(part).where(where, self.queries.mine())).all()
        return bytes(records[0][0]) if len(records) == 1 and records[0][0] is not None else b""


@dataclass(frozen=True, slots=True)
class _Found:
    """A row as it is now: size and content of its file, and what makes the condition that finds the row again."""

    size: int | None
    content: Any
    where: Callable[[], ColumnElement[bool]]

    @property
    def data(self) -> bytes:
        return b"" if self.content is None else bytes(self.content)


class _ContentStream(io.RawIOBase):
    """A big content, read in parts within one transaction, so that all parts are of one version."""

    def __init__(self, contents: InlineContents, size: int, where: ColumnElement[bool]) -> None:
        super().__init__()
        self._contents, self._size, self._where = contents, size, where
        self._at = 0
        self._stack = ExitStack()
        connection = self._stack.enter_context(connected(contents.engine))
        if contents.queries.dialect != "sqlite":
            # SQLite's transactions see one version anyway.
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        self._connection = connection

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer)).cast("B")
        count = min(len(view), self._size - self._at)
        if not count:
            return 0
        with translated(self._contents.engine):
            data = self._contents.read_part(self._connection, self._at, count, self._where)
        view[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._stack.close()
        super().close()


def _identity(row: RawRow | Row) -> tuple[object, ...]:
    """By what a row without key is known; its size is looked at separately."""
    metadata = row.metadata if isinstance(row.metadata, str) else metadata_text(row.metadata)
    return row.uid, row.created_at, row.media_type, metadata, row.late
