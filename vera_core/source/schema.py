"""Our own tables in the business database: their columns, their DDL, and whether they are there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.schema import CreateTable

from vera_core.errors import UsageError
from vera_core.model import MAX_NAME_BYTES, MAX_UID_BYTES
from vera_core.source.database import READS, translated

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

SCHEMA_VERSION = 1
DEFAULT_SCHEMA = "vera"
_LONG = sa.Text().with_variant(mysql.LONGTEXT(), "mysql")
"""MySQL's TEXT has 64 KiB at most."""
NAMELESS = frozenset({"sqlite", "mysql"})
"""Databases without schemas: there our tables' names begin with the schema's name.

What MySQL calls a schema is a database; one that several businesses on a server share would mix up their watermarks.
"""


class OwnTables:
    """Our tables under the schema `schema`, as SQLAlchemy sees them.

    Raises:
        UsageError: `schema` is not 1 to 40 lower-case letters, digits and underscores.
    """

    def __init__(self, engine: Engine, schema: str = DEFAULT_SCHEMA) -> None:
        if not 0 < len(schema) <= 40 or not schema.replace("_", "a").isalnum() or schema != schema.lower():
            raise UsageError(
                f"{schema!r} is no schema name for VERA's tables",
                todo="Use 1 to 40 lower-case letters, digits and underscores.",
            )
        self._engine = engine
        self._schema = None if engine.dialect.name in NAMELESS else schema
        self._prefix = f"{schema}_" if self._schema is None else ""
        self._metadata = sa.MetaData(schema=self._schema)
        self.version = self._table("schema_version", sa.Column("version", sa.Integer, primary_key=True))
        self.windows = self._table(
            "windows",
            *self._window_key(),
            sa.Column("state", sa.String(16), nullable=False),
            sa.Column("manifest", sa.String(64), nullable=False),
            sa.Column("verdict", _LONG, nullable=False),
            sa.Column("fence", sa.BigInteger, nullable=False),
            sa.Column("updated_at", sa.String(32), nullable=False),
        )
        self.watermark = self._table(
            "watermark",
            *self._source_key(),
            sa.Column("day", sa.Date, nullable=False, comment="every row created before it is archived and verified"),
            sa.Column("fence", sa.BigInteger, nullable=False),
            sa.Column("updated_at", sa.String(32), nullable=False),
        )
        self.rejects = self._table(
            "rejects",
            *self._window_key(),
            sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("uid", sa.String(MAX_UID_BYTES), nullable=False),
            sa.Column("reason", sa.String(32), nullable=False),
            sa.Column("detail", _LONG, nullable=False),
        )
        self.late_marks = self._table(
            "late_marks",
            *self._source_key(),
            sa.Column("mark", sa.Text, nullable=False),
            sa.Column("updated_at", sa.String(32), nullable=False),
        )

        self.leases = self._table(
            "leases",
            *self._source_key(),
            sa.Column("day", sa.Date, primary_key=True),
            sa.Column("holder", sa.String(256), nullable=False),
            sa.Column("token", sa.BigInteger, nullable=False, comment="counts the claims"),
            sa.Column("claimed", sa.BigInteger, nullable=False, comment="microseconds since 1970, by the database"),
            sa.Column("until", sa.BigInteger, nullable=False, comment="as claimed; 0: let go"),
            sa.Column("progress", sa.Text, nullable=False),
        )

    def ddl(self) -> str:
        """The statements that make the tables, each ending in a semicolon and a newline."""
        statements = [] if self._schema is None else [f"CREATE SCHEMA IF NOT EXISTS {self._schema}"]
        statements += [
            str(CreateTable(table, if_not_exists=True).compile(self._engine)).strip()
            for table in self._metadata.sorted_tables
        ]
        version = sa.insert(self.version).values(version=sa.literal_column(str(SCHEMA_VERSION)))
        statements.append(str(version.compile(self._engine)))
        return "".join(f"{statement};\n" for statement in statements)

    def missing(self) -> list[str]:
        """Names of the tables that are not there.

        Raises:
            UnavailableError: the database can't be reached.
        """
        with translated(self._engine), self._engine.connect() as connection:
            reader = connection.execution_options(**{READS: True})
            there = set(sa.inspect(reader).get_table_names(schema=self._schema))
        return [table.fullname for table in self._metadata.sorted_tables if table.name not in there]

    def create(self) -> None:
        """Makes what is missing, in one transaction.

        Raises:
            UsageError: the account may not.
            UnavailableError: the database can't be reached.
        """
        with translated(self._engine), self._engine.begin() as connection:
            if self._schema is not None:
                connection.execute(sa.schema.CreateSchema(self._schema, if_not_exists=True))
            self._metadata.create_all(connection)
            if not connection.execute(sa.select(self.version.c.version)).first():
                connection.execute(sa.insert(self.version).values(version=SCHEMA_VERSION))

    def _table(self, name: str, *columns: sa.Column[Any]) -> sa.Table:
        # On MySQL: transactions, all of UTF-8, and names that differ in case only are two.
        options: dict[str, Any] = {
            "mysql_engine": "InnoDB", "mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_bin",
        }  # fmt: skip
        return sa.Table(self._prefix + name, self._metadata, *columns, **options)

    @staticmethod
    def _source_key() -> tuple[sa.Column[Any], ...]:
        return tuple(sa.Column(name, sa.String(MAX_NAME_BYTES), primary_key=True) for name in ("source", "tenant"))

    def _window_key(self) -> tuple[sa.Column[Any], ...]:
        return (
            *self._source_key(),
            sa.Column("day", sa.Date, primary_key=True),
            sa.Column("revision", sa.Integer, primary_key=True, autoincrement=False),
        )
