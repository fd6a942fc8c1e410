"""When each shard was last proved, and what was found: told to the audit, and summed up beside each tenant's days.

The audit's verdicts are the truth of it. What a day's proofs come to lies in one derived object, replaced by
compare-and-swap and marked as ours (`store.marked`), so that a scrub knows what is due without walking the audit; lost,
it is gathered from there again (docs/protocol.md, "Proofs"; docs/adr/0011-proofs.md). What is looked at is scrub.py.
"""

from __future__ import annotations

import random
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from vera_core.errors import IncompatibleError, IntegrityError, PreconditionError
from vera_core.keyspace import KeyKind, number_text
from vera_core.model import day_text, format_time, parse_time
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.strangers import audit_writers
from vera_core.slots import MALFORMED
from vera_core.store.base import ABSENT, SINGLE_PUT_LIMIT, Condition, MissingObjectError
from vera_core.store.chain import ChainedLog, decode_record, encode_record
from vera_core.store.marked import is_marked, put_marked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import date, datetime

    from vera_core.operations.repository import Repository
    from vera_core.store.base import VersionInfo

OPERATION = "scrub"
PROOFS_AUDITED = 1000
"""So many proofs an audit entry holds."""
FAULTS_KEPT = 10
"""Different faults of one shard that a proof keeps; `vera verify --deep` and `vera recover` name each entry."""
ATTEMPTS = 64
BACKOFF_SECONDS = 0.05
CLOCKS_APART = timedelta(seconds=2)
"""How far the times of two processes may be apart: stores tell theirs in whole seconds."""

Name = tuple[str, str]
"""Key and VersionId of a shard; the prefix of a slot's log and \"\"."""


