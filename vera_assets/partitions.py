"""A source's days as Dagster partitions, its names as Dagster spells them, and which days a run is about."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dagster import AssetKey, BackfillPolicy, DailyPartitionsDefinition

from vera_core.errors import UsageError
from vera_core.model import parse_day

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import date

DAYS_PER_RUN = 31
"""How many days a backfill puts into one run at most: a cold start costs seconds, a failed run is begun again whole."""


@dataclass(frozen=True, slots=True)
class Naming:
    """How a source is called in Dagster; `tenant` only where the source has several.

    Sources and tenants may have dots in their names, asset keys may not; jobs, steps and sensors no dashes either.
    """

    source: str
    tenant: str = ""

    @property
    def prefix(self) -> list[str]:
        """The first parts of the asset keys."""
        return [part.replace(".", "_") for part in (self.source, self.tenant) if part]

    @property
    def identifier(self) -> str:
        """The source in names of groups, jobs, steps and sensors."""
        return re.sub(r"[^a-z0-9]", "_", "__".join(self.prefix))

    def key(self, concept: str) -> AssetKey:
        """The key of the asset of that concept."""
        return AssetKey([*self.prefix, concept])

    def name(self, concept: str) -> str:
        """The name of the job, step or sensor of that concept."""
        return f"{self.identifier}_{concept}"


def check_names(namings: Iterable[Naming]) -> None:
    """Checks that no two sources get the same name in Dagster.

    Raises:
        UsageError: they do.
    """
    taken: dict[str, Naming] = {}
    for naming in namings:
        other = taken.setdefault(naming.identifier, naming)
        if other != naming:
            raise UsageError(
                f"the sources {other.source!r} and {naming.source!r} would have the same name in Dagster",
                todo="Rename one in vera.toml: dots, dashes and underscores count as equal here.",
            )


def daily(begin: date) -> DailyPartitionsDefinition:
    """One partition per UTC day from `begin`; a day appears once it is over."""
    return DailyPartitionsDefinition(start_date=begin.isoformat(), timezone="UTC", fmt="%Y-%m-%d")


def range_policy() -> BackfillPolicy:
    """A backfill of many days becomes runs of up to `DAYS_PER_RUN` days each."""
    return BackfillPolicy.multi_run(max_partitions_per_run=DAYS_PER_RUN)


def days_of(partition_keys: Iterable[str]) -> Sequence[date]:
    """The days that a run's partition keys stand for, in order."""
    return sorted(parse_day(key) for key in partition_keys)


def partition_of(day: date) -> str:
    """The partition key of a day."""
    return day.isoformat()
