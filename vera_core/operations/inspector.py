"""Verifying finished shards beside the building of the next ones: in a process of its own where that pays.

Building and verifying both keep Python's interpreter lock most of the time, so threads would not share two cores. The
process gets paths on its standard input and answers on its standard output, a JSON text a line; it reads files and
nothing else, and ends when its input closes, so also with a parent that was killed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vera_core.errors import FormatError, UnavailableError, VeraError
from vera_core.format import FileSource, ShardReader, Verified
from vera_core.operations.pace import at_pace

if TYPE_CHECKING:
    from collections.abc import Iterator

OWN_PROCESS_ROWS = 50_000
"""Rows from which on a process of its own saves more time than its start takes (0.3 s)."""

Inspect = Callable[[Path], Verified]
"""Verifies a local shard whole.

Raises:
    FormatError: the first finding.
"""


def inspect_file(path: Path) -> Verified:
    """An `Inspect` in this thread."""
    with FileSource(path) as source:
        return ShardReader.open(source).verify()


@contextmanager
def inspector(rows: int) -> Iterator[Inspect]:
    """An `Inspect` for shards that hold `rows` rows in all."""
    if rows < OWN_PROCESS_ROWS:
        yield inspect_file
        return
    process = InspectingProcess()
    try:
        yield process.inspect
    finally:
        process.end()


class InspectingProcess:
    """The process; threads may share it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._process = subprocess.Popen(  # noqa: S603 - this very Python and module
            [sys.executable, "-P", "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # an interrupt typed at the terminal is for the parent
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def inspect(self, path: Path) -> Verified:
        """See `Inspect`.

        Raises:
            FormatError: the shard does not verify.
            UnavailableError: the process was killed.
        """
        with self._guard:
            line = self._ask(json.dumps(str(path)))
        if not line.endswith("\n"):
            raise UnavailableError(
                f"the process that verifies shards ended with code {self._process.wait()}",
                todo="Run it again; where it was killed for want of memory, allow some 200 MiB more.", path=path,
            )  # fmt: skip
        answer: dict[str, Any] = json.loads(line)
        if "what" in answer:
            raise FormatError(answer["what"], todo=answer["todo"], **answer["where"])
        return Verified(**{**answer, "sha256": bytes.fromhex(answer["sha256"])})

    def end(self) -> None:
        """Ends the process, whatever it is doing: it has nothing to lose."""
        self._process.kill()
        self._process.communicate()

    def _ask(self, line: str) -> str:
        """The answer, or what there is of it if the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._process.stdout.readline()


@at_pace()
def main() -> None:
    """The process."""
    for line in sys.stdin:
        try:
            found = inspect_file(Path(json.loads(line)))
        except VeraError as error:
            print(json.dumps(error.to_json()), flush=True)  # noqa: T201 - the answer
        else:
            print(json.dumps({**asdict(found), "sha256": found.sha256.hex()}), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
