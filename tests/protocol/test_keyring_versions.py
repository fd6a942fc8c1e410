"""Whatever lies under a keyring's key: readers give the right bytes or an error, and never an erased file (I3, I4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.protocol.packing import DAY, File, MemorySource, copied, local_kek, make_encrypted, opened, pack
from tests.protocol.puncturing import puncture
from tests.protocol.repacking import live_shards
from tests.protocol.test_encrypted_reading import slot_of, tombstone_of
from tests.protocol.test_repack import ONE_SLOT
from vera_core.errors import ErasedError, IntegrityError, UsageError
from vera_core.keys.keyring import seal_keyrings
from vera_core.keys.local import LocalKeys
from vera_core.operations.retrieve import Retriever
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FILES = [File(f"file/{number}", b"content %d " % number * 9) for number in range(4)]
ERASED, *LIVING = FILES
OLD = ("the old one", "the old one, wrapped anew")
SAME = "the same, wrapped anew"
USELESS = ("another shard's", "another KEK's", "old, and says it is new", "cut", "altered", "empty")


class World(NamedTuple):
    """A slot with one shard and one erased file, whose keyring lies in `store` alone and as revision 2.

    `blobs` are what may come to lie there besides, `true` is what does.
    """

    store: MemoryStore
    spool: Path
    key: str
    true: bytes
    blobs: dict[str, bytes]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    spool, store = tmp_path_factory.mktemp("keyrings"), MemoryStore()
    repo = make_encrypted(store, spool, routing=ONE_SLOT)
    pack(repo, MemorySource(FILES))
    (shard,) = live_shards(repo)
    key, old = repo.keyrings.key_of(shard), repo.keyrings.fetch(shard).keyring
    before = store.get(key).data
    tombstone_of(repo, ERASED.uid)
    puncture(store, repo, slot_of(repo, ERASED.uid), ERASED.uid)
    fresh = repo.keyrings.fetch(live_shards(repo)[0]).keyring
    other = replace(old, header=replace(old.header, shard=b"another's shard!" * 2))
    stranger = LocalKeys.create(spool / "stranger.json")
    true = store.get(key).data
    blobs = {
        OLD[0]: before,
        OLD[1]: seal_keyrings(local_kek(), [old])[0],
        SAME: seal_keyrings(local_kek(), [fresh])[0],
        "another shard's": seal_keyrings(local_kek(), [other])[0],
        "another KEK's": seal_keyrings(stranger, [fresh])[0],
        "old, and says it is new": before[:12] + b"\x09\0\0\0" + before[16:],
        "cut": true[:-9],
        "altered": true[:-30] + bytes([true[-30] ^ 1]) + true[-29:],
        "empty": b"",
    }
    return World(store, spool, key, true, blobs)


actions = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from((*OLD, SAME, *USELESS))),
        st.tuples(st.just("mark"), st.just("")),
        st.tuples(st.just("drop"), st.integers(0, 5).map(str)),
    ),
    max_size=6,
)


def left(store: MemoryStore, key: str) -> list[bytes]:
    """The contents that lie under the key, hidden ones too."""
    infos = [info for info in store.list_versions(key) if info.key == key and not info.is_delete_marker]
    return [store.get(key, version_id=info.version_id).data for info in infos]


@settings(max_examples=150)
@given(actions=actions)
def test_readers_find_the_right_one_or_refuse(world: World, actions: Sequence[tuple[str, str]]) -> None:
    store = copied(world.store)
    for action, value in actions:
        infos = [info for info in store.list_versions(world.key) if info.key == world.key]
        if action == "put":
            store.put(world.key, world.blobs[value])
        elif action == "mark":
            store.delete(world.key)
        elif infos:
            store.delete(world.key, version_id=infos[int(value) % len(infos)].version_id)
    usable = {world.true, world.blobs[SAME]} & set(left(store, world.key))
    reader = Retriever(opened(store, world.spool))
    with pytest.raises(ErasedError):
        reader.get(ERASED.uid, DAY)
    for file in LIVING:
        if usable:
            assert reader.get(file.uid, DAY) == file.content
        else:
            with pytest.raises((IntegrityError, UsageError)) as caught:
                reader.get(file.uid, DAY)
            assert caught.value.where["key"] == world.key
            assert caught.value.todo


@settings(max_examples=60)
@given(actions=actions)
def test_a_reader_that_knows_of_no_tombstone_gives_no_file_whose_key_is_gone(
    world: World, actions: Sequence[tuple[str, str]]
) -> None:
    """As if the slot's state were older than the erasure: unless an old keyring is back, it is erased all the same."""
    store = copied(world.store)
    for action, value in actions:
        if action == "put" and value not in OLD:
            store.put(world.key, world.blobs[value])
        elif action == "mark":
            store.delete(world.key)
    repo = opened(store, world.spool)
    reader = Retriever(repo)
    state = repo.slot_log(reader.slot(ERASED.uid, DAY)).load()
    state.dead.clear()
    state.shards = {number: [replace(shard, keyring=1) for shard in each] for number, each in state.shards.items()}
    reader._known[state.slot] = (state, float("inf"))
    with pytest.raises(ErasedError):
        reader.get(ERASED.uid, DAY)
    for file in LIVING:
        assert reader.get(file.uid, DAY) == file.content
