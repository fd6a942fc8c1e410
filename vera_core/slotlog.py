"""The slot log in the store, and its sidecar: reading, appending, and the snapshot that spares readers the log.

What the records mean is slots.py, how a chain of them is stored is `store.chain`.

The sidecar is not locked, so it is believed only as far as the log vouches for it: it names a record, and that very
version must be locked, have the digest that the sidecar says, and state the fingerprint of what the sidecar holds. A
sidecar that is damaged, foreign, forged or of another format costs a reader the walk through the log, nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vera_core.errors import PreconditionError
from vera_core.slots import MALFORMED, SlotState
from vera_core.store.base import ABSENT, Condition, MissingObjectError
from vera_core.store.chain import ChainedLog, Head, canonical

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from vera_core.keyspace import Keyspace
    from vera_core.model import Lock, Slot
    from vera_core.store.base import Blob, ObjectStore
    from vera_core.store.chain import Finding, LogOptions, Record

SIDECAR_FORMAT = 1
SIDECAR_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a sidecar claims: the state as of `state.head`, whose record is in version `version_id`."""

    state: SlotState
    version_id: str


def encode_sidecar(state: SlotState) -> bytes:
    """The sidecar of `state`, which must come from the log and hold a record: canonical JSON."""
    return canonical(
        {
            "format": SIDECAR_FORMAT,
            "applied": state.head.number,
            "digest": state.head.digest,
            "record": state.records[-1].version_id,
            "state": state.to_json(),
        }
    )


def decode_sidecar(slot: Slot, data: bytes) -> Sidecar | None:
    """What a sidecar claims, or None where it is damaged, another slot's or of another format: then the log decides."""
    try:
        outer = json.loads(data)
        head = Head(int(outer["applied"]), str(outer["digest"]))
        if outer["format"] != SIDECAR_FORMAT or head.number < 1:
            return None
        return Sidecar(SlotState.from_json(slot, head, outer["state"]), str(outer["record"]))
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
            state.apply(record)
        return state, findings

    def current(self) -> SlotState:
        """The state as readers need it: the sidecar that the log vouches for, and the records after it.

        Three requests where the sidecar is current. Without a usable one the log is read.

        Raises:
            IntegrityError, IncompatibleError: nothing of the slot can be trusted (fail closed).
        """
        claim = self.read_sidecar()
        if claim is None or not self._vouches(claim):
            return self.load()
        self.refresh(claim.state)
        return claim.state

    def refresh(self, state: SlotState) -> bool:
        """Applies the records that came after `state`; whether there were any. One request in the usual case."""
        fresh = self.chain.read_from(state.head)
        for record in fresh:
            state.apply(record)
        return bool(fresh)

    def read_sidecar(self) -> Sidecar | None:
        """What the sidecar claims, None where there is no readable one. One request."""
        blob = self._sidecar_blob()
        return None if blob is None else decode_sidecar(self.slot, blob.data)

    def write_sidecar(self, state: SlotState) -> None:
        """Stores `state` as the sidecar by compare-and-swap, unless a newer true one is there already.

        Raises:
            PreconditionError: others kept winning; the sidecar they wrote is at least as new as any reader needs.
        """
        data = encode_sidecar(state)
        for attempt in range(SIDECAR_ATTEMPTS):
            old = self._sidecar_blob()
            claim = None if old is None else decode_sidecar(self.slot, old.data)
            if claim is not None and claim.state.head.number > state.head.number and self._vouches(claim):
                return
            try:
                self._swap_sidecar(old, data)
            except PreconditionError:
                if attempt == SIDECAR_ATTEMPTS - 1:
                    raise
            else:
                return

    def rebuild_sidecar(self, state: SlotState) -> bool:
        """Puts the sidecar of `state` (from the whole log) in the place of whatever is there; whether it had to.

        Raises:
            PreconditionError: a packer is writing it at this moment.
        """
        return self._swap_sidecar(self._sidecar_blob(), encode_sidecar(state))

    def _vouches(self, claim: Sidecar) -> bool:
        """Whether the log says of the claimed state that it is its own. One request."""
        record = self.chain.fetch(claim.state.head, claim.version_id)
        return record is not None and record.body.get("state") == claim.state.fingerprint

    def _sidecar_blob(self) -> Blob | None:
        try:
            return self.store.get(self.keys.sidecar(self.slot))
        except MissingObjectError:
            return None

    def _swap_sidecar(self, old: Blob | None, data: bytes) -> bool:
        """Puts `data` in the place of exactly `old`, whose version is then removed; whether it had to."""
        if old is not None and old.data == data:
            return False
        key = self.keys.sidecar(self.slot)
        condition = ABSENT if old is None else Condition(old.etag)
        self.store.put(key, data, condition=condition, content_type="application/json")
        if old is not None:
            # Derived and unlocked: kept versions would be one more object per commit.
            self.store.delete(key, version_id=old.version_id)
        return True

    def before(self, state: SlotState, number: int) -> SlotState:
        """The state as it was before record `number`; `state` must come from the whole log."""
        past = SlotState(self.slot)
        for record in state.records[: number - 1]:
            past.apply(record)
        return past

    def append(self, state: SlotState, body: Mapping[str, Any], *, lock: Lock | None, now: datetime) -> Record:
        """Appends a record planned on `state` and applies it.

        Raises:
            LostAppendError: another record came first; `state` is unchanged: refresh it and plan again.
            IntegrityError, IncompatibleError: such a record could not be read; nothing is stored.
        """
        vouched = {**body, "state": state.fingerprint_after(body)}
        record = self.chain.append(state.head, vouched, lock=lock, now=now)
        state.apply(record)
        return record
