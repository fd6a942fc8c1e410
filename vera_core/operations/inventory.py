"""The inventory: a Parquet catalogue of a day's living files, for people, DuckDB and pandas; derived from the shards.

One file per slot, of all sources that archive into it, named after the log record it reflects at least; the highest
number supersedes the others, whoever wrote them and in whatever order. How files of encrypted repositories are closed
and opened is inventory_files.py's.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow as pa

from vera_core.errors import UsageError
from vera_core.keyspace import KeyKind
from vera_core.model import day_text
from vera_core.operations.cost import S3_STANDARD_IA, saved_monthly
from vera_core.operations.inventory_files import inventory_writer
from vera_core.operations.pace import at_pace
from vera_core.operations.report import Report, figure
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import slots

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import date
    from pathlib import Path

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.store.base import VersionInfo

ROWS = 16_384
SCHEMA = pa.schema(
    [
        ("uid", pa.string()),
        ("created_at", pa.timestamp("us", tz="UTC")),
        ("size", pa.int64()),
        ("stored_size", pa.int64()),
        ("codec", pa.dictionary(pa.int8(), pa.string())),
        ("media_type", pa.dictionary(pa.int32(), pa.string())),
        ("metadata", pa.map_(pa.string(), pa.string())),
        ("sha256", pa.string()),
        ("version", pa.string()),
        ("slot", pa.dictionary(pa.int32(), pa.string())),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("retention_class", pa.dictionary(pa.int8(), pa.string())),
        ("lock_until", pa.timestamp("s", tz="UTC")),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class InventoryReport(Report):
    """A day's catalogue: what it lists, and how many objects of every kind the day takes in the bucket."""

    tenant: str
    day: str
    keys: tuple[str, ...]
    files: int = figure("files", "files")
    content_bytes: int = figure("content", "bytes")
    stored_bytes: int = figure("stored", "bytes")
    objects: int = figure("objects of every kind", "objects")
    files_per_object: float = figure("files per object", "ratio")
    compression: float = figure("content per stored byte", "ratio")
    saved: float = figure("saved against one object a file", "USD/month")


@at_pace()
def write_inventory(repo: Repository, tenant: str, day: date) -> InventoryReport:
    """Writes the catalogue of a day's slots; the same state gives the same names, so that running again is harmless.

    Raises:
        IntegrityError: a shard's index can't be read.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    began = time.monotonic()
    repo.writable_config()
    counting: dict[Slot, range] = {}
    files = content = 0
    with repo.scratch() as scratch:
        for slot in slots(repo, tenant, day):
            counting[slot], count, size = _write_slot(repo, slot, scratch)
            files += count
            content += size
    keys = _remove_superseded(repo, tenant, day, counting)
    objects, stored = day_objects(repo, tenant, day)
    saved = saved_monthly(S3_STANDARD_IA, files=files, content_bytes=content, objects=objects, stored_bytes=stored)
    return InventoryReport(
        tenant=tenant, day=day_text(day), keys=tuple(keys), files=files, content_bytes=content, stored_bytes=stored,
        objects=objects, files_per_object=files / objects if objects else 0.0,
        compression=content / stored if stored else 0.0, saved=saved, seconds=time.monotonic() - began,
    )  # fmt: skip


def day_objects(repo: Repository, tenant: str, day: date) -> tuple[int, int]:
    """Objects (every version of every kind) and their bytes in a day's slots, manifests and inventory."""
    objects = size = 0
    windows = repo.keys.all_windows_prefix(tenant)
    sources = [prefix[len(windows) :].rstrip("/") for prefix in repo.store.list_prefixes(windows)]
    prefixes = [repo.keys.window_prefix(tenant, source, day) for source in sources]
    for prefix in (repo.keys.day_prefix(tenant, day), repo.keys.inventory_day_prefix(tenant, day), *prefixes):
        for info in repo.store.list_versions(prefix):
            objects += 1
            size += info.size
    return objects, size


