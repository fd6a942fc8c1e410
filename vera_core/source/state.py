"""How far a migration is, in a schema of our own in the business database: windows, watermark, rejects, late marks.

Everything here can be lost without losing a file: what is archived stands in the bucket. The watermark moves only by
compare-and-swap, only over days whose windows are all verified, and never back. Nothing outside our tables is touched,
and they are made only when a person asks for it.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
import stamina
from sqlalchemy import exc

from vera_core.errors import ConflictError, IncompatibleError, UsageError
from vera_core.model import format_time
from vera_core.source.base import Window
from vera_core.source.database import READS, BusyError, shown_url, translated
from vera_core.source.leases import LEASE_SECONDS, Leases
from vera_core.source.rows import Reject
from vera_core.source.schema import DEFAULT_SCHEMA, SCHEMA_VERSION, OwnTables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sqlalchemy.engine import Connection, Engine

    from vera_core.source.leases import Lease

ONE_DAY = timedelta(days=1)
ANSWERED_BY = "answered_by_revision"
"""Where a verdict says which later revision answers for its own."""
REJECTS_KEPT = 10_000
"""Rejected rows of a window that are named in the database; the bucket names them all."""
_BATCH = 1000
_AGAIN = stamina.retry(on=BusyError, attempts=10, timeout=30, wait_initial=0.02, wait_jitter=0.1)
_TRIES = 3


class WindowState(StrEnum):
    """How far a window's revision is. `REJECTS`: verified, but for named rows that could not be archived."""

    FROZEN = "frozen"
    PACKED = "packed"
    VERIFIED = "verified"
    REJECTS = "rejects"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """What is known of a window's revision. `fence` counts the changes of this record; `manifest` is the hex digest."""

    window: Window
    state: WindowState
    manifest: str = ""
    verdict: Mapping[str, Any] = field(default_factory=dict)
    fence: int = 0
    updated_at: str = ""

    @property
    def day(self) -> date:
        """The window's day."""
        return self.window.day

    @property
    def revision(self) -> int:
        """The window's revision."""
        return self.window.revision

    @property
    def answered_by(self) -> int:
        """The later revision that answered for this one; 0 for none."""
        return int(self.verdict.get(ANSWERED_BY, 0))


@dataclass(frozen=True, slots=True)
class Watermark:
    """Every row created before `day` is archived and verified, or a named reject. `fence` counts the moves."""

    day: date
    fence: int


