"""The slot log in the store, and its sidecar: reading, appending, and the snapshot that spares readers the log.

What the records mean is slotrecords.py, how a chain of them is stored is `store.chain`.

The sidecar is derived, and replaced with every record. Each version of it is locked for a minute, and one that never
was locked is not believed: so a plain PUT of an old or forged one costs readers the walk through the log, nothing else,
as does one that is damaged, hidden or of another format.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vera_core.errors import PreconditionError
from vera_core.slotrecords import apply, check_next
from vera_core.slots import MALFORMED, SlotState
from vera_core.store.base import ABSENT, Condition, MissingObjectError
from vera_core.store.chain import ChainedLog, Head, canonical
from vera_core.store.marked import is_marked, put_marked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vera_core.keyspace import Keyspace
    from vera_core.model import Lock, Slot
    from vera_core.store.base import Blob, ObjectStore
    from vera_core.store.chain import Finding, LogOptions, Record

SIDECAR_FORMAT = 1
SIDECAR_ATTEMPTS = 20


def encode_sidecar(state: SlotState) -> bytes:
    """The sidecar of `state`, which must come from the log and hold a record: canonical JSON and its fingerprint."""
    return canonical(
        {
            "format": SIDECAR_FORMAT,
            "applied": state.head.number,
            "digest": state.head.digest,
            "fingerprint": state.fingerprint,
            "state": state.to_json(),
        }
    )


def decode_sidecar(slot: Slot, data: bytes) -> SlotState | None:
    """What a sidecar states, or None where it is damaged, another slot's or of another format: then the log decides."""
    try:
        outer = json.loads(data)
        head = Head(int(outer["applied"]), str(outer["digest"]))
        if outer["format"] != SIDECAR_FORMAT or head.number < 1:
            return None
        state = SlotState.from_json(slot, head, outer["state"])
        return state if state.fingerprint == outer["fingerprint"] else None
    except MALFORMED:
        return None


@dataclass(slots=True)
class SlotLog:
    """One slot's log and sidecar in the store."""

    store: ObjectStore
    keys: Keyspace
    slot: Slot
    options: LogOptions

    @property
    def chain(self) -> ChainedLog:
        """The log as a chain of records."""
        return ChainedLog(
            self.store, self.keys.log_prefix(self.slot), lambda n: self.keys.log(self.slot, n), self.options
        )

    def load(self) -> SlotState:
        """The state folded from the whole log, as packers need it.

        Raises:
            IntegrityError, IncompatibleError: nothing of the slot can be trusted (fail closed).
        """
        return self.survey()[0]

    def survey(self) -> tuple[SlotState, list[Finding]]:
        """As `load`, and what else lies under the log's keys."""
        records, findings = self.chain.survey()
        state = SlotState(self.slot)
        for record in records:
            apply(state, record)
        return state, findings

    def current(self) -> SlotState:
        """The state as readers need it: the sidecar, and the records after it.

        Two requests where the sidecar is current. Without a usable one the log is read.

        Raises:
            IntegrityError, IncompatibleError: nothing of the slot can be trusted (fail closed).
        """
        state = self.read_sidecar()
        if state is None:
            return self.load()
        self.refresh(state)
        return state

    def refresh(self, state: SlotState) -> bool:
        """Applies the records that came after `state`; whether there were any. One request in the usual case."""
        fresh = self.chain.read_from(state.head)
        for record in fresh:
            apply(state, record)
        return bool(fresh)

    def read_sidecar(self) -> SlotState | None:
        """What the sidecar states, None where there is no usable one. One request."""
        return self._usable(self._sidecar_blob())

    def write_sidecar(self, state: SlotState, now: datetime) -> None:
        """Stores `state` as the sidecar by compare-and-swap, unless a newer one is there already.

        Raises:
            PreconditionError: others kept winning; the sidecar they wrote is at least as new as any reader needs.
        """
        data = encode_sidecar(state)
        for attempt in range(SIDECAR_ATTEMPTS):
            old = self._sidecar_blob()
            there = self._usable(old)
            if there is not None and there.head.number > state.head.number:
                return
            try:
                self._swap_sidecar(old, data, now)
            except PreconditionError:
                if attempt == SIDECAR_ATTEMPTS - 1:
                    raise
            else:
                return

    def rebuild_sidecar(self, state: SlotState, now: datetime) -> bool:
        """Puts the sidecar of `state` (from the whole log) in the place of whatever is there; whether it had to.

        Raises:
            PreconditionError: a packer is writing it at this moment.
        """
        return self._swap_sidecar(self._sidecar_blob(), encode_sidecar(state), now)

    def sidecar_trouble(self, state: SlotState) -> str:
        """What is wrong with the sidecar beside `state` (from the whole log), in words; "" if nothing is."""
        if not state.head.number:
            return ""
        blob = self._sidecar_blob()
        there = self._usable(blob)
        if blob is None:
            return "missing"
        if there is None:
            return "damaged, or put there by a stranger"
        if blob.data == encode_sidecar(state):
            return ""
        if there.head.number < state.head.number and blob.data == encode_sidecar(
            self.before(state, there.head.number + 1)
        ):
            return "behind the log"
        return "not of this log"

    def _sidecar_blob(self) -> Blob | None:
        try:
            return self.store.get(self.keys.sidecar(self.slot))
        except MissingObjectError:
            return None

    def _usable(self, blob: Blob | None) -> SlotState | None:
        if blob is None:
            return None
        if self.options.locked and not is_marked(self.store, blob):
            return None
        return decode_sidecar(self.slot, blob.data)

    def _swap_sidecar(self, old: Blob | None, data: bytes, now: datetime) -> bool:
        """Puts `data` in the place of exactly `old`, unless that is the same and usable; whether it had to."""
        if old is not None and old.data == data and self._usable(old) is not None:
            return False
        put_marked(
            self.store, self.keys.sidecar(self.slot), data,
            condition=ABSENT if old is None else Condition(old.etag),
            marked_at=now if self.options.locked else None,
        )  # fmt: skip
        return True

    def before(self, state: SlotState, number: int) -> SlotState:
        """The state as it was before record `number`; `state` must come from the whole log."""
        past = SlotState(self.slot)
        for record in state.records[: number - 1]:
            apply(past, record)
        return past

    def append(self, state: SlotState, body: Mapping[str, Any], *, lock: Lock | None, now: datetime) -> Record:
        """Appends a record planned on `state` and applies it.

        Raises:
            LostAppendError: another record came first; `state` is unchanged: refresh it and plan again.
            IntegrityError, IncompatibleError: such a record could not be read; nothing is stored.
        """
        check_next(state, body)
        record = self.chain.append(state.head, body, lock=lock, now=now)
        apply(state, record)
        return record
