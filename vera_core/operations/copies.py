"""Shards with copies of some versions, which keep their origin: what an extension of their retention locks longer.

Built in the spool and verified there. Which versions, and until when, is retain.py's business.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.encoding import EncodedBatch, encode
from vera_core.errors import IntegrityError
from vera_core.format import FileSource, Names, ShardOptions, ShardReader, ShardWriter
from vera_core.format.stream import PiecesFile
from vera_core.keys.shards import BigFile, ShardOpener, ShardSealer, append_big
from vera_core.operations.commit import Finished, LocalShard
from vera_core.operations.inspector import inspect_file
from vera_core.slots import FILTER_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vera_core.encoding import Encoded
    from vera_core.format import ShardSummary
    from vera_core.format.writer import Sink
    from vera_core.model import Entry, Origin
    from vera_core.operations.lookup import ShardReaders, Version
    from vera_core.operations.repository import Repository


BATCH_BYTES = 8 << 20
"""Of stored contents in memory at once."""


def shardfuls(repo: Repository, readers: ShardReaders, versions: Iterable[Version]) -> Iterator[list[Version]]:
    """The versions of one shard each: of one class, in its order, as many as it may hold; big files alone."""
    config = repo.config
    waiting: list[Version] = []
    size = 0
    for version in sorted(versions, key=_place):
        big = _is_big(repo, readers, version)
        full = len(waiting) == config.part_rows or size + version.entry.size > config.shard_bytes
        if waiting and (big or full or version.shard.retention_class != waiting[0].shard.retention_class):
            yield waiting
            waiting, size = [], 0
        if big:
            yield [version]
        else:
            waiting.append(version)
            size += version.entry.size
    if waiting:
        yield waiting


def copy_versions(repo: Repository, readers: ShardReaders, versions: Sequence[Version], scratch: Path) -> Finished:
    """Builds the shard of one `shardfuls`. Unencrypted, the same versions give the same bytes, whoever builds it.

    Raises:
        IntegrityError: a version's bytes do not verify, or what was built does not.
    """
    tenant = repo.naming(repo.keys.parse(versions[0].shard.key).tenant).tenant_key
    sealer = None if tenant is None else ShardSealer.fresh(tenant, len(versions))
    handle = tempfile.NamedTemporaryFile(dir=scratch, prefix="copy-", suffix=".vera", delete=False)  # noqa: SIM115
    with handle:
        summary = _write(repo, readers, versions, handle, sealer)
    path = Path(handle.name)
    found = inspect_file(path)
    keyring = None if sealer is None else sealer.keyring(summary.sha256)
    with FileSource(path) as source:
        if tenant is not None and keyring is not None:
            opener = ShardOpener(ShardReader.open(source, sealed=True), tenant, keyring)
            opening = opener.check_all()
        else:
            opening = found.entries
    if (found.sha256, found.entries, opening) != (summary.sha256, len(versions), len(versions)):
        raise IntegrityError(
            "a shard that was just built does not verify",
            todo="Check this machine's memory and the spool's disk; nothing was uploaded.",
            path=path,
        )
    keys = [version.entry.key for version in versions[: FILTER_ENTRIES + 1]]
    return Finished(LocalShard(path, summary.sha256, summary.size), summary, keys, keyring)


def _place(version: Version) -> tuple[str, int, bytes, tuple[int, int]]:
    return (version.shard.retention_class, version.entry.key, version.entry.uid.encode(), version.origin)


def _is_big(repo: Repository, readers: ShardReaders, version: Version) -> bool:
    """Whether it has a shard of its own. Of what is sealed, its size does not tell."""
    if version.shard.keyring:
        return version.shard.entries == 1 and readers.reader(version.shard).streamed
    return version.entry.size > repo.config.inline_limit


def _write(
    repo: Repository, readers: ShardReaders, versions: Sequence[Version], sink: Sink, sealer: ShardSealer | None
) -> ShardSummary:
    retention = repo.config.retention(versions[0].shard.retention_class)
    encryption = None if sealer is None else sealer.encryption
    options = ShardOptions(
        bytes.fromhex(repo.config.repository_id), retention.name, retention.erasability, encryption=encryption
    )
    writer = ShardWriter(sink, options=options)
    if _is_big(repo, readers, versions[0]):
        _stream(repo, readers, versions[0], writer, sealer)
        return writer.finish()
    for versions_at_once in _batches(versions):
        found = _encoded(repo, readers, versions_at_once)
        entries = [found[version.origin][0] for version in versions_at_once]
        names = Names(
            [entry.uid for entry in entries],
            [entry.created_at for entry in entries],
            [(entry.media_type, entry.metadata) for entry in entries],
            [version.origin for version in versions_at_once],
        )
        batch = EncodedBatch.of([found[version.origin][1] for version in versions_at_once])
        if sealer is not None:
            names, batch = sealer.seal(writer.entries, names, [each.entry.uid for each in versions_at_once], batch)
        writer.append_batch(names, batch)
    return writer.finish()


def _stream(
    repo: Repository, readers: ShardReaders, version: Version, writer: ShardWriter, sealer: ShardSealer | None
) -> None:
    """From shard to shard: nothing of it that is not sealed reaches a disk."""
    entry, pieces = readers.opener(version.shard).stream(version.entry)
    content = PiecesFile(pieces)
    big = BigFile(entry.uid, entry.created_at, entry.media_type, entry.metadata, content, entry.size, version.origin)
    append_big(writer, big, repo.config.compression, sealer)


def _batches(versions: Sequence[Version]) -> Iterator[list[Version]]:
    """The versions in order, as many at a time as are read at once."""
    batch: list[Version] = []
    size = 0
    for version in versions:
        if batch and size + version.entry.size > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(version)
        size += version.entry.size
    yield batch


def _encoded(
    repo: Repository, readers: ShardReaders, versions: Iterable[Version]
) -> dict[Origin, tuple[Entry, Encoded]]:
    """The versions as they were archived, and their contents, verified and encoded anew.

    What lies close together in a shard is one request.
    """
    by_shard: dict[str, dict[int, Version]] = {}
    for version in versions:
        by_shard.setdefault(version.shard.version_id, {})[version.entry.ordinal] = version
    found: dict[Origin, tuple[Entry, Encoded]] = {}
    for wanted in by_shard.values():
        opener = readers.opener(next(iter(wanted.values())).shard)
        for entry, content in opener.read_many([version.entry for version in wanted.values()]):
            # By the digest that the file has had from the first, which may be a keyed one.
            encoded = encode(content, repo.config.compression)._replace(sha256=entry.sha256)
            found[wanted[entry.ordinal].origin] = entry, encoded
    return found
