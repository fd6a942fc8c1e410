"""Finding the shard that is to be recovered: its bytes as a local file, and all that is known of it from elsewhere.

A local file needs nothing else. Of a shard in the repository the slot log tells version, digest, class and commit. What
is then done with it is recover.py's business.
"""

from __future__ import annotations

import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.errors import NotFoundError, UnavailableError, UsageError, VeraError
from vera_core.format import Clues, FileSource
from vera_core.format.layout import AES_256_GCM, UID_KEY, Encryption
from vera_core.keys.envelope import Envelope
from vera_core.keyspace import KeyKind, Keyspace
from vera_core.operations.opening import open_repository
from vera_core.store.s3 import S3Store, parse_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Mapping

    from vera_core.keys.keyring import Keyring
    from vera_core.keys.tenant import TenantKey
    from vera_core.operations.repository import Repository
    from vera_core.settings import Settings
    from vera_core.slots import ShardRef, SlotState
    from vera_core.store.base import ObjectStore

_PIECE = 8 << 20
_DIGEST = re.compile(r"[0-9a-f]{32}([0-9a-f]{32})?")


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a damaged shard without looking into it; None or empty where it isn't.

    `sha256`: all 64 hex digits of the shard's digest, or the 32 that its name has. `commit`: number of the commit that
    brought it. `erased`: the versions that are not to be read any more, as ordinals by commit. `keys` fetches what the
    files of an encrypted shard are opened with.
    """

    version_id: str | None = None
    sha256: str = ""
    commit: int | None = None
    clues: Clues = field(default_factory=Clues)
    erased: Mapping[int, Container[int]] = field(default_factory=dict)
    keys: Callable[[], tuple[TenantKey, Keyring]] | None = None

    def __post_init__(self) -> None:
        if self.sha256 and not _DIGEST.fullmatch(self.sha256):
            raise UsageError(f"{self.sha256!r} is no SHA-256", todo="Give all 64 hex digits, or the first 32.")
        if self.commit is not None and not 1 <= self.commit < 1 << 32:
            raise UsageError(f"{self.commit} is no number of a commit", todo="They count from 1.")

    def completed(self, more: Known) -> Known:
        """This, and what `more` says where this says nothing."""
        mine, other = self.clues, more.clues
        clues = Clues(
            mine.repository_id or other.repository_id,
            mine.retention_class or other.retention_class,
            mine.erasability if mine.retention_class else other.erasability,
            mine.encryption or other.encryption,
        )
        commit = more.commit if self.commit is None else self.commit
        return Known(
            self.version_id or more.version_id,
            self.sha256 or more.sha256,
            commit,
            clues,
            self.erased or more.erased,
            self.keys or more.keys,
        )


@dataclass(frozen=True, slots=True)
class Damaged:
    """A shard to recover: its bytes, its name for people, and what is known of it."""

    source: FileSource
    name: str
    known: Known


@contextmanager
def open_damaged(name: str, given: Known, settings: Settings) -> Iterator[Damaged]:
    """The shard that `name` names: a local file, s3://bucket/key, or a key as `vera verify` prints it.

    What lies in a bucket is copied to the spool first, by ranges: a download as a whole would be refused where it does
    not match the checksum that the store keeps.

    Raises:
        NotFoundError: there is none.
        UsageError: it is no regular file.
        UnavailableError: it can't be read, or the spool not be written.
    """
    path = Path(name)
    if not name.startswith("s3://") and path.exists():
        if not path.is_file():
            raise UsageError("the shard is no regular file", path=path)
        digest = Known(sha256=path.stem) if _DIGEST.fullmatch(path.stem) and path.suffix == ".vera" else Known()
        with _Readable(path) as source:
            yield Damaged(source, name, given.completed(digest))
        return
    store, key, known = _in_bucket(name, given, settings)
    info = store.head(key, version_id=known.version_id)
    version_id = known.version_id if info.version_id == "null" else info.version_id
    with _copied(store, key, version_id, info.size, settings.spool) as source:
        source.where = {"bucket": store.bucket, "key": key, "version_id": version_id}
        yield Damaged(source, f"s3://{store.bucket}/{key}", replace(known, version_id=version_id))


class _Readable(FileSource):
    """A local file, whose failures are told."""

    def __init__(self, path: Path) -> None:
        try:
            super().__init__(path)
        except OSError as error:
            raise UnavailableError(f"the shard can't be read: {error.strerror}", path=path) from error

    def read_at(self, offset: int, length: int) -> bytes:
        """As `RangeSource`.

        Raises:
            UnavailableError: the disk gives nothing.
        """
        try:
            return super().read_at(offset, length)
        except OSError as error:
            raise UnavailableError(
                f"{length} bytes at {offset} can't be read: {error.strerror}",
                todo="Copy what can be read to another disk (with ddrescue, for example), and recover the copy.",
                **self.where,
            ) from error


def _in_bucket(name: str, given: Known, settings: Settings) -> tuple[ObjectStore, str, Known]:
    """Store and key of a shard in a bucket, and what is known of it."""
    own_bucket, prefix = parse_uri(settings.repository) if settings.repository else ("", "")
    bucket, key = parse_uri(name) if name.startswith("s3://") else (own_bucket, name)
    parsed = Keyspace(prefix).parse(key)
    if not name.startswith("s3://") and parsed.kind is not KeyKind.SHARD:
        raise NotFoundError(
            "there is no such file",
            todo="Name a local file, s3://bucket/key, or a shard's key as `vera verify` prints it (with --repository).",
            path=name,
        )
    if not key:
        raise UsageError(f"{name!r} names a bucket and no object", todo="Write it like s3://bucket/key.")
    if bucket != own_bucket or parsed.kind is not KeyKind.SHARD:
        named = re.search(r"(?:^|/)([0-9a-f]{32})\.vera$", key)
        return S3Store(bucket), key, given.completed(Known(sha256=named[1] if named else ""))
    repo = open_repository(settings)
    return repo.store, key, given.completed(recorded(repo, key, given.version_id))


def recorded(repo: Repository, key: str, version_id: str | None = None) -> Known:
    """What config, slot log and keyring say of a shard of the repository.

    Raises:
        UsageError: it is no shard's key.
        IntegrityError, IncompatibleError: nothing of the slot's log can be trusted.
    """
    parsed = repo.keys.parse(key)
    if parsed.kind is not KeyKind.SHARD or parsed.day is None:
        raise UsageError(
            "this is no shard's key in the repository",
            todo="Give it as `vera verify` prints it, with the repository's prefix.", key=key, repository=repo.uri,
        )  # fmt: skip
    repository_id = bytes.fromhex(repo.config.repository_id)
    state = repo.slot_log(parsed.slot(repo.config.routing.n_bits(parsed.day))).load()
    shard = _named(state, key, version_id)
    if shard is None:
        return Known(sha256=parsed.digest, clues=Clues(repository_id))
    retention_class = repo.config.retention(shard.retention_class)
    clues = Clues(repository_id, retention_class.name, retention_class.erasability, _scheme(repo, shard))
    keys = partial(_keys, repo, parsed.tenant, shard) if shard.keyring else None
    return Known(shard.version_id, shard.sha256, shard.number, clues, state.dead, keys)


def _scheme(repo: Repository, shard: ShardRef) -> Encryption | None:
    """What an encrypted shard's header says of its keys, by its keyring; None where that can't be asked.

    No key service is needed: what is made of it proves itself by the header's checksum.
    """
    if not shard.keyring:
        return None
    try:
        header = Envelope.decode(repo.store.get(repo.keyrings.key_of(shard)).data).header
    except VeraError:
        return None
    return Encryption(header.keyring_id, UID_KEY, AES_256_GCM, header.depth)


def _keys(repo: Repository, tenant: str, shard: ShardRef) -> tuple[TenantKey, Keyring]:
    """The tenant's key and the shard's keyring.

    Raises:
        IntegrityError: one of them is gone, damaged or older than the slot log says.
        VeraError: the key service's.
    """
    key = repo.naming(tenant).tenant_key
    assert key is not None
    return key, repo.keyrings.fetch(shard).keyring


def _named(state: SlotState, key: str, version_id: str | None) -> ShardRef | None:
    """The shard of that key that counts: a live one rather than one that was replaced."""
    return next(
        (
            shard
            for shard in [*state.live(), *state.superseded]
            if shard.key == key and version_id in {None, shard.version_id}
        ),
        None,
    )


@contextmanager
def _copied(store: ObjectStore, key: str, version_id: str | None, size: int, spool: Path) -> Iterator[FileSource]:
    """A local copy of an object; gone afterwards, and nameless while it is read."""
    try:
        spool.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=spool, prefix="recover-") as copy:
            for start in range(0, size, _PIECE):
                copy.write(store.get_range(key, start, min(_PIECE, size - start), version_id=version_id))
            copy.flush()
            source = FileSource(Path(copy.name))
    except OSError as error:
        raise UnavailableError(
            f"the shard can't be copied to the spool: {error.strerror}",
            todo="Make room, or name another directory as `spool`.",
            path=spool,
        ) from error
    with source:
        yield source
