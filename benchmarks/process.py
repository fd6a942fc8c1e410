"""Measured calls: a function runs in a process of its own, so that its time, CPU and peak memory are its own alone.

`call` starts the process; in it the function gets a `Meter` and says with it which part of its work is measured.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from vera_core.operations.pace import LEAN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SAMPLE_SECONDS = 0.05
_IO = Path("/proc/self/io")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a call took and returned.

    `cpu_seconds` counts helpers, too. `own_bytes` is the most memory that the process ever had, as the kernel says
    (VmHWM), `helper_bytes` the sum of the same for each process it started: together never less than was in use at any
    time, what they share counted for each. Memory is 0 where it was not watched. `reads` and `read_bytes` count system
    calls that read, -1 where the system does not tell.
    """

    seconds: float
    cpu_seconds: float
    reads: int
    read_bytes: int
    own_bytes: int = 0
    helper_bytes: int = 0
    outcome: dict[str, Any]


@dataclass(slots=True)
class Meter:
    """`with meter:` around what is measured; the last time counts."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    reads: int = -1
    read_bytes: int = -1
    _before: tuple[float, float, tuple[int, int]] = field(default=(0.0, 0.0, (0, 0)))

    def __enter__(self) -> Self:
        self._before = (_cpu_seconds(), time.perf_counter(), _io())
        return self

    def __exit__(self, *_: object) -> None:
        reads, read_bytes = _io()
        cpu, began, (reads_before, bytes_before) = self._before
        self.seconds, self.cpu_seconds = time.perf_counter() - began, _cpu_seconds() - cpu
        if reads >= 0:
            self.reads, self.read_bytes = reads - reads_before, read_bytes - bytes_before


def call(function: Callable[..., dict[str, Any]], arguments: Mapping[str, object], *, watch: bool = False) -> Measured:
    """Runs `function(meter, **arguments)`, a function of a module with JSON arguments and outcome.

    `watch`: look at the memory of helpers meanwhile, which costs about a percent of a core.

    Raises:
        RuntimeError: it failed; its standard error says why.
    """
    task = {"module": function.__module__, "name": function.__name__, "watch": watch, "arguments": arguments}
    command = [sys.executable, "-m", __name__]
    text = json.dumps(task, default=str)
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, text=True, check=False, env={**LEAN, **os.environ}
    )
    if done.returncode:
        raise RuntimeError(f"{function.__module__}.{function.__name__} failed with {arguments}")
    return Measured(**json.loads(done.stdout))


def peak_bytes(pid: int | str = "self") -> int:
    """The most memory that a process ever had, as the kernel says; 0 where it has ended or nobody knows."""
    # Not ru_maxrss: on Linux that begins with what the process that started this one had.
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


def _cpu_seconds() -> float:
    """CPU time of this process and of its helpers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _io() -> tuple[int, int]:
    """System calls that read and the bytes they gave, without those of this function; (-1, -1) if nobody counts."""
    try:
        handle = os.open(_IO, os.O_RDONLY)
    except OSError:
        return -1, -1
    try:
        text = os.read(handle, 4096).decode()
    finally:
        os.close(handle)
    facts = dict(line.split(": ") for line in text.splitlines())
    reads, read_bytes = int(facts["syscr"]) - _io_own[0], int(facts["rchar"]) - _io_own[1]
    _io_own[0] += 1
    _io_own[1] += len(text)
    return reads, read_bytes


_io_own = [0, 0]


class _Watch:
    """Looks at the memory of this process's helpers again and again, in a thread."""

    def __init__(self) -> None:
        self._peaks: dict[int, int] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def total(self) -> int:
        """The sum of the helpers' peaks; ends the looking."""
        self._ended.set()
        self._thread.join()
        return sum(self._peaks.values())

    def _look(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(SAMPLE_SECONDS):
            with suppress(psutil.NoSuchProcess):
                for child in own.children(recursive=True):
                    # The last look counts: until it runs its own program a child shows its parent's memory.
                    self._peaks[child.pid] = peak_bytes(child.pid) or self._peaks.get(child.pid, 0)


def main() -> None:
    """Runs the call on standard input."""
    task = json.load(sys.stdin)
    function = getattr(importlib.import_module(task["module"]), task["name"])
    watch = _Watch() if task["watch"] else None
    meter = Meter()
    try:
        outcome = function(meter, **task["arguments"])
    finally:
        helpers = watch.total() if watch else 0
    measured = Measured(
        seconds=meter.seconds,
        cpu_seconds=meter.cpu_seconds,
        reads=meter.reads,
        read_bytes=meter.read_bytes,
        own_bytes=peak_bytes() if watch else 0,
        helper_bytes=helpers,
        outcome=outcome,
    )
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
