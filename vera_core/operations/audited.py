"""An operation between its audit entries: the intent before what can't be undone, the outcome after it (I6)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vera_core.errors import VeraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vera_core.operations.repository import Repository


@contextmanager
def audited(repo: Repository, operation: str, subject: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    """Stores the intent, runs the block, and stores its outcome: `done`, with what the block put into the dict.

    An error is stored as `failed`, and goes on its way.

    Raises:
        UnavailableError: an entry could not be stored; the operation did not begin, or must not be acknowledged.
    """
    intent = repo.audit.intent(operation, subject)
    detail: dict[str, Any] = {}
    try:
        yield detail
    except BaseException as error:
        told = error.to_json() if isinstance(error, VeraError) else {"what": repr(error)}
        repo.audit.outcome(intent, "failed", told)
        raise
    repo.audit.outcome(intent, "done", detail)
