"""Workers side by side, killed at random: every row is archived exactly once, and the counts close."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.cli.support import VERA, new_repository, uri, vera
from tests.fixtures_postgres import PostgresServer, postgres, postgres_database
from tests.protocol.packing import opened
from vera_core.operations.retrieve import Retriever

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.s3 import S3Store

__all__ = ["PostgresServer", "postgres", "postgres_database"]

FIRST = date(2026, 3, 1)
WORKERS = 3
SETTINGS = """
repository = "{repository}"
spool = "spool"

[sources.letters]
url = "{url}"
table = "letters"
uid = "uid"
created_at = {{ column = "created_at", type = "epoch_s" }}
content = {{ column = "body", kind = "inline" }}
begin = {begin}
lease_seconds = 3
lag_days = {lag}
"""


def fill(url: str, days: int, each: int) -> dict[str, tuple[date, bytes]]:
    """A table with that many letters on each of so many days; what is in it."""
    rng = random.Random(days)
    wanted: dict[str, tuple[date, bytes]] = {}
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        kind = "BYTEA" if engine.dialect.name == "postgresql" else "BLOB"
        columns = f"uid VARCHAR(40) PRIMARY KEY, created_at BIGINT, body {kind}"
        connection.exec_driver_sql(f"CREATE TABLE letters ({columns})")
        rows: list[dict[str, Any]] = []
        for day in range(days):
            for number in range(each):
                uid, body = f"{day:03d}-{number:04d}", rng.randbytes(rng.randint(1, 300))
                moment = (FIRST - date(1970, 1, 1)).days * 86_400 + day * 86_400 + rng.randint(0, 86_399)
                rows.append({"uid": uid, "at": moment, "body": body})
                wanted[uid] = (FIRST + timedelta(days=day), body)
        connection.execute(sa.text("INSERT INTO letters VALUES (:uid, :at, :body)"), rows)
    engine.dispose()
    return wanted


def settings(repository: str, url: str, days: int) -> str:
    """The settings of a migration of just those days."""
    lag = (datetime.now(UTC).date() - FIRST).days - days + 1
    return SETTINGS.format(repository=repository, url=url, begin=FIRST.isoformat(), lag=lag)


def start(root: Path, name: str) -> subprocess.Popen[bytes]:
    """A worker of its own name, as on a machine of its own."""
    environment = os.environ | {"VERA_ACTOR": name, "VERA_SETTINGS": str(root / "vera.toml")}
    log = (root / f"{name}.log").open("ab")
    command = [*VERA, "migrate", "--continuous", "--every", "1"]
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment)


def assert_each_once(s3_store: S3Store, root: Path, wanted: dict[str, tuple[date, bytes]]) -> None:
    """Reads everything back, bit for bit, and finds each file once and nothing else (I1, I2)."""
    reader = Retriever(opened(s3_store, root / "reader"))
    for uid, (day, body) in wanted.items():
        assert reader.get(uid, day) == body, uid
        assert len(reader.versions(uid, day)) == 1, uid
    for day in sorted({day for day, _ in wanted.values()}):
        listed = Counter(report.uid for report in reader.list_day(day))
        assert listed == Counter(uid for uid, (own, _) in wanted.items() if own == day)


def run_with_kills(s3_store: S3Store, root: Path, url: str, *, days: int, kills: int, each: int) -> None:
    """Kills random workers again and again until all is done; checks that all is there once and the counts close."""
    new_repository(s3_store, root / "spool")
    wanted = fill(url, days, each)
    (root / "vera.toml").write_text(settings(uri(s3_store), url, days))
    os.environ["VERA_SETTINGS"] = str(root / "vera.toml")
    assert vera("migrate", "--create-schema").code == 0
    rng = random.Random(kills)
    workers = [start(root, f"worker-{number}") for number in range(WORKERS)]
    last = (FIRST + timedelta(days=days)).strftime("%Y%m%d")
    deadline = time.monotonic() + 60 + 10 * kills
    try:
        for _ in range(kills):
            time.sleep(rng.uniform(0.1, 2.0))
            victim = rng.randrange(WORKERS)
            workers[victim].send_signal(signal.SIGKILL)
            workers[victim].wait()
            workers[victim] = start(root, f"worker-{victim}")
        while True:
            (status,) = vera("migrate", "status", "--json").document["sources"]
            if status["watermark"] >= last:
                break
            assert time.monotonic() < deadline, "\n".join(path.read_text()[-2000:] for path in root.glob("*.log"))
            time.sleep(1)
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        assert [worker.wait(60) for worker in workers] == [128 + signal.SIGTERM] * WORKERS
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert status["failed"] == 0
    (again,) = vera("migrate", "--to", (FIRST + timedelta(days=days - 1)).isoformat(), "--json").document["sources"]
    assert (again["archived"], again["windows"]) == (0, []), "nothing is due"
    assert vera("verify", "--deep").code == 0
    assert_each_once(s3_store, root, wanted)


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERA_SETTINGS", "")


@pytest.mark.timeout(600)
def test_workers_killed_at_random(s3_store: S3Store, tmp_path: Path, postgres_database: str) -> None:
    run_with_kills(s3_store, tmp_path, postgres_database, days=16, kills=20, each=40)


@pytest.mark.soak
def test_workers_killed_at_random_two_hundred_times(s3_store: S3Store, tmp_path: Path, postgres_database: str) -> None:
    run_with_kills(s3_store, tmp_path, postgres_database, days=365, kills=200, each=100)


def test_a_worker_drains_and_status_tells_of_it(s3_store: S3Store, tmp_path: Path) -> None:
    """SIGTERM in mid-day: the day is finished, no other is begun, and the lease is let go."""
    (tmp_path / "business.sqlite").touch()
    url = f"sqlite:///{tmp_path}/business.sqlite"
    new_repository(s3_store, tmp_path / "spool")
    fill(url, 30, 60)
    (tmp_path / "vera.toml").write_text(settings(uri(s3_store), url, 30))
    os.environ["VERA_SETTINGS"] = str(tmp_path / "vera.toml")
    assert vera("migrate", "--create-schema").code == 0
    worker = start(tmp_path, "only")
    try:
        seen: dict[str, Any] = {}
        deadline = time.monotonic() + 60
        while not seen.get("workers") and time.monotonic() < deadline:
            (seen,) = vera("migrate", "status", "--json").document["sources"]
        assert [line["holder"] for line in seen["workers"]] == ["only"]
        # Between two days it has none: so it is asked until it is seen at one.
        while "only" not in vera("migrate", "status").text:
            assert time.monotonic() < deadline
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(60) == 128 + signal.SIGTERM
    finally:
        worker.kill()
        worker.wait()
    with closing(sqlite3.connect(tmp_path / "business.sqlite")) as database:
        states = dict(database.execute("SELECT state, count(*) FROM vera_windows GROUP BY state"))
        leases = database.execute("SELECT count(*) FROM vera_leases WHERE until > 0").fetchone()
    assert set(states) == {"verified"}, "no day is left half done"
    assert 0 < states["verified"] < 30
    assert leases == (0,)
