"""Repacking in tests: tombstones without a request, and what must hold of a slot before and after."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

from tests.protocol.packing import DAY, opened
from tests.protocol.slots_support import tombstone
from vera_core.model import Lock
from vera_core.operations.lookup import ShardReaders, versions_in_order
from vera_core.operations.repack import RepackReport, execute_repack, plan_repack
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from vera_core.keys.shards import Opener
    from vera_core.model import Entry, Origin, Slot
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore


class Kept(NamedTuple):
    """All that is archived of a version."""

    content: bytes
    created_at: int
    media_type: str
    metadata: tuple[tuple[str, str], ...]
    retention_class: str


def copied(store: MemoryStore) -> MemoryStore:
    """A store with the same versions, which goes its own way from now on."""
    other = copy.copy(store)
    other._keys = {key: list(versions) for key, versions in store._keys.items()}
    return other


def erase(repo: Repository, *uids: str) -> None:
    """Appends tombstones of all versions of these uids, as an erasure does."""
    reader = Retriever(repo)
    by_slot: dict[Slot, dict[str, list[tuple[int, int]]]] = {}
    for uid in uids:
        versions = [report.version.split(".") for report in reader.versions(uid, DAY)]
        found = by_slot.setdefault(reader.slot(uid, DAY), {})
        name = repo.naming("default").name(uid)
        found[name] = [(int(commit), int(ordinal)) for commit, ordinal in versions]
    for slot, named in by_slot.items():
        append(repo, slot, tombstone("", **named))


def append(repo: Repository, slot: Slot, body: dict[str, object]) -> None:
    """Appends a record, as another writer would."""
    log = repo.slot_log(slot)
    state = log.load()
    entries = body.get("entries")
    if isinstance(entries, list):
        body = {**body, "entries": [item for item in entries if item["uid"]]}
    now = repo.clock.now()
    until = repo.record_until(state.longest_lock() or now)
    log.append(state, body, lock=Lock(repo.config.lock_mode, until) if repo.config.locked else None, now=now)


def repack(repo: Repository, ratio: float = 0.0) -> RepackReport:
    """Repacks everything."""
    report = execute_repack(repo, plan_repack(repo, all_slots(repo), ratio=ratio))
    assert_no_longer_locked(report)
    return report


def assert_no_longer_locked(report: RepackReport) -> None:
    """No new shard is locked longer than one that it replaces."""
    for each in report.done:
        longest = max(shard.locked_until for shard in each.replaced)
        assert all(shard.locked_until <= longest for shard in each.shards)


def living(repo: Repository) -> dict[tuple[Slot, str, Origin], Kept]:
    """Every version that lives, from the live shards' own indexes and bytes."""
    found: dict[tuple[Slot, str, Origin], Kept] = {}
    for slot in all_slots(repo):
        state = repo.slot_log(slot).load()
        readers = ShardReaders(repo)
        for shard in state.live():
            alive = [version for version in versions_in_order(readers, shard) if not state.is_dead(version.origin)]
            contents = contents_of(readers.opener(shard), [version.entry for version in alive])
            for version in alive:
                entry, content = contents[version.entry.ordinal]
                name = slot, entry.uid, version.origin
                assert name not in found, "no version lives twice"
                found[name] = Kept(content, entry.created_at, entry.media_type, entry.metadata, shard.retention_class)
    return found


def contents_of(opener: Opener, entries: Sequence[Entry]) -> dict[int, tuple[Entry, bytes]]:
    """Entries of a shard opened, with their contents, by ordinal."""
    if opener.reader.streamed:
        streams = map(opener.stream, entries)
        return {entry.ordinal: (entry, b"".join(content)) for entry, content in streams}
    return {entry.ordinal: (entry, content) for entry, content in opener.read_many(entries)}


def live_shards(repo: Repository) -> list[ShardRef]:
    """The live shards of all slots."""
    return [shard for slot in all_slots(repo) for shard in repo.slot_log(slot).load().live()]


def assert_gone_from_bytes(repo: Repository, needles: Iterable[bytes]) -> None:
    """None of these byte strings stands in a live shard: neither as stored nor in any content or dictionary."""
    wanted = list(needles)
    for slot in all_slots(repo):
        state = repo.slot_log(slot).load()
        readers = ShardReaders(repo)
        for shard in state.live():
            reader = readers.reader(shard)
            blocks = [repo.store.get(shard.key, version_id=shard.version_id).data]
            blocks += [reader.section_bytes(section) for section in reader.sections]
            opener = readers.opener(shard)
            entries = [entry for entry in reader.entries() if opener.holds(entry)]
            blocks += [content for _, content in contents_of(opener, entries).values()]
            for block in blocks:
                for needle in wanted:
                    assert needle not in block, (shard.key, needle)


def readers_agree(store: ObjectStore, spool: Path, before: dict[tuple[Slot, str, Origin], Kept]) -> None:
    """A new reader finds every version under its name, bit for bit, and nothing else in the lists."""
    reader = Retriever(opened(store, spool, "reader"))
    for (_, uid, origin), kept in before.items():
        assert reader.get(uid, DAY, version=f"{origin.commit}.{origin.ordinal}") == kept.content
    assert sorted({uid for _, uid, _ in before}) == sorted(report.uid for report in reader.list_day(DAY))
