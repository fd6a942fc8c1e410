"""Bundles: live shards of a slot that one repack may replace together. Pure; rewrite.py replaces them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vera_core.config import RepositoryConfig
    from vera_core.slots import ShardRef, SlotState

LOCK_SPREAD = timedelta(days=31)
"""Shards that are replaced together have locks that end within so long, so that no file is locked longer than that."""
MOST_SHARDS = 128
"""Of those that are replaced together: a file and a group of each are open at once."""
MOST_BYTES = 1 << 30
"""Of the shards that are replaced together: they lie in the spool at once. A larger one goes alone."""
MOST_LEFT_OUT = 250_000
"""Erased versions that one record names, so that it stays far below its limit."""
Choose: TypeAlias = "Callable[[SlotState], Sequence[Bundle]]"
"""What of a slot is to be replaced as things stand; `SlotState` comes from the whole log."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Live shards of one retention class that are to be replaced together.

    `removable`: how many erased versions of each may be left behind, by the log.
    """

    retention_class: str
    shards: tuple[ShardRef, ...]
    removable: tuple[int, ...]

    @property
    def names(self) -> frozenset[tuple[str, str]]:
        """Key and VersionId of each."""
        return frozenset((shard.key, shard.version_id) for shard in self.shards)

    @property
    def erased(self) -> int:
        """Versions that may be left behind, of all of them."""
        return sum(self.removable)

    @property
    def entries(self) -> int:
        """Versions in them."""
        return sum(shard.entries for shard in self.shards)

    @property
    def size(self) -> int:
        """Their bytes."""
        return sum(shard.size for shard in self.shards)


def objects_saved(bundle: Bundle, config: RepositoryConfig) -> int:
    """How many objects fewer there will be when the bundle was replaced."""
    stored = sum(shard.stored_bytes for shard in bundle.shards)
    left = bundle.entries - bundle.erased
    needed = max(-(-stored // config.shard_bytes), -(-left // config.part_rows))
    return len(bundle.shards) - (needed if left else 0)


def bundled(retention_class: str, shards: Iterable[tuple[ShardRef, int]]) -> list[Bundle]:
    """Shards of a class, each with its removable versions, in bundles that one repack may replace.

    A bundle's locks end within `LOCK_SPREAD`.
    """
    bundles: list[list[tuple[ShardRef, int]]] = []
    for shard, removable in sorted(shards, key=lambda each: (each[0].lock.until, each[0].key, each[0].version_id)):
        last = bundles[-1] if bundles else []
        fits = (
            last
            and shard.lock.until - last[0][0].lock.until <= LOCK_SPREAD
            and len(last) < MOST_SHARDS
            and sum(each.size for each, _ in last) + shard.size <= MOST_BYTES
            and sum(count for _, count in last) + removable <= MOST_LEFT_OUT
        )
        if fits:
            last.append((shard, removable))
        else:
            bundles.append([(shard, removable)])
    return [
        Bundle(retention_class, tuple(shard for shard, _ in each), tuple(count for _, count in each))
        for each in bundles
    ]
