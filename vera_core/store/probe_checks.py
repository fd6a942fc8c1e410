"""The checks of the probe: each tries to break one promise of a store and tells what it saw.

Only the words of promises.py and the `ObjectStore` protocol are used, so a check means the same on every store.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, PreconditionError, RestrictedError, VeraError
from vera_core.model import Lock, LockMode
from vera_core.store.base import ABSENT, Condition, MissingObjectError
from vera_core.store.promises import Bench, Promise, Topic, Verdict, attempt

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.store.base import ObjectStore, Stored

ROUNDS = 2
MAX_SKEW = timedelta(seconds=60)
DATA = bytes(range(256)) * 16

Seen = tuple[Verdict, str]


# ---------------------------------------------------------------------- conditional PUTs


@dataclass(slots=True)
class _Race:
    """One race: who won, who was refused, who got no answer."""

    won: list[bytes] = field(default_factory=list)
    refused: int = 0
    unanswered: list[str] = field(default_factory=list)

    def run(self, store: ObjectStore, key: str, condition: Condition, racers: int) -> None:
        """Lets `racers` threads PUT to `key` at once."""
        start = threading.Barrier(racers)

        def racer(number: int) -> None:
            data = f"racer {number} of {racers}".encode()
            start.wait()
            try:
                store.put(key, data, condition=condition)
            except PreconditionError:
                self.refused += 1
            except VeraError as error:
                self.unanswered.append(str(error))
            else:
                self.won.append(data)

        with ThreadPoolExecutor(racers, thread_name_prefix="vera-race") as pool:
            for finished in [pool.submit(racer, number) for number in range(racers)]:
                finished.result()


def race_promises(bench: Bench) -> list[Promise]:
    """Rounds of races, all at once: a store that makes losers wait makes them wait once."""
    kinds = {"if-none-match": "create", "if-match": "replace"}
    with ThreadPoolExecutor(len(kinds) * ROUNDS) as pool:
        running = {kind: [pool.submit(_race_round, bench, kind, number) for number in range(ROUNDS)] for kind in kinds}
        rounds = {kind: [item.result() for item in items] for kind, items in running.items()}
    return [
        attempt(
            f"one winner, {kind}",
            Topic.CONDITIONS,
            f"of {bench.racers} writers that {verb} an object at once one succeeds, and its bytes are what is read",
            partial(_judge_races, rounds[kind]),
        )
        for kind, verb in kinds.items()
    ]


def _race_round(bench: Bench, kind: str, number: int) -> Seen:
    """One race on a key of its own; an error of the store ends in "can't say"."""
    try:
        return _judge_race(bench, kind, number)
    except VeraError as error:
        return Verdict.UNKNOWN, f"the race ended with: {error}"


def _judge_race(bench: Bench, kind: str, number: int) -> Seen:
    store, key = bench.store, bench.key(f"race-{kind}-{number}")
    condition = ABSENT if kind == "if-none-match" else Condition(store.put(key, b"before the race").etag)
    race = _Race()
    race.run(store, key, condition, bench.racers)
    counts = f"{len(race.won)} won, {race.refused} were refused, {len(race.unanswered)} got no answer"
    if len(race.won) > 1:
        return Verdict.BROKEN, counts
    if race.unanswered:
        return Verdict.UNKNOWN, f"{counts}; the first said: {race.unanswered[0]}"
    if not race.won:
        return Verdict.UNKNOWN, f"{counts}; a lost reply that was repeated can look like this"
    read = store.get(key).data
    if read != race.won[0]:
        return Verdict.BROKEN, f"{counts}, but {read!r} is read and not the winner's {race.won[0]!r}"
    return Verdict.HELD, counts


def _judge_races(rounds: list[Seen]) -> Seen:
    """One broken round breaks the promise; of the others one that held is enough."""
    for verdict in (Verdict.BROKEN, Verdict.HELD, Verdict.UNKNOWN):
        texts = [text for found, text in rounds if found is verdict]
        if texts:
            return verdict, f"{len(texts)} of {len(rounds)} rounds: {texts[0]}"
    raise AssertionError("there is at least one round")


# ---------------------------------------------------------------------- locks


def lock_promises(bench: Bench) -> list[Promise]:
    """Attacks on one version under COMPLIANCE, one under GOVERNANCE and one uploaded in parts."""
    held = _Held(bench)
    checks: list[tuple[str, str, Callable[[], Seen]]] = [
        (
            "unlocked versions can be deleted",
            "this identity may delete, so that a refused deletion is the lock's work",
            held.control,
        ),
        ("locks are kept", "a lock reads back as it was set", held.reads_back),
        ("no deletion", "a locked version can't be deleted", lambda: held.attack(held.delete)),
        ("no batch deletion", "nor in a batch", lambda: held.attack(held.delete_batch)),
        ("no bypass", "nor under COMPLIANCE with the governance bypass", lambda: held.attack(held.delete_bypassing)),
        ("no shortening", "a COMPLIANCE lock can't be made to end sooner", lambda: held.attack(held.shorten)),
        ("no downgrade", "COMPLIANCE can't be turned into GOVERNANCE", lambda: held.attack(held.downgrade)),
        ("governance", "a GOVERNANCE lock holds against whoever does not bypass it", held.governance),
        ("multipart uploads are locked", "a lock given with a multipart upload holds", held.multipart),
        ("locks can be extended", "a lock can be made to end later", held.extend),
        ("locked bytes stay", "after these attacks the version reads back bit-exact", held.unharmed),
    ]
    return [attempt(name, Topic.LOCKS, meaning, check) for name, meaning, check in checks]


class _Held:
    """A locked version and the attacks on it. Each attack must be refused, and leave version and lock as they were."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._store = bench.store
        self._made: Stored | None = None
        self._lock = Lock(LockMode.NONE, datetime.now(UTC))

    def _version(self) -> tuple[str, str]:
        if self._made is None:
            self._lock = self._bench.lock(LockMode.COMPLIANCE)
            self._made = self._store.put(self._bench.key("locked"), DATA, lock=self._lock)
        return self._made.key, self._made.version_id

    def control(self) -> Seen:
        stored = self._store.put(self._bench.key("free"), DATA)
        self._store.delete(stored.key, version_id=stored.version_id)
        left = [info for info in self._store.list_versions(stored.key) if info.version_id == stored.version_id]
        return (Verdict.BROKEN, "it is still there") if left else (Verdict.HELD, "it was deleted")

    def reads_back(self) -> Seen:
        key, version_id = self._version()
        lock = self._store.get_lock(key, version_id)
        if lock == self._lock:
            return Verdict.HELD, _text(lock)
        return Verdict.BROKEN, f"{_text(self._lock)} was set, {_text(lock)} is read"

    def attack(self, attack: Callable[[str, str], str]) -> Seen:
        """Runs `attack`, which raises RestrictedError or tells what the store answered instead."""
        key, version_id = self._version()
        try:
            answer = attack(key, version_id)
        except RestrictedError as error:
            answer = f"refused ({error.where.get('answer', error.what)})"
        refused = answer.startswith("refused")
        try:
            harm = self._harm(key, version_id)
        except VeraError as error:
            if refused:
                raise
            harm = f"what that did can't be read: {error}"
        over = self._store.now() >= self._lock.until
        if harm or over:
            self._made = None  # the next attack gets a fresh one
        if over:
            return Verdict.UNKNOWN, f"{answer}; but the lock ended during the check: the store answers too slowly"
        if harm:
            return Verdict.BROKEN, f"{answer}; {harm}"
        return (Verdict.HELD, answer) if refused else (Verdict.UNKNOWN, f"{answer}, though it had no effect")

    def _harm(self, key: str, version_id: str) -> str:
        """What became of version and lock; empty if nothing."""
        try:
            if self._store.get(key, version_id=version_id).data != DATA:
                return "the version's bytes have changed"
            lock = self._store.get_lock(key, version_id)
        except MissingObjectError:
            return "the version is gone"
        return "" if lock == self._lock else f"the lock is now {_text(lock)}"

    def delete(self, key: str, version_id: str) -> str:
        self._store.delete(key, version_id=version_id)
        return "the store reported success"

    def delete_bypassing(self, key: str, version_id: str) -> str:
        self._store.delete(key, version_id=version_id, bypass_governance=True)
        return "the store reported success"

    def delete_batch(self, key: str, version_id: str) -> str:
        refused = self._store.delete_batch([(key, version_id)])
        return f"refused ({refused[0][2]})" if refused else "the store reported success"

    def shorten(self, key: str, version_id: str) -> str:
        sooner = Lock(LockMode.COMPLIANCE, self._lock.until - timedelta(seconds=1))
        self._store.set_lock(key, version_id, sooner, bypass_governance=True)
        return "the store reported success"

    def downgrade(self, key: str, version_id: str) -> str:
        weaker = Lock(LockMode.GOVERNANCE, self._lock.until + timedelta(seconds=1))
        self._store.set_lock(key, version_id, weaker, bypass_governance=True)
        return "the store reported success"

    def governance(self) -> Seen:
        lock = self._bench.lock(LockMode.GOVERNANCE)
        stored = self._store.put(self._bench.key("governed"), DATA, lock=lock)
        return self._refuses_deletion(stored, lock)

    def multipart(self) -> Seen:
        lock = self._bench.lock(LockMode.GOVERNANCE)
        stored = _put_file(self._store, self._bench.key("parts"), lock=lock, multipart=True)
        return self._refuses_deletion(stored, lock)

    def _refuses_deletion(self, stored: Stored, lock: Lock) -> Seen:
        read = self._store.get_lock(stored.key, stored.version_id)
        if read != lock:
            return Verdict.BROKEN, f"{_text(lock)} was set, {_text(read)} is read"
        try:
            self._store.delete(stored.key, version_id=stored.version_id)
        except RestrictedError as error:
            return Verdict.HELD, f"refused ({error.where.get('answer', error.what)})"
        if self._store.now() >= lock.until:
            return Verdict.UNKNOWN, "the lock ended during the check: the store answers too slowly"
        return Verdict.BROKEN, "the version could be deleted"

    def extend(self) -> Seen:
        key, version_id = self._version()
        longer = Lock(LockMode.COMPLIANCE, self._lock.until + timedelta(seconds=1))
        self._store.set_lock(key, version_id, longer)
        read = self._store.get_lock(key, version_id)
        if read != longer:
            return Verdict.BROKEN, f"{_text(longer)} was set, {_text(read)} is read"
        self._lock = longer
        return Verdict.HELD, _text(read)

    def unharmed(self) -> Seen:
        harm = self._harm(*self._version())
        return (Verdict.BROKEN, harm) if harm else (Verdict.HELD, f"{len(DATA)} bytes as they were stored")


