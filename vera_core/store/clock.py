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


class StoreClock:
    """`now()` in the store's time: asked once every five minutes, carried on by the monotonic clock in between."""

    __slots__ = ("_base", "_guard", "_mark", "_store")

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._base: datetime | None = None
        self._mark = 0.0

    def now(self) -> datetime:
        """The store's time in UTC, true to a second or two.

        Raises:
            UnavailableError: the store can't be asked.
        """
        with self._guard:
            elapsed = time.monotonic() - self._mark
            if self._base is None or elapsed > RESYNC_SECONDS:
                self._base = self._store.now()
                self._mark = time.monotonic()
                elapsed = 0.0
            return self._base + timedelta(seconds=elapsed)
