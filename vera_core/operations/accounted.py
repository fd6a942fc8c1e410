"""What commits say of a frozen manifest: the parts they account for, and the rows that were rejected, by name.

In an encrypted repository the bucket has no uids of them. Where the source is at hand it is asked for these; nothing of
its answer goes into the bucket.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from vera_core.source.adoption import look_up
from vera_core.source.manifest import Freezing
from vera_core.source.revisions import identities_of
from vera_core.source.rows import Reject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.keys.naming import Naming
    from vera_core.operations.freeze import FrozenManifest
    from vera_core.operations.repository import Repository
    from vera_core.slots import Part, SlotState
    from vera_core.source.base import Source
    from vera_core.source.manifest import Manifest
    from vera_core.source.rows import Row

ROWS_AT_A_TIME = 1 << 12


def parts_of(repo: Repository, manifest: Manifest) -> Iterator[tuple[SlotState, Part]]:
    """The parts that commits account for, with their slot's state, segment by segment in row order."""
    for segment in manifest.segments:
        state = repo.slot_log(segment.slot).load()
        for part in state.covered(manifest.digest):
            if segment.first <= part.first < segment.end:
                yield state, part


def rejected_rows(repo: Repository, manifest: Manifest) -> Iterator[tuple[Row, str]]:
    """Every rejected row of a manifest with its reason: those rejected when frozen, then those found when packed."""
    for row in manifest.rejects():
        yield row, row.reject
    for _, part in parts_of(repo, manifest):
        for reason, ranges in part.rejects.items():
            for first, end in ranges:
                for row in manifest.rows(first, end):
                    yield row, reason


def named_rejects(repo: Repository, source: Source, frozen: FrozenManifest, limit: int) -> list[Reject]:
    """The first `limit` rejected rows by uid; by name where neither the manifest nor the source has it any more.

    Raises:
        UnavailableError: the source can't be reached.
    """
    found = list(islice(rejected_rows(repo, frozen.manifest), limit))
    if not frozen.manifest.keyed or not found:
        return [Reject(row.uid, reason, row.detail) for row, reason in found]
    by = Freezing(repo.config.routing, repo.workplace.spool, repo.naming(frozen.window.tenant))
    known = look_up(source.batches(frozen.window), frozen.window, {row.place for row, _ in found}, by=by)
    told = [(*known.get(row.place, (row.uid, "")), reason) for row, reason in found]
    return [Reject(uid, reason, detail) for uid, detail, reason in told]


def unread_rows(repo: Repository, manifests: list[Manifest], naming: Naming) -> set[bytes]:
    """The identities of the rows that were rejected when they were packed, and stand in no later one of `manifests`."""
    unread: set[bytes] = set()
    for manifest in manifests:
        if unread:
            for batch in manifest.batches(0, manifest.row_count):
                unread.difference_update(identities_of(batch.rows(), manifest, naming))
        rows = (row for row, _ in rejected_rows(repo, manifest) if not row.reject)
        while some := list(islice(rows, ROWS_AT_A_TIME)):
            unread.update(identities_of(some, manifest, naming))
    return unread
