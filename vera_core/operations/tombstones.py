"""How much of a tenant's day is erased: counted from the slot logs, with the bytes that stay in the bucket, hidden.

Changes nothing. Whether what is erased can still be read is erasure_proof.py's business, leaving it behind repack.py's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.model import day_text
from vera_core.operations.holdings import holdings, name_keys, removable, tombstones
from vera_core.operations.lookup import ShardReaders, versions_of
from vera_core.operations.repack import by_class
from vera_core.operations.report import Finding, Report, figure
from vera_core.operations.told import told
from vera_core.operations.walk import slots

if TYPE_CHECKING:
    from datetime import date

    from vera_core.operations.repository import Repository
    from vera_core.slots import SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class TombstonesReport(Report):
    """What is erased of a day. Versions are counted; `findings` are slots or shards that could not be read.

    `ratio` is that of erased versions among those in live shards, of the whole day; `highest` that of the slot and
    retention class where it is highest, which decides over repacking. `hidden_bytes` is what erased versions take in
    live shards; superseded shards hold theirs until they are deleted.
    """

    tenant: str
    day: str
    slots: int = figure("slots examined")
    files: int = figure("files in live shards", "files")
    erased: int = figure("erased files", "files")
    ratio: float = figure("tombstone ratio", "ratio")
    highest: float = figure("highest ratio of a slot and class", "ratio")
    hidden: int = figure("erased files in live shards", "files")
    hidden_bytes: int = figure("hidden in live shards", "bytes")
    left_behind: int = figure("erased files left behind by repacks", "files")
    findings: tuple[Finding, ...] = ()


@dataclass(slots=True)
class _Count:
    """What has been counted so far."""

    slots: int = 0
    files: int = 0
    erased: int = 0
    highest: float = 0.0
    hidden: int = 0
    hidden_bytes: int = 0
    left_behind: int = 0
    findings: list[Finding] = field(default_factory=list)


def survey_tombstones(repo: Repository, tenant: str, day: date) -> TombstonesReport:
    """Counts what is erased of a day; reads its slot logs, and the indexes of shards that hold erased files.

    Raises:
        UnavailableError: the store can't be reached.
    """
    began = time.monotonic()
    repo.refresh_config()
    count = _Count()
    readers = ShardReaders(repo)
    for slot in slots(repo, tenant, day):
        count.slots += 1
        with told(count.findings, slot):
            _add(count, repo.slot_log(slot).load(), readers)
    return TombstonesReport(
        ok=not count.findings, tenant=tenant, day=day_text(day), slots=count.slots, files=count.files,
        erased=count.erased, ratio=count.hidden / count.files if count.files else 0.0, highest=count.highest,
        hidden=count.hidden, hidden_bytes=count.hidden_bytes, left_behind=count.left_behind,
        findings=tuple(count.findings), seconds=time.monotonic() - began,
    )  # fmt: skip


def _add(count: _Count, state: SlotState, readers: ShardReaders) -> None:
    erased = tombstones(state)
    hidden = removable(state)
    for shards in by_class(state).values():
        files = sum(shard.entries for shard in shards)
        gone = sum(hidden.get(shard.version_id, 0) for shard in shards)
        count.files += files
        count.hidden += gone
        count.highest = max(count.highest, gone / files if files else 0.0)
    count.erased += sum(len(origins) for origins in erased.values())
    count.left_behind += len(holdings(state).left_out)
    key_of = name_keys(state)
    for name, origins in erased.items():
        found = versions_of(readers, state, name, key_of(name))
        count.hidden_bytes += sum(version.entry.stored_size for version in found if version.origin in origins)
