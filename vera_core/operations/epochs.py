"""Setting a routing epoch: pending, then active only if still nothing is committed for its days (DESIGN section 2)."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import RestrictedError, UsageError
from vera_core.keyspace import KeyKind
from vera_core.model import day_text
from vera_core.operations.report import Report, figure
from vera_core.operations.walk import days, tenants
from vera_core.routing import EpochState, check_bits
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from datetime import date

    from vera_core.config import RepositoryConfig
    from vera_core.operations.repository import Repository
    from vera_core.store.base import VersionInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport(Report):
    """How setting an epoch ended: `active` or `withdrawn`, and the config revision that says so."""

    from_day: str
    state: str
    n_bits: int = figure("bits")
    revision: int = figure("config revision")


def set_epoch(repo: Repository, from_day: date, n_bits: int) -> EpochReport:
    """Routes the days from `from_day` on with `n_bits` bits, unless something is committed for one of them.

    Run again after a crash it settles what it had begun.

    Raises:
        UsageError: `n_bits` is not 0 to 16, or the day is not after every active epoch's.
        RestrictedError: files are archived on or after that day: their place can't change.
    """
    began = time.monotonic()
    config = repo.writable_config()
    waiting = _check(repo, config, from_day, n_bits)
    intent = repo.audit.intent("epoch", {"from_day": from_day.isoformat(), "n_bits": n_bits})
    if not waiting:
        taken = first_commit(repo, from_day)
        if taken is not None:
            repo.audit.outcome(intent, "refused", {"committed": taken})
            raise _refusal(repo, from_day, taken)
        config = repo.change_config({"type": "epoch", "from_day": from_day.isoformat(), "n_bits": n_bits})
    # Whoever read the config before the pending record may have committed since; whoever reads it later waits.
    taken = first_commit(repo, from_day)
    verdict = "activate" if taken is None else "withdraw"
    config = repo.change_config({"type": verdict, "from_day": from_day.isoformat()})
    state = EpochState.ACTIVE if taken is None else EpochState.WITHDRAWN
    repo.audit.outcome(intent, "done", {"state": state.value, "revision": config.revision})
    return EpochReport(
        ok=taken is None, from_day=day_text(from_day), n_bits=n_bits, state=state.value, revision=config.revision,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def plan_epoch(repo: Repository, from_day: date, n_bits: int) -> EpochReport:
    """What `set_epoch` would come to if nobody else does anything meanwhile; changes nothing.

    Raises:
        UsageError, RestrictedError: as `set_epoch`.
    """
    began = time.monotonic()
    config = repo.refresh_config()
    waiting = _check(repo, config, from_day, n_bits)
    taken = first_commit(repo, from_day)
    if taken is not None and not waiting:
        raise _refusal(repo, from_day, taken)
    state = EpochState.ACTIVE if taken is None else EpochState.WITHDRAWN
    return EpochReport(
        ok=taken is None, from_day=day_text(from_day), n_bits=n_bits, state=state.value, revision=config.revision,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def first_commit(repo: Repository, from_day: date) -> str | None:
    """The key of some slot log record of a day from `from_day` on, of any tenant; None if there is none."""
    for tenant in tenants(repo):
        for day in days(repo, tenant, first=from_day):
            for info in repo.store.list_versions(repo.keys.day_prefix(tenant, day)):
                if repo.keys.parse(info.key).kind is KeyKind.LOG and _counts(repo, info):
                    return info.key
    return None


def _counts(repo: Repository, info: VersionInfo) -> bool:
    """Whether a version under a log key can be a record: not a marker, nor what anybody can put there, unlocked."""
    if info.is_delete_marker:
        return False
    # What is cleared while it is looked at was unlocked.
    with suppress(MissingObjectError):
        return not repo.config.locked or repo.store.get_lock(info.key, info.version_id) is not None
    return False


def _check(repo: Repository, config: RepositoryConfig, from_day: date, n_bits: int) -> bool:
    """Whether this very epoch is pending already; raises where it can't be set at all."""
    check_bits(n_bits)
    newest = max(epoch.from_day for epoch in config.routing.epochs if epoch.state is EpochState.ACTIVE)
    waiting = [epoch for epoch in config.routing.epochs if epoch.state is EpochState.PENDING]
    if any((epoch.from_day, epoch.n_bits) != (from_day, n_bits) for epoch in waiting):
        raise RestrictedError(
            f"another epoch is pending: from {waiting[0].from_day} with {waiting[0].n_bits} bits",
            todo=f"Settle it first: vera epoch {waiting[0].from_day} {waiting[0].n_bits}", repository=repo.uri,
        )  # fmt: skip
    if from_day <= newest and not waiting:
        raise UsageError(
            f"an epoch must begin after every active one; the newest begins on {newest}", repository=repo.uri
        )
    return bool(waiting)


def _refusal(repo: Repository, from_day: date, taken: str) -> RestrictedError:
    return RestrictedError(
        "files are archived on or after that day, so their place can't change any more",
        todo="Choose a later day.", from_day=from_day, key=taken, repository=repo.uri,
    )  # fmt: skip
