"""The config log: what a repository is, folded from locked, chained records, and refused where it is not understood."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.chains import until
from vera_core.config import PROTOCOL_VERSION, ConfigLog, RepositoryConfig
from vera_core.errors import IncompatibleError, IntegrityError, NotFoundError, UsageError
from vera_core.keyspace import Keyspace
from vera_core.model import Erasability, LockMode, Policy, RetentionClass
from vera_core.routing import EpochState, Routing, RoutingEpoch, UidScheme
from vera_core.store.chain import LostAppendError, encode_record
from vera_core.store.faulty import FaultyStore
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from vera_core.store.base import ObjectStore

KEYS = Keyspace("some/where")
CONFIG = RepositoryConfig(
    repository_id="0" * 32,
    lock_mode=LockMode.GOVERNANCE,
    classes=(RetentionClass("short", 30), RetentionClass("tax", 3650, Erasability.REGULATED)),
    default_class="tax",
    routing=Routing(
        epochs=(RoutingEpoch(date.min, 4),),
        schemes=frozenset({UidScheme.UUID7, UidScheme.SNOWFLAKE}),
        snowflake_epoch_ms=1_288_834_974_657,
    ),
    compression=Policy.SMALL,
    inline_limit=1000,
    shard_bytes=2000,
    part_rows=3,
    tells_markers=True,
)


def append(log: ConfigLog, **body: Any) -> RepositoryConfig:
    now = datetime.now(UTC)
    return log.append(body, now=now, until=now + timedelta(days=30))


def made(store: ObjectStore, config: RepositoryConfig = CONFIG) -> ConfigLog:
    log = ConfigLog(store, KEYS)
    append(log, type="init", **config.to_json())
    return log


def test_what_init_writes_is_what_everyone_reads(store: ObjectStore) -> None:
    written = made(store).config
    assert written == replace(CONFIG, revision=1)
    log = ConfigLog(store, KEYS)
    assert log.load() == written
    assert log.load() == written, "loading again starts from nothing"
    assert len(log.records) == 1
    blob = store.get(KEYS.config(1))
    assert store.get_lock(KEYS.config(1), blob.version_id) is not None
    assert json.loads(blob.data)["type"] == "init"


def test_there_is_no_repository(memory_store: MemoryStore) -> None:
    with pytest.raises(NotFoundError, match="no VERA repository") as caught:
        ConfigLog(memory_store, KEYS).load()
    assert caught.value.where == {"bucket": "memory", "prefix": "some/where/"}
    with pytest.raises(NotFoundError):
        ConfigLog(memory_store, KEYS).refresh()


def test_only_one_of_two_inits_wins(memory_store: MemoryStore) -> None:
    first = made(memory_store)
    second = ConfigLog(memory_store, KEYS)
    with pytest.raises(LostAppendError):
        append(second, type="init", **replace(CONFIG, repository_id="1" * 32).to_json())
    assert second.load() == first.config


def test_two_repositories_share_a_bucket(memory_store: MemoryStore) -> None:
    made(memory_store)
    other = ConfigLog(memory_store, Keyspace("some"))
    append(other, type="init", **replace(CONFIG, repository_id="1" * 32).to_json())
    assert ConfigLog(memory_store, KEYS).load().repository_id == "0" * 32
    assert ConfigLog(memory_store, Keyspace("some")).load().repository_id == "1" * 32


def test_an_epoch_goes_from_pending_to_active_or_withdrawn(memory_store: MemoryStore) -> None:
    log = made(memory_store)
    day = date(2026, 3, 1)
    pending = append(log, type="epoch", from_day="2026-03-01", n_bits=8)
    assert pending.routing.n_bits(day) == 4
    assert pending.routing.pending(day) == RoutingEpoch(day, 8, EpochState.PENDING)
    assert pending.routing.pending(day - timedelta(1)) is None
    active = append(log, type="activate", from_day="2026-03-01")
    assert active.routing.n_bits(day) == 8
    assert active.routing.n_bits(day - timedelta(1)) == 4
    assert active.routing.pending(day) is None
    append(log, type="epoch", from_day="2026-04-01", n_bits=12)
    withdrawn = append(log, type="withdraw", from_day="2026-04-01")
    assert withdrawn.routing.n_bits(date(2026, 4, 2)) == 8
    assert withdrawn.routing.pending(date(2026, 4, 2)) is None
    assert withdrawn.revision == 5
    assert ConfigLog(memory_store, KEYS).load() == withdrawn


def test_a_refresh_is_one_request_and_sees_what_came(memory_store: MemoryStore) -> None:
    log = made(memory_store)
    faulty = FaultyStore(memory_store)
    reader = ConfigLog(faulty, KEYS)
    reader.load()
    faulty.calls.clear()
    assert reader.refresh() == log.config
    assert [call.kind for call in faulty.calls] == ["head"]
    append(log, type="epoch", from_day="2026-03-01", n_bits=8)
    assert reader.refresh() == log.config
    with pytest.raises(LostAppendError):
        append(ConfigLog(memory_store, KEYS), type="init", **CONFIG.to_json())


@pytest.mark.parametrize("attack", ["put", "delete"])
def test_nobody_without_the_right_to_lock_changes_the_config(memory_store: MemoryStore, attack: str) -> None:
    log = made(memory_store)
    for number in (1, 2):
        if attack == "put":
            forged = {**CONFIG.to_json(), "type": "init", "n": number, "lock_mode": "NONE", "prev": ""}
            memory_store.put(KEYS.config(number), encode_record(forged))
        else:
            memory_store.delete(KEYS.config(number))
    assert ConfigLog(memory_store, KEYS).load() == log.config
    assert append(log, type="epoch", from_day="2026-03-01", n_bits=5).revision == 2
    assert ConfigLog(memory_store, KEYS).load() == log.config


def test_a_repository_without_locks_says_so_of_itself() -> None:
    store = MemoryStore(object_lock=False)
    log = made(store, replace(CONFIG, lock_mode=LockMode.NONE))
    append(log, type="epoch", from_day="2026-03-01", n_bits=5)
    loaded = ConfigLog(store, KEYS)
    assert loaded.load() == log.config
    assert not loaded.load().locked
    assert loaded.refresh() == log.config
    loaded.extend_locks(datetime.now(UTC) + timedelta(days=100), slack=timedelta(1))


def test_an_unlocked_record_that_does_not_say_so_is_no_repository(memory_store: MemoryStore) -> None:
    memory_store.put(KEYS.config(1), encode_record({**CONFIG.to_json(), "type": "init", "n": 1, "prev": ""}))
    with pytest.raises(NotFoundError, match="no VERA repository"):
        ConfigLog(memory_store, KEYS).load()


def stored(store: MemoryStore, *bodies: dict[str, Any]) -> ConfigLog:
    """A config log with these records as somebody else's VERA may have written them."""
    log = ConfigLog(store, KEYS)
    chain = log._chain(made(MemoryStore()).config.log_options)  # type: ignore[union-attr]
    head = log.head
    for body in bodies:
        record = chain.append(head, body, lock=until(), now=datetime.now(UTC))
        head = replace(head, number=record.number, digest=record.digest)
    return log


