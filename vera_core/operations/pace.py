"""Settings of the Python interpreter while an operation handles rows by the million. Nothing here knows what rows are.

Two of Python's defaults cost more than the work itself here. The cyclic garbage collector looks at every object alive
again and again, although rows make no cycles; and a thread that comes back from the disk or from compression waits up
to 5 ms for the interpreter lock as long as another one computes.
"""

from __future__ import annotations

import gc
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAN = {"OPENBLAS_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
"""Environment of VERA's own processes, before they load numpy and Arrow.

numpy's threads for linear algebra, of which VERA does none, take a third of a short process's time. Arrow's own
allocator keeps what is freed: 20 MiB of what a packer takes at most.
"""
SWITCH_SECONDS = 0.0005
COLLECT_AFTER = (100_000, 20, 100)
"""As `gc.set_threshold`: garbage in cycles stays below some ten MB."""

_guard = threading.Lock()
_running = 0
_usual: tuple[float, tuple[int, int, int]] = (sys.getswitchinterval(), gc.get_threshold())


@contextmanager
def at_pace() -> Iterator[None]:
    """Runs a block (or a function it decorates) with settings for many rows; the last to end puts the usual back."""
    _enter()
    try:
        yield
    finally:
        _leave()


def _enter() -> None:
    global _running, _usual  # noqa: PLW0603 - the interpreter has one setting, so there is one count of who needs it
    with _guard:
        if not _running:
            _usual = (sys.getswitchinterval(), gc.get_threshold())
            gc.freeze()
            gc.set_threshold(*COLLECT_AFTER)
            sys.setswitchinterval(SWITCH_SECONDS)
        _running += 1


def _leave() -> None:
    global _running  # noqa: PLW0603
    with _guard:
        _running -= 1
        if not _running:
            switch, threshold = _usual
            sys.setswitchinterval(switch)
            gc.set_threshold(*threshold)
            gc.unfreeze()
