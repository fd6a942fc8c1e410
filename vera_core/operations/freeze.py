"""Freezing a window: one manifest a revision, the earliest locked version of its key, adopted by whoever is second.

A manifest that was frozen under a routing epoch that is not the active one any more is stale: no commit of it counts,
and the next revision freezes its rows anew (docs/protocol.md, "Windows and revisions").
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, IntegrityError, NotFoundError, PreconditionError
from vera_core.keyspace import KeyKind
from vera_core.model import Lock, day_text
from vera_core.operations.accounted import unread_rows
from vera_core.operations.commit import whole_second
from vera_core.operations.repository import LOCK_SLACK
from vera_core.source.adoption import adopt
from vera_core.source.manifest import Freezing, Manifest, freeze
from vera_core.source.revisions import new_rows
from vera_core.store.base import ABSENT, SINGLE_PUT_LIMIT
from vera_core.store.chain import PUT_ATTEMPTS, earliest_record

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.source.base import Source, Window
    from vera_core.store.base import VersionInfo


@dataclass(frozen=True, slots=True)
class FrozenManifest:
    """A revision of a window as the store has it, with a verified local copy.

    In an encrypted repository the store's shows its rows by names and identities only (`keyed`): enough for whoever
    counts them. Who needs the rows takes it through `with_rows`.
    """

    window: Window
    key: str
    version_id: str
    manifest: Manifest
    stale: bool

    @property
    def digest(self) -> str:
        """Hex SHA-256 over the canonical rows: the identity that commits name."""
        return self.manifest.digest


def frozen_manifests(repo: Repository, window: Window, scratch: Path) -> list[FrozenManifest]:
    """All revisions of the window's day, in order, downloaded to `scratch` (whatever the window's own revision).

    Raises:
        IntegrityError: a locked manifest does not verify.
    """
    prefix = repo.keys.window_prefix(window.tenant, window.source, window.day)
    versions: dict[str, list[VersionInfo]] = {}
    for info in repo.store.list_versions(prefix):
        versions.setdefault(info.key, []).append(info)
    found = []
    for key, infos in versions.items():
        parsed = repo.keys.parse(key)
        if parsed.kind is not KeyKind.MANIFEST:
            continue
        chosen = earliest_record(repo.store, infos, locked=repo.config.locked)
        if chosen is not None:
            found.append(_load(repo, replace(window, revision=parsed.number), chosen, scratch))
    return sorted(found, key=lambda item: item.window.revision)


def load_frozen(repo: Repository, window: Window, scratch: Path) -> FrozenManifest:
    """The window's own revision as the store has it.

    Raises:
        NotFoundError: it was never frozen.
    """
    for item in frozen_manifests(repo, window, scratch):
        if item.window.revision == window.revision:
            return item
    raise NotFoundError(
        "the window was never frozen", todo="Pack it first: vera migrate.", source=window.source,
        tenant=window.tenant, day=day_text(window.day), revision=window.revision,
    )  # fmt: skip


def freeze_window(repo: Repository, source: Source, window: Window, scratch: Path) -> FrozenManifest:
    """Freezes revision `window.revision`, or adopts it where somebody did already: then it can come without its rows.

    Rows of earlier revisions that are not stale are left out, unless they were rejected: those are tried again.

    Raises:
        UnavailableError: source or store can't be reached.
    """
    earlier = frozen_manifests(repo, window, scratch)
    for existing in earlier:
        if existing.window.revision == window.revision:
            return existing
    config = repo.settled_config({window.day - timedelta(1), window.day, window.day + timedelta(1)})
    naming = repo.naming(window.tenant, make=True)
    known = [item.manifest for item in earlier if not item.stale and item.window.revision < window.revision]
    batches = source.batches(window)
    if known:
        batches = new_rows(batches, known, naming, again=unread_rows(repo, known, naming))
    path = _local(scratch)
    try:
        manifest = freeze(batches, path, window=window, by=Freezing(config.routing, scratch, naming))
        key = repo.keys.manifest(window.tenant, window.source, window.day, window.revision)
        until = whole_second(repo.clock.now() + timedelta(days=config.longest_days) + LOCK_SLACK)
        lock = Lock(config.lock_mode, until) if config.locked else None
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").digest()
        chosen = _store(repo, key, path, sha256=sha256, lock=lock)
    finally:
        path.unlink(missing_ok=True)
    frozen = _load(repo, window, chosen, scratch)
    if frozen.manifest.keyed and frozen.digest == manifest.digest:
        # The same rows, whoever stored them: they are here still.
        return replace(frozen, manifest=manifest)
    manifest.path.unlink(missing_ok=True)
    return frozen


def with_rows(repo: Repository, source: Source, frozen: FrozenManifest, scratch: Path) -> FrozenManifest:
    """The same manifest, with the rows that it stands for: digest and row numbers stay.

    As it is where it shows them. Else the source is asked for the window's rows again; those that are not there any
    more, or changed, stand as rejected ones (`gone`) in their places, with names instead of uids.

    Raises:
        UnavailableError: the source can't be reached.
        IntegrityError: the manifest is damaged.
    """
    if not frozen.manifest.keyed:
        return frozen
    window = frozen.window
    by = Freezing(repo.config.routing, scratch, repo.naming(window.tenant))
    manifest = adopt(source.batches(window), frozen.manifest, _local(scratch), by=by)
    return replace(frozen, manifest=manifest)


def _store(repo: Repository, key: str, path: Path, *, sha256: bytes, lock: Lock | None) -> VersionInfo:
    """Puts a manifest under its key and returns the version that counts, which may be somebody else's.

    Raises:
        ConflictError: unlocked objects keep appearing under the key.
    """
    # Above the limit a conditional multipart is not atomic everywhere; the earliest version counts either way.
    condition = ABSENT if path.stat().st_size <= SINGLE_PUT_LIMIT else None
    for _ in range(PUT_ATTEMPTS):
        with suppress(PreconditionError):
            repo.store.put_file(key, path, sha256=sha256, condition=condition, lock=lock)
        infos = [info for info in repo.store.list_versions(key) if info.key == key]
        chosen = earliest_record(repo.store, infos, locked=repo.config.locked)
        if chosen is not None:
            return chosen
        # Only unlocked versions or markers are there: somebody's plain PUT or DELETE, no manifest. Clear and retry.
        for info in infos:
            repo.store.delete(key, version_id=info.version_id)
    raise ConflictError(
        "unlocked objects keep appearing under a manifest's key",
        todo="Find who else writes to this bucket (access logs, bucket policy) and stop it.",
        bucket=repo.store.bucket, key=key,
    )  # fmt: skip


def routed_by_active_epochs(repo: Repository, manifest: Manifest) -> bool:
    """Whether every slot of the manifest is the one that the active epochs give."""
    routing = repo.config.routing
    return all(routing.n_bits(segment.slot.day) == segment.slot.n_bits for segment in manifest.segments)


def _load(repo: Repository, window: Window, info: VersionInfo, scratch: Path) -> FrozenManifest:
    path = _local(scratch)
    repo.store.download(info.key, path, version_id=info.version_id)
    try:
        manifest = Manifest.open(path)
    except IntegrityError as error:
        raise IntegrityError(
            f"a locked manifest does not verify: {error.what}",
            todo="Restore it from a replica of the bucket; the window is not packed until then.",
            bucket=repo.store.bucket, key=info.key, version_id=info.version_id,
        ) from error  # fmt: skip
    if manifest.window != window:
        raise IntegrityError(
            f"a locked manifest is that of another window: {manifest.window}",
            todo="Find out who stored it there, and restore the window's own from a replica of the bucket.",
            bucket=repo.store.bucket, key=info.key, version_id=info.version_id,
        )  # fmt: skip
    if manifest.keyed != (repo.config.encryption is not None):
        raise IntegrityError(
            f"a locked manifest {'shows only' if manifest.keyed else 'does not hide behind'} keyed names, unlike the "
            "others of this repository",
            todo="Find out who stored it there, and restore the window's own from a replica of the bucket.",
            bucket=repo.store.bucket, key=info.key, version_id=info.version_id,
        )  # fmt: skip
    return FrozenManifest(
        window, info.key, info.version_id, manifest, stale=not routed_by_active_epochs(repo, manifest)
    )


def _local(scratch: Path) -> Path:
    """A fresh file name in `scratch`."""
    return scratch / f"manifest-{secrets.token_hex(8)}.parquet"
