"""Rotating the KEK: a new version of it, and every keyring and tenant key wrapped by that, in every place.

Shards are not touched and nothing is opened: the key service makes 64 wrapped bytes of 64 others. Each key is replaced
by compare-and-swap on the version that was read, so a keyring that an erasure punctured meanwhile stays as that left
it, and whoever is killed has done what it has done: what is wrapped by the current version is left alone.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import UnavailableError, VeraError
from vera_core.keys.envelope import rewrap_envelopes
from vera_core.keyspace import KeyKind
from vera_core.operations.audited import audited
from vera_core.operations.key_census import THREADS, Tally, kek_version, looks, summed
from vera_core.operations.key_objects import lock_of, look_under
from vera_core.operations.report import Finding, Report, figure
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vera_core.keys.envelope import Envelope
    from vera_core.keys.service import KeyService, Outcome
    from vera_core.operations.key_census import KeyCensus, PlaceLine
    from vera_core.operations.key_objects import KeyLook
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository
    from vera_core.store.base import VersionInfo

ATTEMPTS = 8
"""Of replacing one key that others replace at the same moment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateReport(Report):
    """A new version of the KEK; nothing is wrapped by it yet but what is stored from now on."""

    kek: str
    version: int = figure("new version of the KEK")


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapReport(Report):
    """What wraps the keys after a rewrapping.

    `raise_to`: the highest `min_decryption_version` under which every key that counts still opens. `kept` are versions
    wrapped by an older one that are locked: nothing needs them, and they go when their locks have ended.
    """

    kek: str
    places: tuple[PlaceLine, ...]
    findings: tuple[Finding, ...] = ()
    rewrapped: int = figure("rewrapped", "objects")
    before: int = figure("wrapped by the current version already", "objects")
    removed: int = figure("older versions deleted", "objects")
    kept: int = figure("older versions that are locked", "objects")
    behind: int = figure("still wrapped by an older version", "objects")
    raise_to: int = figure("min_decryption_version may be raised to")


def rotate(repo: Repository) -> RotateReport:
    """Makes a new version of the KEK. Not idempotent: after a lost answer look first (`vera keys ls`).

    Raises:
        UsageError: the repository is not encrypted, or its key service is not configured.
        VeraError: the key service's.
    """
    began = time.monotonic()
    repo.writable_config()
    service = repo.key_service()
    with audited(repo, "rotate", {"kek": service.kek, "from": service.current()}) as outcome:
        version = outcome["version"] = service.rotate()
    return RotateReport(kek=service.kek, version=version, seconds=time.monotonic() - began)


def execute_rewrap(
    repo: Repository, plan: KeyCensus, *, tenant: str | None = None, progress: Callable[[int, int], None] | None = None
) -> RewrapReport:
    """Wraps the keys of one tenant, or of all, by the KEK's current version; `plan` is what `take_census` found.

    Run again after a crash it goes on where it was. A place that can't be reached is a finding; the others are done.
    `progress` gets the number of keys done, and of all.

    Raises:
        VeraError: the key service's; what was rewrapped before stays so.
    """
    began = time.monotonic()
    repo.writable_config()
    run = _Run(repo, repo.key_service(), plan.keys, progress)
    with audited(repo, "rewrap", {"kek": plan.kek, "version": plan.current, "behind": plan.behind}) as outcome:
        tallies = [run.place(place, tenant) for place in repo.key_places()]
        census = summed(run.service, tallies)
        outcome.update(dict(run.counts), behind=census.behind)
    whole = tenant is None and not any(line.error for line in census.places)
    return RewrapReport(
        ok=census.ok and not census.behind, kek=census.kek, places=census.places, findings=census.findings,
        rewrapped=run.counts["rewrapped"], before=run.counts["before"], removed=run.counts["removed"],
        kept=run.counts["kept"], behind=census.behind, raise_to=census.oldest if whole else 0,
        seconds=time.monotonic() - began,
    )  # fmt: skip


