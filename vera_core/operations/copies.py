"""Shards with copies of some versions, which keep their origin: what an extension of their retention locks longer.

Built in the spool and verified there. Which versions, and until when, is retain.py's business.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.encoding import encode
from vera_core.errors import IntegrityError
from vera_core.format import ShardOptions, ShardWriter
from vera_core.operations.commit import Finished, LocalShard
from vera_core.operations.inspector import inspect_file
from vera_core.slots import FILTER_ENTRIES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vera_core.format import ShardSummary
    from vera_core.format.writer import Sink
    from vera_core.model import Entry, Origin
    from vera_core.operations.lookup import ShardReaders, Version
    from vera_core.operations.repository import Repository


BATCH_BYTES = 8 << 20
"""Of contents in memory at once."""


def shardfuls(repo: Repository, versions: Iterable[Version]) -> Iterator[list[Version]]:
    """The versions of one shard each: of one class, in its order, as many as it may hold; big files alone."""
    config = repo.config
    waiting: list[Version] = []
    size = 0
    for version in sorted(versions, key=_place):
        big = version.entry.size > config.inline_limit
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
    """Builds the shard of one `shardfuls`; the same versions give the same bytes, whoever builds it.

    Raises:
        IntegrityError: a version's bytes do not verify, or what was built does not.
    """
    handle = tempfile.NamedTemporaryFile(dir=scratch, prefix="copy-", suffix=".vera", delete=False)  # noqa: SIM115
    with handle:
        summary = _write(repo, readers, versions, handle)
    path = Path(handle.name)
    found = inspect_file(path)
    if (found.sha256, found.entries) != (summary.sha256, len(versions)):
        raise IntegrityError(
            "a shard that was just built does not verify",
            todo="Check this machine's memory and the spool's disk; nothing was uploaded.",
            path=path,
        )
    keys = [version.entry.key for version in versions[: FILTER_ENTRIES + 1]]
    return Finished(LocalShard(path, summary.sha256, summary.size), summary, keys)


def _place(version: Version) -> tuple[str, int, bytes, tuple[int, int]]:
    return (version.shard.retention_class, version.entry.key, version.entry.uid.encode(), version.origin)


def _write(repo: Repository, readers: ShardReaders, versions: Sequence[Version], sink: Sink) -> ShardSummary:
    retention = repo.config.retention(versions[0].shard.retention_class)
    options = ShardOptions(bytes.fromhex(repo.config.repository_id), retention.name, retention.erasability)
    writer = ShardWriter(sink, options=options)
    if versions[0].entry.size > repo.config.inline_limit:
        _stream(repo, readers, versions[0], writer)
        return writer.finish()
    for batch in _batches(versions):
        contents = _contents(readers, batch)
        for version in batch:
            entry = version.entry
            writer.append(
                entry.uid, entry.created_at, encode(contents[version.origin], repo.config.compression),
                media_type=entry.media_type, metadata=entry.metadata, origin=version.origin,
            )  # fmt: skip
    return writer.finish()


def _stream(repo: Repository, readers: ShardReaders, version: Version, writer: ShardWriter) -> None:
    entry = version.entry
    with tempfile.TemporaryFile(dir=repo.workplace.spool) as content:
        content.writelines(readers.reader(version.shard).read_stream(entry))
        content.seek(0)
        writer.append_stream(
            entry.uid, entry.created_at, content, entry.size, policy=repo.config.compression,
            media_type=entry.media_type, metadata=entry.metadata, origin=version.origin,
        )  # fmt: skip


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


def _contents(readers: ShardReaders, versions: Iterable[Version]) -> dict[Origin, bytes]:
    """The versions' contents, verified; what lies close together in a shard is one request."""
    by_shard: dict[str, dict[Entry, Version]] = {}
    for version in versions:
        by_shard.setdefault(version.shard.version_id, {})[version.entry] = version
    return {
        wanted[entry].origin: content
        for wanted in by_shard.values()
        for entry, content in readers.reader(next(iter(wanted.values())).shard).read_many(wanted)
    }
