"""What proves a shard's keyring: present in every place, of this shard, new enough, opened by the KEK, the same in all.

Looks only, as proving.py does for shards and locks. What an older revision could still open, and removing it, is the
business of the erasure; putting a keyring back from a copy that of `vera keys restore`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IncompatibleError, IntegrityError, UnavailableError, VeraError
from vera_core.keys.envelope import Envelope, Kind
from vera_core.keys.keyring import Wanted, open_keyrings
from vera_core.model import Erasability, Lock, format_time
from vera_core.operations.commit import satisfies
from vera_core.operations.report import Finding
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.keys.keyring import Keyring
    from vera_core.keys.service import KeyService
    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef
    from vera_core.store.base import VersionInfo

RESTORE = "Run `vera keys restore`, which puts it back from a copy that is whole."
PURGE = "Run `vera erasures destroy`, which removes what erased files could still be read with."
STRANGER = "Find out who wrote it. `vera keys restore` puts the shard's own one on top, and deletes what is none."


class KeyringLook(NamedTuple):
    """What a look at a shard's keyring found; `revision` is the newest one that opens, 0 if none does.

    `kek_versions` wrap the newest revision in the places that have one; `locks` are the findings about locks: a packer
    at work may not have come to them yet.
    """

    revision: int
    kek_versions: frozenset[int]
    findings: list[Finding]
    locks: list[Finding]


class _Version(NamedTuple):
    """A version that is a keyring of the shard."""

    info: VersionInfo
    data: bytes
    envelope: Envelope

    @property
    def revision(self) -> int:
        return self.envelope.header.revision


class _Seen(NamedTuple):
    """What lies in one place: the newest version that is the shard's, and what was found."""

    newest: _Version | None
    findings: list[Finding]
    locks: list[Finding]


def look_at_keyring(repo: Repository, shard: ShardRef) -> KeyringLook:
    """Looks at every version of a shard's keyring in every place, and opens the newest of each: one call of the KEK.

    Raises:
        UnavailableError: a place, or the key service, can't be reached.
        VeraError: what else concerns the whole key service.
    """
    found: list[tuple[KeyPlace, _Version]] = []
    findings: list[Finding] = []
    locks: list[Finding] = []
    for place in repo.keyrings.places():
        seen = _seen(repo, place, shard)
        findings += _named(place, repo, seen.findings)
        locks += _named(place, repo, seen.locks)
        if seen.newest is not None:
            found.append((place, seen.newest))
    opened: list[Keyring] = []
    wanted, service = _wanted(repo, shard), repo.key_service()
    outcomes = open_keyrings(service, [(wanted, version.data) for _, version in found])
    for (place, version), outcome in zip(found, outcomes, strict=True):
        if isinstance(outcome, VeraError):
            if version.revision >= shard.keyring:
                findings += _named(place, repo, [_about(version.info, outcome.what, outcome.todo or RESTORE)])
        else:
            opened.append(outcome)
    revision = max((one.revision for one in opened), default=0)
    versions = frozenset(_kek_versions(service, found))
    return KeyringLook(revision, versions, [*findings, *_differences(shard, opened)], locks)


def _kek_versions(service: KeyService, found: list[tuple[KeyPlace, _Version]]) -> Iterator[int]:
    for _, version in found:
        with suppress(IntegrityError):
            if version.envelope.kek == service.kek:
                yield service.version(version.envelope.wrapped)


def _wanted(repo: Repository, shard: ShardRef) -> Wanted:
    tenant = repo.keys.parse(shard.key).tenant
    return Wanted(bytes.fromhex(repo.config.repository_id), tenant, bytes.fromhex(shard.sha256), shard.keyring)


def _seen(repo: Repository, place: KeyPlace, shard: ShardRef) -> _Seen:
    """What lies in one place."""
    try:
        with place.reached():
            versions, findings = _versions(repo, place, shard)
            newest = max(versions, key=lambda version: version.revision, default=None)
            locks = [] if newest is None else list(_lock_trouble(repo, place, shard, newest.info))
    except UnavailableError as error:
        with place.reached():
            place.store.now()
        what = f"the store is there, but does not give the shard's keyring: {error.what}"
        todo = "Look at the disks of the store, and run `vera scrub` again, which looks at this again."
        return _Seen(None, [Finding(what=what, key=place.keyring(shard), todo=todo)], [])
    return _Seen(newest, [*findings, *_of_revisions(place, shard, versions)], locks)


