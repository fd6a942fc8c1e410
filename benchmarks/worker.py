"""One measured run in a process of its own, so that its CPU time and peak memory are its own alone.

`python -m benchmarks.worker` reads what to do as JSON from its standard input and prints what it measured as JSON.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import resource
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.world import BUCKET, SOURCE, database_source, terms
from vera_core.operations import migrate as _migrate  # noqa: F401 - what a real process has loaded by then
from vera_core.operations.pack import pack_window
from vera_core.operations.repository import Repository, Workplace
from vera_core.source.base import Window
from vera_core.source.directory import DirectorySource, Packing
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import Access, S3Options

if TYPE_CHECKING:
    from vera_core.source.base import Source

SAMPLE_SECONDS = 0.1
DIRECTORY = "directory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Packs one day of the corpus below `root`: as the rows of `database`, or as a directory where that is "".

    `profile`: where to write a profile of the main thread, or "".
    """

    prefix: str
    access: dict[str, str]
    spool: str
    root: str
    database: str
    day: str
    profile: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a run took and did.

    `cpu_seconds` is of the process and its helpers. `idle_bytes` is the process's memory before it began, `peak_bytes`
    its most ever, as the kernel says; `together_bytes` the most of it and its helpers at one time, looked at ten times
    a second, with what they share counted for each.
    """

    files: int
    content_bytes: int
    stored_bytes: int
    shards: int
    seconds: float
    cpu_seconds: float
    idle_bytes: int
    peak_bytes: int
    together_bytes: int


def run(job: Job) -> Measured:
    """Packs, in a process of its own.

    Raises:
        RuntimeError: it failed; its standard error says why.
    """
    command = [sys.executable, "-m", __name__]
    done = subprocess.run(command, input=json.dumps(asdict(job)), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise RuntimeError("a measured run failed")
    return Measured(**json.loads(done.stdout))


def _measure(job: Job) -> Measured:
    store = S3Store(BUCKET, options=S3Options(access=Access(**job.access)))
    repo = Repository(store, job.prefix, Workplace(actor="benchmark", spool=Path(job.spool)))
    source: Source
    if job.database:
        source = database_source(repo, Path(job.root), Path(job.database))
    else:
        source = DirectorySource(Path(job.root), terms(repo), Packing(spool=Path(job.spool), name=SOURCE))
    window = Window(source.name, source.tenant, date.fromisoformat(job.day))
    sampler = _Sampler()
    idle = _peak_bytes()
    cpu, began = _cpu_seconds(), time.monotonic()
    report = pack_window(repo, source, window)
    seconds, cpu = time.monotonic() - began, _cpu_seconds() - cpu
    if report.archived != report.rows:
        raise RuntimeError(f"{report.rows - report.archived} files were not archived: {report.rejects}")
    return Measured(
        files=report.archived,
        content_bytes=report.content_bytes,
        stored_bytes=report.stored_bytes,
        shards=len(report.shards),
        seconds=seconds,
        cpu_seconds=cpu,
        idle_bytes=idle,
        peak_bytes=_peak_bytes(),
        together_bytes=sampler.most(),
    )


def _peak_bytes() -> int:
    """The most memory that this process ever had, as the kernel says."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not ru_maxrss: on Linux that begins with what the process that started this one had.
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _cpu_seconds() -> float:
    """CPU time of this process and of its helpers that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


class _Sampler:
    """Looks at the memory of this process and its helpers again and again."""

    def __init__(self) -> None:
        self._most = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def most(self) -> int:
        """The most that was seen; ends the looking."""
        self._ended.set()
        self._thread.join()
        return self._most

    def _look(self) -> None:
        own = psutil.Process()
        while not self._ended.wait(SAMPLE_SECONDS):
            total = 0
            for process in [own, *own.children()]:
                with suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
            self._most = max(self._most, total)


def _profiled(job: Job) -> Measured:
    profile = cProfile.Profile()
    profile.enable()
    measured = _measure(job)
    profile.disable()
    with Path(job.profile).open("w") as file:
        pstats.Stats(profile, stream=file).sort_stats("tottime").print_stats(60)
    return measured


def main() -> None:
    """Runs the job on standard input."""
    job = Job(**json.load(sys.stdin))
    print(json.dumps(asdict(_profiled(job) if job.profile else _measure(job))))


if __name__ == "__main__":
    main()
