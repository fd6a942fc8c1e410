"""Which versions lie in which shard of a slot, as far as its log tells: no shard is opened. Pure; no I/O.

Packed shards hold the versions of their commit, and a repack's hold those of the shards that it replaced. Which of them
are erased, and so may be left behind by the next repack, follows from the tombstones.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from vera_core.keys.naming import name_key
from vera_core.model import Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vera_core.slots import ShardRef, SlotState
    from vera_core.store.chain import Record

NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the log says of a slot's versions.

    `commits`: VersionId of every shard that ever counted -> the commits whose versions it may hold. `left_out`: the
    erased versions that repacks left behind. `disposed`: the commits of which versions were disposed of.
    """

    commits: dict[str, frozenset[int]] = field(default_factory=dict)
    left_out: set[Origin] = field(default_factory=set)
    disposed: set[int] = field(default_factory=set)

    def shards_with(self, state: SlotState, commit: int) -> list[ShardRef]:
        """The live shards that hold what is left of a commit's versions; not the copies that extensions made."""
        live = [shard for shard in state.live() if commit in self.commits.get(shard.version_id, NONE)]
        return [shard for shard in live if not state.is_copy(shard)]


def holdings(state: SlotState) -> Holdings:
    """What lies where; `state` must come from the whole log."""
    found = Holdings()
    for record in _counting(state):
        _take(found, record)
    return found


def removable(state: SlotState) -> dict[str, int]:
    """How many erased versions of each live shard (VersionId) the next repack may leave behind.

    `state` must come from the whole log.
    """
    lies = holdings(state)
    holding: defaultdict[int, list[ShardRef]] = defaultdict(list)
    for shard in state.live():
        for commit in lies.commits.get(shard.version_id, NONE):
            holding[commit].append(shard)
    counts: defaultdict[str, int] = defaultdict(int)
    key_of = name_keys(state)
    for name, origins in tombstones(state).items():
        key = key_of(name)
        for origin in origins - lies.left_out:
            if may_be_left_out(state, origin):
                for shard in holding.get(origin.commit, ()):
                    if shard.may_hold(key):
                        counts[shard.version_id] += 1
    return dict(counts)


def name_keys(state: SlotState) -> Callable[[str], int]:
    """How names of a slot's files make the keys by which its shards are sorted: keyed uids do where it is encrypted."""
    return partial(name_key, keyed=any(shard.keyring for shard in [*state.live(), *state.superseded]))


def may_be_left_out(state: SlotState, origin: Origin) -> bool:
    """Whether a repack may leave that version behind: it was erased, and no hold needs its bytes."""
    return state.is_dead(origin) and not state.is_held(origin)


def tombstones(state: SlotState) -> dict[str, set[Origin]]:
    """The versions that were erased, by the file's name; `state` must come from the whole log."""
    found: defaultdict[str, set[Origin]] = defaultdict(set)
    for record in _counting(state):
        if record.type == "tombstone":
            for item in record.body["entries"]:
                found[str(item["uid"])].update(Origin(*version) for version in item["versions"])
    return dict(found)


def disposed_shards(state: SlotState) -> list[ShardRef]:
    """The shards that disposals took out of the archive; `state` must come from the whole log."""
    named = {
        (item["key"], item["version_id"])
        for record in _counting(state)
        if record.type == "dispose"
        for item in record.body["shards"]
    }
    return [shard for shard in state.superseded if (shard.key, shard.version_id) in named]


def _counting(state: SlotState) -> Iterator[Record]:
    """The records that count."""
    strays = set(state.strays)
    return (record for record in state.records if record.number not in strays)


def _take(found: Holdings, record: Record) -> None:
    body = record.body
    if record.type == "commit" and body["shard"] is not None:
        found.commits[body["shard"]["version_id"]] = frozenset((record.number,))
    elif record.type == "repack":
        old = [found.commits.get(item["version_id"], NONE) for item in body["replaces"]]
        found.commits.update(dict.fromkeys((item["version_id"] for item in body["shards"]), NONE.union(*old)))
        found.left_out.update(Origin(*origin) for origin in body["anchor"]["left_out"])
    elif record.type == "retain":
        copied = {Origin(*version).commit for item in body["entries"] for version in item["versions"]}
        found.commits[body["shard"]["version_id"]] = frozenset(copied)
    elif record.type == "dispose":
        gone = [found.commits.get(item["version_id"], NONE) for item in body["shards"]]
        found.disposed.update(NONE.union(*gone))