class MigrationState:
    """The state of all sources in one database, in our schema `schema`. Safe to share between threads.

    Every method raises `UnavailableError` when the database can't be reached.
    """

    def __init__(self, engine: Engine, schema: str = DEFAULT_SCHEMA, *, lease_seconds: float = LEASE_SECONDS) -> None:
        self._engine = engine
        self._tables = OwnTables(engine, schema)
        self.leases = Leases(engine, self._tables, lease_seconds)

    def ddl(self) -> str:
        """The statements that make our tables, for an administrator to read and run."""
        return self._tables.ddl()

    def missing_tables(self) -> list[str]:
        """Names of our tables that are not there."""
        return self._tables.missing()

    def create(self) -> None:
        """Makes our tables where they are missing. Call it only when a person asked for exactly this.

        Raises:
            UsageError: the account may not make them.
        """
        self._tables.create()

    def check(self) -> None:
        """Makes sure that our tables are there and of a version that is known; call it before anything else.

        Raises:
            UsageError: they are not there; the error tells how to make them.
            IncompatibleError: a newer VERA made them.
        """
        missing = self._tables.missing()
        if missing:
            raise UsageError(
                f"VERA's own tables are not in the database: {', '.join(missing)}",
                todo="Run `vera migrate --create-schema`, or have these statements run:\n" + self._tables.ddl(),
                database=shown_url(self._engine),
            )
        with self._reading() as connection:
            version = connection.execute(sa.select(sa.func.max(self._tables.version.c.version))).scalar_one()
        if version is None or version > SCHEMA_VERSION:
            raise IncompatibleError(
                f"VERA's own tables are of version {version}; this VERA knows {SCHEMA_VERSION}",
                todo="Use a newer VERA.", database=shown_url(self._engine),
            )  # fmt: skip

    def watermark(self, source: str, tenant: str) -> Watermark | None:
        """Where the watermark stands; None before `start_watermark`."""
        table = self._tables.watermark
        with self._reading() as connection:
            row = connection.execute(
                sa.select(table.c.day, table.c.fence).where(table.c.source == source, table.c.tenant == tenant)
            ).first()
        return None if row is None else Watermark(row.day, row.fence)

    @_AGAIN
    def start_watermark(self, source: str, tenant: str, day: date) -> Watermark:
        """Sets the watermark to the first day to migrate, unless it stands already; returns where it stands."""
        values = {"source": source, "tenant": tenant, "day": day, "fence": 0, "updated_at": _now()}
        # A violated key means that it stands already: whoever was first decided.
        with suppress(exc.IntegrityError), self._writing() as connection:
            connection.execute(sa.insert(self._tables.watermark).values(values))
        found = self.watermark(source, tenant)
        assert found is not None
        return found

    def advance(self, source: str, tenant: str, *, past_rejects: bool = False) -> tuple[Watermark, Watermark]:
        """Moves the watermark over all days from it on whose windows are verified; returns it before and after.

        `past_rejects`: days with named rejects count as verified.

        Raises:
            UsageError: it was never started.
        """
        first = None
        while True:
            seen = self.watermark(source, tenant)
            if seen is None:
                raise UsageError("the watermark was never started", source=source, tenant=tenant)
            first = first or seen
            day = self._verified_until(source, tenant, seen.day, past_rejects=past_rejects)
            if day == seen.day:
                return first, seen
            self.move_watermark(source, tenant, seen, day, past_rejects=past_rejects)

    @_AGAIN
    def move_watermark(
        self, source: str, tenant: str, seen: Watermark, day: date, *, past_rejects: bool = False
    ) -> Watermark | None:
        """Moves the watermark from `seen` forward to `day` in one statement; None, and no change, if it can't.

        It can't if it does not stand at `seen` any more, if `day` is not after it, or if a day between the two has no
        window or one that is not verified.
        """
        mark, windows = self._tables.watermark, self._tables.windows
        between = (
            windows.c.source == source, windows.c.tenant == tenant, windows.c.day >= seen.day, windows.c.day < day,
        )  # fmt: skip
        passed = windows.c.state.in_(_passed(past_rejects))
        days = sa.select(sa.func.count(windows.c.day.distinct())).where(*between).scalar_subquery()
        move = (
            sa.update(mark)
            .where(mark.c.source == source, mark.c.tenant == tenant, mark.c.fence == seen.fence, mark.c.day == seen.day)
            .where(mark.c.day < day, days == (day - seen.day).days)
            .where(~sa.exists().where(*between, ~passed))
            .values(day=day, fence=mark.c.fence + 1, updated_at=_now())
        )
        with self._writing() as connection:
            moved = connection.execute(move).rowcount == 1
        return Watermark(day, seen.fence + 1) if moved else None

    def window(self, window: Window) -> WindowRecord | None:
        """What is known of a window's revision."""
        found = self.windows(window.source, window.tenant, first=window.day, end=window.day + ONE_DAY)
        return next((record for record in found if record.revision == window.revision), None)

    def windows(
        self,
        source: str,
        tenant: str,
        *,
        first: date | None = None,
        end: date | None = None,
        verdicts: bool = True,
    ) -> list[WindowRecord]:
        """All revisions of the windows of days [first, end), by day and revision.

        Without `verdicts` those are left empty: they are long, and whoever looks at years of days needs only states.
        """
        table = self._tables.windows
        columns = [column for column in table.c if verdicts or column is not table.c.verdict]
        query = sa.select(*columns).where(table.c.source == source, table.c.tenant == tenant)
        if first is not None:
            query = query.where(table.c.day >= first)
        if end is not None:
            query = query.where(table.c.day < end)
        with self._reading() as connection:
            return [_record(row) for row in connection.execute(query.order_by(table.c.day, table.c.revision))]

    def settled(self, source: str, tenant: str, *, since: str, limit: int) -> list[WindowRecord]:
        """The first `limit` windows with a good verdict (rejects or none) that were written after `since`, in order."""
        table = self._tables.windows
        query = (
            sa.select(table)
            .where(table.c.source == source, table.c.tenant == tenant, table.c.updated_at > since)
            .where(table.c.state.in_((WindowState.VERIFIED, WindowState.REJECTS)))
            .order_by(table.c.updated_at, table.c.day, table.c.revision)
            .limit(limit)
        )
        with self._reading() as connection:
            return [_record(row) for row in connection.execute(query)]

    def latest(
        self, source: str, tenant: str, *, first: date | None = None, end: date | None = None
    ) -> list[WindowRecord]:
        """The latest revision of each day in [first, end), by day."""
        by_day = {record.day: record for record in self.windows(source, tenant, first=first, end=end)}
        return list(by_day.values())

    @_AGAIN
    def record(
        self,
        window: Window,
        state: WindowState,
        *,
        manifest: str = "",
        verdict: Mapping[str, Any] | None = None,
        rejects: Iterable[Reject] = (),
        fence: int | None = None,
        lease: Lease | None = None,
    ) -> WindowRecord:
        """Writes what became of a window's revision, and its first 10,000 rejects in place of those before.

        `fence`: the change is made only if the record's fence still is this one (0: there is none yet); `lease`: only
        if the day is still this worker's.

        Raises:
            ConflictError: somebody else changed the record since.
            LeaseLostError: somebody else has the day since.
        """
        values = {
            "state": state.value, "manifest": manifest, "verdict": json.dumps(verdict or {}), "updated_at": _now(),
        }  # fmt: skip
        named = list(islice(rejects, REJECTS_KEPT))
        for attempt in range(_TRIES):
            try:
                with self._writing() as connection:
                    if lease is not None:
                        self.leases.insist(connection, lease)
                    self._put(connection, window, values, fence)
                    self._put_rejects(connection, window, named)
                break
            except exc.IntegrityError as error:
                # Somebody inserted the same record at the same moment: next time there is one to update.
                if fence is not None or attempt == _TRIES - 1:
                    raise self._changed(window) from error
        found = self.window(window)
        assert found is not None
        return found

    def rejects(self, source: str, tenant: str, *, day: date | None = None) -> Iterator[tuple[Window, Reject]]:
        """Rejected rows by name, of one day or of all."""
        table = self._tables.rejects
        query = sa.select(table).where(table.c.source == source, table.c.tenant == tenant)
        if day is not None:
            query = query.where(table.c.day == day)
        with self._reading() as connection:
            ordered = query.order_by(table.c.day, table.c.revision, table.c.number)
            for row in connection.execution_options(yield_per=_BATCH).execute(ordered):
                window = Window(row.source, row.tenant, row.day, row.revision)
                yield window, Reject(row.uid, row.reason, row.detail)

    def late_mark(self, source: str, tenant: str) -> str:
        """Up to where late rows were looked for; "" before the first look. For `Source.late`."""
        table = self._tables.late_marks
        query = sa.select(table.c.mark).where(table.c.source == source, table.c.tenant == tenant)
        with self._reading() as connection:
            return str(connection.execute(query).scalar() or "")

    @_AGAIN
    def move_late_mark(self, source: str, tenant: str, seen: str, mark: str) -> bool:
        """Replaces the late mark `seen` by `mark`; False, and no change, if it is not `seen` any more."""
        table = self._tables.late_marks
        mine = (table.c.source == source, table.c.tenant == tenant)
        values = {"mark": mark, "updated_at": _now()}
        try:
            with self._writing() as connection:
                if not seen and not connection.execute(sa.select(table.c.mark).where(*mine)).first():
                    connection.execute(sa.insert(table).values(source=source, tenant=tenant, **values))
                    return True
                return (
                    connection.execute(sa.update(table).where(*mine, table.c.mark == seen).values(values)).rowcount == 1
                )
        except exc.IntegrityError:
            return False

    def _verified_until(self, source: str, tenant: str, day: date, *, past_rejects: bool) -> date:
        """The first day from `day` on that has no window, or one that is not verified."""
        passed = _passed(past_rejects)
        states: dict[date, bool] = {}
        for record in self.windows(source, tenant, first=day):
            states[record.day] = states.get(record.day, True) and record.state in passed
        while states.get(day, False):
            day += ONE_DAY
        return day

    def _put(self, connection: Connection, window: Window, values: Mapping[str, Any], fence: int | None) -> None:
        table = self._tables.windows
        change = sa.update(table).where(*_same(table, window)).values(**values, fence=table.c.fence + 1)
        if fence is not None:
            change = change.where(table.c.fence == fence)
        if connection.execute(change).rowcount == 1:
            return
        if fence:
            raise self._changed(window)
        connection.execute(sa.insert(table).values(**_key(window), **values, fence=1))

    def _changed(self, window: Window) -> ConflictError:
        return ConflictError(
            "somebody else recorded this window since it was read",
            todo="Read its state again; the work itself may be repeated at any time.",
            source=window.source, tenant=window.tenant, day=window.day, revision=window.revision,
        )  # fmt: skip

    def _put_rejects(self, connection: Connection, window: Window, rejects: list[Reject]) -> None:
        table = self._tables.rejects
        connection.execute(sa.delete(table).where(*_same(table, window)))
        lines = [
            {**_key(window), "number": number, "uid": reject.uid, "reason": reject.reason, "detail": reject.detail}
            for number, reject in enumerate(rejects)
        ]
        for start in range(0, len(lines), _BATCH):
            connection.execute(sa.insert(table), lines[start : start + _BATCH])

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._engine), self._engine.connect() as connection:
            yield connection.execution_options(**{READS: True})

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction. A violated key is the caller's business: it means that somebody else was first."""
        with translated(self._engine, let=(exc.IntegrityError,)), self._engine.begin() as connection:
            yield connection


def _passed(past_rejects: bool) -> tuple[str, ...]:
    """States of windows that the watermark may pass."""
    return (WindowState.VERIFIED, WindowState.REJECTS) if past_rejects else (WindowState.VERIFIED,)


def _key(window: Window) -> dict[str, object]:
    return {"source": window.source, "tenant": window.tenant, "day": window.day, "revision": window.revision}


def _same(table: sa.Table, window: Window) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in _key(window).items()]


def _record(row: sa.Row[Any]) -> WindowRecord:
    window = Window(row.source, row.tenant, row.day, row.revision)
    verdict = json.loads(row._mapping.get("verdict", "{}"))
    return WindowRecord(window, WindowState(row.state), row.manifest, verdict, row.fence, row.updated_at)


def _now() -> str:
    return format_time(datetime.now(UTC))
