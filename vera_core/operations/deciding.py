"""Storing what a person decides about a request: a record in its log, planned again until it is in."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from vera_core.decisions import Request
from vera_core.errors import ConflictError
from vera_core.model import Lock
from vera_core.operations.slotwise import ATTEMPTS
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vera_core.decisions import DecisionLog
    from vera_core.operations.repository import Repository

R = TypeVar("R", bound=Request)


def store_decision(repo: Repository, log: DecisionLog[R], body: Callable[[R | None], Mapping[str, Any] | None]) -> None:
    """Appends what `body` makes of the request as it is, None for nothing, as often as another record comes first.

    The record names who did it, and stays locked for the longest class.

    Raises:
        ConflictError: others came first all the time.
    """
    for _ in range(ATTEMPTS):
        planned = body(log.request)
        if planned is None:
            return
        now = repo.clock.now()
        until = repo.record_until(now + timedelta(days=repo.config.longest_days))
        lock = Lock(repo.config.lock_mode, until) if repo.config.locked else None
        try:
            log.append({"actor": repo.workplace.actor, **planned}, lock=lock, now=now)
        except LostAppendError:
            log.refresh()
        else:
            return
    raise ConflictError(f"other writers came first {ATTEMPTS} times", todo="Run it again.", request=log.id)
