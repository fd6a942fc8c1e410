"""Every keyring and tenant key that lies in a place, closed: found by listing, and replaced by compare-and-swap.

Nothing is unwrapped here, and no log is asked: what a revision may be, and what a keyring may open, is the business of
those who use this.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.errors import BadTimeError, IncompatibleError, IntegrityError, PreconditionError, UsageError
from vera_core.keys.envelope import Envelope, Kind
from vera_core.keyspace import KeyKind
from vera_core.model import check_name, parse_day
from vera_core.operations.report import Finding
from vera_core.store.base import ABSENT, Condition, MissingObjectError, VersionInfo
from vera_core.store.chain import earliest_record

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from vera_core.keyspace import ParsedKey
    from vera_core.model import Lock
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository

_Readable = tuple[VersionInfo, Envelope]
_FOREIGN = "Find out who wrote it, and delete that version; what counts lies beside it."


@dataclass(frozen=True, slots=True)
class KeyObject:
    """A key of a place under which keyrings or tenant keys lie: its versions as listed, newest first."""

    place: KeyPlace
    parsed: ParsedKey
    versions: tuple[VersionInfo, ...]

    @property
    def condition(self) -> Condition:
        """What holds as long as the newest version is the one that was listed."""
        newest = self.versions[0] if self.versions else None
        return ABSENT if newest is None or newest.is_delete_marker else Condition(newest.etag)

    def again(self) -> KeyObject:
        """The same key as it is now."""
        key = self.parsed.key
        with self.place.reached():
            versions = tuple(info for info in self.place.store.list_versions(key) if info.key == key)
        return KeyObject(self.place, self.parsed, versions)


@dataclass(frozen=True, slots=True)
class KeyLook:
    """What lies under a key: the version that counts and the envelope in it (None where no version is one).

    `same` are other versions with the same envelope, whatever wraps it, `lower` those of lower revisions; `findings`
    tell of versions that are none (`unreadable`), or hide the one that counts.
    """

    object: KeyObject
    info: VersionInfo | None = None
    envelope: Envelope | None = None
    same: tuple[VersionInfo, ...] = ()
    lower: tuple[VersionInfo, ...] = ()
    unreadable: tuple[VersionInfo, ...] = ()
    findings: tuple[Finding, ...] = ()

    @property
    def on_top(self) -> bool:
        """Whether the version that counts is the newest one: what a plain read of the key gets."""
        return self.info is not None and self.info == self.object.versions[0]

    @property
    def revision(self) -> int:
        """The revision of what counts; 0 where nothing does."""
        return 0 if self.envelope is None else self.envelope.header.revision

    def holds(self, other: KeyLook) -> bool:
        """Whether both hold the same, whatever wraps it."""
        if self.envelope is None or other.envelope is None:
            return self.envelope is other.envelope
        return _inside(self.envelope) == _inside(other.envelope)

    def replace(self, envelope: Envelope, lock: Lock | None) -> bool:
        """Stores an envelope as the newest version, unless there is another one by now; whether it is there.

        Where the reply was lost, what is there afterwards decides.

        Raises:
            UnavailableError: the place can't be reached.
        """
        place, key, data = self.object.place, self.object.parsed.key, envelope.encode()
        try:
            with place.reached():
                place.store.put(key, data, condition=self.object.condition, lock=lock)
        except PreconditionError:
            with place.reached(), suppress(MissingObjectError):
                return place.store.get(key).data == data
            return False
        return True


def tenants_in(place: KeyPlace) -> Iterator[str]:
    """The tenants that have anything in a place."""
    root = place.keys.tenants_prefix
    with place.reached():
        for prefix in place.store.list_prefixes(root):
            name = prefix[len(root) :].rstrip("/")
            with suppress(UsageError):
                yield check_name(name, "tenant")


def key_objects(place: KeyPlace, tenant: str) -> Iterator[KeyObject]:
    """A tenant's keys in a place: the tenant key first, then the keyrings day by day."""
    yield from _grouped(place, place.keys.tenant_key(tenant))
    for prefix in days_in(place, tenant):
        yield from _grouped(place, prefix)


def days_in(place: KeyPlace, tenant: str) -> Iterator[str]:
    """The prefixes of the days of a tenant that have anything in a place."""
    root = place.keys.tenant_prefix(tenant)
    with place.reached():
        for prefix in place.store.list_prefixes(root):
            with suppress(BadTimeError):
                parse_day(prefix[len(root) :].rstrip("/"))
                yield prefix


