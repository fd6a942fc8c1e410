"""Connections to business databases: read-only ones for sources, writing ones for our own schema, and their errors.

The only module that makes engines. Passwords never leave it: errors name a database by its URL without one.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import sqlalchemy as sa
import stamina
from sqlalchemy import event, exc

from vera_core.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy.engine import URL, Connection, Engine

T = TypeVar("T")

CONNECT_SECONDS = 10
ATTEMPTS = 5
PART_ROWS = 256
"""Records of a page that are looked at at a time."""
LOCK_SECONDS = 30
"""How long SQLite waits for another connection's lock."""
READS = "vera_reads"
"""Execution option of a connection that only reads, though its engine is writable: it takes no lock to write."""

_CONNECT_ARGS: dict[str, dict[str, Any]] = {
    "postgresql": {"connect_timeout": CONNECT_SECONDS, "application_name": "vera"},
    "mysql": {"connect_timeout": CONNECT_SECONDS, "charset": "utf8mb4", "program_name": "vera"},
    "sqlite": {"timeout": LOCK_SECONDS},
}
_DRIVERS = {"postgresql": "postgresql+psycopg2", "mysql": "mysql+pymysql", "mariadb": "mysql+pymysql"}
"""The driver of URLs that name none. MariaDB is spoken to as MySQL: what is asked of them is the same."""
_READ_ONLY: dict[str, dict[str, Any]] = {"postgresql": {"postgresql_readonly": True}}
_GIVEN_UP = frozenset({"40001", "40P01", 1205, 1213})
"""Serialisation failures and deadlocks of PostgreSQL, lock timeouts and deadlocks of MySQL."""
_AT_FAULT = (exc.ProgrammingError, exc.DataError, exc.IntegrityError, exc.NotSupportedError)


class BusyError(UnavailableError):
    """The database gave up a transaction in favour of another one: nothing happened, and it can be tried again."""


def connect(url: str, *, writable: bool = False) -> Engine:
    """An engine for a database; connects when first used. A source's engine is not `writable`.

    Raises:
        UsageError: the URL can't be understood, its driver is not installed, or its SQLite file is not there.
    """
    try:
        parsed = sa.make_url(url)
        if parsed.drivername.startswith("mariadb+"):
            parsed = parsed.set(drivername=parsed.drivername.replace("mariadb", "mysql", 1))
        parsed = parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))
        backend = parsed.get_backend_name()
        options = {} if writable else _READ_ONLY.get(backend, {})
        engine = sa.create_engine(
            parsed,
            pool_pre_ping=True,
            hide_parameters=True,
            connect_args=_CONNECT_ARGS.get(backend, {}),
            execution_options=options,
        )
    except (exc.ArgumentError, exc.NoSuchModuleError, ModuleNotFoundError, ValueError):
        # The cause could show the URL, and with it a password.
        raise UsageError(
            "the database URL can't be used",
            todo="Write it like postgresql://user@host/name, mysql://user@host/name or sqlite:////path/file.db.",
        ) from None
    if backend == "mysql":
        event.listen(engine, "connect", _mysql_writer if writable else _mysql_reader)
    if backend == "sqlite":
        _check_file(parsed)
        event.listen(engine, "connect", _sqlite_writer if writable else _sqlite_reader)
        if writable:
            event.listen(engine, "begin", _sqlite_begin)
    return engine


@contextmanager
def connected(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that is rolled back at the end: for reading.

    Raises:
        UnavailableError, UsageError: as `translated`.
    """
    with translated(engine), engine.connect() as connection:
        yield connection


def all_records(engine: Engine, query: sa.Select[Any]) -> list[Sequence[Any]]:
    """All records of a query of bounded size; asked again for some seconds while the database can't be reached.

    Raises:
        UnavailableError, UsageError: as `translated`.
    """
    return _asked(engine, query, lambda result: list(result.all()))


def page_columns(engine: Engine, query: sa.Select[Any]) -> list[list[Any]]:
    """As `all_records`, but the columns of the records: for thousands of them."""
    return _asked(engine, query, lambda result: _columns(result, len(query.selected_columns)))


def _asked(engine: Engine, query: sa.Select[Any], take: Callable[[sa.CursorResult[Any]], T]) -> T:
    for attempt in stamina.retry_context(on=UnavailableError, attempts=ATTEMPTS, timeout=60, wait_initial=0.5):
        with attempt, connected(engine) as connection:
            return take(connection.execute(query))
    raise AssertionError("the last attempt raises")


def _columns(result: sa.CursorResult[Any], count: int) -> list[list[Any]]:
    columns: list[list[Any]] = [[] for _ in range(count)]
    # In parts, as records that wait for their whole page cost twice as much: the garbage collector looks at each again.
    for part in result.partitions(PART_ROWS):
        for column, values in zip(columns, zip(*part, strict=True), strict=True):
            column.extend(values)
    return columns


@contextmanager
def translated(engine: Engine, *, let: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns errors of the database into ours, but for those of the types `let`.

    Raises:
        UnavailableError: it can't be reached, broke off, or is too busy.
        UsageError: it refuses the statement: a missing right, table or column, or a value of the wrong type.
    """
    try:
        yield
    except let:
        raise
    except exc.NoSuchTableError as error:
        raise UsageError(
            f"there is no table or view {error}", todo="Check table and schema_name.", database=shown_url(engine)
        ) from error
    except exc.DBAPIError as error:
        text = str(error.orig).strip().partition("\n")[0]
        if isinstance(error, _AT_FAULT):
            raise UsageError(
                f"the database refuses: {text}",
                todo="Check the source's settings and its account's rights.", database=shown_url(engine),
            ) from error  # fmt: skip
        kind = BusyError if _code(error.orig) in _GIVEN_UP else UnavailableError
        raise kind(
            f"the database can't be reached: {text}",
            todo="Run it again once the database is there.", database=shown_url(engine),
        ) from error  # fmt: skip
    except exc.SQLAlchemyError as error:
        raise UnavailableError(
            f"the database can't be used: {error}", todo="Run it again.", database=shown_url(engine)
        ) from error


def _code(error: BaseException | None) -> object:
    """What a driver's error is told apart by: the SQLSTATE of PostgreSQL, the number of MySQL."""
    arguments = getattr(error, "args", ())
    return getattr(error, "pgcode", None) or (arguments[0] if arguments else None)


def shown_url(engine: Engine) -> str:
    """The database's URL without password and query."""
    return engine.url.set(password=None, query={}).render_as_string()


def _check_file(url: URL) -> None:
    """SQLite makes the file that it does not find: an empty database instead of an error."""
    if url.database and url.database != ":memory:" and not url.database.startswith("file:"):
        path = Path(url.database)
        if not path.is_file():
            raise UsageError("there is no such SQLite database", todo="Check the URL.", path=path)


def _mysql_writer(connection: Any, _record: object) -> None:
    with connection.cursor() as cursor:
        # TIMESTAMP columns are given in the session's zone, and a value that does not fit is an error in this mode.
        cursor.execute("SET time_zone = '+00:00', sql_mode = 'TRADITIONAL'")


def _mysql_reader(connection: Any, record: object) -> None:
    _mysql_writer(connection, record)
    with connection.cursor() as cursor:
        cursor.execute("SET SESSION TRANSACTION READ ONLY")


def _sqlite_reader(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA query_only = ON")
    # Text that is no UTF-8 becomes a rejected row; by default it would be an error of the whole page.
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")


def _sqlite_writer(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transactions begin late and then can't get their lock; `_sqlite_begin` begins them at once.
    connection.isolation_level = None


def _sqlite_begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get(READS, False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
