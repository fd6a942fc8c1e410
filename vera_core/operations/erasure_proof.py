"""Proving that what was erased stays out of sight: new readers are refused it, and each sidecar says what its log says.

Changes nothing. How much is erased is tombstones.py's business, when it had to be deadlines.py's.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IncompatibleError, IntegrityError
from vera_core.model import day_text
from vera_core.operations.holdings import tombstones
from vera_core.operations.proving import Check, CheckResult, finding_of, sidecar_trouble
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import slots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import date

    from vera_core.errors import VeraError
    from vera_core.model import Origin, Slot
    from vera_core.operations.repository import Repository

ERASED = "erased_unreadable"
SIDECAR = "sidecar_equals_log"
SAMPLE = 200
"""Erased versions of a day that are tried: each costs a lookup. Of more, other ones by chance each time."""


class _Erased(NamedTuple):
    """A version that nobody may read any more."""

    slot: Slot
    name: str
    origin: Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureProof(Report):
    """What was tried of a day, and found. Findings name slot and version but no uid: those of erased files are gone."""

    tenant: str
    day: str
    checks: tuple[CheckResult, ...]
    slots: int = figure("slots examined")
    erased: int = figure("erased files", "files")
    tried: int = figure("erased files tried", "files")
    failures: int = figure("findings")

    def check(self, name: str) -> CheckResult:
        """The check of that name."""
        return next(check for check in self.checks if check.name == name)


def prove_erased(repo: Repository, tenant: str, day: date, *, sample: int = SAMPLE) -> ErasureProof:
    """Asks a new reader for at most `sample` of a day's erased versions, and compares every sidecar with its log.

    Raises:
        UnavailableError: the store can't be reached; nothing is said about the day then.
    """
    began = time.monotonic()
    repo.refresh_config()
    unreadable, sidecars = Check(ERASED), Check(SIDECAR)
    erased: list[_Erased] = []
    count = 0
    for slot in slots(repo, tenant, day):
        count += 1
        log = repo.slot_log(slot)
        try:
            state = log.load()
        except (IntegrityError, IncompatibleError) as error:
            # Nobody reads anything of such a slot; but nothing is proved either.
            unreadable.take(1, [_nameless(error)])
            continue
        sidecars.take(1, sidecar_trouble(log, state))
        erased += [_Erased(slot, name, origin) for name, origins in tombstones(state).items() for origin in origins]
    tried = random.sample(erased, min(sample, len(erased)))
    _try(repo, tenant, tried, unreadable)
    checks = (unreadable.result(), sidecars.result())
    return ErasureProof(
        ok=all(check.ok for check in checks), tenant=tenant, day=day_text(day), checks=checks, slots=count,
        erased=len(erased), tried=len(tried), failures=sum(check.failed for check in checks),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _try(repo: Repository, tenant: str, tried: Sequence[_Erased], check: Check) -> None:
    """Asks a reader that knows nothing yet for each version by its name."""
    reader = Retriever(repo, tenant)
    for slot, name, origin in tried:
        version = f"{origin.commit}.{origin.ordinal}"
        try:
            served = reader.serves(slot, name, version)
        except (IntegrityError, IncompatibleError) as error:
            check.take(1, [_nameless(error)])
        else:
            check.take(1, [_served(slot, version)] if served else [])


def _nameless(error: VeraError) -> Finding:
    return replace(finding_of(error), uid="")


def _served(slot: Slot, version: str) -> Finding:
    return Finding(
        what=f"version {version} of an erased file is served",
        key=str(slot),
        todo="Run `vera doctor`, which rebuilds the sidecar from the log, then look at the day again.",
    )