def look(found: KeyObject, *, repository_id: bytes, locked: bool) -> KeyLook:
    """Reads what lies under a key, in the repository with that id (16 bytes).

    Of keyrings the highest revision counts, the newest of several. Of tenant keys the earliest locked one (the earliest
    at all in a repository without locks) says which secret it is, and the newest with that secret counts.

    Raises:
        UnavailableError: the place can't be reached.
    """
    readable, unreadable, findings = _readable(found, repository_id)
    chosen = _keyring(readable) if found.parsed.kind is KeyKind.KEYRING else _tenant_key(found, readable, locked=locked)
    if chosen is None:
        return KeyLook(found, unreadable=unreadable, findings=tuple(findings))
    info, envelope = chosen
    newest = found.versions[0]
    if newest.is_delete_marker:
        findings.append(_finding(newest, "a delete marker hides a key", "Run `vera keys restore`."))
    elif newest != info and any(one == newest for one, _ in readable):
        findings.append(_finding(newest, "an older key was put over the one that counts", "Run `vera keys restore`."))
    return KeyLook(
        found, info, envelope,
        same=tuple(one for one, other in readable if one != info and _inside(other) == _inside(envelope)),
        lower=tuple(one for one, other in readable if other.header.revision < envelope.header.revision),
        unreadable=unreadable, findings=tuple(findings),
    )  # fmt: skip


def look_under(repo: Repository, place: KeyPlace, key: str) -> KeyLook:
    """What lies under one key of a place of the repository's now; raises as `look`."""
    found = KeyObject(place, place.keys.parse(key), ()).again()
    return look(found, repository_id=bytes.fromhex(repo.config.repository_id), locked=repo.config.locked)


def lock_of(place: KeyPlace, info: VersionInfo, now: datetime) -> Lock | None:
    """The lock of a version, None where it has none or it has ended."""
    with place.reached():
        lock = place.store.get_lock(info.key, info.version_id)
    return None if lock is None or lock.until <= now else lock


def _grouped(place: KeyPlace, prefix: str) -> Iterator[KeyObject]:
    waiting: list[VersionInfo] = []
    with place.reached():
        for info in place.store.list_versions(prefix):
            if not info.key.endswith(".keys"):
                continue
            if waiting and waiting[0].key != info.key:
                yield from _of_key(place, waiting)
                waiting = []
            waiting.append(info)
    yield from _of_key(place, waiting)


def _of_key(place: KeyPlace, infos: Sequence[VersionInfo]) -> Iterator[KeyObject]:
    if infos:
        parsed = place.keys.parse(infos[0].key)
        if parsed.kind in (KeyKind.KEYRING, KeyKind.TENANT_KEY):
            yield KeyObject(place, parsed, tuple(infos))


def _readable(found: KeyObject, repository_id: bytes) -> tuple[list[_Readable], tuple[VersionInfo, ...], list[Finding]]:
    """The versions that are what their key says, newest first, and what the others are."""
    readable: list[_Readable] = []
    unreadable: list[VersionInfo] = []
    findings: list[Finding] = []
    for info in found.versions:
        if info.is_delete_marker:
            continue
        try:
            with found.place.reached():
                data = found.place.store.get(info.key, version_id=info.version_id).data
        except MissingObjectError:
            continue
        try:
            readable.append((info, _checked(repository_id, found.parsed, Envelope.decode(data))))
        except (IntegrityError, IncompatibleError) as error:
            unreadable.append(info)
            findings.append(_finding(info, error.what, error.todo or _FOREIGN))
    return readable, tuple(unreadable), findings


def _checked(repository_id: bytes, parsed: ParsedKey, envelope: Envelope) -> Envelope:
    header = envelope.header
    kind = Kind.KEYRING if parsed.kind is KeyKind.KEYRING else Kind.TENANT
    named = (header.kind, header.repository_id, header.tenant)
    if named != (kind, repository_id, parsed.tenant) or not header.shard.hex().startswith(parsed.digest):
        raise IntegrityError("the keyring or tenant key of something else lies there", todo=_FOREIGN)
    return envelope


def _keyring(readable: Sequence[_Readable]) -> _Readable | None:
    # Newest first, and of several that are equal max gives the first.
    return max(readable, key=lambda item: item[1].header.revision, default=None)


def _tenant_key(found: KeyObject, readable: Sequence[_Readable], *, locked: bool) -> _Readable | None:
    with found.place.reached():
        first = earliest_record(found.place.store, [info for info, _ in readable], locked=locked)
    if first is None:
        return None
    known = next(envelope for info, envelope in readable if info == first)
    return next(item for item in readable if _inside(item[1]) == _inside(known))


def _inside(envelope: Envelope) -> tuple[object, ...]:
    """What a rewrapping leaves as it is."""
    return envelope.header, envelope.nonce, envelope.sealed


def _finding(info: VersionInfo, what: str, todo: str) -> Finding:
    return Finding(what=what, key=info.key, version_id=info.version_id, todo=todo)