INIT = {"type": "init", **CONFIG.to_json()}


@pytest.mark.parametrize(
    "bodies",
    [
        [{**INIT, "min_reader": PROTOCOL_VERSION + 1}],
        [{"type": "init", "min_reader": PROTOCOL_VERSION + 1, "values": "of another world"}],
        [INIT, {"type": "require", "min_reader": PROTOCOL_VERSION + 1, "min_writer": PROTOCOL_VERSION + 1}],
        [INIT, {"type": "unheard-of", "min_reader": PROTOCOL_VERSION + 1}],
    ],
)
def test_a_repository_that_needs_a_newer_reader_is_refused_by_name(
    memory_store: MemoryStore, bodies: list[dict[str, Any]]
) -> None:
    with pytest.raises(IncompatibleError) as caught:
        stored(memory_store, *bodies).load()
    assert "unheard-of" in str(caught.value) or f"version {PROTOCOL_VERSION + 1}" in str(caught.value)


def test_a_newer_writer_fences_writers_and_not_readers(memory_store: MemoryStore) -> None:
    config = stored(
        memory_store, INIT, {"type": "require", "min_reader": PROTOCOL_VERSION, "min_writer": PROTOCOL_VERSION + 1}
    ).load()
    assert config.min_writer == PROTOCOL_VERSION + 1
    assert config.revision == 2


@pytest.mark.parametrize(
    "bodies",
    [
        [{"type": "epoch", "from_day": "2026-03-01", "n_bits": 3}],
        [INIT, INIT],
        [INIT, {"type": "unheard-of"}],
    ],
)
def test_what_this_vera_does_not_expect_is_refused(memory_store: MemoryStore, bodies: list[dict[str, Any]]) -> None:
    with pytest.raises(IncompatibleError):
        stored(memory_store, *bodies).load()


@pytest.mark.parametrize(
    "bodies",
    [
        [{"type": "init"}],
        [{**INIT, "encryption": {"kek": 1, "copies": []}}],
        [{**INIT, "encryption": {"kind": "something"}}],
        [{**INIT, "classes": []}],
        [{**INIT, "classes": [{"name": "x", "days": 0, "erasability": "erasable"}]}],
        [{**INIT, "classes": "abc"}],
        [{**INIT, "lock_mode": "SOFT"}],
        [{**INIT, "n_bits": 17}],
        [{**INIT, "n_bits": float("inf")}],
        [{**INIT, "uid_schemes": ["sequence"]}],
        [{**INIT, "min_reader": "1.x"}],
        [INIT, {"type": "epoch", "from_day": "someday", "n_bits": 3}],
        [INIT, {"type": "epoch", "from_day": "2026-03-01", "n_bits": 99}],
        [INIT, {"type": "require", "min_reader": None, "min_writer": 1}],
    ],
)
def test_a_record_that_cannot_be_understood_is_an_integrity_error(
    memory_store: MemoryStore, bodies: list[dict[str, Any]]
) -> None:
    with pytest.raises(IntegrityError, match="can't be understood"):
        stored(memory_store, *bodies).load()


def test_config_records_stay_locked_as_long_as_any_shard(memory_store: MemoryStore) -> None:
    log = made(memory_store)
    far = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1000)
    log.extend_locks(far, slack=timedelta(days=10))
    held = memory_store.get_lock(KEYS.config(1), log.records[0].version_id)
    assert held is not None
    assert held.until == far + timedelta(days=10)
    faulty = FaultyStore(memory_store)
    log.store = faulty
    log.extend_locks(far + timedelta(days=5), slack=timedelta(days=10))
    assert faulty.calls == []


def test_a_config_names_its_retention_classes() -> None:
    assert CONFIG.retention("short").days == 30
    assert CONFIG.longest_days == 3650
    with pytest.raises(UsageError, match="no retention class 'long'"):
        CONFIG.retention("long")
    with pytest.raises(UsageError, match="distinct names"):
        replace(CONFIG, default_class="long")
    with pytest.raises(UsageError, match="keeps files"):
        replace(CONFIG, classes=(RetentionClass("tax", 40_000),))
