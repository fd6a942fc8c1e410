"""What a scrub reads next: the shards whose last proof is oldest, and how old the proofs are. Changes nothing.

The reading is scrub.py's business, where proofs are kept proofs.py's.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IncompatibleError, IntegrityError, UnavailableError, UsageError
from vera_core.operations.proofs import Name, Place, Proof, read_proofs
from vera_core.operations.report import Report, figure
from vera_core.operations.slotwise import each_slot
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef

PERCENT = 1.0
SLOTS_AT_ONCE = 1000
ASSUMED_RATE = 50 << 20
"""Bytes a second at which shards are read and verified, as long as no proof tells better."""
REQUEST_SECONDS = 0.01
SHARD_REQUESTS = 2
SLOT_REQUESTS = 5
"""A listing and the sidecar, the proofs of the day before and after, and the audit."""
LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


class Candidate(NamedTuple):
    """A live shard, in the order in which shards are due.

    `since`: when it was last proved, or uploaded where it never was; `read`: when it was last looked at; `damaged`: it
    was found so then.
    """

    since: datetime
    name: Name
    slot: Slot
    size: int
    read: datetime | None
    proved: bool
    damaged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubLine:
    """A shard to read, as `Candidate`."""

    slot: Slot
    key: str
    version_id: str
    size: int
    since: datetime
    read: datetime | None
    damaged: bool

    @property
    def name(self) -> Name:
        """The shard's name."""
        return self.key, self.version_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofAges:
    """How old the last proofs of a tenant's live shards are, in days; of a shard never proved, since its upload.

    `oldest` is the oldest one's time; of the shards, half are younger than `median` days, 90 and 99 % than `p90` and
    `p99`. `never` were not read by a scrub yet, `damaged` were when last read.
    """

    tenant: str
    shards: int
    never: int
    damaged: int
    oldest: datetime
    oldest_days: float
    median: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubPlan(Report):
    """What a scrub would read.

    `slots_due` are the slots whose logs are looked at: those with a shard to read, and those with a damaged log.
    """

    percent: float
    max_age: timedelta | None
    lines: tuple[ScrubLine, ...]
    slots_due: tuple[Slot, ...]
    ages: tuple[ProofAges, ...]
    slots: int = figure("slots examined")
    live: int = figure("live shards", "objects")
    due: int = figure("shards to read", "objects")
    damaged: int = figure("of them damaged when last read", "objects")
    size: int = figure("bytes to read", "bytes")
    requests: int = figure("requests, about")
    estimate: float = figure("time that takes, about", "seconds")


@dataclass(slots=True)
class _Survey:
    """What has been seen so far; `logs` are slots whose log could not be read, or was last found damaged."""

    found: list[Candidate] = field(default_factory=list)
    logs: list[Slot] = field(default_factory=list)
    records: dict[Slot, int] = field(default_factory=dict)
    read_bytes: int = 0
    read_seconds: float = 0.0


class _Seen(NamedTuple):
    slot: Slot
    records: int
    shards: list[Candidate]
    broken: bool


def plan_scrub(
    repo: Repository,
    slots: Iterable[Slot],
    *,
    percent: float = PERCENT,
    max_age: timedelta | None = None,
    progress: Callable[[int], None] | None = None,
) -> ScrubPlan:
    """Chooses `percent` of the slots' live shards, the longest unproved first, of these those unproved for `max_age`.

    Whatever was found damaged when last looked at is looked at again besides. Two requests a slot and two a day;
    about 500 bytes of memory a shard. `progress` gets the number of slots examined.

    Raises:
        UsageError: the percentage is not above 0 and up to 100.
        UnavailableError: the store can't be reached.
    """
    began = time.monotonic()
    if not 0 < percent <= 100:
        raise UsageError(f"{percent} is no percentage", todo="Give a number above 0 and up to 100.")
    repo.refresh_config()
    now = repo.clock.now()
    survey = _surveyed(repo, slots, progress)
    before = None if max_age is None else now - max_age
    lines = [_line(item) for item in chosen(survey.found, percent=percent, before=before)]
    due = tuple(sorted({*(line.slot for line in lines), *survey.logs}))
    size = sum(line.size for line in lines)
    requests = len(lines) * SHARD_REQUESTS + sum(SLOT_REQUESTS + 2 * survey.records[slot] for slot in due)
    rate = survey.read_bytes / survey.read_seconds if survey.read_seconds else ASSUMED_RATE
    return ScrubPlan(
        percent=percent, max_age=max_age, lines=tuple(lines), slots_due=due,
        ages=proof_ages(survey.found, now), slots=len(survey.records), live=len(survey.found), due=len(lines),
        damaged=sum(line.damaged for line in lines), size=size, requests=requests,
        estimate=size / rate + requests * REQUEST_SECONDS, seconds=time.monotonic() - began,
    )  # fmt: skip