def _versions(repo: Repository, place: KeyPlace, shard: ShardRef) -> tuple[list[_Version], list[Finding]]:
    """The shard's keyrings among the versions of their key in one place, and what else lies there."""
    key = place.keyring(shard)
    infos = [info for info in place.store.list_versions(key) if info.key == key]
    versions: list[_Version] = []
    trouble: list[Finding] = []
    if infos and infos[0].is_delete_marker:
        trouble.append(_about(infos[0], "a delete marker hides the shard's keyring", STRANGER))
    for info in infos:
        if info.is_delete_marker:
            continue
        try:
            data = place.store.get(key, version_id=info.version_id).data
            envelope = _decoded(_wanted(repo, shard), data)
        except MissingObjectError:
            continue  # purged since it was listed
        except (IntegrityError, IncompatibleError) as error:
            what = f"a version under the name of the shard's keyring is none: {error.what}"
            trouble.append(_about(info, what, STRANGER))
        else:
            versions.append(_Version(info, data, envelope))
    return versions, trouble


def _decoded(wanted: Wanted, data: bytes) -> Envelope:
    envelope = Envelope.decode(data)
    header = envelope.header
    named = (header.kind, header.repository_id, header.tenant, header.shard)
    if named != (Kind.KEYRING, wanted.repository_id, wanted.tenant, wanted.shard):
        raise IntegrityError("it is the keyring of something else")
    return envelope


def _of_revisions(place: KeyPlace, shard: ShardRef, versions: list[_Version]) -> Iterator[Finding]:
    """What is wrong with the revisions that lie in a place, by what the slot log says."""
    newest = max((version.revision for version in versions), default=0)
    if not newest:
        yield Finding(what="the shard's keyring is missing", key=place.keyring(shard), todo=RESTORE)
    elif newest < shard.keyring:
        what = f"the shard's keyring has revision {newest}, the slot log names {shard.keyring}"
        yield Finding(what=what, key=place.keyring(shard), todo=RESTORE)
    for version in versions:
        if version.revision < shard.keyring:
            what = f"revision {version.revision} of the keyring is still there, or back: it opens files erased since"
            yield _about(version.info, what, PURGE)


def _lock_trouble(repo: Repository, place: KeyPlace, shard: ShardRef, info: VersionInfo) -> Iterator[Finding]:
    """Regulated classes: locked as long as the shard. Erasable ones: not at all, else no erasure could destroy it."""
    if not repo.config.locked:
        return
    actual = place.store.get_lock(info.key, info.version_id)
    over = actual is not None and actual.until <= repo.clock.now()
    if repo.config.retention(shard.retention_class).erasability is Erasability.REGULATED:
        wanted = Lock(repo.config.lock_mode, shard.lock.until)
        if wanted.until > repo.clock.now() and not satisfies(actual, wanted):
            what = f"the keyring is not locked until {format_time(wanted.until)}, as its shard of a regulated class is"
            yield _about(info, what, "Run `vera doctor` to extend it; find out who shortened it.")
    elif actual is not None and not over:
        what = f"the keyring is locked until {format_time(actual.until)}: nothing of its shard can be erased before"
        yield _about(info, what, "Find out who locked it; a bucket default retention does so for every object.")


def _differences(shard: ShardRef, opened: list[Keyring]) -> Iterator[Finding]:
    """What differs between the places; also an erasure under way, so that it may be nothing."""
    if len({(one.header, one.tree.nodes) for one in opened}) > 1:
        revisions = sorted({one.revision for one in opened})
        what = "copies of the shard's keyring differ" + (
            f": they have the revisions {', '.join(map(str, revisions))}" if len(revisions) > 1 else ""
        )
        # A puncture goes from place to place; one revision with two contents comes from no VERA.
        severity = "warning" if len(revisions) > 1 else "error"
        yield Finding(what=what, key=shard.key, todo=RESTORE, severity=severity)


def _about(info: VersionInfo, what: str, todo: str) -> Finding:
    return Finding(what=what, key=info.key, version_id=info.version_id, todo=todo)


def _named(place: KeyPlace, repo: Repository, findings: list[Finding]) -> list[Finding]:
    """The findings, with the name of the place where it is a copy."""
    if place.uri == repo.uri:
        return findings
    return [replace(finding, what=f"in the copy {place.uri}: {finding.what}") for finding in findings]
