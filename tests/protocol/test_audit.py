"""The audit trail: an intent before, an outcome after, one dense chain a writer whatever gets lost (I6)."""

from __future__ import annotations

import json
import threading
from functools import partial
from typing import TYPE_CHECKING

import pytest

from vera_core.audit.trail import AuditPolicy, AuditTrail
from vera_core.errors import UnavailableError
from vera_core.keyspace import KeyKind, Keyspace
from vera_core.model import LockMode
from vera_core.store.chain import ChainedLog, LogOptions, Record, encode_record
from vera_core.store.clock import StoreClock
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from vera_core.store.base import ObjectStore

KEYS = Keyspace("r")


def trail(store: ObjectStore, mode: LockMode = LockMode.GOVERNANCE) -> AuditTrail:
    policy = AuditPolicy("somebody", mode, 100)
    options = LogOptions(locked=mode is not LockMode.NONE)
    return AuditTrail(store, KEYS, StoreClock(store), policy=policy, options=options)


def entries(store: ObjectStore, writer: str, options: LogOptions | None = None) -> list[Record]:
    return ChainedLog(
        store, KEYS.writer_prefix(writer), lambda number: KEYS.audit(writer, number), options or LogOptions()
    ).read()


def test_intent_and_outcome_are_locked_linked_and_tied_together(store: ObjectStore) -> None:
    audit = trail(store)
    intent = audit.intent("pack", {"day": "20260301"})
    audit.outcome(intent, "done", {"rows": 3})
    audit.recovered("seal", {"key": "k"})
    first, second, third = entries(store, audit.writer)
    assert (first.type, second.type, third.type) == ("intent", "outcome", "recovered")
    assert first.body["id"] == second.body["id"] == intent.id
    assert first.body["subject"] == {"day": "20260301"}
    assert (second.body["operation"], second.body["result"], second.body["detail"]) == ("pack", "done", {"rows": 3})
    for record in (first, second, third):
        assert (record.body["actor"], record.body["writer"], record.body["signature"]) == ("somebody", audit.writer, "")
        assert record.lock is not None
        assert 99 < (record.lock.until - store.now()).days <= 100
        assert KEYS.parse(KEYS.audit(audit.writer, record.number)).kind is KeyKind.AUDIT


def test_every_writer_has_a_chain_of_its_own(memory_store: MemoryStore) -> None:
    one, two = trail(memory_store), trail(memory_store)
    assert one.writer != two.writer
    for audit in (one, two, one):
        audit.intent("pack", {})
    assert len(entries(memory_store, one.writer)) == 2
    assert len(entries(memory_store, two.writer)) == 1


def test_without_locks_entries_are_plain(memory_store: MemoryStore) -> None:
    audit = trail(memory_store, LockMode.NONE)
    audit.outcome(audit.intent("pack", {}), "done", {})
    assert len(entries(memory_store, audit.writer, LogOptions(locked=False))) == 2
    assert memory_store.get(KEYS.audit(audit.writer, 1)).lock is None


@pytest.mark.parametrize("kind", ["put", "list_versions"])
@pytest.mark.parametrize("action", [Action.FAIL, Action.LOSE_REPLY])
def test_an_entry_that_may_not_be_stored_is_an_error_and_the_next_one_goes_on(kind: str, action: Action) -> None:
    store = FaultyStore(MemoryStore())
    audit = trail(store)
    audit.intent("one", {})
    store.add(Rule(action, kind))
    stored = action is Action.LOSE_REPLY or kind != "put"
    try:
        audit.intent("two", {})
    except UnavailableError:
        pass
    else:
        assert action is Action.LOSE_REPLY
        assert kind == "put", "whose reply is looked for"
    audit.outcome(audit.intent("three", {}), "done", {})
    names = [record.body["operation"] for record in entries(store, audit.writer)]
    assert names == ["one", *(["two"] if stored else []), "three", "three"]


def test_our_own_append_that_lands_late_does_not_stop_the_next(memory_store: MemoryStore) -> None:
    """The first PUT times out here and reaches the store only when the second entry is on its way."""
    late: list[bytes] = []
    store = FaultyStore(memory_store)
    audit = trail(store)

    class Held(FaultyStore):
        def put(self, key: str, data: bytes, **options: object):  # type: ignore[no-untyped-def]
            if not late:
                late.append(data)
                raise UnavailableError("timed out")
            if len(late) == 1:
                late.append(data)
                memory_store.put(key, late[0], **options)  # type: ignore[arg-type]
            return memory_store.put(key, data, **options)  # type: ignore[arg-type]

    audit._log.store = Held(memory_store)
    with pytest.raises(UnavailableError):
        audit.intent("first", {})
    audit.intent("second", {})
    assert [record.body["operation"] for record in entries(memory_store, audit.writer)] == ["first", "second"]


def test_somebody_elses_plain_puts_and_deletes_are_no_entries(memory_store: MemoryStore) -> None:
    audit = trail(memory_store)
    intent = audit.intent("pack", {})
    for number in (1, 2):
        memory_store.put(KEYS.audit(audit.writer, number), encode_record({"type": "outcome", "n": number, "prev": ""}))
        memory_store.delete(KEYS.audit(audit.writer, number))
    audit.outcome(intent, "done", {})
    assert [record.type for record in entries(memory_store, audit.writer)] == ["intent", "outcome"]


def test_threads_share_a_writer(memory_store: MemoryStore) -> None:
    audit = trail(memory_store)

    def work(name: int) -> None:
        for _ in range(5):
            audit.outcome(audit.intent(f"work-{name}", {}), "done", {})

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = entries(memory_store, audit.writer)
    assert len(records) == 80
    open_intents: set[str] = set()
    for record in records:
        (open_intents.add if record.type == "intent" else open_intents.remove)(record.body["id"])
    assert not open_intents


def test_a_clock_that_cannot_be_asked_stores_nothing(memory_store: MemoryStore) -> None:
    audit = trail(memory_store)
    audit._clock = StoreClock(FaultyStore(memory_store, [Rule(Action.FAIL, "now")]))
    with pytest.raises(UnavailableError):
        audit.intent("pack", {})
    assert entries(memory_store, audit.writer) == []


def test_entries_are_readable_by_anyone_with_json(memory_store: MemoryStore) -> None:
    audit = trail(memory_store)
    audit.intent("pack", {"name": "Zoë"})
    read = partial(memory_store.get, KEYS.audit(audit.writer, 1))
    assert json.loads(read().data)["subject"]["name"] == "Zoë"
