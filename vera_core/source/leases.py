"""Leases of days in our schema of the business database: which worker is at which day, and which may still speak.

A lease is for a time by the database's clock, never a worker's. Whoever claims a day draws its next fencing token;
what is recorded of the day is recorded with that token, in one transaction, so that a worker which slept past its lease
records nothing over its successor. Leases keep work from being done twice, no more: that files are archived once is the
slot logs' business, and all of this can be lost without losing a file.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa
import stamina
from sqlalchemy.dialects import postgresql, sqlite

from vera_core.errors import Kind, VeraError
from vera_core.source.database import READS, BusyError, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from sqlalchemy.engine import Connection, Engine

    from vera_core.source.schema import OwnTables

LEASE_SECONDS = 60
_AGAIN = stamina.retry(on=BusyError, attempts=10, timeout=30, wait_initial=0.02, wait_jitter=0.1)
_NOW: dict[str, str] = {
    "postgresql": "CAST(EXTRACT(EPOCH FROM CLOCK_TIMESTAMP()) * 1000000 AS BIGINT)",
    "mysql": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))",
    "sqlite": "CAST((JULIANDAY('now') - 2440587.5) * 86400000000 AS INTEGER)",
}
"""The database's clock in microseconds since 1970 UTC."""


class LeaseLostError(VeraError):
    """The lease ended, and somebody else may have the day: what this worker says of it counts no more.

    No ConflictError: those are answered by looking again, this one by letting go.
    """

    kind = Kind.CONFLICT


class Days(NamedTuple):
    """Days of one tenant of a source, the first to take first."""

    source: str
    tenant: str
    days: Sequence[date]


@dataclass(frozen=True, slots=True)
class Lease:
    """A day that a worker has; `token` counts the claims of the day."""

    source: str
    tenant: str
    day: date
    holder: str
    token: int