@dataclass(slots=True)
class _Run:
    """A rewrapping, and what it has done so far."""

    repo: Repository
    service: KeyService
    total: int
    progress: Callable[[int, int], None] | None
    current: int = 0
    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def place(self, place: KeyPlace, tenant: str | None) -> Tally:
        """Rewraps what lies in one place."""
        tally = Tally(place, self.service)
        self.current = self.service.current()
        with ThreadPoolExecutor(THREADS, thread_name_prefix="vera-rewrap") as pool:
            try:
                for batch in looks(self.repo, place, tenant):
                    left = list(pool.map(self._key, batch, self._rewrapped(batch)))
                    self._remove(place, [info for item in left for info in item.replaced])
                    self._take(tally, left)
            except UnavailableError as trouble:
                if "place" not in trouble.where:
                    raise
                tally.fail(trouble)
        return tally

    def _take(self, tally: Tally, batch: Sequence[_Left]) -> None:
        for left in batch:
            tally.take(left.seen, left.envelope)
            tally.findings += left.findings
            self.counts[left.outcome] += 1
            if left.seen.object.parsed.kind is KeyKind.TENANT_KEY:
                self.counts["kept"] += len(left.seen.same) + (left.outcome == "rewrapped")
        self.done += len(batch)
        if self.progress is not None:
            self.progress(self.done, max(self.total, self.done))

    def _remove(self, place: KeyPlace, infos: Sequence[VersionInfo]) -> None:
        """Deletes versions in whose place newer ones stand, but those that are locked."""
        with place.reached():
            refused = place.store.delete_batch((info.key, info.version_id) for info in infos)
        self.counts["kept"] += len(refused)
        self.counts["removed"] += len(infos) - len(refused)

    def _is_behind(self, seen: KeyLook) -> bool:
        return seen.envelope is not None and 0 < kek_version(self.service, seen.envelope) < self.current

    def _rewrapped(self, batch: Sequence[KeyLook]) -> list[Outcome[Envelope] | None]:
        """The envelopes under the current version; None for those that need nothing."""
        behind = [seen.envelope for seen in batch if self._is_behind(seen) and seen.envelope is not None]
        outcomes = iter(rewrap_envelopes(self.service, behind))
        return [next(outcomes) if self._is_behind(seen) else None for seen in batch]

    def _key(self, seen: KeyLook, outcome: Outcome[Envelope] | None) -> _Left:
        """Stores what a key is to be now, unless somebody else changes it meanwhile: then it is looked at again."""
        for _ in range(ATTEMPTS):
            if outcome is None or seen.info is None:
                return self._unchanged(seen)
            if isinstance(outcome, VeraError):
                finding = Finding(what=outcome.what, key=seen.info.key, todo=outcome.todo)
                return _Left(seen, seen.envelope, "failed", findings=[finding])
            with suppress(MissingObjectError):  # an erasure has purged what was seen
                if seen.replace(outcome, lock_of(seen.object.place, seen.info, self.repo.clock.now())):
                    return _Left(seen, outcome, "rewrapped", self._spare(seen, [seen.info, *seen.same]))
            seen = look_under(self.repo, seen.object.place, seen.object.parsed.key)
            (outcome,) = self._rewrapped([seen])
        what = "others replace this key all the time; it is wrapped as before"
        finding = Finding(what=what, key=seen.object.parsed.key, todo="Run it again.")
        return _Left(seen, seen.envelope, "failed", findings=[finding])

    def _unchanged(self, seen: KeyLook) -> _Left:
        # What a run that was killed left beside the version that it had made.
        same = self._spare(seen, seen.same) if seen.on_top else ()
        return _Left(seen, seen.envelope, "gone" if seen.info is None else "before", same)

    @staticmethod
    def _spare(seen: KeyLook, infos: Sequence[VersionInfo]) -> Sequence[VersionInfo]:
        """What of these may be deleted: of tenant keys none, for the first version says which secret it is."""
        return infos if seen.object.parsed.kind is KeyKind.KEYRING else ()


class _Left(NamedTuple):
    """What was seen under a key, how it is wrapped afterwards (None: it is gone), and what may be deleted for that.

    `outcome`: rewrapped, before (it was before), gone or failed.
    """

    seen: KeyLook
    envelope: Envelope | None
    outcome: str
    replaced: Sequence[VersionInfo] = ()
    findings: Sequence[Finding] = ()
