"""The store's clock, cheaply: locks and grace periods are decided by the store's Date, never by the worker's clock."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from vera_core.store.base import ObjectStore

RESYNC_SECONDS = 300.0
JUMP_SECONDS = 2.0
"""By how much the wall clock may leave the monotonic one: more means that this machine slept, or was set."""


class StoreClock:
    """`now()` in the store's time: asked once every five minutes, carried on by the monotonic clock in between.

    The monotonic clock stands still while a machine sleeps: then the wall clock has run on, and the store is asked.
    """

    __slots__ = ("_base", "_guard", "_mark", "_store", "_wall")

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._base: datetime | None = None
        self._mark = self._wall = 0.0

    def now(self) -> datetime:
        """The store's time in UTC, true to a second or two.

        Raises:
            UnavailableError: the store can't be asked.
        """
        with self._guard:
            elapsed = time.monotonic() - self._mark
            jumped = abs(time.time() - self._wall - elapsed) > JUMP_SECONDS
            if self._base is None or jumped or elapsed > RESYNC_SECONDS:
                # The clocks are read first: the answer is never older than they say, so locks are never too short.
                mark, wall = time.monotonic(), time.time()
                self._base = self._store.now()
                self._mark, self._wall, elapsed = mark, wall, 0.0
            return self._base + timedelta(seconds=elapsed)
