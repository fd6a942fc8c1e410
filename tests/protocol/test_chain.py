"""The chained log: dense, linked, and what is not the earliest locked version of a key is never data."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.chains import PREFIX, append, chain, grow, head_of, until, values
from vera_core.errors import ConflictError, IntegrityError, PreconditionError, UnavailableError, UsageError
from vera_core.model import Lock, LockMode
from vera_core.store.chain import (
    MAX_RECORD_BYTES,
    Finding,
    Head,
    LogOptions,
    LostAppendError,
    Record,
    canonical,
    decode_record,
    encode_record,
)
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vera_core.store.base import Blob, ObjectStore, VersionInfo

KEY_2 = f"{PREFIX}000002.json"
KEY_3 = f"{PREFIX}000003.json"
KEY_4 = f"{PREFIX}000004.json"
TELLING = LogOptions(locked=True, tells_markers=True)
SILENT = LogOptions(locked=True, tells_markers=False)


def test_records_are_dense_linked_and_locked(store: ObjectStore) -> None:
    log = chain(store)
    made = grow(log, 3)
    assert [record.number for record in made] == [1, 2, 3]
    assert log.read() == made
    previous = ""
    for record in made:
        blob = store.get(log.key_of(record.number), version_id=record.version_id)
        assert hashlib.sha256(blob.data).hexdigest() == record.digest
        assert decode_record(blob.data) == record.body
        assert json.loads(blob.data)["check"] == hashlib.sha256(canonical(record.body)).hexdigest()
        assert record.body["prev"] == previous
        assert record.lock is not None
        assert record.lock == store.get_lock(log.key_of(record.number), record.version_id)
        previous = record.digest


def test_an_empty_log_reads_as_nothing(store: ObjectStore) -> None:
    assert chain(store).read() == []
    assert chain(store).survey() == ([], [])
    for options in (TELLING, SILENT):
        assert chain(store, options).probe(Head()) is None
        assert chain(store, options).read_from(Head()) == []


def test_a_stale_head_loses_and_goes_on_from_what_is_there(memory_store: MemoryStore) -> None:
    log = chain(memory_store)
    made = grow(log, 3)
    with pytest.raises(LostAppendError) as caught:
        append(log, head_of(made[0]), value="late")
    assert caught.value.where["key"] == KEY_2
    assert log.read() == made
    assert log.read_from(head_of(made[0])) == made[1:]


def test_a_record_that_was_altered_breaks_the_chain() -> None:
    store = MemoryStore()
    log = chain(store)
    made = grow(log, 2)
    other = {**made[0].body, "value": "other"}
    replacement = MemoryStore()
    replacement.put(log.key_of(1), encode_record(other), lock=until())
    replacement.put(log.key_of(2), store.get(KEY_2).data, lock=until())
    with pytest.raises(IntegrityError, match="does not follow") as caught:
        chain(replacement).read()
    assert caught.value.where["key"] == KEY_2
    assert caught.value.todo


def test_a_record_under_another_number_is_refused(memory_store: MemoryStore) -> None:
    log = chain(memory_store)
    first, second = grow(log, 2)
    memory_store.put(KEY_3, encode_record({**second.body, "prev": second.digest}), lock=until())
    with pytest.raises(IntegrityError, match="unreadable"):
        log.read()
    with pytest.raises(IntegrityError, match="unreadable"):
        log.read_from(head_of(first))


HOSTILE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b'"commit"',
    b"\xff\xfe{}",
    b'{"n": 2}',
    b'{"n": 2, "type": "test", "prev": ""}',
    b'{"n": 2, "type": "test", "prev": "", "check": "00"}',
    b'{"n": 2, "type": 7, "prev": ""}',
    b'{"n": "2", "type": "test"}',
    b"[" * 200_000,
    b'{"n": 2, "type": "test", "value": ' + b"9" * 5000 + b"}",
    b" " * (MAX_RECORD_BYTES + 1),
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("options", [TELLING, SILENT], ids=["telling", "silent"])
def test_a_locked_record_that_cannot_be_read_stops_every_reader(data: bytes, options: LogOptions) -> None:
    store = MemoryStore()
    log = chain(store, options)
    [first] = grow(log, 1)
    store.put(KEY_2, data, lock=until())
    for attempt in (log.read, lambda: log.read_from(head_of(first)), lambda: append(log, head_of(first), value=2)):
        with pytest.raises(IntegrityError) as caught:
            attempt()
        assert caught.value.where["key"] == KEY_2
        assert caught.value.where["bucket"] == "memory"
        assert caught.value.where["version_id"]


@given(st.integers(0, 2000), st.integers(0, 7))
def test_a_flipped_bit_is_found_in_the_last_record_too(at: int, bit: int) -> None:
    store = MemoryStore()
    [record] = grow(chain(store), 1)
    key = chain(store).key_of(1)
    data = bytearray(store.get(key).data)
    data[at % len(data)] ^= 1 << bit
    store._keys[key][0] = replace(store._keys[key][0], data=bytes(data))
    with pytest.raises(IntegrityError, match="unreadable") as caught:
        chain(store).read()
    assert caught.value.where["version_id"] == record.version_id


def test_a_gap_stops_every_reader(memory_store: MemoryStore) -> None:
    log = chain(memory_store)
    made = grow(log, 4)
    memory_store.delete(KEY_2, version_id=made[1].version_id, bypass_governance=True)
    with pytest.raises(IntegrityError, match="gap: record 2") as caught:
        log.read()
    assert caught.value.where["key"] == KEY_2


def test_a_missing_first_record_is_a_gap(memory_store: MemoryStore) -> None:
    log = chain(memory_store)
    made = grow(log, 2)
    memory_store.delete(log.key_of(1), version_id=made[0].version_id, bypass_governance=True)
    with pytest.raises(IntegrityError, match="gap: record 1"):
        log.read()


def test_foreign_objects_in_the_log_are_findings_even_when_locked(memory_store: MemoryStore) -> None:
    """A stranger who may lock objects can't stop a log by any name that is no record's."""
    log = chain(memory_store)
    made = grow(log, 2)
    for name in ("junk", "000009", "9.json", "zzz/000003.json", "000000.json"):
        memory_store.put(PREFIX + name, b"junk", lock=until())
    memory_store.put(f"{PREFIX}000007.json", b"unlocked, so no record")
    records, findings = log.survey()
    assert records == made
    assert len(findings) == 6
    assert log.read_from(head_of(made[1])) == []


# ---------------------------------------------------------------------- what is not the earliest locked version


def _plain_put(store: ObjectStore, key: str) -> None:
    store.put(key, b'{"n": 2, "type": "evil", "prev": ""}')


def _marker(store: ObjectStore, key: str) -> None:
    store.delete(key)


def _locked_put(store: ObjectStore, key: str) -> None:
    store.put(key, b'{"n": 2, "type": "evil", "prev": ""}', lock=until())


ATTACKS = {"plain PUT": _plain_put, "DELETE": _marker}


@pytest.mark.parametrize("attack", [*ATTACKS.values(), _locked_put], ids=[*ATTACKS, "locked PUT"])
@pytest.mark.parametrize("options", [TELLING, SILENT], ids=["telling", "silent"])
def test_what_comes_over_a_record_changes_nothing(
    store: ObjectStore, attack: Callable[[ObjectStore, str], None], options: LogOptions
) -> None:
    log = chain(store, options)
    made = grow(log, 3)
    for number in (1, 2, 3):
        attack(store, log.key_of(number))
    records, findings = log.survey()
    assert records == made
    assert sorted(finding.key for finding in findings) == [log.key_of(number) for number in (1, 2, 3)]
    assert log.read_from(Head()) == made
    with pytest.raises(LostAppendError):
        append(log, head_of(made[1]), value="over it")
    fourth = append(log, head_of(made[2]), value=3)
    assert log.read() == [*made, fourth]


@pytest.mark.parametrize("names", [["plain PUT"], ["DELETE"], ["plain PUT", "DELETE"], ["DELETE", "plain PUT"]])
@pytest.mark.parametrize("options", [TELLING, SILENT], ids=["telling", "silent"])
def test_what_lies_under_the_next_number_is_cleared_and_never_data(
    store: ObjectStore, names: list[str], options: LogOptions
) -> None:
    log = chain(store, options)
    made = grow(log, 1)
    for name in names:
        ATTACKS[name](store, KEY_2)
    assert log.read() == made
    assert log.read_from(head_of(made[0])) == []
    second = append(log, head_of(made[0]), value=1)
    assert second.body["value"] == 1
    assert log.read() == [*made, second]
    assert log.read_from(Head()) == [*made, second]


def test_a_marker_between_two_locked_versions_leaves_the_earlier_one_the_record(store: ObjectStore) -> None:
    """If-None-Match succeeds over a delete marker: the store alone does not keep the first one."""
    log = chain(store)
    [first] = grow(log, 1)
    second = append(log, head_of(first), value="mine")
    store.delete(KEY_2)
    with pytest.raises(LostAppendError):
        append(log, head_of(first), value="also stored, under the same key")
    assert len([info for info in store.list_versions(KEY_2) if not info.is_delete_marker]) == 2
    assert log.read() == [first, second]
    assert log.probe(head_of(first)) == second


def test_findings_say_what_they_are(memory_store: MemoryStore) -> None:
    log = chain(memory_store)
    [first] = grow(log, 1)
    _plain_put(memory_store, KEY_2)
    _marker(memory_store, KEY_2)
    memory_store.put(KEY_2, encode_record({"type": "test", "n": 2, "prev": first.digest}), lock=until())
    _locked_put(memory_store, KEY_2)
    _, findings = log.survey()
    assert [finding.what for finding in findings] == [
        "unlocked version under a log key",
        "delete marker over a log record",
        "later version over a log record",
    ]
    assert {finding.key for finding in findings} == {KEY_2}
    assert len({finding.version_id for finding in findings}) == 3
    assert all(isinstance(finding, Finding) for finding in findings)


def test_somebody_who_keeps_putting_objects_there_is_named(memory_store: MemoryStore) -> None:
    faulty = FaultyStore(memory_store)
    faulty.add(Rule(Action.RUN_BEFORE, "put", KEY_2, times=None, run=lambda: _plain_put(memory_store, KEY_2)))
    log = chain(faulty)
    [first] = grow(log, 1)
    with pytest.raises(ConflictError, match="keep appearing") as caught:
        append(log, head_of(first), value=2)
    assert caught.value.where["key"] == KEY_2
    assert not isinstance(caught.value, PreconditionError | LostAppendError)


def test_without_locks_the_earliest_version_counts(store: ObjectStore) -> None:
    log = chain(store, LogOptions(locked=False))
    made = grow(log, 2)
    _plain_put(store, KEY_2)
    _marker(store, log.key_of(1))
    records, findings = log.survey()
    assert values(records) == values(made)
    assert len(findings) == 2
    with pytest.raises(LostAppendError):
        append(log, head_of(made[0]), value="late")


# ---------------------------------------------------------------------- races and lost replies


@pytest.mark.parametrize("action", [Action.LOSE_REPLY, Action.REPEAT])
@pytest.mark.parametrize("kind", ["put", "list_versions", "get_lock", "get"])
def test_a_lost_reply_anywhere_leaves_one_record_at_most(action: Action, kind: str) -> None:
    store = MemoryStore()
    [first] = grow(chain(store), 1)
    log = chain(FaultyStore(store, [Rule(action, kind)]))
    try:
        mine = append(log, head_of(first), value="mine")
    except UnavailableError:
        assert action is Action.LOSE_REPLY
        assert kind != "put", "a put whose reply is lost is looked for"
    else:
        assert log.read() == [first, mine]
    # Whatever the caller was told, the next one sees one chain and continues it.
    records = chain(store).read()
    after = append(chain(store), head_of(records[-1]), value="after")
    assert values(chain(store).read())[1:] in (["mine", "after"], ["after"])
    assert chain(store).read()[-1] == after


def test_a_put_that_never_arrived_is_an_error_and_no_record(memory_store: MemoryStore) -> None:
    log = chain(FaultyStore(memory_store, [Rule(Action.FAIL, "put")]))
    with pytest.raises(UnavailableError):
        append(log, Head(), value=1)
    assert chain(memory_store).read() == []
    assert append(log, Head(), value=1).number == 1


def test_our_own_retry_is_no_loss(memory_store: MemoryStore) -> None:
    """The SDK repeats a PUT whose reply was lost: the second answer is a 412 although the first one won."""
    log = chain(FaultyStore(memory_store, [Rule(Action.REPEAT, "put")]))
    record = append(log, Head(), value=1)
    assert log.read() == [record]


def test_the_same_body_appended_twice_has_one_winner(memory_store: MemoryStore) -> None:
    log = chain(memory_store)
    lock, now = until(), datetime.now(UTC)
    log.append(Head(), {"type": "test"}, lock=lock, now=now)
    with pytest.raises(LostAppendError):
        log.append(Head(), {"type": "test"}, lock=lock, now=now)


@pytest.mark.parametrize("options", [TELLING, SILENT], ids=["telling", "silent"])
def test_sixteen_racers_share_one_chain(store: ObjectStore, options: LogOptions) -> None:
    racers, each = 16, 2 if not isinstance(store, MemoryStore) else 4
    barrier = threading.Barrier(racers)
    won: list[Record] = []
    errors: list[BaseException] = []
    mutex = threading.Lock()

    def race(name: int) -> None:
        log = chain(store, options)
        head = Head()
        barrier.wait()
        for value in range(each):
            while True:
                try:
                    record = append(log, head, value=[name, value])
                except LostAppendError:
                    for seen in log.read_from(head):
                        head = head_of(seen)
                    continue
                except BaseException as error:
                    errors.append(error)
                    raise
                head = head_of(record)
                with mutex:
                    won.append(record)
                break

    threads = [threading.Thread(target=race, args=(name,)) for name in range(racers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    records = chain(store).read()
    assert [record.number for record in records] == list(range(1, racers * each + 1))
    assert sorted(values(records)) == [[name, value] for name in range(racers) for value in range(each)]
    assert {record.digest for record in records} == {record.digest for record in won}


def test_racers_and_a_vandal(memory_store: MemoryStore) -> None:
    """Plain PUTs and DELETEs over the keys that eight appenders race for cost retries, never a record."""
    racers, each = 8, 3
    done = threading.Event()

    def vandal() -> None:
        number = 0
        while not done.is_set():
            number = number % (racers * each) + 1
            (_plain_put, _marker)[number % 2](memory_store, f"{PREFIX}{number:06d}.json")

    def race(name: int) -> None:
        log, head = chain(memory_store), Head()
        for value in range(each):
            while True:
                try:
                    head = head_of(append(log, head, value=[name, value]))
                    break
                except LostAppendError:
                    for seen in log.read_from(head):
                        head = head_of(seen)
                except ConflictError:
                    continue

    threads = [threading.Thread(target=race, args=(name,)) for name in range(racers)]
    pest = threading.Thread(target=vandal)
    pest.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    pest.join()
    expected = [[name, value] for name in range(racers) for value in range(each)]
    assert sorted(values(chain(memory_store).read())) == expected


@pytest.mark.parametrize("kind", ["get", "get_lock"])
def test_an_unlocked_version_that_vanishes_while_it_is_looked_at_is_no_error(
    memory_store: MemoryStore, kind: str
) -> None:
    """Another appender clears it between our listing and our question for its lock."""
    made = grow(chain(memory_store), 1)
    _plain_put(memory_store, KEY_2)
    _plain_put(memory_store, KEY_3)
    stray = {key: memory_store.get(key).version_id for key in (KEY_2, KEY_3)}
    rules = [
        Rule(Action.RUN_BEFORE, kind, key, run=partial(memory_store.delete, key, version_id=stray[key]))
        for key in (KEY_2, KEY_3)
    ]
    assert chain(FaultyStore(memory_store, rules)).read() == made


def test_a_record_that_vanishes_while_it_is_read_leaves_a_gap(memory_store: MemoryStore) -> None:
    made = grow(chain(memory_store), 3)
    vanish = partial(memory_store.delete, KEY_2, version_id=made[1].version_id, bypass_governance=True)
    with pytest.raises(IntegrityError, match="gap: record 2"):
        chain(FaultyStore(memory_store, [Rule(Action.RUN_BEFORE, "get", KEY_2, run=vanish)])).read()


def test_a_record_is_read_by_one_request(memory_store: MemoryStore) -> None:
    grow(chain(memory_store), 3)
    faulty = FaultyStore(memory_store)
    chain(faulty).read()
    assert [call.kind for call in faulty.calls] == ["list_versions", "get", "get", "get"]


class _NoLocksInAnswers(FaultyStore):
    """A reader who may not see retentions in the answer of a GET must ask for them."""

    def get(self, key: str, *, version_id: str | None = None) -> Blob:
        return replace(super().get(key, version_id=version_id), lock=None)


def test_a_get_that_states_no_lock_is_asked_again_before_a_version_counts_as_unlocked(
    memory_store: MemoryStore,
) -> None:
    made = grow(chain(memory_store), 2)
    store = _NoLocksInAnswers(memory_store)
    assert chain(store).read() == made
    assert append(chain(store), head_of(made[1]), value=2).number == 3


class _NoSnapshot(FaultyStore):
    """Its first listing misses one key that was there, as a listing may that is not atomic while others write."""

    def __init__(self, inner: ObjectStore, missed: str) -> None:
        super().__init__(inner)
        self.missed = missed

    def list_versions(self, prefix: str) -> Iterator[VersionInfo]:
        missed, self.missed = self.missed, ""
        return (info for info in super().list_versions(prefix) if info.key != missed)


def test_a_listing_that_overtakes_an_append_is_no_gap(memory_store: MemoryStore) -> None:
    """A page may show record 3 and not record 2, where both were appended while it was put together."""
    made = grow(chain(memory_store), 3)
    assert chain(_NoSnapshot(memory_store, KEY_2)).read() == made


# ---------------------------------------------------------------------- telling stores and silent ones


@given(st.lists(st.sampled_from(["append", "put", "delete", "clear"]), max_size=12), st.integers(0, 5))
def test_telling_and_silent_stores_give_the_same_answers(steps: list[str], start: int) -> None:
    store = MemoryStore()
    telling, silent = chain(store, TELLING), chain(store, SILENT)
    heads = [Head()]
    for step in steps:
        key = silent.key_of(heads[-1].number + 1)
        if step == "append":
            heads.append(head_of(append(telling, heads[-1], value=len(heads))))
        elif step == "put":
            _plain_put(store, key)
        elif step == "delete":
            _marker(store, key)
        else:
            for info in list(store.list_versions(key)):
                store.delete(key, version_id=info.version_id)
    head = heads[min(start, len(heads) - 1)]
    assert telling.read_from(head) == silent.read_from(head)
    assert telling.probe(head) == silent.probe(head)
    assert [head_of(record) for record in telling.read()] == heads[1:]


def test_a_probe_of_a_telling_store_is_one_request(memory_store: MemoryStore) -> None:
    made = grow(chain(memory_store), 2)
    for options, kind in ((TELLING, "head"), (SILENT, "list_versions")):
        faulty = FaultyStore(memory_store)
        assert chain(faulty, options).probe(head_of(made[1])) is None
        assert [call.kind for call in faulty.calls] == [kind]


# ---------------------------------------------------------------------- locks and sizes


def test_an_oversized_record_is_refused_before_it_is_sent(memory_store: MemoryStore) -> None:
    log = chain(memory_store)
    with pytest.raises(UsageError, match="over the limit"):
        append(log, Head(), value="x" * MAX_RECORD_BYTES)
    assert list(memory_store.list_versions("")) == []


def test_locks_are_extended_past_what_is_needed_and_then_left_alone(store: ObjectStore) -> None:
    log = chain(store)
    records = grow(log, 3)
    needed = datetime.now(UTC).replace(microsecond=0) + timedelta(days=100)
    slack = timedelta(days=50)
    faulty = FaultyStore(store)
    extended = chain(faulty).extend_locks(records, needed, slack=slack)
    for record in extended:
        assert record.lock == Lock(LockMode.GOVERNANCE, needed + slack)
        assert store.get_lock(log.key_of(record.number), record.version_id) == record.lock
    assert [record.digest for record in extended] == [record.digest for record in records]
    assert faulty.count("set_lock") == 3
    assert chain(faulty).extend_locks(extended, needed + timedelta(days=1), slack=slack) == extended
    assert faulty.count("set_lock") == 3
    # Who did not see the extension asks, and learns of it.
    assert chain(faulty).extend_locks(records, needed + timedelta(days=1), slack=slack) == extended
    assert faulty.count("set_lock") == 3


def test_without_locks_nothing_is_extended(memory_store: MemoryStore) -> None:
    faulty = FaultyStore(memory_store)
    log = chain(faulty, LogOptions(locked=False))
    records = grow(log, 2)
    assert log.extend_locks(records, datetime.now(UTC) + timedelta(days=999)) == records
    assert faulty.count("*_lock") == 0


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_canonical_json_is_one_byte_string_per_value(value: object) -> None:
    try:
        data = canonical({"type": "test", "value": value})
    except UnicodeEncodeError:
        return
    assert canonical(json.loads(data)) == data
