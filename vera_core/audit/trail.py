"""Audit entries: a durable intent before the first irreversible step, an outcome before it is acknowledged (I6).

One writer is one process with a chain of its own under `audit/<writer>/`, so that writers never wait for each other.
Sealed checkpoints over all writers and signatures come with the operator keys; the field is there and empty.
"""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from vera_core.model import Lock, LockMode
from vera_core.store.chain import ChainedLog, Head, LostAppendError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vera_core.keyspace import Keyspace
    from vera_core.store.base import ObjectStore
    from vera_core.store.chain import LogOptions, Record
    from vera_core.store.clock import StoreClock


APPEND_ATTEMPTS = 3
"""An append of this very writer whose reply was lost may land late, and take the number of the next one."""


@dataclass(frozen=True, slots=True)
class AuditPolicy:
    """Who writes (`actor`: the person or service), and how long the entries are locked."""

    actor: str
    lock_mode: LockMode
    lock_days: int


@dataclass(frozen=True, slots=True)
class Intent:
    """A stored intent: its id ties the outcome to it."""

    id: str
    operation: str
    subject: Mapping[str, Any]


def new_writer_id(clock: StoreClock) -> str:
    """A fresh writer name: time, process and 64 random bits; sorts by time."""
    return f"{clock.now():%Y%m%dt%H%M%S}-{os.getpid()}-{secrets.token_hex(8)}"


class AuditTrail:
    """Appends to one writer's chain. Safe to share between threads."""

    def __init__(
        self, store: ObjectStore, keys: Keyspace, clock: StoreClock, *, policy: AuditPolicy, options: LogOptions
    ) -> None:
        self.writer = new_writer_id(clock)
        self._clock = clock
        self._policy = policy
        self._log = ChainedLog(store, keys.writer_prefix(self.writer), lambda n: keys.audit(self.writer, n), options)
        self._head = Head()
        self._uncertain = False
        self._guard = threading.Lock()

    def intent(self, operation: str, subject: Mapping[str, Any]) -> Intent:
        """Stores what is about to be done, durably, before it is.

        Raises:
            UnavailableError: the entry could not be stored; the operation must not begin.
        """
        intent = Intent(secrets.token_hex(8), operation, subject)
        self._append({"type": "intent", "id": intent.id, "operation": operation, "subject": dict(subject)})
        return intent

    def outcome(self, intent: Intent, result: str, detail: Mapping[str, Any]) -> None:
        """Stores how it ended (`done`, `failed`, `lost`) before it is acknowledged.

        Raises:
            UnavailableError: the entry could not be stored; the operation must not be acknowledged.
        """
        self._append(
            {
                "type": "outcome",
                "id": intent.id,
                "operation": intent.operation,
                "result": result,
                "detail": dict(detail),
            }
        )

    def verdict(self, operation: str, result: str, detail: Mapping[str, Any]) -> None:
        """Stores what an operation that changes nothing found, before anything is decided by it."""
        self._append({"type": "verdict", "operation": operation, "result": result, "detail": dict(detail)})

    def recovered(self, operation: str, detail: Mapping[str, Any]) -> None:
        """Stores, before it is done, that this writer finishes what another began and did not acknowledge."""
        self._append({"type": "recovered", "operation": operation, "detail": dict(detail)})

    def _append(self, body: Mapping[str, Any]) -> Record:
        with self._guard:
            now = self._clock.now()
            mode = self._policy.lock_mode
            lock = None if mode is LockMode.NONE else Lock(mode, now + timedelta(days=self._policy.lock_days))
            full = {**body, "writer": self.writer, "actor": self._policy.actor, "signature": ""}
            for _ in range(APPEND_ATTEMPTS - 1):
                with suppress(LostAppendError):
                    return self._append_once(full, lock, now)
            return self._append_once(full, lock, now)

    def _append_once(self, body: Mapping[str, Any], lock: Lock | None, now: datetime) -> Record:
        if self._uncertain:
            # The reply to an earlier append was lost; what it stored, now or a moment ago, decides where this one goes.
            for stored in self._log.read_from(self._head):
                self._head = Head(stored.number, stored.digest)
        self._uncertain = True
        record = self._log.append(self._head, body, lock=lock, now=now)
        self._uncertain = False
        self._head = Head(record.number, record.digest)
        return record
