"""A temporary catalogue of rows that were found by walking or reading once: served window by window, in bounded memory.

For sources that have no database: their rows are looked at once, so that all windows of a run come from one look.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from vera_core.errors import UnavailableError
from vera_core.model import from_micros
from vera_core.routing import DAY_MICROS
from vera_core.source.base import Bounds, day_of
from vera_core.source.rows import RawBatch, Reject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import date
    from pathlib import Path

    from vera_core.source.base import Window
    from vera_core.source.rows import RawRow

T = TypeVar("T")

PAGE_ROWS = 1 << 12
_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE rows (created_at INTEGER NOT NULL, uid TEXT, class TEXT, place TEXT, size INTEGER, media_type TEXT,
                   metadata TEXT, reject TEXT, detail TEXT);
CREATE TABLE untimed (uid TEXT, reason TEXT, detail TEXT);
"""
_INSERT = "INSERT INTO rows VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_SELECT = (
    "SELECT uid, created_at, class, place, size, media_type, metadata, reject, detail FROM rows "
    "WHERE created_at >= ? AND created_at < ?"
)


class Catalogue:
    """Rows and untimed rejects, looked for by `find` on first use. Safe to share between threads.

    Its file in `spool` has no name any more once it is open, so that nothing is left behind however the process ends.
    Every method raises UnavailableError if it can't be written.
    """

    def __init__(self, find: Callable[[], Iterable[RawRow | Reject]], spool: Path) -> None:
        self._find = find
        self._spool = spool
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def batches(self, window: Window) -> Iterator[RawBatch]:
        """The rows of a window."""
        bounds = (window.first_micros, window.end_micros)
        # Nothing is written any more, so that one query may stay open for as long as it takes.
        cursor = self._with(lambda connection: connection.execute(_SELECT, bounds))
        while page := self._with(lambda _: cursor.fetchmany(PAGE_ROWS)):
            uids, times, classes, places, sizes, media_types, metadata, rejects, details = zip(*page, strict=True)
            none = [""] * len(page)
            yield RawBatch(uids, times, classes, places, sizes, media_types, metadata, none, rejects, details)

    def days(self) -> dict[date, int]:
        """Every day that has rows, and how many, in order."""
        # Integer division of SQLite rounds to zero; days before 1970 must round down.
        number = f"(created_at - ((created_at % {DAY_MICROS}) + {DAY_MICROS}) % {DAY_MICROS}) / {DAY_MICROS}"
        found = self._ask(f"SELECT {number}, COUNT(*) FROM rows GROUP BY 1 ORDER BY 1")  # noqa: S608 - our own text
        return {day_of(day * DAY_MICROS): count for day, count in found}

    def bounds(self) -> Bounds | None:
        """The first and the last time."""
        first, last = self._ask("SELECT MIN(created_at), MAX(created_at) FROM rows")[0]
        return None if first is None else Bounds(from_micros(first), from_micros(last))

    def untimed(self, limit: int) -> list[Reject]:
        """Rows without a time."""
        return [Reject(*found) for found in self._ask("SELECT * FROM untimed LIMIT ?", (limit,))]

    def _ask(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        return self._with(lambda connection: connection.execute(query, values).fetchall())

    def _with(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with self._guard:
            try:
                if self._connection is None:
                    self._connection = self._fill()
                return work(self._connection)
            except (OSError, sqlite3.Error) as error:
                raise UnavailableError(
                    f"the catalogue can't be written or read: {error}",
                    todo="Free space there or name another spool.", path=self._spool,
                ) from error  # fmt: skip

    def _fill(self) -> sqlite3.Connection:
        self._spool.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._spool, prefix="catalogue-", suffix=".sqlite") as file:
            connection = sqlite3.connect(file.name, check_same_thread=False)
            try:
                connection.executescript(_SCHEMA)
                connection.executemany(_INSERT, self._records(connection))
                connection.execute("CREATE INDEX by_time ON rows (created_at)")
                connection.commit()
            except BaseException:
                connection.close()
                raise
        return connection

    def _records(self, connection: sqlite3.Connection) -> Iterator[tuple[object, ...]]:
        for row in self._find():
            if isinstance(row, Reject):
                connection.execute("INSERT INTO untimed VALUES (?, ?, ?)", row)
                continue
            uid, created_at, name, place, size, media_type, metadata, _, reject, detail = row
            yield created_at, uid, name, place, size, media_type, metadata, reject, detail