def chosen(found: Sequence[Candidate], *, percent: float, before: datetime | None = None) -> list[Candidate]:
    """The shards to read: `percent` of all by count, rounded up, oldest first, without those proved after `before`.

    Who is read goes to the end of the line, and new shards come there too. So whoever reads P % at a time has read each
    shard within 100 / P times, as long as they become no fewer. Damaged ones are read besides: nothing waits for them.
    """
    whole = sorted(item for item in found if not item.damaged)
    share = whole[: math.ceil(len(found) * percent / 100)]
    due = [item for item in share if before is None or item.since <= before]
    return [*sorted(item for item in found if item.damaged), *due]


def proof_ages(found: Iterable[Candidate], now: datetime) -> tuple[ProofAges, ...]:
    """How old the proofs of each tenant's shards are at `now`."""
    by_tenant: defaultdict[str, list[Candidate]] = defaultdict(list)
    for item in sorted(found):
        by_tenant[item.slot.tenant].append(item)
    return tuple(_ages(tenant, items, now) for tenant, items in sorted(by_tenant.items()))


def _ages(tenant: str, ordered: Sequence[Candidate], now: datetime) -> ProofAges:
    days = [max((now - item.since) / timedelta(days=1), 0.0) for item in reversed(ordered)]

    def younger(share: float) -> float:
        return days[max(math.ceil(len(days) * share) - 1, 0)]

    return ProofAges(
        tenant=tenant, shards=len(days), never=sum(not item.proved for item in ordered),
        damaged=sum(item.damaged for item in ordered), oldest=ordered[0].since, oldest_days=days[-1],
        median=younger(0.5), p90=younger(0.9), p99=younger(0.99),
    )  # fmt: skip


def _line(item: Candidate) -> ScrubLine:
    return ScrubLine(
        slot=item.slot, key=item.name[0], version_id=item.name[1], size=item.size, since=item.since, read=item.read,
        damaged=item.damaged,
    )  # fmt: skip


def _surveyed(repo: Repository, slots: Iterable[Slot], progress: Callable[[int], None] | None) -> _Survey:
    survey = _Survey()
    days: dict[Place, dict[Name, Proof]] = {}
    for some in _pieces(slots):
        places = {Place(slot.tenant, slot.day) for slot in some}
        # Slots come day by day: what lies behind is not needed again.
        days = {place: days.get(place) or read_proofs(repo, place) for place in sorted(places)}
        _take_speed(survey, days.values())
        work = {slot: days[Place(slot.tenant, slot.day)] for slot in some}
        seen, failed = each_slot(work, partial(_examine, repo))
        if failed is not None:
            raise failed
        for item in seen:
            survey.found += item.shards
            survey.records[item.slot] = item.records
            if item.broken:
                survey.logs.append(item.slot)
        if progress is not None:
            progress(len(survey.records))
    return survey


def _pieces(slots: Iterable[Slot]) -> Iterator[list[Slot]]:
    rest = iter(slots)
    while some := list(islice(rest, SLOTS_AT_ONCE)):
        yield some


def _take_speed(survey: _Survey, days: Iterable[Mapping[Name, Proof]]) -> None:
    for proofs in days:
        survey.read_bytes += sum(proof.size for proof in proofs.values())
        survey.read_seconds += sum(proof.seconds for proof in proofs.values())


def _examine(repo: Repository, slot: Slot, proofs: Mapping[Name, Proof]) -> list[_Seen]:
    """A slot's live shards with their proofs."""
    log = proofs.get((repo.keys.log_prefix(slot), ""))
    try:
        state = repo.slot_log(slot).current()
    except (IntegrityError, IncompatibleError):
        return [_Seen(slot, 0, [], broken=True)]
    except UnavailableError:
        check_store(repo)
        return [_Seen(slot, 0, [], broken=True)]
    shards = [_candidate(repo, slot, shard, proofs) for shard in state.live()]
    return [_Seen(slot, state.head.number, shards, broken=log is not None)]


def check_store(repo: Repository) -> None:
    """After a failure of one object: whether it is that object's, which must keep nobody from proving the others.

    Raises:
        UnavailableError: no, the store or the key service can't be reached.
    """
    repo.store.now()
    if repo.config.encryption is not None:
        repo.key_service().current()


def _candidate(repo: Repository, slot: Slot, shard: ShardRef, proofs: Mapping[Name, Proof]) -> Candidate:
    name = shard.key, shard.version_id
    proof = proofs.get(name)
    proved = None if proof is None else proof.proved
    return Candidate(
        since=proved or _uploaded(repo, name), name=name, slot=slot, size=shard.size,
        read=None if proof is None else proof.read, proved=proved is not None,
        damaged=proof is not None and proof.failures > 0,
    )  # fmt: skip


def _uploaded(repo: Repository, name: Name) -> datetime:
    """When a shard was stored: verified right before, and held to a checksum by the store."""
    try:
        return repo.store.head(name[0], version_id=name[1]).last_modified
    except MissingObjectError:
        return LONG_AGO
