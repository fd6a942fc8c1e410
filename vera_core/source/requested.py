"""Erasure requests in a table or view of a business database: a row for each file, read whole, never written to.

What becomes of a request is not told to the table: whoever wants to know it asks VERA.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import sqlalchemy as sa

from vera_core.errors import UsageError
from vera_core.model import from_micros
from vera_core.source.database import connect, connected, translated
from vera_core.source.mapping import tenants_of
from vera_core.source.rows import shown, uid_trouble
from vera_core.source.sql_checks import check_present, check_time, column_types
from vera_core.source.sql_dialects import MICROS, STAMPS, in_micros
from vera_core.source.sql_rows import canonical
from vera_core.source.times import TimeReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from sqlalchemy.engine import Engine

    from vera_core.source.mapping import ErasureTable, Given, TimeColumn

PAGE_ROWS = 1 << 12


class RequestedFile(NamedTuple):
    """A file that a request names; `created_at` is None where the table says none."""

    uid: str
    created_at: datetime | None


@dataclass(slots=True)
class Requested:
    """A request: the rows with its id. `troubles` say what is wrong with some of them; it can't be taken then."""

    id: str
    reasons: set[str] = field(default_factory=set)
    requesters: set[str] = field(default_factory=set)
    times: list[datetime] = field(default_factory=list)
    files: list[RequestedFile] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)


class _Row(NamedTuple):
    """A row's values as the database gives them."""

    id: Any
    uid: Any
    tenant: Any
    reason: Any
    requested_by: Any
    requested_at: Any
    created_at: Any


def requested(settings: ErasureTable, tenant: str) -> list[Requested]:
    """The requests of one tenant, by id; all files are in memory, so let a view leave out what is done long since.

    Raises:
        UsageError: the settings don't fit the database, or declare no such tenant.
        UnavailableError: it can't be reached.
    """
    if tenant not in tenants_of(settings.tenant):
        raise UsageError(
            f"erasure_table declares no tenant {tenant!r}",
            todo=f"It declares: {', '.join(tenants_of(settings.tenant))}.",
        )
    found: defaultdict[str, Requested] = defaultdict(lambda: Requested(""))
    for row in _rows(settings):
        if tenant not in _tenants(settings.tenant, row.tenant):
            continue
        text = canonical(row.id)
        request = found[text or ""]
        request.id = text or ""
        _take(settings, request, row)
    return [found[name] for name in sorted(found)]


def _rows(settings: ErasureTable) -> Iterator[_Row]:
    engine = connect(settings.database_url())
    with translated(engine):
        types = column_types(engine, settings.table, settings.schema_name)
    times = {"requested_at": settings.requested_at}
    if settings.created_at is not None:
        times["created_at"] = settings.created_at
    givens = (settings.tenant, settings.reason, settings.requested_by)
    named = [settings.id, settings.uid, *(given.column for given in givens), *(time.column for time in times.values())]
    check_present(settings.table, named, types)
    for setting, column in times.items():
        check_time(setting, column, types, engine.dialect.name)
    selected: list[sa.ColumnElement[Any]] = [sa.column(settings.id), sa.column(settings.uid)]
    selected += [sa.column(given.column) if given.column else sa.literal(given.value) for given in givens]
    selected += [_time_value(engine, times.get(name)) for name in ("requested_at", "created_at")]
    # One column may serve two purposes: each gets a name of its own.
    labelled = [column.label(f"c{number}") for number, column in enumerate(selected)]
    query = sa.select(*labelled).select_from(sa.table(settings.table, schema=settings.schema_name or None))
    with connected(engine) as connection:
        for row in connection.execution_options(yield_per=PAGE_ROWS).execute(query):
            yield _Row(*row)


def _time_value(engine: Engine, column: TimeColumn | None) -> sa.ColumnElement[Any]:
    if column is None:
        return sa.null()
    value: sa.ColumnElement[Any] = sa.column(column.column)
    return MICROS[engine.dialect.name](value) if in_micros(engine.dialect.name, column) else value


def _tenants(given: Given, value: object) -> Sequence[str]:
    """Whose row it is; every declared tenant's where the value leads to none, so that nobody misses it."""
    if not given.column:
        return tenants_of(given)
    name = given.map.get((canonical(value) or "").rstrip(" "))
    return tenants_of(given) if name is None else (name,)


def _take(settings: ErasureTable, request: Requested, row: _Row) -> None:
    if settings.tenant.column and (canonical(row.tenant) or "").rstrip(" ") not in settings.tenant.map:
        request.troubles.append(f"{shown(row.tenant)} is none of the tenants that the settings declare")
    uid = canonical(row.uid)
    trouble = uid_trouble(uid)
    if trouble or uid is None:
        request.troubles.append(trouble or "the uid is no text")
        return
    created_at = None
    if settings.created_at is not None and row.created_at is not None:
        created_at = _time(settings.created_at, row.created_at, request)
    asked = _time(settings.requested_at, row.requested_at, request)
    if asked is not None:
        request.times.append(asked)
    request.reasons.add((canonical(row.reason) or "").strip())
    request.requesters.add((canonical(row.requested_by) or "").strip())
    request.files.append(RequestedFile(uid, created_at))


def _time(column: TimeColumn, value: object, request: Requested) -> datetime | None:
    found = TimeReader(column, in_micros=isinstance(value, int) and column.type in STAMPS).micros([value])
    if found.troubles:
        request.troubles.append(f"{column.column}: {found.troubles[0].detail}")
        return None
    return from_micros(int(found.values[0]))
