"""Opening the sources that the settings name, with their state in the business database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.operations.due import Migration
from vera_core.source.base import Terms
from vera_core.source.database import connect
from vera_core.source.sql import open_sources
from vera_core.source.state import MigrationState

if TYPE_CHECKING:
    from vera_core.config import RepositoryConfig
    from vera_core.operations.repository import Repository
    from vera_core.settings import Settings


def terms(config: RepositoryConfig) -> Terms:
    """What the repository asks of its sources."""
    return Terms(frozenset(item.name for item in config.classes), config.default_class, config.inline_limit)


def migration_state(settings: Settings, name: str) -> MigrationState:
    """Our schema in the business database of a source, whether its tables are there or not."""
    source = settings.source(name)
    engine = connect(source.database_url(), writable=True)
    return MigrationState(engine, source.state_schema, lease_seconds=source.lease_seconds)


def open_migrations(repo: Repository, settings: Settings, name: str) -> tuple[Migration, ...]:
    """A migration for each tenant of a source.

    Raises:
        UsageError: the settings don't fit the database, or our tables are not there; the error tells how to make them.
        UnavailableError: the database can't be reached.
    """
    source = settings.source(name)
    state = migration_state(settings, name)
    state.check()
    return tuple(
        Migration(
            repo=repo,
            source=opened,
            state=state,
            on_rejects=source.on_rejects,
            lag_days=source.lag_days,
            begin=source.begin,
        )
        for opened in open_sources(name, source, terms(repo.config))
    )
