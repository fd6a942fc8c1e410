"""Storing a request, and what a person decides about it: records in its log, planned again until they are in."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from vera_core.decisions import Request
from vera_core.errors import ConflictError, RestrictedError
from vera_core.model import Lock
from vera_core.operations.slotwise import ATTEMPTS
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vera_core.decisions import DecisionLog
    from vera_core.operations.repository import Repository

R = TypeVar("R", bound=Request)


def store_request(repo: Repository, log: DecisionLog[R], body: Mapping[str, Any]) -> R:
    """The request of that log: the one that is there already, else the one of `body`. The log must have been loaded."""
    if log.request is None:
        try:
            _append(repo, log, body)
        except LostAppendError:
            log.load()
    assert log.request is not None
    return log.request


def store_decision(repo: Repository, log: DecisionLog[R], decide: Callable[[R], Mapping[str, Any] | None]) -> R:
    """Appends what `decide` makes of the request as it is (None: nothing), again whenever another record came first.

    The request must have been loaded. Returns it as it is then.

    Raises:
        ConflictError: others came first all the time.
    """
    for _ in range(ATTEMPTS):
        assert log.request is not None
        body = decide(log.request)
        if body is None:
            return log.request
        try:
            _append(repo, log, body)
        except LostAppendError:
            log.refresh()
        else:
            return log.request
    raise ConflictError(f"other writers came first {ATTEMPTS} times", todo="Run it again.", request=log.id)


def check_not_declined(request: Request) -> None:
    """Raises RestrictedError where somebody declined the request: nothing is done by it any more."""
    if request.decliner:
        raise RestrictedError(
            f"the request was declined by {request.decliner}", todo="Make a new one if that was wrong.",
            request=request.id, tenant=request.tenant,
        )  # fmt: skip


def approving(request: Request, who: str, *, party: str) -> dict[str, Any] | None:
    """The record by which `who` approves the request; None where somebody did. `party` says what parties had to do.

    Raises:
        RestrictedError: `who` is a party, or it was declined.
    """
    check_not_declined(request)
    if request.is_party(who):
        raise RestrictedError(
            f"{who} {party}, and so can't approve it",
            todo="Somebody else must: each works under a name of their own (`actor` in the settings).",
            request=request.id, tenant=request.tenant,
        )  # fmt: skip
    return None if request.approver else {"type": "approve"}


def declining(request: Request, reason: str) -> dict[str, Any] | None:
    """The record that declines the request; None where somebody did."""
    return None if request.decliner else {"type": "decline", "reason": reason}


def _append(repo: Repository, log: DecisionLog[R], body: Mapping[str, Any]) -> None:
    """A record that says who made it, locked for the longest class."""
    now = repo.clock.now()
    until = repo.record_until(now + timedelta(days=repo.config.longest_days))
    lock = Lock(repo.config.lock_mode, until) if repo.config.locked else None
    log.append({"actor": repo.workplace.actor, **body}, lock=lock, now=now)
