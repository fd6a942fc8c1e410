"""Everything that can be asked of a shard, asked of hostile ones: each file in a process of its own.

    python -m tests.format.gauntlet FILE...

prints a line of JSON for each: what came of each operation, the seconds and the memory it took. The processes are
forked from one that has imported everything, so that what they take is for the file alone.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.codec import MAX_INLINE
from vera_core.errors import FormatError, IncompatibleError
from vera_core.format import Clues, FileSource, ShardReader, Survey, rebuild, saved_entries, survey
from vera_core.model import Erasability

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from vera_core.model import Entry

CLUES = Clues(bytes(range(16)), "standard", Erasability.ERASABLE)
SECONDS = 60
"""After so much CPU time a process is ended."""
_SAMPLE = 50
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an operation did with a file: `error` is empty if it came to its end; `peak` bytes above the start's."""

    operation: str
    error: str
    seconds: float
    peak: int


class _Nowhere:
    """Takes bytes and keeps none."""

    def write(self, data: bytes | memoryview, /) -> int:
        return len(data)


def _drain(pieces: Iterable[object]) -> None:
    for _ in pieces:
        pass


def _lookups(source: FileSource) -> None:
    reader = _opened(source)
    reader.header()
    absent = ("0" * 32,) if reader.encrypted else ("absent", "00000000")
    for uid in (*absent, *_sampled(reader.entries())):
        for entry in reader.find(uid):
            _drain(reader.read_stream(entry))
            if max(entry.size, entry.stored_size) <= MAX_INLINE:
                reader.read(entry)


def _sampled(entries: Iterator[Entry]) -> list[str]:
    """The uids of the first entries and of some others, as far as they can be listed."""
    uids: list[str] = []
    with suppress(FormatError):
        uids.extend(entry.uid for entry in entries if entry.ordinal < _SAMPLE or entry.ordinal % 500 == 0)
    return uids


def _opened(source: FileSource) -> ShardReader:
    return ShardReader.open(source, sealed=True)


def _read_all(source: FileSource) -> None:
    reader = _opened(source)
    if not reader.streamed:
        _drain(reader.read_all())


def _streams(source: FileSource) -> None:
    reader = _opened(source)
    for entry in reader.entries():
        _drain(reader.read_stream(entry))


def _saved_entries(source: FileSource) -> None:
    for _, content in saved_entries(_surveyed(source)):
        _drain(content)


def _rebuild(source: FileSource) -> None:
    found = _surveyed(source)
    if found.remains.header is None and found.remains.footer is not None:
        return  # the clues may be wrong, which it says
    if found.remains.uids.sealed and not found.restorable:
        return  # that takes keys, which it says
    rebuild(found, _Nowhere(), commit=7)


def _surveyed(source: FileSource) -> Survey:
    return survey(source, CLUES, tell=_ignore, sealed=True)


def _ignore(_: object) -> None:
    return None


OPERATIONS: dict[str, Callable[[FileSource], object]] = {
    "lookups": _lookups,
    "entries": lambda source: _drain(_opened(source).entries()),
    "read_all": _read_all,
    "streams": _streams,
    "verify": lambda source: _opened(source).verify(),
    "saved_entries": _saved_entries,
    "rebuild": _rebuild,
}
"""What may be asked: whatever it raises but FormatError and IncompatibleError is a finding."""


def run(path: Path) -> list[Outcome]:
    """All operations upon one file, in this process."""
    outcomes = []
    base = memory("VmRSS")
    for name, operation in OPERATIONS.items():
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        began, error = time.process_time(), ""
        try:
            with FileSource(path) as source:
                operation(source)
        except (FormatError, IncompatibleError) as refused:
            error = f"{type(refused).__name__}: {refused}"
        except Exception as wrong:  # noqa: BLE001 - that is the finding
            error = f"BUG {type(wrong).__name__}: {wrong}"
        outcomes.append(Outcome(name, error, time.process_time() - began, memory("VmHWM") - base))
    return outcomes


def memory(field: str) -> int:
    """Bytes of resident memory of this process: VmRSS now, or VmHWM at most."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) << 10


def run_apart(paths: Sequence[Path]) -> dict[str, list[Outcome]]:
    """Runs each file in a process of its own, forked from a fresh one; by the file's name."""
    command = [sys.executable, "-m", __name__, *map(str, paths)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # a process with threads should not fork
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: [Outcome(**outcome) for outcome in outcomes] for name, outcomes in found}


def main(paths: Sequence[Path]) -> None:
    """Runs each file in a child."""
    for path in paths:
        readable, writable = os.pipe()
        child = os.fork()
        if not child:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
            os.write(writable, json.dumps([asdict(outcome) for outcome in run(path)]).encode())
            os._exit(0)
        os.close(writable)
        with os.fdopen(readable, "rb") as pipe:
            told = pipe.read()
        status = os.waitpid(child, 0)[1]
        if status:
            code = os.waitstatus_to_exitcode(status)
            ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            told = json.dumps([asdict(Outcome("all", f"BUG {ended}", SECONDS, 0))]).encode()
        print(json.dumps([path.name, json.loads(told)]), flush=True)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