def _text(lock: Lock | None) -> str:
    return "no lock" if lock is None else f"{lock.mode} until {lock.until:%Y-%m-%d %H:%M:%S} UTC"


def _put_file(
    store: ObjectStore, key: str, *, lock: Lock | None = None, multipart: bool = False, sha256: bytes | None = None
) -> Stored:
    with tempfile.TemporaryDirectory(prefix="vera-probe-") as directory:
        path = Path(directory) / "object"
        path.write_bytes(DATA)
        digest = hashlib.sha256(DATA).digest() if sha256 is None else sha256
        return store.put_file(key, path, sha256=digest, lock=lock, multipart=multipart)


# ---------------------------------------------------------------------- content


def content_promises(bench: Bench) -> list[Promise]:
    """Checksums, ranges and the order of versions."""
    checks: list[tuple[str, str, Callable[[], Seen]]] = [
        (
            "wrong checksums are refused",
            "bytes that changed on their way are not stored",
            lambda: _wrong_checksum(bench),
        ),
        ("exact ranges", "a range of a version is that range of that version, or an error", lambda: _ranges(bench)),
        (
            "listings are in order",
            "versions and delete markers are listed newest first, so that the earliest is known",
            lambda: _order(bench),
        ),
    ]
    return [attempt(name, Topic.CONTENT, meaning, check) for name, meaning, check in checks]


