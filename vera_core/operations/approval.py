"""Asking for an approval of every erasure by somebody else than who asked for it: a switch that goes one way.

Approving a request is erasures.py's business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError
from vera_core.operations.audited import audited
from vera_core.operations.report import Report, figure
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from vera_core.operations.repository import Repository

ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalReport(Report):
    """The config revision from which on erasures need an approval."""

    repository: str
    revision: int = figure("config revision")


def require_approval(repo: Repository) -> ApprovalReport:
    """Makes every erasure from now on need an approval, also of requests that are not executed yet. For good.

    Whoever could turn it off alone would need nobody's approval: so nobody can.

    Raises:
        ConflictError: others kept changing the config.
    """
    began = time.monotonic()
    config = repo.writable_config()
    with audited(repo, "approval", {"repository": config.repository_id}):
        for _ in range(ATTEMPTS):
            if repo.config.erasure_approval:
                break
            now = repo.clock.now()
            body = {"type": "approval", "actor": repo.workplace.actor}
            try:
                repo.config_log.append(body, now=now, until=repo.record_until(now))
            except LostAppendError:
                repo.refresh_config()
        else:
            raise ConflictError("others keep changing the repository's config", todo="Run the command again.")
    return ApprovalReport(repository=repo.uri, revision=repo.config.revision, seconds=time.monotonic() - began)
