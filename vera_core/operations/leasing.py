"""Working on a day as the only worker that does: claim its lease, keep it alive beside the work, let it go.

Leases themselves are source/leases.py. A worker that is killed lets go nothing: its lease ends by itself.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, UnavailableError, VeraError
from vera_core.source.leases import Days, LeaseLostError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import date

    from vera_core.operations.due import Migration
    from vera_core.operations.segment import Progress
    from vera_core.source.leases import Lease, Leases

CLAIMED_AT_ONCE = 64
"""Days that are offered to the database in one statement."""
LOOK_SECONDS = 2.0
"""Between two looks whether somebody else let a day go."""


@dataclass(slots=True)
class _Beating:
    """The heart of a lease: beats three times in its span, in a thread of its own."""

    leases: Leases
    lease: Lease
    progress: dict[str, int] = field(default_factory=dict)
    lost: VeraError | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        alive = time.monotonic()
        while not self._stop.wait(self.leases.seconds / 3):
            try:
                self.leases.beat(self.lease, self.progress)
                alive = time.monotonic()
            except LeaseLostError as error:
                self.lost = error
                return
            except UnavailableError as error:
                # The database may come back in time; what is recorded meanwhile can't be recorded either.
                if time.monotonic() - alive > self.leases.seconds:
                    self.lost = error
                    return

    def stop(self) -> None:
        self._stop.set()


@dataclass(frozen=True, slots=True)
class Held:
    """A day that this worker has; `migration` records what becomes of it in the lease's name."""

    migration: Migration
    _beating: _Beating

    @property
    def day(self) -> date:
        """The day."""
        return self._beating.lease.day

    def check(self) -> None:
        """Makes sure that the day is still this worker's, as far as it knows.

        Raises:
            LeaseLostError, UnavailableError: it is not.
        """
        if self._beating.lost is not None:
            raise self._beating.lost

    def listener(self, then: Progress | None = None) -> Progress:
        """A listener of packing that tells others how far the day is, and ends the work where the day was lost."""

        def listen(done: int, total: int, content_bytes: int) -> None:
            self.check()
            self._beating.progress = {"done": done, "total": total, "bytes": content_bytes}
            if then is not None:
                then(done, total, content_bytes)

        return listen


@contextmanager
def first_free(migration: Migration, days: Sequence[date]) -> Iterator[Held | None]:
    """The first of the days that no other worker has, for as long as the block takes; None where there is none.

    Raises:
        UnavailableError: the database can't be reached.
    """
    lease = None
    for start in range(0, len(days), CLAIMED_AT_ONCE):
        wanted = Days(*migration.name, days[start : start + CLAIMED_AT_ONCE])
        lease = migration.state.leases.claim(wanted, migration.repo.workplace.actor)
        if lease is not None:
            break
    if lease is None:
        yield None
        return
    beating = _Beating(migration.state.leases, lease)
    thread = threading.Thread(target=beating.run, name="vera-lease", daemon=True)
    thread.start()
    try:
        yield Held(replace(migration, lease=lease), beating)
    finally:
        beating.stop()
        thread.join()
        with suppress(UnavailableError):  # then it ends by itself
            migration.state.leases.release(lease)


@contextmanager
def the_day(migration: Migration, day: date, *, wait_seconds: float) -> Iterator[Held]:
    """One certain day, once whoever has it lets it go.

    Raises:
        ConflictError: somebody else still had it after `wait_seconds`.
        UnavailableError: the database can't be reached.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        with first_free(migration, [day]) as held:
            if held is not None:
                yield held
                return
        if time.monotonic() > deadline:
            raise _taken(migration, day)
        time.sleep(LOOK_SECONDS)


def _taken(migration: Migration, day: date) -> ConflictError:
    known = migration.state.leases.known(*migration.name)
    holder = next((state.lease.holder for state in known if state.lease.day == day), None)
    source, tenant = migration.name
    return ConflictError(
        "another worker has the day",
        todo="Let it finish, or stop it; `vera migrate status` shows how far it is.",
        source=source, tenant=tenant, day=day, holder=holder,
    )  # fmt: skip