def _wrong_checksum(bench: Bench) -> Seen:
    key = bench.key("checksum")
    try:
        _put_file(bench.store, key, sha256=hashlib.sha256(b"other bytes").digest())
    except IntegrityError as error:
        if any(bench.store.list_versions(key)):
            return Verdict.BROKEN, "refused, but stored all the same"
        return Verdict.HELD, f"refused ({error.where.get('answer', error.what)})"
    return Verdict.BROKEN, "an object with another SHA-256 than the one sent along was stored"


def _ranges(bench: Bench) -> Seen:
    key = bench.key("ranges")
    version_id = bench.store.put(key, DATA).version_id
    bench.store.put(key, b"a newer version")
    for start, length in ((0, 1), (len(DATA) - 1, 1), (255, 258), (0, len(DATA))):
        if bench.store.get_range(key, start, length, version_id=version_id) != DATA[start : start + length]:
            return Verdict.BROKEN, f"bytes {start} to {start + length - 1} are other bytes"
    if bench.store.get_suffix(key, 100, version_id=version_id) != (DATA[-100:], len(DATA)):
        return Verdict.BROKEN, "the last 100 bytes are other bytes"
    try:
        bench.store.get_range(key, len(DATA) - 1, 2, version_id=version_id)
    except IntegrityError:
        return Verdict.HELD, "five ranges were exact, one beyond the end was an error"
    return Verdict.BROKEN, "a range beyond the end returned bytes"


