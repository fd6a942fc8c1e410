"""An operation between its audit entries: the intent before what can't be undone, the outcome after it (I6)."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vera_core.errors import VeraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from vera_core.operations.repository import Repository

OBJECT = ("bucket", "key", "version_id")
"""What of an error's places names an object."""


@contextmanager
def audited(repo: Repository, operation: str, subject: Mapping[str, object]) -> Iterator[dict[str, Any]]:
    """Stores the intent, runs the block, and stores its outcome: `done`, with what the block put into the dict.

    An error is stored as `failed`, and goes on its way. The audit of an encrypted repository is told of its kind and of
    the object concerned alone: words quote what they are about, be it a uid or a path.

    Raises:
        UnavailableError: an entry could not be stored; the operation did not begin, or must not be acknowledged.
    """
    intent = repo.audit.intent(operation, subject)
    detail: dict[str, Any] = {}
    try:
        yield detail
    except BaseException as error:
        repo.audit.outcome(intent, "failed", _told(repo, error))
        raise
    repo.audit.outcome(intent, "done", detail)


def _told(repo: Repository, error: BaseException) -> dict[str, object]:
    """What the audit says of an error."""
    told: dict[str, object] = error.to_json() if isinstance(error, VeraError) else {"what": repr(error)}
    if repo.config.encryption is None:
        return told
    where = error.where if isinstance(error, VeraError) else {}
    ours = where.get("bucket") == repo.store.bucket and where.get("key", "").startswith(repo.keys.root)
    shown = {name: where[name] for name in OBJECT if name in where} if ours else {}
    return {"kind": told.get("kind", type(error).__name__), "where": shown}
