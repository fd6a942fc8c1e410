"""A business database, in SQLite, PostgreSQL and MariaDB, for the same tests."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.fixtures_mariadb import MariaServer, mariadb, mariadb_database
from tests.fixtures_postgres import PostgresServer, postgres, postgres_database
from vera_core.routing import Routing
from vera_core.source.base import BigContent, Terms, Unreadable, Window
from vera_core.source.manifest import Freezing, Manifest, freeze
from vera_core.source.mapping import ContentColumn, ContentKind, SourceSettings, TimeColumn, TimeType
from vera_core.source.sql import SqlSource, open_sources

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.source.base import Source
    from vera_core.source.rows import RawRow, Row

__all__ = ["MariaServer", "PostgresServer", "mariadb", "mariadb_database", "postgres", "postgres_database"]

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
TERMS = Terms(frozenset({"standard", "long"}), "standard", inline_limit=1000)
WINDOW = Window("documents", "default", DAY)

COLUMNS = {
    "sqlite": "id INTEGER PRIMARY KEY, uid TEXT, created_at TEXT, body BLOB, path TEXT, media TEXT, bank TEXT,"
    " kind TEXT, branch TEXT, bytes INTEGER, change_no INTEGER",
    "postgresql": "id BIGSERIAL PRIMARY KEY, uid TEXT, created_at TIMESTAMPTZ, body BYTEA, path TEXT, media TEXT,"
    " bank TEXT, kind TEXT, branch TEXT, bytes BIGINT, change_no BIGINT",
    "mysql": "id BIGINT AUTO_INCREMENT PRIMARY KEY, uid VARCHAR(700), created_at TIMESTAMP(6) NULL, body LONGBLOB,"
    " path TEXT, media TEXT, bank VARCHAR(40), kind VARCHAR(40), branch TEXT, bytes BIGINT, change_no BIGINT",
}
TIME_TYPES = {"sqlite": TimeType.TEXT, "postgresql": TimeType.TIMESTAMPTZ, "mysql": TimeType.TIMESTAMPTZ}
TIMES = {"sqlite": "TEXT", "postgresql": "TIMESTAMPTZ", "mysql": "TIMESTAMP(6) NULL"}
"""Columns of that type, in SQL."""
INIT_MYSQL = "SET time_zone = '+00:00', sql_mode = 'ANSI_QUOTES'"
DATABASES = {"postgresql": "postgres_database", "mysql": "mariadb_database"}
"""The fixture of a fresh database on each server."""


@dataclass
class Business:
    """A database with a table `documents`, and what tests do with it."""

    url: str
    scratch: Path
    engine: sa.Engine = field(init=False)

    def __post_init__(self) -> None:
        # As the business is careful, and as PostgreSQL's driver does by itself: times are written in UTC.
        options = {"connect_args": {"init_command": INIT_MYSQL}} if self.url.startswith("mysql") else {}
        self.engine = sa.create_engine(self.url, poolclass=sa.NullPool, **options)
        self.run(f"CREATE TABLE documents ({COLUMNS[self.dialect]})")

    @property
    def dialect(self) -> str:
        return self.engine.dialect.name

    def run(self, statement: str, *values: dict[str, Any]) -> None:
        """Executes a statement, as the business would."""
        with self.engine.begin() as connection:
            connection.execute(sa.text(statement), list(values) or None)

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(sa.text(statement))]

    def add(self, *rows: dict[str, Any]) -> None:
        """Inserts rows; times are datetimes, written as the database keeps them."""
        for names in {tuple(row) for row in rows}:
            mine = [self._written(row) for row in rows if tuple(row) == names]
            marks = ", ".join(f":{name}" for name in names)
            self.run(f"INSERT INTO documents ({', '.join(names)}) VALUES ({marks})", *mine)

    def settings(self, **changes: Any) -> SourceSettings:
        """Settings for `documents` with inline contents."""
        usual: dict[str, Any] = {
            "url": self.url,
            "table": "documents",
            "uid": "uid",
            "created_at": TimeColumn(column="created_at", type=TIME_TYPES[self.dialect]),
            "content": ContentColumn(column="body", kind=ContentKind.INLINE),
        }
        return SourceSettings(**(usual | changes))

    def sources(self, **changes: Any) -> tuple[SqlSource, ...]:
        return open_sources("documents", self.settings(**changes), TERMS)

    def source(self, **changes: Any) -> SqlSource:
        (only,) = self.sources(**changes)
        return only

    def window(self) -> Window:
        return WINDOW

    def frozen(self, source: Source, window: Window = WINDOW, routing: Routing | None = None) -> Manifest:
        return freeze_into(self.scratch, source, window, routing)

    def archived(self, source: Source, window: Window = WINDOW) -> dict[str, list[bytes | str]]:
        """What packing would get of a window: contents, or reasons, by uid."""
        found: dict[str, list[bytes | str]] = {}
        manifest = self.frozen(source, window)
        kept = list(manifest.rows(0, manifest.row_count - manifest.reject_count))
        for row, content in contents(source, kept):
            found.setdefault(row.uid, []).append(content)
        for row in manifest.rejects():
            found.setdefault(row.uid, []).append(row.reject)
        return found

    def _written(self, row: dict[str, Any]) -> dict[str, Any]:
        moment = row.get("created_at")
        if self.dialect == "sqlite" and isinstance(moment, datetime):
            return row | {"created_at": moment.isoformat()}
        return row


def freeze_into(scratch: Path, source: Source, window: Window, routing: Routing | None = None) -> Manifest:
    number = len(list(scratch.glob("*.parquet")))
    by = Freezing(routing or Routing(), scratch)
    return freeze(source.batches(window), scratch / f"{number}.parquet", window=window, by=by)


def rows_of(source: Source, window: Window = WINDOW) -> list[RawRow]:
    return [row for batch in source.batches(window) for row in batch.rows()]


def contents(source: Source, rows: list[Row]) -> Iterator[tuple[Row, bytes | str]]:
    """Rows with their contents, or the reason why they have none."""
    for row, fetched in zip(rows, source.fetch(rows), strict=True):
        match fetched:
            case BigContent():
                with fetched.open() as file:
                    data = file.read()
                assert len(data) == fetched.size
                yield row, data
            case Unreadable():
                yield row, fetched.reason
            case bytes():
                yield row, fetched


@pytest.fixture(params=["sqlite", *DATABASES])
def business(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Business]:
    """A fresh business database; each test that asks for it runs on all kinds."""
    if request.param == "sqlite":
        (tmp_path / "business.sqlite").touch()
        url = f"sqlite:///{tmp_path}/business.sqlite"
    else:
        url = request.getfixturevalue(DATABASES[request.param])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    made = Business(url, scratch)
    yield made
    made.engine.dispose()


@pytest.fixture
def postgres_business(postgres_database: str, tmp_path: Path) -> Iterator[Business]:
    """A fresh PostgreSQL database, for what only it has."""
    made = Business(postgres_database, tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def maria_business(mariadb_database: str, tmp_path: Path) -> Iterator[Business]:
    """A fresh MariaDB database, for what only it has."""
    made = Business(mariadb_database, tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture
def sqlite_business(tmp_path: Path) -> Iterator[Business]:
    """A fresh SQLite database, for what only it has."""
    (tmp_path / "business.sqlite").touch()
    made = Business(f"sqlite:///{tmp_path}/business.sqlite", tmp_path)
    yield made
    made.engine.dispose()


def mark(text: str) -> dict[str, Any]:
    """What a late mark holds."""
    found: dict[str, Any] = json.loads(text)
    return found