def _order(bench: Bench) -> Seen:
    key = bench.key("order")
    first, second = bench.store.put(key, b"1"), bench.store.put(key, b"2")
    bench.store.delete(key)
    third = bench.store.put(key, b"3")
    names = {first.version_id: "1", second.version_id: "2", third.version_id: "3"}
    seen = [names.get(info.version_id, "marker") for info in bench.store.list_versions(key)]
    verdict = Verdict.HELD if seen == ["3", "marker", "2", "1"] else Verdict.BROKEN
    return verdict, f"stored as 1, 2, marker, 3 within a second; listed as {', '.join(seen)}"


# ---------------------------------------------------------------------- good to know


def marker_promises(bench: Bench) -> list[Promise]:
    """How delete markers show. Nothing depends on the answers but the number of requests."""

    def told() -> Seen:
        key = bench.key("marked")
        bench.store.put(key, DATA)
        bench.store.delete(key)
        try:
            bench.store.head(key)
        except MissingObjectError as missing:
            bench.tells_markers = missing.delete_marker is True
            if bench.tells_markers:
                return Verdict.HELD, "the 404 names the delete marker"
            return Verdict.BROKEN, "the 404 says nothing of it; the log is probed by listing versions"
        return Verdict.BROKEN, "the object is read in spite of its delete marker"

    def over_marker() -> Seen:
        key = bench.key("over-marker")
        bench.store.put(key, DATA)
        bench.store.delete(key)
        try:
            bench.store.put(key, b"second", condition=ABSENT)
        except PreconditionError:
            return Verdict.HELD, "it is refused"
        return Verdict.HELD, "it succeeds, as on AWS; the earliest locked version counts"

    return [
        attempt("delete markers are told", Topic.OTHER, "a 404 says whether a delete marker hides the object", told),
        attempt("If-None-Match over a delete marker", Topic.OTHER, "is answered; either answer is safe", over_marker),
    ]


def clock_promises(bench: Bench) -> list[Promise]:
    """The store's clock against this machine's. S3 refuses requests that are 15 minutes off."""

    def agree() -> Seen:
        before = datetime.now(UTC)
        theirs = bench.store.now()
        middle = before + (datetime.now(UTC) - before) / 2
        skew = (theirs - middle).total_seconds()
        verdict = Verdict.HELD if abs(skew) <= MAX_SKEW.total_seconds() else Verdict.BROKEN
        return verdict, f"the store's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"

    return [attempt("clocks agree", Topic.OTHER, "store and machine differ by less than a minute", agree)]
