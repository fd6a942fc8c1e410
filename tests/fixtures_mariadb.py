"""A real MariaDB for tests, from Debian's `mariadb-server` (scripts/system-packages installs it), of its own directory.

As root it runs as `nobody`, else as whoever runs the tests. Import the fixtures `mariadb` and `mariadb_database` into a
conftest.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator

READY_SECONDS = 60.0
INSTALL = "MariaDB is not installed: run scripts/system-packages (as root or with sudo)"
OPTIONS = [
    "--skip-networking",
    "--skip-grant-tables",
    "--innodb-flush-log-at-trx-commit=2",
    "--innodb-buffer-pool-size=32M",
    "--max-allowed-packet=64M",
    # Far from UTC, so that a query which leans on the session's zone fails; and tables that tell few texts apart.
    "--default-time-zone=+05:30",
    "--character-set-server=utf8mb4",
    "--collation-server=utf8mb4_unicode_ci",
]


class MariaServer:
    """A server reached through a Unix socket in its directory."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="vera-my-", dir="/tmp"))
        self.root.chmod(0o755)
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._user = [] if self._account is None else [f"--user={self._account.pw_name}"]
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
            for path in (data, self.root):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        install = _program("mariadb-install-db")
        command = [install, "--no-defaults", f"--datadir={data}", "--skip-test-db"]
        done = subprocess.run([*command, *self._user], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def url(self, database: str = "") -> str:
        """The SQLAlchemy URL of a database."""
        return f"mysql+pymysql://root@localhost/{database}?unix_socket={self.root / 'socket'}"

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        names = {"datadir": "data", "socket": "socket", "pid-file": "pid"}
        place = [f"--{option}={self.root / name}" for option, name in names.items()]
        command = [_program("mariadbd"), "--no-defaults", *place, *OPTIONS, *self._user]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with sa.create_engine(self.url(), poolclass=sa.NullPool).connect():
                    return
            except sa.exc.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.root / "log").read_text("utf-8", "replace")) from None
                time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Ends the server: SIGKILL as a crash would, SIGTERM lets it write what it has."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(60)
            self._process = None

    def close(self) -> None:
        """Ends the server and removes its directory."""
        self.stop()
        self._log.close()
        shutil.rmtree(self.root)

    def create_database(self) -> str:
        """A new empty database; returns its URL."""
        name = f"test_{uuid.uuid4().hex}"
        with sa.create_engine(self.url(), poolclass=sa.NullPool).connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return self.url(name)


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    assert found is not None, INSTALL
    return found


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaServer]:
    """One MariaDB for the whole session (each xdist worker has its own)."""
    server = MariaServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def mariadb_database(mariadb: MariaServer) -> str:
    """The URL of a fresh database."""
    return mariadb.create_database()
