"""One step over the days of a run: what it yields to Dagster for one day, and for a range of them.

Dagster 1.13 gives every partition of a range run the same data version (its issue 34013), so a range run reports each
day once more with its own. docs/dagster.md, "What Dagster 1.13 does with a range", has the details.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from dagster import AssetMaterialization, DataVersion, Failure, MaterializeResult, MetadataValue, RetryRequested

from vera_assets.partitions import partition_of
from vera_core.errors import IntegrityError, UnavailableError, VeraError
from vera_core.operations.report import size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from datetime import date

    from dagster import AssetKey, DagsterLogManager

    from vera_core.operations.report import Finding
    from vera_core.operations.segment import Progress

Result = TypeVar("Result")

DATA_VERSION_TAG = "dagster/data_version"
"""Dagster's name of the tag; a test holds it to the installed version."""
RETRIES = 3
RETRY_SECONDS = 30.0
"""How often, and after how long, a step is begun again when store or database did not answer."""
WAIT_SECONDS = 120.0
"""How long a step waits for a day that another worker has: twice the time after which one that died lets go."""
PROGRESS_SECONDS = 30.0
"""Progress is logged no oftener: every line is a row in Dagster's database for ever."""


@dataclass(frozen=True, slots=True)
class DayResult:
    """What a step made of one day: the version of its data, and what to show."""

    data_version: str
    metadata: Mapping[str, MetadataValue[Any]] = field(default_factory=dict)


@contextmanager
def translated() -> Iterator[None]:
    """Turns VERA's errors into Dagster's: what can't be reached is tried again, anything else is for a person.

    Raises:
        RetryRequested, Failure: see above.
    """
    try:
        yield
    except UnavailableError as error:
        raise RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_SECONDS) from error
    except VeraError as error:
        raise Failure(
            str(error), metadata={"error": MetadataValue.json(error.to_json())}, allow_retries=False
        ) from None


def each_day(days: Sequence[date], work: Callable[[date], Result]) -> tuple[dict[date, Result], dict[date, VeraError]]:
    """Does `work` for every day; returns the results, and the errors of days that failed.

    Raises:
        UnavailableError: store or database can't be reached for now: no other day would fare better.
    """
    done: dict[date, Result] = {}
    failed: dict[date, VeraError] = {}
    for day in days:
        try:
            done[day] = work(day)
        except UnavailableError:
            raise
        except VeraError as error:
            failed[day] = error
    return done, failed


def materialize_days(
    key: AssetKey, days: Sequence[date], work: Callable[[date], DayResult]
) -> Iterator[MaterializeResult[Any] | AssetMaterialization]:
    """Does `work` for every day and reports each; in a range run one day's error does not keep the others from theirs.

    Raises:
        Failure: it failed for a day, which the description names together with what to do.
        RetryRequested: store or database can't be reached for now.
    """
    with translated():
        done, failed = each_day(days, work)
    if len(days) == 1 and done:
        (result,) = done.values()
        yield MaterializeResult(asset_key=key, metadata=result.metadata, data_version=DataVersion(result.data_version))
        return
    if not failed:
        yield MaterializeResult(asset_key=key)
    for day, result in done.items():
        yield AssetMaterialization(
            key, partition=partition_of(day), metadata=result.metadata, tags={DATA_VERSION_TAG: result.data_version}
        )
    if failed:
        raise failure(failed)


def failure(failed: Mapping[date, VeraError]) -> Failure:
    """The errors of a step's days as one failure that a person can act on; the step is not run again by itself."""
    lines = [f"{partition_of(day)}: {error}" for day, error in failed.items()]
    metadata = {partition_of(day): MetadataValue.json(error.to_json()) for day, error in failed.items()}
    return Failure(description="\n".join(lines), metadata=metadata, allow_retries=False)


def insist(findings: Sequence[Finding]) -> None:
    """Makes errors among the findings of an operation one of the run: a number of a part passes for none of the whole.

    Raises:
        IntegrityError: there are some; it names the first.
    """
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        first = errors[0]
        what = f"{first.what} (and {len(errors) - 1:,} more)" if len(errors) > 1 else first.what
        raise IntegrityError(what, todo=first.todo, key=first.key, version_id=first.version_id)


def logged_progress(log: DagsterLogManager, day: date) -> Progress:
    """A listener of packing that writes a line to the run's log now and then."""
    last = time.monotonic()

    def listen(done: int, total: int, content_bytes: int) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            packed = size_text(content_bytes)
            log.info("%s: %s of %s files, %s packed by this run", partition_of(day), f"{done:,}", f"{total:,}", packed)

    return listen