class Place(NamedTuple):
    """Whose proofs lie together."""

    tenant: str
    day: date


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """A look at a shard, or at a slot's log (then `key` is its prefix, and `version_id` empty).

    `read`: when; `proved`: when it was last found whole, None if never; `size`: bytes read, in `seconds`; `faults`:
    what was wrong and what to do, each once; `failures`: how often; `keyring`: the revision of the shard's keyring that
    was opened with it, 0 for a shard that is not encrypted. Names no file: proofs outlive erasures.
    """

    key: str
    version_id: str
    read: datetime
    proved: datetime | None
    size: int = 0
    seconds: float = 0.0
    faults: tuple[tuple[str, str], ...] = ()
    failures: int = 0
    keyring: int = 0

    @property
    def name(self) -> Name:
        """What it is of."""
        return self.key, self.version_id

    @property
    def status(self) -> str:
        """`proved`, or `damaged` from a look that found something to the next one that does not."""
        return "damaged" if self.failures else "proved"

    def findings(self) -> Iterator[Finding]:
        """What was found."""
        for what, todo in self.faults:
            yield Finding(what=what, key=self.key, version_id=self.version_id, todo=todo)

    def to_json(self) -> dict[str, Any]:
        """As it stands in audit entries and in the object of its day."""
        return {
            "key": self.key,
            "version_id": self.version_id,
            "read": format_time(self.read),
            "proved": None if self.proved is None else format_time(self.proved),
            "size": self.size,
            "seconds": round(self.seconds, 3),
            "status": self.status,
            "faults": [list(fault) for fault in self.faults],
            "failures": self.failures,
            "keyring": self.keyring,
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Proof:
        """The inverse of `to_json`; one of `MALFORMED` where it is none."""
        return cls(
            key=str(body["key"]),
            version_id=str(body["version_id"]),
            read=parse_time(body["read"]),
            proved=None if body["proved"] is None else parse_time(body["proved"]),
            size=int(body["size"]),
            seconds=float(body["seconds"]),
            faults=tuple((str(what), str(todo)) for what, todo in body["faults"]),
            failures=int(body["failures"]),
            keyring=int(body.get("keyring", 0)),
        )


def look(name: Name, read: datetime, findings: Sequence[Finding], *, size: int = 0, seconds: float = 0.0) -> Proof:
    """The proof that a look gives; warnings among the findings leave it one."""
    errors = [finding for finding in findings if finding.severity == "error"]
    faults = dict.fromkeys((finding.what, finding.todo) for finding in errors)
    return Proof(
        key=name[0], version_id=name[1], read=read, proved=None if errors else read, size=size, seconds=seconds,
        faults=tuple(faults)[:FAULTS_KEPT], failures=len(errors),
    )  # fmt: skip


def merged(one: Proof | None, other: Proof) -> Proof:
    """What two looks at the same thing come to: the later one, and when either last found it whole.

    Of two whose order the clocks of two processes can't tell, the one that found damage counts.
    """
    if one is None:
        return other
    first, last = sorted((one, other), key=lambda proof: proof.read)
    if first.failures and last.read - first.read <= CLOCKS_APART:
        last = first
    proved = max((proof.proved for proof in (one, other) if proof.proved is not None), default=None)
    return replace(last, proved=proved)


def place_of(repo: Repository, name: Name) -> Place | None:
    """Where a proof of that name belongs; None if it names nothing that is proved."""
    key, version_id = name
    parsed = repo.keys.parse(key if version_id else f"{key}{number_text(1)}.json")
    if parsed.kind is not (KeyKind.SHARD if version_id else KeyKind.LOG) or parsed.day is None:
        return None
    return Place(parsed.tenant, parsed.day)


def read_proofs(repo: Repository, place: Place) -> dict[Name, Proof]:
    """The proofs of a tenant's day: of shards that were ever looked at, and of slot logs that were last found damaged.

    Empty where there are none, or nothing that can be believed: two requests.
    """
    return _stored(repo, place)[0]


def record_proofs(repo: Repository, proofs: Sequence[Proof], gone: Iterable[Name] = ()) -> None:
    """Tells the audit of looks, then sums them up beside their days. Safe side by side, and to run again.

    `gone` names what is live no more, and need not be known.

    Raises:
        UnavailableError: the store can't be reached; what the audit was told can be gathered from it.
        PreconditionError: others kept coming first.
    """
    for first in range(0, len(proofs), PROOFS_AUDITED):
        some = proofs[first : first + PROOFS_AUDITED]
        result = "failed" if any(proof.failures for proof in some) else "verified"
        repo.audit.verdict(OPERATION, result, {"proofs": [proof.to_json() for proof in some]})
    _store(repo, proofs, gone)


def _store(repo: Repository, proofs: Iterable[Proof], gone: Iterable[Name] = ()) -> int:
    """Sums looks up beside their days; returns how many days changed."""
    news: defaultdict[Place, list[Proof]] = defaultdict(list)
    dropped: defaultdict[Place, list[Name]] = defaultdict(list)
    for proof in proofs:
        if place := place_of(repo, proof.name):
            news[place].append(proof)
    for name in gone:
        if place := place_of(repo, name):
            dropped[place].append(name)
    places = sorted(news.keys() | dropped.keys())
    return sum(_swap(repo, place, news[place], dropped[place]) for place in places)


def _swap(repo: Repository, place: Place, news: Sequence[Proof], dropped: Sequence[Name]) -> bool:
    """Brings the proofs of a day up to date; whether it had to."""
    for attempt in range(ATTEMPTS):
        known, condition = _stored(repo, place)
        found = dict(known)
        for proof in news:
            found[proof.name] = merged(found.get(proof.name), proof)
        for name in dropped:
            found.pop(name, None)
        # A log is looked at with each of its shards: that it was in order needs no line of its own.
        found = {name: proof for name, proof in found.items() if name[1] or proof.failures}
        if found == known:
            return False
        key = repo.keys.proofs(*place)
        data = _encoded(place, found)
        marked_at = repo.clock.now() if repo.config.locked else None
        try:
            put_marked(repo.store, key, data, condition=condition, marked_at=marked_at)
        except PreconditionError:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0, BACKOFF_SECONDS) * min(attempt, 10))  # noqa: S311 - to part racers
        else:
            return True
    raise AssertionError


