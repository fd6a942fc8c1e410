"""docs/protocol.md names every record type and field that the code writes, with its values; its examples are real."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.protocol.erasing import draft
from tests.protocol.packing import CONFIG, KEYS, MemorySource, make_repository, pack, some_files
from tests.protocol.slots_support import shard
from vera_core import config, erasures, slotrecords, slots
from vera_core.config import DEFAULT_PART_ROWS, DEFAULT_SHARD_BYTES, PROTOCOL_VERSION
from vera_core.format import SUFFIX
from vera_core.keyspace import KeyKind
from vera_core.model import Slot
from vera_core.operations.erasures import submit
from vera_core.operations.proofs import FAULTS_KEPT, look
from vera_core.operations.repository import SHORT_LOCK, Workplace
from vera_core.operations.scrub import TELL_PROOFS, TELL_SECONDS
from vera_core.slotlog import SIDECAR_FORMAT, encode_sidecar
from vera_core.slots import SlotState
from vera_core.store.base import SINGLE_PUT_LIMIT
from vera_core.store.chain import MAX_RECORD_BYTES, PUT_ATTEMPTS, Record, canonical, decode_record
from vera_core.store.marked import MARK

if TYPE_CHECKING:
    from vera_core.store.memory import MemoryStore

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
WORDS = set(re.findall(r"[A-Za-z_][A-Za-z_0-9]*", PAGE))
CHAIN = {"type", "n", "prev", "time", "nonce", "lock", "check"}


def test_every_record_type_is_described() -> None:
    assert set(config._HANDLERS) | set(slotrecords.HANDLERS) | set(erasures.HANDLERS) <= WORDS


def test_every_field_that_is_written_is_described(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    pack(repo, MemorySource(some_files(20)))
    submit(repo, draft("doc/00001.json", "unheard/of"))
    seen: dict[KeyKind, set[str]] = {}
    for info in memory_store.list_objects(KEYS.root):
        kind = KEYS.parse(info.key).kind
        if kind in {KeyKind.LOG, KeyKind.CONFIG, KeyKind.AUDIT, KeyKind.SIDECAR, KeyKind.REQUEST}:
            seen.setdefault(kind, set()).update(json.loads(memory_store.get(info.key).data))
    assert all(seen.values())
    assert set().union(*seen.values()) <= WORDS
    for kind in (KeyKind.LOG, KeyKind.CONFIG, KeyKind.AUDIT, KeyKind.REQUEST):
        assert seen[kind] >= CHAIN
    assert set(CONFIG.to_json()) <= WORDS
    assert set(shard("x").to_json()) <= WORDS
    assert set(look(("key", "version"), repo.clock.now(), []).to_json()) <= WORDS


@pytest.mark.parametrize(
    "said",
    [
        f"protocol version {PROTOCOL_VERSION}",
        f"at most {MAX_RECORD_BYTES >> 20} MiB",
        {5: "five times"}[PUT_ATTEMPTS],
        f"at {DEFAULT_PART_ROWS:,} rows or {DEFAULT_SHARD_BYTES >> 20} MiB",
        f"Up to {SINGLE_PUT_LIMIT >> 20} MiB by one PUT",
        f"one suffix range ({SUFFIX >> 10} KiB",
        {1: "locked for one day"}[SHORT_LOCK.days],
        f"after {TELL_PROOFS:,} looks",
        f"at most {FAULTS_KEPT} |",
        {60: "Once a minute"}[int(TELL_SECONDS)],
        {60: "a lock of one minute"}[MARK.seconds],
        f"`format` ({SIDECAR_FORMAT})",
        f"at most {slots.FILTER_ENTRIES} entries",
        {5.0: "current for five seconds"}[Workplace("a", Path()).freshness_seconds],
    ],
)
def test_numbers_are_those_of_the_code(said: str) -> None:
    assert said in re.sub(r"\s+", " ", PAGE)


def examples(kind: str) -> list[dict[str, Any]]:
    """The page's JSON examples that have a field `kind`, in order."""
    found = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)]
    return [body for body in found if kind in body]


def as_record(body: dict[str, Any]) -> Record:
    """An example as a reader of the bucket would have it: in canonical form, and checked."""
    data = canonical(body)
    assert decode_record(data) == {name: value for name, value in body.items() if name != "check"}
    return Record(body["n"], body, hashlib.sha256(data).hexdigest(), "version", None)


def test_the_example_of_a_repository_is_one() -> None:
    [body] = [body for body in examples("check") if body["type"] == "init"]
    assert config.fold(None, as_record(body)).repository_id == body["repository"]


def test_the_examples_of_a_slot_fold_to_its_sidecar() -> None:
    """The sidecar's `digest`, which the fingerprint covers, ties it to the very bytes of the records."""
    [sidecar] = examples("fingerprint")
    state = SlotState(Slot("default", date(2026, 3, 1), 1, 1))
    for body in [body for body in examples("check") if body["type"] in slotrecords.HANDLERS]:
        assert body["prev"] == state.head.digest
        slotrecords.apply(state, as_record(body))
    assert state.head.number == sidecar["applied"] == 2
    assert encode_sidecar(state) == canonical(sidecar)


def test_the_examples_of_an_audit_trail_are_tied_together() -> None:
    intent, outcome = [as_record(body) for body in examples("check") if "signature" in body]
    assert (intent.type, outcome.type) == ("intent", "outcome")
    assert outcome.body["prev"] == intent.digest
    assert outcome.body["id"] == intent.body["id"]
