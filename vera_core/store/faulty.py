"""`FaultyStore`: any store, watched and hurt on purpose. For tests of crash safety and of request counts.

Every call is recorded in `calls`; rules say which calls fail, and how. Without rules it changes nothing. What a real
store does by itself is not imitated here (memory.py does).
"""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeVar

from vera_core.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from vera_core.model import Lock
    from vera_core.store.base import Blob, BucketState, Condition, ObjectStore, Stored, VersionInfo

T = TypeVar("T")


class Action(Enum):
    """What happens to a call that a rule picks."""

    FAIL = "the call is not made; UnavailableError"
    LOSE_REPLY = "the call is made; UnavailableError instead of its answer"
    REPEAT = "the call is made twice; the second outcome is the answer (a retry after a lost reply)"
    DELAY = "the call is made after `seconds`"
    WRONG_BYTES = "the bytes that are read have one bit flipped in the middle"
    KILL_BEFORE = "this process gets SIGKILL; the call is not made"
    KILL_AFTER = "the call is made, then this process gets SIGKILL"
    RUN_BEFORE = "`run` is called first: somebody else is quicker"
    RUN_AFTER = "`run` is called before the answer is given"


@dataclass(frozen=True, slots=True)
class Call:
    """A recorded call: the method's name, the key (or prefix), the version and the bytes sent or asked for."""

    kind: str
    key: str
    size: int = 0
    version_id: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Does `action` to the `nth` call (from 1) that fits, and the `times` - 1 fitting calls after it.

    `kind` and `key` are glob patterns of the method's name and the key (in which `*` matches slashes too); a batch
    deletion fits by its first key. `times` None means for ever.
    """

    action: Action
    kind: str = "*"
    key: str = "*"
    nth: int = 1
    times: int | None = 1
    seconds: float = 0.0
    run: Callable[[], object] | None = None

    def fits(self, call: Call) -> bool:
        """Whether `call` is one of those that the rule counts."""
        return fnmatchcase(call.kind, self.kind) and fnmatchcase(call.key, self.key)

    def strikes(self, count: int) -> bool:
        """Whether the rule acts on its `count`-th fitting call."""
        return count >= self.nth and (self.times is None or count < self.nth + self.times)


class FaultyStore:
    """Wraps `inner`; implements `ObjectStore`.

    Args:
        inner: the store that does the work.
        rules: what goes wrong; all that strike a call act on it, in this order.
    """

    def __init__(self, inner: ObjectStore, rules: Iterable[Rule] = ()) -> None:
        self.inner = inner
        self.calls: list[Call] = []
        """Every call so far, in the order in which they began."""
        self._rules = list(rules)
        self._counts = [0] * len(self._rules)
        self._mutex = threading.Lock()

    def add(self, rule: Rule) -> None:
        """Adds a rule, which counts calls from now on."""
        with self._mutex:
            self._rules.append(rule)
            self._counts.append(0)

    def count(self, kind: str = "*", key: str = "*") -> int:
        """How many recorded calls fit the two patterns."""
        pattern = Rule(Action.FAIL, kind, key)
        return sum(pattern.fits(call) for call in self.calls)

    @property
    def bucket(self) -> str:
        """The inner store's bucket."""
        return self.inner.bucket

    # ------------------------------------------------------------------ the protocol

    def put(
        self,
        key: str,
        data: bytes,
        *,
        condition: Condition | None = None,
        lock: Lock | None = None,
        content_type: str = "application/octet-stream",
    ) -> Stored:
        """See `ObjectStore.put`."""
        return self._do(
            Call("put", key, len(data)),
            lambda: self.inner.put(key, data, condition=condition, lock=lock, content_type=content_type),
        )

    def put_file(
        self,
        key: str,
        path: Path,
        *,
        sha256: bytes,
        condition: Condition | None = None,
        lock: Lock | None = None,
        multipart: bool = False,
    ) -> Stored:
        """See `ObjectStore.put_file`."""
        return self._do(
            Call("put_file", key, path.stat().st_size),
            lambda: self.inner.put_file(key, path, sha256=sha256, condition=condition, lock=lock, multipart=multipart),
        )

    def get(self, key: str, *, version_id: str | None = None) -> Blob:
        """See `ObjectStore.get`."""

        def damage(blob: Blob) -> Blob:
            return replace(blob, data=_flip(blob.data))

        return self._do(
            Call("get", key, version_id=version_id), lambda: self.inner.get(key, version_id=version_id), damage
        )

    def get_range(self, key: str, start: int, length: int, *, version_id: str | None = None) -> bytes:
        """See `ObjectStore.get_range`."""
        return self._do(
            Call("get_range", key, length, version_id),
            lambda: self.inner.get_range(key, start, length, version_id=version_id),
            _flip,
        )

    def get_ranges(
        self, key: str, ranges: Sequence[tuple[int, int]], *, version_id: str | None = None
    ) -> Sequence[bytes]:
        """See `ObjectStore.get_ranges`; each is recorded as a call `get_range`, one after the other."""
        return [self.get_range(key, start, length, version_id=version_id) for start, length in ranges]

    def get_suffix(self, key: str, length: int, *, version_id: str | None = None) -> tuple[bytes, int]:
        """See `ObjectStore.get_suffix`."""
        return self._do(
            Call("get_suffix", key, length, version_id),
            lambda: self.inner.get_suffix(key, length, version_id=version_id),
            lambda answer: (_flip(answer[0]), answer[1]),
        )

    def download(self, key: str, path: Path, *, version_id: str | None = None) -> None:
        """See `ObjectStore.download`."""
        self._do(
            Call("download", key, version_id=version_id),
            lambda: self.inner.download(key, path, version_id=version_id),
            lambda _: _flip_file(path),
        )

    def head(self, key: str, *, version_id: str | None = None) -> VersionInfo:
        """See `ObjectStore.head`."""
        return self._do(Call("head", key, version_id=version_id), lambda: self.inner.head(key, version_id=version_id))

    def list_objects(self, prefix: str, *, start_after: str = "") -> Iterator[VersionInfo]:
        """See `ObjectStore.list_objects`."""
        return self._do(Call("list_objects", prefix), lambda: self.inner.list_objects(prefix, start_after=start_after))

    def list_prefixes(self, prefix: str) -> Iterator[str]:
        """See `ObjectStore.list_prefixes`."""
        return self._do(Call("list_prefixes", prefix), lambda: self.inner.list_prefixes(prefix))

    def list_versions(self, prefix: str) -> Iterator[VersionInfo]:
        """See `ObjectStore.list_versions`."""
        return self._do(Call("list_versions", prefix), lambda: self.inner.list_versions(prefix))

    def delete(self, key: str, *, version_id: str | None = None, bypass_governance: bool = False) -> None:
        """See `ObjectStore.delete`."""
        self._do(
            Call("delete", key, version_id=version_id),
            lambda: self.inner.delete(key, version_id=version_id, bypass_governance=bypass_governance),
        )

    def delete_batch(
        self, versions: Iterable[tuple[str, str]], *, bypass_governance: bool = False
    ) -> list[tuple[str, str, str]]:
        """See `ObjectStore.delete_batch`."""
        pairs = list(versions)
        return self._do(
            Call("delete_batch", pairs[0][0] if pairs else "", len(pairs)),
            lambda: self.inner.delete_batch(pairs, bypass_governance=bypass_governance),
        )

    def get_lock(self, key: str, version_id: str) -> Lock | None:
        """See `ObjectStore.get_lock`."""
        return self._do(Call("get_lock", key, version_id=version_id), lambda: self.inner.get_lock(key, version_id))

    def set_lock(self, key: str, version_id: str, lock: Lock, *, bypass_governance: bool = False) -> None:
        """See `ObjectStore.set_lock`."""
        self._do(
            Call("set_lock", key, version_id=version_id),
            lambda: self.inner.set_lock(key, version_id, lock, bypass_governance=bypass_governance),
        )

    def get_hold(self, key: str, version_id: str) -> bool:
        """See `ObjectStore.get_hold`."""
        return self._do(Call("get_hold", key, version_id=version_id), lambda: self.inner.get_hold(key, version_id))

    def set_hold(self, key: str, version_id: str, *, held: bool) -> None:
        """See `ObjectStore.set_hold`."""
        self._do(Call("set_hold", key, version_id=version_id), lambda: self.inner.set_hold(key, version_id, held=held))

    def get_tags(self, key: str, version_id: str) -> dict[str, str]:
        """See `ObjectStore.get_tags`."""
        return self._do(Call("get_tags", key, version_id=version_id), lambda: self.inner.get_tags(key, version_id))

    def set_tags(self, key: str, version_id: str, tags: Mapping[str, str]) -> None:
        """See `ObjectStore.set_tags`."""
        self._do(Call("set_tags", key, version_id=version_id), lambda: self.inner.set_tags(key, version_id, tags))

    def now(self) -> datetime:
        """See `ObjectStore.now`."""
        return self._do(Call("now", ""), self.inner.now)

    def bucket_state(self) -> BucketState:
        """See `ObjectStore.bucket_state`."""
        return self._do(Call("bucket_state", ""), self.inner.bucket_state)

    def create_bucket(self) -> None:
        """See `ObjectStore.create_bucket`."""
        self._do(Call("create_bucket", ""), self.inner.create_bucket)

    # ------------------------------------------------------------------ inside

    def _do(self, call: Call, make: Callable[[], T], damage: Callable[[T], T] | None = None) -> T:
        """Makes `call` by `make`, with whatever the striking rules do to it; `damage` flips a bit of the answer."""
        striking = self._striking(call)
        for rule in striking:
            self._before(rule, call)
        answer = make()
        for rule in striking:
            if rule.action is Action.REPEAT:
                answer = make()
            elif rule.action is Action.WRONG_BYTES:
                if damage is None:
                    raise ValueError(f"a rule wants wrong bytes from {call.kind}, which reads none")
                answer = damage(answer)
            self._after(rule, call)
        return answer

    def _striking(self, call: Call) -> list[Rule]:
        with self._mutex:
            self.calls.append(call)
            striking = []
            for place, rule in enumerate(self._rules):
                if rule.fits(call):
                    self._counts[place] += 1
                    if rule.strikes(self._counts[place]):
                        striking.append(rule)
        return striking

    def _before(self, rule: Rule, call: Call) -> None:
        match rule.action:
            case Action.FAIL:
                raise self._unavailable(call)
            case Action.DELAY:
                time.sleep(rule.seconds)
            case Action.KILL_BEFORE:
                _kill()
            case Action.RUN_BEFORE if rule.run is not None:
                rule.run()

    def _after(self, rule: Rule, call: Call) -> None:
        match rule.action:
            case Action.LOSE_REPLY:
                raise self._unavailable(call)
            case Action.KILL_AFTER:
                _kill()
            case Action.RUN_AFTER if rule.run is not None:
                rule.run()

    def _unavailable(self, call: Call) -> UnavailableError:
        return UnavailableError(
            f"the store does not answer {call.kind} (injected)", todo="Run it again.", bucket=self.bucket, key=call.key
        )


def _flip(data: bytes) -> bytes:
    if not data:
        return data
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _flip_file(path: Path) -> None:
    path.write_bytes(_flip(path.read_bytes()))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
