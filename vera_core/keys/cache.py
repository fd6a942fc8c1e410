"""Open keyrings in memory, for a limited time and in bounded memory: a reader asks the key service once for a shard.

What is forgotten here can't be wiped from memory (Python copies and collects as it likes); it is only no longer used.
How keyrings are fetched and opened is the caller's.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.keys.keyring import Keyring

SECONDS = 60.0
LIMIT = 256
LIMIT_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class _Kept:
    keyring: Keyring
    until: float


class KeyringCache:
    """Keyrings by the shard's SHA-256. Safe to share between threads.

    Args:
        seconds: how long after it was fetched a keyring is given out.
        limit: how many are kept at most; the one fetched first goes first.
        limit_bytes: of how much memory, about; the one fetched last is kept in any case.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        seconds: float = SECONDS,
        limit: int = LIMIT,
        limit_bytes: int = LIMIT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._clock = clock
        self._bytes = 0
        self._guard = threading.Lock()
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()  # the one that ends first, first
        self._flights: dict[bytes, Future[Keyring]] = {}

    def __len__(self) -> int:
        with self._guard:
            self._drop_expired()
            return len(self._kept)

    def get(self, shard: bytes, fetch: Callable[[], Keyring], *, revision: int = 1) -> Keyring:
        """The keyring of a shard, of `revision` or a later one.

        Where none is kept, `fetch` is called; of several threads that want one at once only one calls it, the others
        get its result or its error. An error is not kept.

        Raises:
            IntegrityError: what was fetched has an earlier revision.
            VeraError: as `fetch`.
        """
        while True:
            with self._guard:
                self._drop_expired()
                kept = self._kept.get(shard)
                if kept is not None and kept.keyring.revision >= revision:
                    return kept.keyring
                flight = self._flights.get(shard)
                mine = flight is None
                if flight is None:
                    flight = self._flights[shard] = Future()
            if mine:
                return self._fetch(shard, fetch, flight, revision)
            keyring = flight.result()
            # A fetch for somebody who had not read the log as far may bring an earlier revision: then it takes another.
            if keyring.revision >= revision:
                return keyring

    def forget(self, shard: bytes) -> None:
        """Gives out nothing any more that was fetched, or is being fetched, for that shard before this call.

        Only threads that were waiting already still get it. To be called when entries of the shard are erased.
        """
        with self._guard:
            self._drop(shard)
            self._flights.pop(shard, None)

    def clear(self) -> None:
        """`forget` for every shard."""
        with self._guard:
            self._kept.clear()
            self._bytes = 0
            self._flights.clear()

    def _fetch(self, shard: bytes, fetch: Callable[[], Keyring], flight: Future[Keyring], revision: int) -> Keyring:
        try:
            keyring = fetch()
            if keyring.revision < revision:
                raise IntegrityError(
                    f"the keyring has revision {keyring.revision}, the slot log names {revision}",
                    todo="Restore the newest revision from a registered copy.",
                    **keyring.header.where(),
                )
        except BaseException as error:
            self._land(shard, flight, None)
            # An interrupt is for the thread that it met.
            flight.set_exception(error if isinstance(error, Exception) else _interrupted())
            raise
        self._land(shard, flight, keyring)
        flight.set_result(keyring)
        return keyring

    def _land(self, shard: bytes, flight: Future[Keyring], keyring: Keyring | None) -> None:
        """Ends a fetch; keeps what it brought unless the shard was forgotten meanwhile."""
        with self._guard:
            if self._flights.get(shard) is not flight:
                return
            del self._flights[shard]
            if keyring is not None:
                self._drop(shard)
                self._kept[shard] = _Kept(keyring, self._clock() + self._seconds)
                self._bytes += keyring.tree.memory
            while len(self._kept) > self._limit or (self._bytes > self._limit_bytes and len(self._kept) > 1):
                self._drop(next(iter(self._kept)))

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._kept and next(iter(self._kept.values())).until <= now:
            self._drop(next(iter(self._kept)))

    def _drop(self, shard: bytes) -> None:
        kept = self._kept.pop(shard, None)
        self._bytes -= 0 if kept is None else kept.keyring.tree.memory


def _interrupted() -> UnavailableError:
    return UnavailableError("fetching a keyring was interrupted", todo="Run it again.")
