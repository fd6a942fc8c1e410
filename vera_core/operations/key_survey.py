"""Whether any key of an erased file is left: every version of every keyring that ever could open one, in every place.

Changes nothing. Destroying what is found is puncture.py's business; whether readers serve erased files
erasure_proof.py's; whether keyrings are whole and new enough keyring_survey.py's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vera_core.errors import IncompatibleError, IntegrityError
from vera_core.model import day_text
from vera_core.operations.proving import Check, CheckResult, finding_of
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.rings import SlotRings, open_rings
from vera_core.operations.slotwise import each_slot
from vera_core.operations.walk import slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    from vera_core.model import Slot
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository
    from vera_core.operations.rings import Lying, Ring

NO_KEYS = "erased_keys_destroyed"
SLOTS_AT_ONCE = 256
"""Whose keyrings are opened by one call of the key service, and held in memory."""
DESTROY = "Run `vera erasures destroy`, which destroys it, and find out who put it there."


@dataclass(slots=True)
class Examination:
    """What was examined so far, and found. Findings name keyrings and places, and no file."""

    check: Check
    slots: int = 0
    keyrings: int = 0
    versions: int = 0
    erased: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySurvey(Report):
    """Whether keys of a day's erased files are left. All is 0 in a repository that is not encrypted."""

    tenant: str
    day: str
    check: CheckResult
    slots: int = figure("slots examined")
    keyrings: int = figure("keyrings that could open erased files", "objects")
    versions: int = figure("versions of these in all places", "objects")
    erased: int = figure("erased files", "files")
    failures: int = figure("findings")


def survey_keys(repo: Repository, tenant: str, day: date) -> KeySurvey:
    """Opens every version of every keyring that could open a file erased from that day.

    Raises:
        UnavailableError: the store, a place that keeps keys or the key service can't be reached: nothing is said then.
        UsageError: the key service is not configured here.
    """
    began = time.monotonic()
    repo.refresh_config()
    found = Examination(Check(NO_KEYS))
    if repo.config.encryption is not None:
        examine(repo, slots(repo, tenant, day), found)
    result = found.check.result()
    return KeySurvey(
        ok=result.ok, tenant=tenant, day=day_text(day), check=result, slots=found.slots, keyrings=found.keyrings,
        versions=found.versions, erased=found.erased, failures=result.failed, seconds=time.monotonic() - began,
    )  # fmt: skip


def examine(repo: Repository, wanted: Iterable[Slot], found: Examination) -> None:
    """Looks at the keyrings of these slots; what is left of erased files' keys becomes a finding.

    Raises:
        UnavailableError, UsageError: as `survey_keys`.
    """
    places = repo.keyrings.places()
    for batch in _batches(wanted):
        looked, failed = each_slot(dict.fromkeys(batch, (repo, places)), _look)
        if failed is not None:
            raise failed
        good = [item for item in looked if not isinstance(item, Finding)]
        open_rings(repo, (ring for rings in good for ring in rings.rings))
        found.slots += len(batch)
        found.check.take(0, [item for item in looked if isinstance(item, Finding)])
        for rings in good:
            _take(found, rings)


def _look(slot: Slot, to: tuple[Repository, Sequence[KeyPlace]]) -> list[SlotRings | Finding]:
    repo, places = to
    try:
        log = repo.slot_log(slot)
        rings = SlotRings(repo, log, log.load())
        rings.look(places)
    except (IntegrityError, IncompatibleError) as error:
        # Nobody reads anything of such a slot; but nothing is proved either.
        return [finding_of(error)]
    return [rings]


def _take(found: Examination, rings: SlotRings) -> None:
    found.keyrings += len(rings.rings)
    found.erased += len({name for ring in rings.rings for name in ring.erased})
    for ring in rings.rings:
        found.versions += len(ring.versions)
        found.check.take(max(1, len(ring.versions)), _of_ring(ring))
    for shard, versions in rings.strays.items():
        # A packer at work has one that is not condemned, and has looked at the tombstones.
        if rings.state.is_condemned(shard):
            found.check.take(1, [_about(versions[0], "a keyring is there of a shard that was given up")])


def _of_ring(ring: Ring) -> Iterator[Finding]:
    if ring.trouble is not None:
        yield Finding(what=ring.trouble.what, key=ring.shard.key, todo=ring.trouble.todo)
        return
    for lying in ring.versions:
        files = len(ring.can_open(lying))
        if files and ring.unread:
            # Only the next erasure in the slot, which destroys all of its keys, makes sure.
            finding = _about(lying, "a keyring gives keys of a superseded shard whose index can't be read any more")
            yield replace(finding, severity="warning")
        elif files:
            named = "an erased file" if files == 1 else f"{files:,} erased files"
            yield _about(lying, f"a version of a keyring opens {named}")


def _about(lying: Lying, what: str) -> Finding:
    return Finding(
        what=f"{what}, in {lying.place.uri}", key=lying.info.key, version_id=lying.info.version_id, todo=DESTROY
    )


def _batches(wanted: Iterable[Slot]) -> Iterator[list[Slot]]:
    batch: list[Slot] = []
    for slot in wanted:
        batch.append(slot)
        if len(batch) == SLOTS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
