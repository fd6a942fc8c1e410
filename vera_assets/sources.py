"""One tenant of one source, as the factories of assets, checks, sensors and schedules get it.

What is named by the settings is opened when a step first needs it, once per process: loading definitions asks nobody.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from vera_assets.partitions import Naming, check_names, daily
from vera_core.errors import UsageError
from vera_core.operations.sources import open_migrations

if TYPE_CHECKING:
    from datetime import date

    from dagster import DailyPartitionsDefinition

    from vera_core.operations.due import Migration
    from vera_core.operations.repository import Repository
    from vera_core.settings import Settings


class MigratedSource:
    """A tenant's rows of a source that Dagster migrates.

    Args:
        settings: the process's settings, which name the source.
        source: the source's name.
        tenant: one of its tenants.

    Raises:
        UsageError: the settings don't say when the source begins.
    """

    def __init__(self, settings: Settings, source: str, tenant: str) -> None:
        about = settings.source(source)
        if about.begin is None:
            raise UsageError(
                "Dagster needs to know the source's first day: it is the first partition",
                todo=f"Add begin = 2024-01-01 (the first day to migrate) to [sources.{source}] in vera.toml.",
                source=source,
            )
        self.source = source
        self.tenant = tenant
        self.begin: date = about.begin
        self.lag_days: int = about.lag_days
        self.naming = Naming(source, tenant if len(about.tenants) > 1 else "")
        self.partitions: DailyPartitionsDefinition = daily(about.begin)
        self._settings = settings
        self._guard = threading.Lock()
        self._opened: tuple[Repository, Migration] | None = None

    def open(self, repo: Repository) -> Migration:
        """The migration into `repo`; connects to the source's database when first called.

        Raises:
            UsageError: the settings don't fit the database, or our tables are not there.
            UnavailableError: the database can't be reached.
        """
        with self._guard:
            if self._opened is None or self._opened[0] is not repo:
                found = open_migrations(repo, self._settings, self.source)
                self._opened = (repo, next(item for item in found if item.source.tenant == self.tenant))
            return self._opened[1]


def migrated_sources(settings: Settings) -> list[MigratedSource]:
    """Every tenant of every source that the settings name.

    Raises:
        UsageError: two would have the same name in Dagster, or one does not say when it begins.
    """
    found = [
        MigratedSource(settings, name, tenant) for name, about in settings.sources.items() for tenant in about.tenants
    ]
    check_names(item.naming for item in found)
    return found
