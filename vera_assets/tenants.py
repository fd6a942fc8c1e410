"""One tenant of the repository, as the factories of erasure's assets, checks, sensors and schedules get it.

Sources are migrated, but files are erased from a tenant, whichever of its sources brought them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from vera_assets.partitions import Naming, check_names, daily
from vera_core.source.mapping import tenants_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from dagster import DailyPartitionsDefinition

    from vera_assets.sources import MigratedSource
    from vera_core.settings import Settings
    from vera_core.source.mapping import ErasureTable

PREFIX = "vera"


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant with the sources that Dagster migrates into it; its days begin with the first of theirs.

    `within`: how soon files must be out of sight after their erasure was asked for; `table`: where requests of this
    tenant are to be taken from, None where the settings name no such table; `encrypted`: the settings have a key
    service, so the repository has keys to look at.
    """

    name: str
    sources: tuple[MigratedSource, ...]
    begin: date
    within: timedelta
    partitions: DailyPartitionsDefinition
    table: ErasureTable | None = None
    encrypted: bool = False

    @property
    def naming(self) -> Naming:
        """How it is called in Dagster."""
        return Naming(PREFIX, self.name)


def erasing_tenants(settings: Settings, sources: Sequence[MigratedSource]) -> list[Tenant]:
    """Every tenant that a source is migrated into.

    Raises:
        UsageError: one would have the same name in Dagster as another, or as a source.
    """
    by_name: defaultdict[str, list[MigratedSource]] = defaultdict(list)
    for source in sources:
        by_name[source.tenant].append(source)
    tenants = []
    for name, found in by_name.items():
        begin = min(source.begin for source in found)
        within = timedelta(hours=settings.erasure_hours)
        table = settings.erasure_table
        if table is not None and name not in tenants_of(table.tenant):
            table = None
        encrypted = settings.keys is not None
        tenants.append(Tenant(name, tuple(found), begin, within, daily(begin), table, encrypted))
    check_names([*(source.naming for source in sources), *(tenant.naming for tenant in tenants)])
    return tenants
