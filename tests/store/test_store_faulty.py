"""The faults that the fault-injecting store promises happen exactly where a rule says, and calls are counted."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from vera_core.errors import PreconditionError, UnavailableError
from vera_core.store.base import ABSENT
from vera_core.store.faulty import Action, Call, FaultyStore, Rule
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.s3 import S3Store


def stored(store: FaultyStore) -> list[str]:
    return [info.key for info in store.inner.list_versions("")]


def test_a_failed_call_is_not_made() -> None:
    store = FaultyStore(MemoryStore(), [Rule(Action.FAIL, "put", "*/log/*", nth=2)])
    store.put("a/log/1", b"")
    store.put("a/other", b"")
    with pytest.raises(UnavailableError) as caught:
        store.put("a/log/2", b"")
    assert caught.value.where == {"bucket": "memory", "key": "a/log/2"}
    store.put("a/log/2", b"")
    assert stored(store) == ["a/log/1", "a/log/2", "a/other"]


def test_a_lost_reply_comes_after_the_deed() -> None:
    store = FaultyStore(MemoryStore(), [Rule(Action.LOSE_REPLY, "put")])
    with pytest.raises(UnavailableError):
        store.put("k", b"", condition=ABSENT)
    assert stored(store) == ["k"]


def test_a_repeated_call_loses_against_itself() -> None:
    store = FaultyStore(MemoryStore(), [Rule(Action.REPEAT, "put")])
    with pytest.raises(PreconditionError):
        store.put("k", b"mine", condition=ABSENT)
    assert store.get("k").data == b"mine"


def test_delays() -> None:
    store = FaultyStore(MemoryStore(), [Rule(Action.DELAY, "now", seconds=0.2)])
    begun = time.monotonic()
    store.now()
    store.now()
    assert 0.2 <= time.monotonic() - begun < 1


def test_wrong_bytes_are_one_bit_off(tmp_path: Path) -> None:
    inner = MemoryStore()
    inner.put("k", b"0123456789")
    readings = ("get", "get_range", "get_suffix", "download")
    store = FaultyStore(inner, [Rule(Action.WRONG_BYTES, kind) for kind in readings])

    def read() -> list[bytes]:
        path = tmp_path / "copy"
        path.unlink(missing_ok=True)
        store.download("k", path)
        return [store.get("k").data, store.get_range("k", 0, 10), store.get_suffix("k", 10)[0], path.read_bytes()]

    assert read() == [b"0123456789"[:5] + b"4" + b"6789"] * 4
    assert read() == [b"0123456789"] * 4


def test_wrong_bytes_from_a_call_that_reads_none_is_a_mistake_of_the_test() -> None:
    with pytest.raises(ValueError, match="reads none"):
        FaultyStore(MemoryStore(), [Rule(Action.WRONG_BYTES, "now")]).now()


def test_somebody_else_can_be_quicker() -> None:
    inner = MemoryStore()
    store = FaultyStore(inner, [Rule(Action.RUN_BEFORE, "put", "k", run=lambda: inner.put("k", b"theirs"))])
    with pytest.raises(PreconditionError):
        store.put("k", b"mine", condition=ABSENT)
    store.add(Rule(Action.RUN_AFTER, "get", run=lambda: inner.put("k", b"newer")))
    assert store.get("k").data == b"theirs"
    assert store.get("k").data == b"newer"


def test_rules_may_last() -> None:
    store = FaultyStore(MemoryStore(), [Rule(Action.FAIL, "now", nth=2, times=None)])
    store.now()
    for _ in range(5):
        with pytest.raises(UnavailableError):
            store.now()


def test_calls_are_recorded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    store = FaultyStore(MemoryStore())
    made = store.put("a/k", b"123")
    store.get_range("a/k", 1, 2, version_id=made.version_id)
    store.delete_batch([("a/k", made.version_id), ("b", "none")])
    list(store.list_versions("a/"))
    assert store.calls == [
        Call("put", "a/k", 3),
        Call("get_range", "a/k", 2, made.version_id),
        Call("delete_batch", "a/k", 2),
        Call("list_versions", "a/"),
    ]
    assert (store.count(), store.count("get*"), store.count("*", "a/*"), store.count("put", "b")) == (4, 1, 4, 0)


KILLED = """
import sys
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.s3 import S3Store
store = FaultyStore(S3Store(sys.argv[1]), [Rule(Action[sys.argv[2]], "put", "k/*", nth=2)])
for number in range(4):
    store.put(f"k/{number}", b"")
"""


@pytest.mark.parametrize(("action", "left"), [("KILL_BEFORE", ["k/0"]), ("KILL_AFTER", ["k/0", "k/1"])])
def test_kills_strike_at_the_named_point(s3_store: S3Store, action: str, left: list[str]) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, s3_store.bucket, action], check=False)
    assert killed.returncode == -9
    assert [info.key for info in s3_store.list_objects("")] == left
