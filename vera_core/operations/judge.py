"""Judging loaded rows: is the row new, equal to its uid's latest version, or of a uid that was erased?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.codec import Encoded
from vera_core.operations.build import EQUAL
from vera_core.operations.load import stream_digest
from vera_core.operations.lookup import ShardReaders, versions_of
from vera_core.source.base import BigContent, Unreadable
from vera_core.source.rows import RejectReason

if TYPE_CHECKING:
    from vera_core.operations.load import LoadedRow
    from vera_core.operations.repository import Repository
    from vera_core.slots import SlotState


class Judge:
    """Judges rows by a slot's state as it is now; later records don't change the verdicts.

    Rows come sorted by key, so that the lookups in the slot's shards walk each shard's index once.
    """

    __slots__ = ("_erased", "_live", "_readers", "_state")

    def __init__(self, repo: Repository, state: SlotState) -> None:
        self._state = state.snapshot()
        self._erased = self._state.erased
        self._live = self._state.live()
        self._readers = ShardReaders(repo)

    def __call__(self, loaded: LoadedRow[Encoded]) -> str | None:
        """None to archive the row, `EQUAL`, or the reason of a reject.

        Raises:
            IntegrityError: a shard that may hold the uid's latest version can't be read.
        """
        row = loaded.row
        if row.uid in self._erased:
            return RejectReason.ERASED
        if not any(shard.may_hold(row.key) for shard in self._live):
            return None
        alive = [
            version
            for version in versions_of(self._readers, self._state, row.uid, row.key)
            if not self._state.is_dead(version.origin)
        ]
        if not alive:
            return None
        latest = alive[-1].entry
        same_facts = (latest.created_at, latest.media_type, latest.metadata) == (
            row.created_at,
            row.media_type,
            row.metadata,
        )
        return EQUAL if same_facts and latest.sha256 == _digest(loaded.outcome, latest.size) else None


def _digest(outcome: Encoded | BigContent | Unreadable, size: int) -> bytes:
    """The content's SHA-256; of a big file only where its size makes equality possible."""
    match outcome:
        case Encoded():
            return outcome.sha256
        case BigContent() if outcome.size == size:
            return stream_digest(outcome)
        case _:
            return b""
