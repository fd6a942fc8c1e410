"""Promises of a store, as the probe judges them: the words, the report, and the bench on which the checks work.

The checks themselves are in probe_checks.py, their order and the bucket's hygiene in probe.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.errors import VeraError
from vera_core.model import Lock, LockMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.store.base import ObjectStore


class Verdict(StrEnum):
    """What the probe found out about a promise."""

    HELD = "held"
    BROKEN = "not held"
    UNKNOWN = "can't say"


class Topic(StrEnum):
    """What a promise is needed for."""

    CONDITIONS = "atomic conditional PUT"
    LOCKS = "enforced locks"
    CONTENT = "exact content"
    HYGIENE = "bucket hygiene"
    OTHER = "good to know"


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: its name, what it means to the archive, whether it is held, and what was seen."""

    name: str
    topic: Topic
    meaning: str
    verdict: Verdict
    evidence: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Which promises the store of `bucket` keeps. `left_behind` are keys that could not be removed again."""

    bucket: str
    prefix: str
    promises: tuple[Promise, ...]
    tells_markers: bool
    left_behind: tuple[str, ...] = ()

    def holds(self, topic: Topic) -> bool:
        """Whether every required promise of `topic` was seen to hold; what could not be said does not count as held."""
        return all(item.verdict is Verdict.HELD for item in self.promises if item.required and item.topic is topic)

    @property
    def atomic_conditional_put(self) -> bool:
        """Of racing conditional PUTs exactly one wins. Without it there is no archive."""
        return self.holds(Topic.CONDITIONS)

    @property
    def enforced_locks(self) -> bool:
        """Locked versions can't be removed, shortened or weakened."""
        return self.holds(Topic.LOCKS)

    @property
    def exact_content(self) -> bool:
        """Wrong checksums are refused, ranges and listings are exact."""
        return self.holds(Topic.CONTENT)

    @property
    def hygiene(self) -> bool:
        """Versioning and Object Lock are on, nothing expires, nothing is locked by default."""
        return self.holds(Topic.HYGIENE)


@dataclass(slots=True)
class Bench:
    """Where the checks work: the store, the probe's own keys in it, and the removal of what lies under them."""

    store: ObjectStore
    base: str
    racers: int
    lock_seconds: int
    tells_markers: bool = False

    def key(self, name: str) -> str:
        """The full key of one of the probe's objects."""
        return self.base + name

    def lock(self, mode: LockMode) -> Lock:
        """A lock in the store's own time, which alone decides when it ends."""
        return Lock(mode, self.store.now() + timedelta(seconds=self.lock_seconds))

    def clean(self) -> tuple[str, ...]:
        """Removes every version of the probe's objects, waiting for locks to end; returns the keys that stay."""
        deadline = time.monotonic() + 2 * self.lock_seconds + 2
        while True:
            versions = [(info.key, info.version_id) for info in self.store.list_versions(self.base)]
            refused = self.store.delete_batch(versions, bypass_governance=True)
            if not refused or time.monotonic() > deadline:
                return tuple(sorted({key for key, _, _ in refused}))
            time.sleep(0.25)


def attempt(name: str, topic: Topic, meaning: str, check: Callable[[], tuple[Verdict, str]]) -> Promise:
    """The outcome of a check; one that ends in an error that it did not expect can't say."""
    try:
        verdict, evidence = check()
    except VeraError as error:
        verdict, evidence = Verdict.UNKNOWN, f"the check ended with: {error}"
    return Promise(name, topic, meaning, verdict, evidence, required=topic is not Topic.OTHER)