def _encoded(place: Place, proofs: Mapping[Name, Proof]) -> bytes:
    body = {
        "type": "proofs",
        "tenant": place.tenant,
        "day": day_text(place.day),
        "proofs": [proofs[name].to_json() for name in sorted(proofs)],
    }
    return encode_record(body)


def _stored(repo: Repository, place: Place) -> tuple[dict[Name, Proof], Condition]:
    """The proofs that count, and the condition under which others can take their place.

    The newest version that is marked and whole counts: what strangers put over it, or a DELETE, hides nothing.
    """
    key = repo.keys.proofs(*place)
    infos = [info for info in repo.store.list_versions(key) if info.key == key]
    empty = not infos or infos[0].is_delete_marker
    condition = ABSENT if empty else Condition(infos[0].etag)
    for info in infos:
        found = None if info.is_delete_marker else _loaded(repo, place, info)
        if found is not None:
            return found, condition
    return {}, condition


def _loaded(repo: Repository, place: Place, info: VersionInfo) -> dict[Name, Proof] | None:
    """The proofs in a version; None where it is not ours, damaged, or gone since it was listed."""
    if info.size > SINGLE_PUT_LIMIT:
        return None
    try:
        blob = repo.store.get(info.key, version_id=info.version_id)
        if repo.config.locked and not is_marked(repo.store, blob):
            return None
    except MissingObjectError:
        return None
    body = decode_record(blob.data)
    try:
        if body is None or (body["tenant"], body["day"]) != (place.tenant, day_text(place.day)):
            return None
        proofs = [Proof.from_json(item) for item in body["proofs"]]
    except MALFORMED:
        return None
    return {proof.name: proof for proof in proofs if place_of(repo, proof.name) == place}


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherReport(Report):
    """What was gathered from the audit. `findings` are trails that don't verify: what they told is left out."""

    findings: tuple[Finding, ...] = ()
    writers: int = figure("audit trails read")
    proofs: int = figure("proofs in them")
    days: int = figure("days brought up to date")


def gather_proofs(repo: Repository, *, tenant: str | None = None) -> GatherReport:
    """Brings the proofs of every day (of one tenant, or of all) up to what the audit tells; safe to run again.

    Reads the whole audit: a request for each entry of each writer.

    Raises:
        UnavailableError: the store can't be reached.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    began = time.monotonic()
    repo.writable_config()
    latest: dict[Name, Proof] = {}
    findings: list[Finding] = []
    writers = count = 0
    for writer in audit_writers(repo):
        writers += 1
        try:
            told = list(_told(repo, writer))
        except (IntegrityError, IncompatibleError) as error:
            findings.append(Finding(what=error.what, key=error.where.get("key", writer), todo=error.todo))
            continue
        count += len(told)
        for proof in told:
            place = place_of(repo, proof.name)
            if place is not None and tenant in {None, place.tenant}:
                latest[proof.name] = merged(latest.get(proof.name), proof)
    days = _store(repo, latest.values())
    return GatherReport(
        ok=not findings, findings=tuple(findings), writers=writers, proofs=count, days=days,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _told(repo: Repository, writer: str) -> Iterator[Proof]:
    """The proofs in a writer's audit trail."""
    keys = repo.keys
    trail = ChainedLog(repo.store, keys.writer_prefix(writer), lambda n: keys.audit(writer, n), repo.config.log_options)
    for record in trail.read():
        if (record.type, record.body.get("operation")) == ("verdict", OPERATION):
            try:
                yield from [Proof.from_json(item) for item in record.body["detail"]["proofs"]]
            except MALFORMED as error:
                raise IntegrityError(
                    f"audit entry {record.number} can't be understood: {error!r}",
                    todo="Compare it with a replica of the bucket.", key=keys.audit(writer, record.number),
                ) from error  # fmt: skip
