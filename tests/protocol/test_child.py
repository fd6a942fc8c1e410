"""Helping processes: calls and answers of any size in order, and an end with or without their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from vera_core.errors import UnavailableError
from vera_core.operations.child import ChildProcess

if TYPE_CHECKING:
    from collections.abc import Iterator

ECHO = "tests.protocol.echo"


@pytest.fixture
def echo() -> Iterator[ChildProcess]:
    started = ChildProcess(ECHO, "<", ">")
    yield started
    started.end()
    started.close()


def test_calls_are_answered_in_order_whatever_their_size(echo: ChildProcess) -> None:
    calls = [b"x" * size for size in (0, 1, 100_000, 3_000_000, 7)]
    for call in calls:
        # All are sent before an answer is taken: more than pipes hold.
        echo.send(call)
    assert [echo.receive() for _ in calls] == [b"<" + call + b">" for call in calls]


def test_what_the_process_prints_is_no_answer(echo: ChildProcess) -> None:
    echo.send(b"print")
    assert echo.receive() == b"<print>"


def exchange(child: ChildProcess, call: bytes) -> bytes:
    child.send(call)
    return child.receive()


@pytest.mark.parametrize("size", [1, 3_000_000])
def test_a_killed_process_is_an_error_that_says_so(echo: ChildProcess, size: int) -> None:
    os.kill(echo.pid, signal.SIGKILL)
    with pytest.raises(UnavailableError, match="ended with code -9"):
        exchange(echo, b"x" * size)


def test_a_process_does_not_outlive_a_killed_parent() -> None:
    script = (
        "import time\n"
        "from vera_core.operations.child import ChildProcess\n"
        f"kept = ChildProcess({ECHO!r}, '', '')\n"
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
