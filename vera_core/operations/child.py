"""Python processes that answer calls, for work that would keep this process's interpreter lock for long.

A call is some bytes on the process's standard input, an answer some bytes on its standard output, both behind their
length. Calls are answered in order. What they mean is the business of the modules that serve them: inspector.py and
loader.py. A process ends when its input closes, so also with a parent that was killed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, TypeAlias

from vera_core.errors import UnavailableError
from vera_core.operations.pace import LEAN, at_pace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OWN_PROCESS_ROWS = 50_000
"""Rows from which on a process of its own saves more time than its start takes (0.2 s).

Rows, not bytes: what is done for each byte gives up the interpreter lock, so that threads do as well for larger files.
"""
LENGTH_BYTES = 8
PIPE_BYTES = 256 << 10
"""What a pipe holds (on Linux): about a batch of encoded files, so that an answer is taken in one piece."""


Part: TypeAlias = bytes | memoryview


class ChildProcess:
    """A process that runs `module`, whose `main` calls `serve`. One thread may send while another one receives.

    `arguments` become the module's command line.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._module = module
        # The child's end of a session of its own: an interrupt typed at the terminal is for the parent.
        self._process = subprocess.Popen(  # noqa: S603 - this very Python and our own module
            [sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pipesize=PIPE_BYTES,
            start_new_session=True,
            env=os.environ | LEAN,
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def send(self, call: bytes) -> None:
        """Sends a call; returns before it is answered.

        Raises:
            UnavailableError: the process was killed.
        """
        assert self._process.stdin is not None
        try:
            _write(self._process.stdin, call)
        except BrokenPipeError as error:
            raise self._gone() from error

    def receive(self) -> bytes:
        """The answer to the first call that was not received yet.

        Raises:
            UnavailableError: the process was killed.
        """
        assert self._process.stdout is not None
        answer = _read(self._process.stdout)
        if answer is None:
            raise self._gone()
        return answer

    def end(self) -> None:
        """Ends the process, whatever it is doing: it has nothing to lose."""
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """Closes the pipes, after `end`, when no thread uses them any more."""
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                # What was still to be sent to it.
                continue

    def _gone(self) -> UnavailableError:
        return UnavailableError(
            f"the helping process {self._module} ended with code {self._process.wait()}",
            todo="Run it again; where it was killed for want of memory, allow 200 MiB more.",
        )


@at_pace()
def serve(answer: Callable[[bytes], Sequence[Part] | None]) -> None:
    """Answers calls from standard input until it closes; None is no answer, else it is the parts end to end.

    Calls are taken in as they come, so that whoever sends never waits for an answer to be received.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # Whatever else is printed must not get between the answers.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Not sys.stdin: a thread that waits in it when the interpreter ends makes that a fatal error.
    incoming = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
    calls: SimpleQueue[bytes | None] = SimpleQueue()

    def take_in() -> None:
        while (call := _read(incoming)) is not None:
            calls.put(call)
        calls.put(None)

    threading.Thread(target=take_in, daemon=True).start()
    while (call := calls.get()) is not None:
        answered = answer(call)
        if answered is not None:
            _write(answers, *answered)


def _write(pipe: IO[bytes], *parts: Part) -> None:
    pipe.write(sum(map(len, parts)).to_bytes(LENGTH_BYTES, "little"))
    for part in parts:
        pipe.write(part)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes | None:
    """The next bytes, None if the other side is gone."""
    head = pipe.read(LENGTH_BYTES)
    size = int.from_bytes(head, "little")
    data = pipe.read(size) if len(head) == LENGTH_BYTES else b""
    return data if len(head) == LENGTH_BYTES and len(data) == size else None
