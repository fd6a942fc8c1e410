"""`make demo` and `make dev` end to end, with fewer files: they do what they say, and leave nothing running."""

from __future__ import annotations

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from datetime import date
from typing import TYPE_CHECKING

import psutil
import pytest

from vera_assets.sample import documents, write_database

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FILES = 400
DEMO = f"from pathlib import Path; from vera_assets.demo import demo; demo(Path(%r), limit={FILES})"


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Children take Ctrl-C: whoever runs the tests in the background has them ignore it, and that is inherited."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def of_world(home: Path) -> list[str]:
    """Command lines of processes that belong to a world, wherever they were started from."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "environ"]):
        told = [process.info["cwd"] or "", *(process.info["cmdline"] or []), *(process.info["environ"] or {}).values()]
        if process.pid != os.getpid() and any(text.startswith(str(home)) for text in told):
            found.append(" ".join(process.info["cmdline"] or []))
    return found


def assert_nothing_runs(home: Path) -> None:
    deadline = time.monotonic() + 20
    while of_world(home) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert of_world(home) == []


def test_the_demo(tmp_path: Path) -> None:
    home = tmp_path / "demo"
    done = subprocess.run([sys.executable, "-c", DEMO % str(home)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert_nothing_runs(home)
    shown = done.stdout
    for number in range(1, 9):
        assert f"\n{number}. " in shown
    assert re.findall(r"(\d+) files \(.*all equal", shown) == [str(FILES), str(FILES - 1)], (
        "before and after the attack"
    )
    assert shown.count("the file was erased") == 2, "before and after the attack, too"
    assert shown.count("gives a key of these files: passed") == 1
    assert re.search(r"put back +4 objects", shown), "a keyring a day and the key of the tenant, from the copy"
    assert re.search(r"(\d+) checks passed.*\n.*\1 checks passed.*\n.*\1 checks passed", shown)
    attacked = re.search(r"of ([\d,]+) versions that count ([\d,]+) refused to go, ([\d,]+) went", shown)
    assert attacked
    assert attacked[1] == attacked[2]
    assert attacked[3] == "0"
    assert "FAILED" not in shown
    with closing(sqlite3.connect(home / "business.sqlite")) as database:
        states = database.execute("SELECT state, count(*) FROM vera_windows GROUP BY state").fetchall()
    assert states == [("verified", 3)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_running(tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "demo"
    command = [sys.executable, "-m", "vera_assets.demo", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if "$ vera init" in line or line.startswith("2."):
                break
        assert of_world(home), "its server runs"
        running.send_signal(number)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 128 + number
    assert "Traceback" not in errors
    assert_nothing_runs(home)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_dev_shows_the_user_interface_until_it_is_interrupted(tmp_path: Path) -> None:
    home, port = tmp_path / "dev", free_port()
    command = [sys.executable, "-m", "vera_assets.dev", str(home)]
    environment = {**os.environ, "PORT": str(port)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        assert running.stdout is not None
        shown = ""
        for line in running.stdout:
            shown += line
            if "Ctrl-C" in line:
                break
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info") as reply:
            assert reply.status == 200
        told = subprocess.run(
            ["bash", "-c", f"source {home}/environment; vera ls --json"], capture_output=True, text=True, check=False
        )
        assert '"ok": true' in told.stdout, told.stderr
        taken = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert taken.returncode == 2
        assert f"port {port} is taken" in taken.stderr
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=90)
    assert (running.returncode, errors) == (0, "")
    assert str(port) in shown
    assert_nothing_runs(home)


def test_the_sample_is_spread_over_three_days(tmp_path: Path) -> None:
    sample = write_database(tmp_path / "business.sqlite", today=date(2026, 3, 10), limit=300)
    rows = list(documents(tmp_path / "business.sqlite"))
    assert [day.isoformat() for day in sample.days] == ["2026-03-06", "2026-03-07", "2026-03-08"]
    assert (sample.files, len(rows)) == (300, 300)
    assert sample.content_bytes == sum(row.size for row in rows)
    counts = [sum(row.created_at.date() == day for row in rows) for day in sample.days]
    assert counts == [100, 100, 100]
    assert all(row.path.is_file() and row.path.stat().st_size == row.size for row in rows)
    assert len({row.uid for row in rows}) == 300
