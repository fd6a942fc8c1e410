"""The quarantine list of a window: its rejected rows by name and reason, as an object beside its manifest.

Derived from manifest and commits, written with each verdict and removed once a later revision answers for it; a Parquet
file, so that people read it with what they have. In an encrypted repository it has names instead of uids, and no more.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vera_core.keyspace import KeyKind
from vera_core.model import from_micros
from vera_core.operations.accounted import rejected_rows
from vera_core.source.base import Window
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from pathlib import Path

    from vera_core.operations.freeze import FrozenManifest
    from vera_core.operations.repository import Repository

ROWS = 1 << 14
SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("created_at", pa.timestamp("us", "UTC")),
        ("reason", pa.dictionary(pa.int8(), pa.string())),
        ("detail", pa.string()),
    ]
)


class RejectedFile(NamedTuple):
    """A row of a quarantine list; `uid` is its name in an encrypted repository, and `detail` empty there."""

    window: Window
    uid: str
    reason: str
    detail: str


def write_rejects(repo: Repository, frozen: FrozenManifest, scratch: Path) -> int:
    """Writes the list of a window's revision; none, and none is left, where no row was rejected. Returns the rows."""
    window = frozen.window
    rows = rejected_rows(repo, frozen.manifest)
    path = scratch / "rejects.parquet"
    count = 0
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        while some := list(islice(rows, ROWS)):
            count += len(some)
            columns = {
                "uid": [row.uid for row, _ in some],
                "created_at": [None if frozen.manifest.keyed else from_micros(row.created_at) for row, _ in some],
                "reason": [reason for _, reason in some],
                "detail": [row.detail for row, _ in some],
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))
    remove_rejects(repo, window)
    if count:
        key = repo.keys.rejects(window.tenant, window.source, window.day, window.revision)
        repo.store.put_file(key, path, sha256=hashlib.sha256(path.read_bytes()).digest())
    path.unlink()
    return count


def remove_rejects(repo: Repository, window: Window) -> None:
    """Removes every version of a revision's list."""
    key = repo.keys.rejects(window.tenant, window.source, window.day, window.revision)
    for info in repo.store.list_versions(key):
        if info.key == key:
            repo.store.delete(key, version_id=info.version_id)


def read_rejects(
    repo: Repository, tenant: str, source: str, *, first: date | None = None, last: date | None = None
) -> Iterator[RejectedFile]:
    """The rows of all lists of a source, of days from `first` to `last`, by day and revision."""
    with repo.scratch() as scratch:
        path = scratch / "rejects.parquet"
        for info in repo.store.list_objects(repo.keys.rejects_prefix(tenant, source)):
            parsed = repo.keys.parse(info.key)
            if parsed.kind is not KeyKind.REJECTS or parsed.day is None:
                continue
            if (first is not None and parsed.day < first) or (last is not None and parsed.day > last):
                continue
            with suppress(MissingObjectError):  # answered for meanwhile
                repo.store.download(info.key, path)
                yield from _rows(path, Window(source, tenant, parsed.day, parsed.number))
            path.unlink(missing_ok=True)


def _rows(path: Path, window: Window) -> Iterator[RejectedFile]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS, columns=["uid", "reason", "detail"]):
            for line in batch.to_pylist():
                yield RejectedFile(window, line["uid"], line["reason"], line["detail"])
