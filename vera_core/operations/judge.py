"""Judging loaded rows: is the row new, equal to its uid's latest version, or of a uid that was erased?"""

from __future__ import annotations

import sys
from hashlib import sha256
from typing import TYPE_CHECKING

from vera_core.operations.load import stream_digest
from vera_core.operations.lookup import ShardReaders, opened, versions_of
from vera_core.source.base import BigContent, Unreadable
from vera_core.source.rows import RejectReason
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from vera_core.operations.load import Loaded
    from vera_core.operations.repository import Repository
    from vera_core.slots import SlotState

EQUAL = "equal"
"""What a judge says of a row whose uid's latest version is the same in every archived fact."""
UNREAD = (OSError, MissingObjectError)
"""What reading a source's big file raises where the file is the cause: packing goes on without it."""


class Judge:
    """Judges rows by a slot's state as it is now; later records don't change the verdicts.

    With `before`, only versions of commits with lower numbers count: what came later is not looked at. Rows come sorted
    by key, so that the lookups in the slot's shards walk each shard's index once.
    """

    __slots__ = ("_before", "_erased", "_live", "_readers", "_state")

    def __init__(self, repo: Repository, state: SlotState, *, before: int = sys.maxsize) -> None:
        self._before = before
        self._state = state.snapshot()
        self._erased = self._state.erased
        self._live = self._state.live()
        self._readers = ShardReaders(repo)

    def verdicts(self, loaded: Loaded) -> dict[int, str]:
        """What keeps rows out, by place: `EQUAL`, or the reason of a reject. Other rows are to be archived.

        Raises:
            IntegrityError: a shard that may hold a uid's latest version can't be read.
        """
        found = {place: item.reason for place, item in loaded.special.items() if isinstance(item, Unreadable)}
        if self._erased or self._live:
            for place in range(len(loaded)):
                verdict = None if place in found else self._verdict(loaded, place)
                if verdict is not None:
                    found[place] = verdict
        return found

    def _verdict(self, loaded: Loaded, place: int) -> str | None:
        row = loaded.rows.row(place)
        if row.name in self._erased:
            return RejectReason.ERASED
        if not any(shard.may_hold(row.key) for shard in self._live):
            return None
        alive = [
            version
            for version in versions_of(self._readers, self._state, row.name, row.key)
            if version.origin.commit < self._before and not self._state.is_dead(version.origin)
        ]
        if not alive:
            return None
        small = None if isinstance(loaded.special.get(place), BigContent) else _digest(loaded, place)
        if small is not None and small != alive[-1].entry.sha256:
            return None
        latest = opened(self._readers, alive[-1:])[0].entry
        same_facts = (latest.created_at, latest.media_type, latest.metadata) == (
            row.created_at,
            row.media_type,
            row.metadata,
        )
        if small is not None or not same_facts:
            return EQUAL if same_facts else None
        big = loaded.special[place]
        assert isinstance(big, BigContent)
        try:
            return EQUAL if big.size == latest.size and latest.sha256 == stream_digest(big, sha256()) else None
        except UNREAD:
            return RejectReason.UNREADABLE


def _digest(loaded: Loaded, place: int) -> bytes:
    digest: bytes = loaded.encoded.facts["digest"][place].tobytes()
    return digest
