"""The sidecar: believed where a writer's lock marks it, rebuilt at will, harmless when old, foreign or forged."""

from __future__ import annotations

import base64
import dataclasses
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.slots_support import (
    FAR,
    KEYS,
    SLOT,
    commit,
    grown,
    put,
    repack,
    shard,
    slot_log,
    tombstone,
)
from vera_core.errors import IncompatibleError, IntegrityError, VeraError
from vera_core.model import Lock, LockMode, Origin
from vera_core.slotlog import decode_sidecar, encode_sidecar
from vera_core.slots import SlotState
from vera_core.store.chain import LogOptions, LostAppendError, canonical
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.marked import MARK
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.store.base import ObjectStore

KEY = KEYS.sidecar(SLOT)
HISTORY = [commit(0, 10, shard("one")), commit(10, 20, shard("two", 2)), tombstone("u", (1, 3))]


def written(store: ObjectStore, count: int = len(HISTORY)) -> SlotState:
    log = slot_log(store)
    state = grown(log, *HISTORY[:count])
    log.write_sidecar(state, datetime.now(UTC))
    return state


def test_a_current_sidecar_costs_two_small_requests(memory_store: MemoryStore) -> None:
    state = written(memory_store)
    for options, probe in ((LogOptions(tells_markers=True), "head"), (LogOptions(), "list_versions")):
        faulty = FaultyStore(memory_store)
        seen = slot_log(faulty, options=options).current()
        assert [call.kind for call in faulty.calls] == ["get", probe]
        assert seen.fingerprint == state.fingerprint


def test_what_came_after_the_sidecar_is_seen(store: ObjectStore) -> None:
    written(store, 2)
    whole = grown(slot_log(store), *HISTORY[2:])
    seen = slot_log(store).current()
    assert seen.is_dead(Origin(1, 3))
    assert (seen.head, seen.fingerprint) == (whole.head, whole.fingerprint)


def test_an_old_sidecar_put_back_does_no_harm(store: ObjectStore) -> None:
    written(store, 1)
    old = store.get(KEY).data
    state = written(store)
    store.put(KEY, old)
    seen = slot_log(store).current()
    assert seen.is_dead(Origin(1, 3)), "erased stays erased (I4)"
    assert seen.fingerprint == state.fingerprint
    slot_log(store).write_sidecar(state, datetime.now(UTC))
    assert store.get(KEY).data == encode_sidecar(state)


def test_a_missing_or_hidden_sidecar_is_no_loss(store: ObjectStore) -> None:
    state = grown(slot_log(store), *HISTORY)
    assert slot_log(store).current().fingerprint == state.fingerprint
    slot_log(store).write_sidecar(state, datetime.now(UTC))
    store.delete(KEY)
    assert slot_log(store).current().fingerprint == state.fingerprint
    slot_log(store).write_sidecar(state, datetime.now(UTC))
    assert store.get(KEY).data == encode_sidecar(state)


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        outer = json.loads(data)
        change(outer)
        return canonical(outer)

    return edit


def _state(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes], bytes]:
    return _edit(lambda outer: change(outer["state"]))


EVIL = shard("evil", 2)


def forged_state() -> SlotState:
    """A state that is consistent in itself, in which nothing was ever erased."""
    state = grown(slot_log(MemoryStore()), *HISTORY)
    state.dead = {}
    return state


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "no json": lambda data: data[:-1],
    "nested too deep": lambda _: b"[" * 100_000,
    "not ours": lambda _: b'{"format": 1}',
    "another format": _edit(lambda outer: outer.update(format=2)),
    "nothing applied": _edit(lambda outer: outer.update(applied=0)),
    "far ahead of the log": _edit(lambda outer: outer.update(applied=10**9)),
    "beyond every number": _edit(lambda outer: outer.update(applied=10**60)),
    "infinite": _edit(lambda outer: outer.update(applied=float("inf"))),
    "another digest": _edit(lambda outer: outer.update(digest="0" * 64)),
    "another fingerprint": _edit(lambda outer: outer.update(fingerprint="0" * 64)),
    "a fingerprint of another kind": _edit(lambda outer: outer.update(fingerprint=7)),
    "no change at all": lambda data: data,
    "an earlier number": _edit(lambda outer: outer.update(applied=2)),
    "nobody erased": _state(lambda state: state.update(dead={})),
    "a shard less": _state(lambda state: state["shards"].pop()),
    "a shard more": _state(lambda state: state["shards"].append({"number": 2, **EVIL.to_json()})),
    "another version of a shard": _state(lambda state: state["shards"][0].update(version_id="v-evil")),
    "a shard of another tenant": _state(
        lambda state: state["shards"][0].update(key=state["shards"][0]["key"].replace("default", "victim"))
    ),
    "a naive time": _state(lambda state: state["shards"][0]["lock"].update(until="2026-01-01T00:00:00")),
    "another slot": _state(lambda state: state.update(slot="default/20260301/2B")),
    "another epoch": _state(lambda state: state.update(n_bits=9)),
    "a bitmap that is none": _state(lambda state: state.update(dead={"1": "?"})),
    "a bitmap of another kind": _state(lambda state: state.update(dead={"1": 7})),
    "forged whole": lambda _: encode_sidecar(forged_state()),
    "a wide filter": _state(lambda state: state["shards"][0].update(keys=base64.b64encode(b"abc").decode())),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_sidecar_is_not_believed(memory_store: MemoryStore, forge: Callable[[bytes], bytes]) -> None:
    """Whoever may PUT can compute any sidecar; readers, packers and the doctor go by what the locked log says."""
    state = written(memory_store)
    memory_store.put(KEY, forge(memory_store.get(KEY).data))
    seen = slot_log(memory_store).current()
    assert (seen.head, seen.fingerprint) == (state.head, state.fingerprint)
    assert seen.is_dead(Origin(1, 3))
    slot_log(memory_store).write_sidecar(state, datetime.now(UTC))
    assert memory_store.get(KEY).data == encode_sidecar(state), "and it can't keep the true one away"


