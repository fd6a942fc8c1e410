"""Verifying shards in a process of its own says what verifying them here says, and survives what can happen to it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from vera_core.codec import encode
from vera_core.errors import FormatError, UnavailableError
from vera_core.format import ShardOptions, ShardWriter
from vera_core.operations.inspector import OWN_PROCESS_ROWS, InspectingProcess, inspect_file, inspector

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "süß\nname.vera"
    with path.open("wb") as file:
        writer = ShardWriter(file, options=ShardOptions(bytes(16), "std"))
        for number in range(300):
            writer.append(f"doc-{number}", number, encode(b"content %d " % number * 20))
        writer.finish()
    return path


@pytest.fixture
def process() -> Iterator[InspectingProcess]:
    started = InspectingProcess()
    yield started
    started.end()


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def test_the_process_finds_what_is_found_here(process: InspectingProcess, shard: Path) -> None:
    assert process.inspect(shard) == inspect_file(shard)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    damaged = shard.with_name("damaged.vera")
    damaged.write_bytes(data)
    with pytest.raises(FormatError) as here:
        inspect_file(damaged)
    with pytest.raises(FormatError) as there:
        process.inspect(damaged)
    assert there.value.to_json() == here.value.to_json()
    assert process.inspect(shard) == inspect_file(shard), "it goes on after a finding"


def test_a_killed_process_is_an_error_that_says_so(process: InspectingProcess, shard: Path) -> None:
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(UnavailableError, match="ended with code -9"):
        process.inspect(shard)


def test_a_process_is_started_only_for_many_rows_and_ends_with_its_use(shard: Path) -> None:
    before = children()
    with inspector(OWN_PROCESS_ROWS - 1) as inspect:
        assert children() == before
        assert inspect(shard).entries == 300
    with inspector(OWN_PROCESS_ROWS) as inspect:
        assert len(children() - before) == 1
        assert inspect(shard).entries == 300
    assert children() == before


def test_the_process_does_not_outlive_a_killed_parent() -> None:
    script = (
        "import time\n"
        "from vera_core.operations.inspector import InspectingProcess\n"
        "kept = InspectingProcess()\n"
        "print(kept.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    for _ in range(100):
        if not child.is_running() or child.status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the process still runs 10 seconds after its parent was killed")
