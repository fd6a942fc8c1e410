"""Progress is for terminals: rate and time left on standard error, and nothing anywhere else."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.cli.support import VERA, new_repository, some_directory, uri
from vera_core.cli.progress import meter, meters

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from vera_core.store.s3 import S3Store

COUNT = """
import time
from vera_core.cli.progress import meters
with meters("Packing") as each:
    for day in ("2026-03-01", "2026-03-02"):
        show = each(day)
        for done in range(0, 1001, 100):
            show(done, 1000, done * 4096)
            time.sleep(0.05)
"""


def on_a_terminal(command: list[str]) -> str:
    """What a command writes to standard error where that is a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as running:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 65536):
                shown += chunk
        except OSError:
            pass  # how Linux says that the other end of a terminal is closed
    os.close(ours)
    assert running.returncode == 0, shown.decode()
    return shown.decode()


def test_rate_and_time_left_on_a_terminal() -> None:
    shown = on_a_terminal([sys.executable, "-c", COUNT])
    for part in ("Packing 2026-03-01", "Packing 2026-03-02", "/1000", "files/s", "MiB/s", "left", "0:00:0"):
        assert part in shown, part


def test_a_real_command_on_a_terminal(s3_store: S3Store, tmp_path: Path) -> None:
    new_repository(s3_store, tmp_path / "spool")
    some_directory(tmp_path / "in")
    assert "Packing 2026-03-01" in on_a_terminal([*VERA, "pack", str(tmp_path / "in"), "-r", uri(s3_store)])
    assert "Verifying" in on_a_terminal([*VERA, "verify", "--deep", "-r", uri(s3_store)])
    assert "Packing" not in on_a_terminal([*VERA, "pack", str(tmp_path / "in"), "-r", uri(s3_store), "--json"])


def test_nothing_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with meter("Verifying", "shards") as show, meters("Packing") as each:
        assert show is None
        assert each("2026-03-01") is None
    assert capsys.readouterr() == ("", "")