@pytest.mark.parametrize("name", ["another fingerprint", "nobody erased", "far ahead of the log", "forged whole"])
def test_a_forged_sidecar_is_not_believed_on_a_real_store(store: ObjectStore, name: str) -> None:
    state = written(store)
    store.put(KEY, FORGERIES[name](store.get(KEY).data))
    assert slot_log(store).current().fingerprint == state.fingerprint


def test_a_damaged_sidecar_is_not_believed_even_if_it_is_locked(memory_store: MemoryStore) -> None:
    """Bytes that rot in the store keep their lock; what they state of themselves does not match any more."""
    state = written(memory_store)
    for name, forge in FORGERIES.items():
        data = forge(memory_store.get(KEY).data)
        if name in {"no change at all", "forged whole"}:
            continue
        memory_store.put(KEY, data, lock=Lock(LockMode.GOVERNANCE, FAR))
        seen = slot_log(memory_store).current()
        assert (seen.head, seen.fingerprint) == (state.head, state.fingerprint), name
        memory_store.put(KEY, encode_sidecar(state), lock=Lock(LockMode.GOVERNANCE, FAR))


def test_a_lock_that_has_ended_still_marks_a_sidecar(memory_store: MemoryStore) -> None:
    log = slot_log(memory_store)
    state = grown(log, *HISTORY)
    memory_store.put(
        KEY, encode_sidecar(state), lock=Lock(LockMode.GOVERNANCE, datetime.now(UTC) + timedelta(seconds=1))
    )
    time.sleep(1.2)
    faulty = FaultyStore(memory_store)
    assert slot_log(faulty).current().fingerprint == state.fingerprint
    assert faulty.count("get") == 1


def test_a_repository_without_locks_believes_its_sidecar() -> None:
    store = MemoryStore(object_lock=False)
    log = slot_log(store, options=LogOptions(locked=False))
    state = grown(log, *HISTORY)
    log.write_sidecar(state, datetime.now(UTC))
    faulty = FaultyStore(store)
    assert slot_log(faulty, options=LogOptions(locked=False)).current().fingerprint == state.fingerprint
    assert [call.kind for call in faulty.calls] == ["get", "list_versions"]


@given(st.binary(max_size=400))
def test_hostile_bytes_decode_to_nothing(data: bytes) -> None:
    assert decode_sidecar(SLOT, data) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.data())
def test_any_value_anywhere_decodes_or_does_not_and_never_raises(data: st.DataObject) -> None:
    store = MemoryStore()
    written(store)
    outer = json.loads(store.get(KEY).data)
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            places.append((value, key))
            walk(inner)

    walk(outer)
    container, key = data.draw(st.sampled_from(places))
    container[key] = data.draw(JSON)
    decoded = decode_sidecar(SLOT, json.dumps(outer).encode())
    assert decoded is None or isinstance(decoded, SlotState)
    assert isinstance(slot_log(store).current(), SlotState)


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_found(at: int, bit: int) -> None:
    store = MemoryStore()
    state = written(store)
    data = bytearray(store.get(KEY).data)
    data[at % len(data)] ^= 1 << bit
    store.put(KEY, bytes(data))
    seen = slot_log(store).current()
    assert (seen.head, seen.fingerprint) == (state.head, state.fingerprint)


def test_a_newer_sidecar_is_left_alone(memory_store: MemoryStore) -> None:
    old = grown(slot_log(memory_store), *HISTORY[:2])
    new = old.snapshot()
    put(slot_log(memory_store), new, HISTORY[2])
    slot_log(memory_store).write_sidecar(new, datetime.now(UTC))
    slot_log(memory_store).write_sidecar(old, datetime.now(UTC))
    assert memory_store.get(KEY).data == encode_sidecar(new)


def test_writing_it_again_writes_nothing(memory_store: MemoryStore) -> None:
    state = written(memory_store)
    faulty = FaultyStore(memory_store)
    slot_log(faulty).write_sidecar(state, datetime.now(UTC))
    assert slot_log(faulty).rebuild_sidecar(state, datetime.now(UTC)) is False
    assert faulty.count("put") == 0


