"""Signals that end a command: they unwind the stack, so that no unfinished file stays, and are remembered.

Remembered, because Python drops an exception that is raised while an object is finalized: a signal that lands there
would be lost to a command that waits and looks again.
"""

from __future__ import annotations

import signal
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received: list[int] = []


def watch() -> None:
    """Lets Ctrl-C, SIGTERM and SIGHUP end this process in order."""
    for number in ENDING:
        signal.signal(number, _end)


def rest(seconds: float) -> None:
    """Waits; ends the command instead if a signal asked for that."""
    if _received:
        _end(_received[-1], None)
    time.sleep(seconds)


class Drain:
    """Whether SIGTERM asked this process to finish what it is at and begin nothing more. A second one ends it at once.

    While the block runs; afterwards SIGTERM ends the process in order again.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._before)
        if self.asked:
            _end(signal.SIGTERM, None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            _end(number, frame)
        self.asked = True


def _end(number: int, _frame: FrameType | None) -> NoReturn:
    _received.append(number)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
