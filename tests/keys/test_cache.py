"""The cache of open keyrings: one fetch for many, nothing kept for too long, nothing given out that was forgotten."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.keys.support import make_keyring
from vera_core.errors import IntegrityError, UnavailableError
from vera_core.keys.cache import KeyringCache
from vera_core.keys.keyring import Keyring

SHARD = b"s" * 32


class Fetch:
    """Gives a keyring; counts, and can be made to wait or fail."""

    def __init__(self, keyring: Keyring | None = None) -> None:
        self.keyring = keyring or make_keyring()
        self.calls = 0
        self.error: BaseException | None = None
        self.begun = threading.Event()
        self.go = threading.Event()
        self.go.set()

    def __call__(self) -> Keyring:
        self.calls += 1
        self.begun.set()
        assert self.go.wait(10)
        if self.error is not None:
            raise self.error
        return self.keyring


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_it_fetches_once_within_its_time() -> None:
    clock, fetch = Clock(), Fetch()
    cache = KeyringCache(seconds=60, clock=clock)
    assert cache.get(SHARD, fetch) is cache.get(SHARD, fetch) is fetch.keyring
    clock.now += 59.9
    cache.get(SHARD, fetch)
    assert (fetch.calls, len(cache)) == (1, 1)
    clock.now += 0.2
    assert len(cache) == 0
    cache.get(SHARD, fetch)
    assert fetch.calls == 2


def test_it_keeps_no_more_than_its_limit() -> None:
    cache, fetch = KeyringCache(limit=3), Fetch()
    for number in range(5):
        cache.get(bytes([number]), fetch)
    assert len(cache) == 3
    for number in (2, 3, 4):
        cache.get(bytes([number]), fetch)
    assert fetch.calls == 5
    cache.get(bytes([0]), fetch)
    assert fetch.calls == 6


def test_a_limit_of_none_keeps_none() -> None:
    cache, fetch = KeyringCache(limit=0), Fetch()
    cache.get(SHARD, fetch)
    assert len(cache) == 0


def test_many_threads_make_one_fetch() -> None:
    cache, fetch = KeyringCache(), Fetch()
    fetch.go.clear()
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(cache.get, SHARD, fetch) for _ in range(8)]
        assert fetch.begun.wait(10)
        fetch.go.set()
        assert {id(result.result(10)) for result in results} == {id(fetch.keyring)}
    assert fetch.calls == 1


def test_other_shards_do_not_wait() -> None:
    cache, slow, quick = KeyringCache(), Fetch(), Fetch()
    slow.go.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, SHARD, slow)
        assert slow.begun.wait(10)
        assert cache.get(b"other", quick) is quick.keyring
        slow.go.set()
        waiting.result(10)


def test_an_error_goes_to_all_who_wait_and_is_not_kept() -> None:
    cache, fetch = KeyringCache(), Fetch()
    fetch.error = UnavailableError("the key service is sealed")
    fetch.go.clear()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, SHARD, fetch)
        assert fetch.begun.wait(10)
        second = pool.submit(cache.get, SHARD, fetch)
        fetch.go.set()
        for result in (first, second):
            with pytest.raises(UnavailableError, match="sealed"):
                result.result(10)
    fetch.error = None
    assert cache.get(SHARD, fetch) is fetch.keyring


def test_an_interrupt_stays_with_its_thread() -> None:
    cache, fetch = KeyringCache(), Fetch()
    fetch.error = KeyboardInterrupt()
    fetch.go.clear()
    caught: list[BaseException] = []

    def interrupted() -> None:
        try:
            cache.get(SHARD, fetch)
        except BaseException as error:  # noqa: BLE001 - the interrupt is what is tested
            caught.append(error)

    thread = threading.Thread(target=interrupted)
    thread.start()
    assert fetch.begun.wait(10)
    flight = cache._flights[SHARD]
    fetch.go.set()
    thread.join(10)
    assert [type(error) for error in caught] == [KeyboardInterrupt]
    with pytest.raises(UnavailableError, match="interrupted"):
        flight.result(10)


def test_what_is_forgotten_is_fetched_again() -> None:
    cache, fetch = KeyringCache(), Fetch()
    cache.get(SHARD, fetch)
    cache.get(b"other", fetch)
    cache.forget(SHARD)
    assert len(cache) == 1
    cache.get(SHARD, fetch)
    assert fetch.calls == 3
    cache.clear()
    assert len(cache) == 0
    cache.forget(SHARD)


def test_a_fetch_that_was_under_way_is_forgotten_too() -> None:
    old = Fetch()
    new = Fetch(old.keyring.puncture([0]))
    cache = KeyringCache()
    old.go.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(cache.get, SHARD, old)
        assert old.begun.wait(10)
        cache.forget(SHARD)
        assert cache.get(SHARD, new) is new.keyring
        old.go.set()
        assert waiting.result(10) is old.keyring
    assert cache.get(SHARD, old) is new.keyring
    assert (old.calls, new.calls) == (1, 1)


def test_a_kept_keyring_of_an_earlier_revision_is_not_given_out() -> None:
    first = Fetch()
    second = Fetch(first.keyring.puncture([0]))
    cache = KeyringCache()
    cache.get(SHARD, first)
    assert cache.get(SHARD, second, revision=2) is second.keyring
    assert cache.get(SHARD, first) is second.keyring
    assert (first.calls, second.calls, len(cache)) == (1, 1, 1)


def test_a_fetched_keyring_of_an_earlier_revision_is_refused() -> None:
    cache, first = KeyringCache(), Fetch()
    with pytest.raises(IntegrityError, match="the slot log names 2"):
        cache.get(SHARD, first, revision=2)
    assert len(cache) == 0


def test_who_waits_for_an_earlier_revision_fetches_on() -> None:
    first = Fetch()
    second = Fetch(first.keyring.puncture([0]))
    cache = KeyringCache()
    first.go.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(cache.get, SHARD, first)
        assert first.begun.wait(10)
        demanding = pool.submit(cache.get, SHARD, second, revision=2)
        first.go.set()
        assert waiting.result(10) is first.keyring
        assert demanding.result(10) is second.keyring
    assert cache.get(SHARD, first) is second.keyring


def test_it_keeps_no_more_bytes_than_it_may() -> None:
    """A keyring from which every second key of a large shard was destroyed has megabytes."""
    whole = make_keyring(leaves=1 << 12)
    large = Keyring(whole.header, whole.tree.puncture(range(0, 1 << 12, 2)))
    assert large.tree.memory > len(large.tree.nodes) == 37 << 11
    cache = KeyringCache(limit_bytes=3 * large.tree.memory)
    for number in range(5):
        cache.get(bytes([number]) * 32, Fetch(large))
    assert len(cache) == 3
    cache.forget(b"\4" * 32)
    for number in range(100, 200):
        cache.get(bytes([number]) * 32, Fetch())
    assert len(cache) > 100, "small ones take little"
    alone = KeyringCache(limit_bytes=10)
    fetch = Fetch(large)
    assert alone.get(SHARD, fetch) is alone.get(SHARD, fetch)
    assert fetch.calls == 1, "one is kept, however large it is"