def test_old_versions_do_not_pile_up(store: ObjectStore) -> None:
    log, state = slot_log(store), SlotState(SLOT)
    for body in HISTORY:
        put(log, state, body)
        # Locks of a second: a replaced version goes as soon as its lock has ended.
        log.write_sidecar(state, datetime.now(UTC) - MARK + timedelta(seconds=1))
        time.sleep(2.2)
    assert len([info for info in store.list_versions(KEY) if info.key == KEY]) == 1


@pytest.mark.parametrize("action", [Action.LOSE_REPLY, Action.FAIL])
@pytest.mark.parametrize("kind", ["get", "put", "list_versions"])
def test_a_sidecar_that_was_not_written_or_not_acknowledged_does_no_harm(action: Action, kind: str) -> None:
    store = MemoryStore()
    written(store, 1)
    state = grown(slot_log(store), *HISTORY[1:])
    with pytest.raises(Exception, match="does not answer"):
        slot_log(FaultyStore(store, [Rule(action, kind, KEY)])).write_sidecar(state, datetime.now(UTC))
    assert slot_log(store).current().fingerprint == state.fingerprint
    slot_log(store).write_sidecar(state, datetime.now(UTC))
    assert store.get(KEY).data == encode_sidecar(state)


def test_sixteen_writers_leave_the_newest(memory_store: MemoryStore) -> None:
    states = [SlotState(SLOT)]
    log = slot_log(memory_store)
    for number in range(16):
        state = states[-1].snapshot()
        put(log, state, commit(number, number + 1, shard(f"s{number}", number + 1)))
        states.append(state)
    barrier = threading.Barrier(16)
    errors: list[VeraError] = []

    def write(state: SlotState) -> None:
        barrier.wait()
        try:
            slot_log(memory_store).write_sidecar(state, datetime.now(UTC))
        except VeraError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(state,)) for state in states[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert memory_store.get(KEY).data == encode_sidecar(states[-1])


# ---------------------------------------------------------------------- the log itself


def test_an_unknown_record_stops_readers_with_and_without_a_sidecar(memory_store: MemoryStore) -> None:
    state = written(memory_store)
    log = slot_log(memory_store)
    log.chain.append(state.head, {"type": "unheard-of"}, lock=Lock(LockMode.GOVERNANCE, FAR), now=datetime.now(UTC))
    for read in (slot_log(memory_store).current, slot_log(memory_store).load):
        with pytest.raises(IncompatibleError, match="'unheard-of'"):
            read()


def test_an_unreadable_record_stops_readers_with_and_without_a_sidecar(memory_store: MemoryStore) -> None:
    written(memory_store)
    memory_store.put(KEYS.log(SLOT, 4), b"junk", lock=Lock(LockMode.GOVERNANCE, FAR))
    for read in (slot_log(memory_store).current, slot_log(memory_store).load):
        with pytest.raises(IntegrityError, match="record 4 is locked but unreadable"):
            read()


def test_nothing_that_could_not_be_read_is_appended(memory_store: MemoryStore) -> None:
    state = written(memory_store)
    for body, error in (({"type": "unheard-of"}, IncompatibleError), (tombstone("u", (1, -1)), IntegrityError)):
        with pytest.raises(error):
            put(slot_log(memory_store), state, body)
    assert slot_log(memory_store).load().head.number == 3


def test_a_lost_append_leaves_the_state_as_it_was(memory_store: MemoryStore) -> None:
    state = written(memory_store, 1)
    other = state.snapshot()
    put(slot_log(memory_store), other, HISTORY[1])
    before = state.fingerprint
    with pytest.raises(LostAppendError):
        put(slot_log(memory_store), state, repack(shard("one"), shard("three")))
    assert state.fingerprint == before
    assert slot_log(memory_store).refresh(state) is True
    assert slot_log(memory_store).refresh(state) is False
    assert state.fingerprint == other.fingerprint


def test_a_refresh_reads_only_what_is_new(memory_store: MemoryStore) -> None:
    state = written(memory_store, 1)
    grown(slot_log(memory_store), *HISTORY[1:])
    faulty = FaultyStore(memory_store)
    slot_log(faulty, options=LogOptions(tells_markers=True)).refresh(state)
    assert faulty.count("get", KEYS.log(SLOT, 1)) == 0
    assert state.head.number == 3


def test_slots_of_a_day_do_not_touch(memory_store: MemoryStore) -> None:
    other = dataclasses.replace(SLOT, index=0x2B)
    written(memory_store)
    grown(slot_log(memory_store, other), commit(0, 5, shard("x", slot=other)))
    assert slot_log(memory_store).load().head.number == 3
    assert slot_log(memory_store, other).load().head.number == 1
    assert slot_log(memory_store, dataclasses.replace(SLOT, day=SLOT.day + timedelta(1))).load().head.number == 0