@dataclass(frozen=True, slots=True)
class LeaseState:
    """What is known of a day's lease. `left`: seconds until it ends, not above 0 where it has; `progress`: as beaten.

    `age`: seconds since it was claimed.
    """

    lease: Lease
    left: float
    age: float
    progress: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases in one database. Safe to share between threads.

    Every method raises `UnavailableError` when the database can't be reached.
    """

    engine: Engine
    tables: OwnTables
    seconds: float = LEASE_SECONDS

    @_AGAIN
    def claim(self, wanted: Days, holder: str) -> Lease | None:
        """Takes the first of the days that nobody has; None where all are taken.

        Rows that another worker is claiming at this moment are passed over where the database can do that.
        """
        if not wanted.days:
            return None
        table, now = self.tables.leases, self._now()
        mine = (table.c.source == wanted.source, table.c.tenant == wanted.tenant)
        with translated(self.engine), self.engine.begin() as connection:
            known = set(connection.scalars(sa.select(table.c.day).where(*mine, table.c.day.in_(wanted.days))))
            self._make(connection, wanted, [day for day in wanted.days if day not in known])
            free = (
                sa.select(table.c.day, table.c.token)
                .where(*mine, table.c.day.in_(wanted.days), table.c.until <= now)
                .order_by(*_in_order(table.c.day, wanted.days))
                .limit(1)
                .with_for_update(skip_locked=True)
            )
            found = connection.execute(free).first()
            if found is None:
                return None
            change = (
                sa.update(table)
                .where(*mine, table.c.day == found.day, table.c.token == found.token)
                .values(holder=holder, token=found.token + 1, claimed=now, until=now + self._micros(), progress="{}")
            )
            if connection.execute(change).rowcount != 1:
                return None
        return Lease(wanted.source, wanted.tenant, found.day, holder, found.token + 1)

    @_AGAIN
    def beat(self, lease: Lease, progress: Mapping[str, Any]) -> None:
        """Keeps a lease for another while, and tells how far its holder is.

        Raises:
            LeaseLostError: somebody else has the day since.
        """
        values = {"until": self._now() + self._micros(), "progress": json.dumps(progress)}
        with translated(self.engine), self.engine.begin() as connection:
            self._change(connection, lease, values)

    @_AGAIN
    def release(self, lease: Lease) -> None:
        """Lets a day go, unless it is lost already."""
        table = self.tables.leases
        with translated(self.engine), self.engine.begin() as connection:
            connection.execute(sa.update(table).where(*_is(table, lease)).values(until=0))

    def insist(self, connection: Connection, lease: Lease) -> None:
        """Makes sure, within somebody's transaction, that the day is still the lease's until that transaction ends.

        Raises:
            LeaseLostError: it is not.
        """
        self._change(connection, lease, {"token": lease.token})

    def known(self, source: str, tenant: str) -> list[LeaseState]:
        """All leases that run, and those that ended without being released, by day."""
        table = self.tables.leases
        now = self._now().label("now")
        query = (
            sa.select(table, now)
            .where(table.c.source == source, table.c.tenant == tenant, table.c.until > 0)
            .order_by(table.c.day)
        )
        with translated(self.engine), self.engine.connect() as connection:
            rows = connection.execution_options(**{READS: True}).execute(query).all()
        return [
            LeaseState(
                Lease(source, tenant, row.day, row.holder, row.token), (row.until - row.now) / 1e6,
                (row.now - row.claimed) / 1e6, json.loads(row.progress),
            )
            for row in rows
        ]  # fmt: skip

    def _make(self, connection: Connection, wanted: Days, days: Sequence[date]) -> None:
        """Rows for days that have none; somebody else's come first without harm."""
        if not days:
            return
        free = {"holder": "", "token": 0, "claimed": 0, "until": 0, "progress": "{}"}
        rows = [{"source": wanted.source, "tenant": wanted.tenant, "day": day, **free} for day in days]
        connection.execute(_INSERTS[self.engine.dialect.name](self.tables.leases), rows)

    def _change(self, connection: Connection, lease: Lease, values: Mapping[str, Any]) -> None:
        table = self.tables.leases
        if connection.execute(sa.update(table).where(*_is(table, lease)).values(values)).rowcount != 1:
            raise LeaseLostError(
                "the lease of the day was lost: this worker did not answer for too long, and another one has it",
                todo="Nothing is lost; the other one goes on. If it happens often, look for pauses of this machine.",
                source=lease.source, tenant=lease.tenant, day=lease.day, holder=lease.holder, token=lease.token,
            )  # fmt: skip

    def _now(self) -> sa.ColumnElement[int]:
        return sa.literal_column(_NOW[self.engine.dialect.name], sa.BigInteger)

    def _micros(self) -> int:
        return round(self.seconds * 1_000_000)


def _is(table: sa.Table, lease: Lease) -> list[sa.ColumnElement[bool]]:
    values = {"source": lease.source, "tenant": lease.tenant, "day": lease.day, "token": lease.token}
    return [*(table.c[name] == value for name, value in values.items()), table.c.until > 0]


def _in_order(column: sa.ColumnElement[Any], days: Sequence[date]) -> list[sa.ColumnElement[Any]]:
    """What sorts by the place in `days`; nothing more than the day itself where that is the same."""
    if list(days) == sorted(days):
        return [column]
    return [sa.case(*((column == day, place) for place, day in enumerate(days)))]


def _ignoring_mysql(table: sa.Table) -> sa.Insert:
    return sa.insert(table).prefix_with("IGNORE")


_INSERTS: dict[str, Callable[[sa.Table], sa.Insert]] = {
    "postgresql": lambda table: postgresql.insert(table).on_conflict_do_nothing(),
    "mysql": _ignoring_mysql,
    "sqlite": lambda table: sqlite.insert(table).on_conflict_do_nothing(),
}
"""Inserts that leave rows alone which are there already."""