def _write_slot(repo: Repository, slot: Slot, scratch: Path) -> tuple[range, int, int]:
    """Writes one slot's file, none for an empty slot; returns the numbers that count now, the files and their bytes."""
    log = repo.slot_log(slot)
    # Read before the rows: they may be newer than the number says, never older.
    state = log.current()
    while True:
        written = _write_rows(repo, slot, state.head.number, scratch)
        seen = len(state.records)
        log.refresh(state)
        if not any(record.type in ("tombstone", "dispose") for record in state.records[seen:]):
            return written
        # Whoever erased or disposed looked for files to remove before this one was there.


def _write_rows(repo: Repository, slot: Slot, number: int, scratch: Path) -> tuple[range, int, int]:
    if not number:
        return range(1, 1), 0, 0
    path = scratch / f"inventory-{slot.index_text}.parquet"
    key = repo.keys.inventory(slot.tenant, slot.day, slot.index_text, number)
    files = content = 0
    reports = Retriever(repo, slot.tenant).list_slot(slot)
    with inventory_writer(repo, key, path, SCHEMA) as writer:
        while rows := list(islice(reports, ROWS)):
            files += len(rows)
            content += sum(row.size for row in rows)
            columns = {
                "uid": [row.uid for row in rows],
                "created_at": [row.created_at for row in rows],
                "size": [row.size for row in rows],
                "stored_size": [row.stored_size for row in rows],
                "codec": [row.codec for row in rows],
                "media_type": [row.media_type for row in rows],
                "metadata": [list(row.metadata.items()) for row in rows],
                "sha256": [row.sha256 for row in rows],
                "version": [row.version for row in rows],
                "slot": [row.slot for row in rows],
                "shard": [row.shard for row in rows],
                "retention_class": [row.retention_class for row in rows],
                "lock_until": [row.lock_until for row in rows],
            }
            writer.write_table(pa.table(columns, schema=SCHEMA))
    if not files:
        return range(number + 1, number + 1), 0, 0
    digest = hashlib.sha256(path.read_bytes()).digest()
    repo.store.put_file(key, path, sha256=digest)
    return range(number, number + 1), files, content


def _remove_superseded(repo: Repository, tenant: str, day: date, counting: Mapping[Slot, range]) -> list[str]:
    """Removes every version of a day's inventory but the newest of each slot's highest number; returns those keys.

    `counting` has the numbers that count for a slot, as far as is known here. Others may have written higher ones
    meanwhile, and for slots that were not there yet: theirs stay, and ours go. A number that the slot's log has not
    reached is a stranger's.
    """
    found: dict[str, list[VersionInfo]] = {}
    for info in repo.store.list_versions(repo.keys.inventory_day_prefix(tenant, day)):
        parsed = repo.keys.parse(info.key)
        if parsed.kind is KeyKind.INVENTORY:
            found.setdefault(parsed.index_text, []).append(info)
    keys: list[str] = []
    for infos in found.values():
        key = _current_key(repo, infos, counting)
        keys += [key] if key else []
        newest = next((info for info in infos if info.key == key and not info.is_delete_marker), None)
        for info in infos:
            if info is not newest:
                repo.store.delete(info.key, version_id=info.version_id)
    return keys


def _current_key(repo: Repository, infos: list[VersionInfo], counting: Mapping[Slot, range]) -> str:
    """Which of the files of one index is the slot's catalogue; "" for none of them."""
    files = {parsed.number: parsed for parsed in (repo.keys.parse(i.key) for i in infos if not i.is_delete_marker)}
    if not files:
        return ""
    highest = files[max(files)]
    assert highest.day is not None
    try:
        slot = highest.slot(repo.config.routing.n_bits(highest.day))
    except UsageError:
        # An index that the day does not have.
        return ""
    known = counting.get(slot, range(0))
    if highest.number >= known.stop:
        known = range(known.start, repo.slot_log(slot).current().head.number + 1)
    current = max((number for number in files if number in known), default=None)
    return "" if current is None else files[current].key
