"""Opening the repository that the settings name. What sources and databases need is opened in sources.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.errors import UsageError
from vera_core.operations.repository import Repository, Workplace

if TYPE_CHECKING:
    from vera_core.settings import Settings


def workplace(settings: Settings) -> Workplace:
    """What the settings say of this process."""
    return Workplace(
        actor=settings.actor,
        spool=settings.spool,
        freshness_seconds=settings.freshness_seconds,
        threads=settings.workers,
    )


def named_repository(settings: Settings) -> str:
    """The repository's URI.

    Raises:
        UsageError: the settings name none.
    """
    if not settings.repository:
        raise UsageError(
            "no repository is named",
            todo="Use --repository s3://bucket/prefix, set VERA_REPOSITORY, or write repository = ... into vera.toml.",
        )
    return settings.repository


def open_repository(settings: Settings) -> Repository:
    """The repository that the settings name.

    Raises:
        UsageError: they name none.
        NotFoundError: there is none.
    """
    return Repository.open(named_repository(settings), workplace(settings))
