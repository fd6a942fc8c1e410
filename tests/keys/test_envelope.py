"""The stored form: any other bytes are refused, and nothing opens in another envelope's place."""

from __future__ import annotations

import tracemalloc
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tests.keys.support import REPOSITORY, error_of, make_keyring, with_checksum
from tests.keys.test_tree import VECTORS
from vera_core.errors import IncompatibleError, IntegrityError, UsageError, VeraError
from vera_core.keys import envelope as module
from vera_core.keys.envelope import (
    HEADER_BYTES,
    Envelope,
    Header,
    Kind,
    open_envelopes,
    rewrap_envelopes,
    seal_envelopes,
)
from vera_core.keys.local import LocalKeys
from vera_core.keys.service import good

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

(VECTOR,) = VECTORS["envelope"]
DATA = bytes.fromhex(VECTOR["envelope"])
HEADER = make_keyring().header


class Recorded(LocalKeys):
    """A local key file that remembers what it was asked."""

    asked: list[tuple[str, int]]
    payloads: list[bytes]

    def wrap(self, payloads: Sequence[bytes]) -> list[bytes]:
        self.asked.append(("wrap", len(payloads)))
        self.payloads += payloads
        return super().wrap(payloads)

    def unwrap(self, wrapped: Sequence[bytes]) -> list[bytes | VeraError]:
        self.asked.append(("unwrap", len(wrapped)))
        return super().unwrap(wrapped)


@pytest.fixture
def recorded(local: LocalKeys, tmp_path: Path) -> Recorded:
    service = Recorded(tmp_path / "kek.json")
    service.asked, service.payloads = [], []
    return service


def test_it_agrees_with_the_vector() -> None:
    envelope = Envelope.decode(DATA)
    header = envelope.header
    assert header.kind is Kind.KEYRING
    facts: dict[str, Any] = {
        "revision": header.revision,
        "tenant": header.tenant,
        "depth": header.depth,
        "repository_id": header.repository_id.hex(),
        "keyring_id": header.keyring_id.hex(),
        "shard": header.shard.hex(),
        "kek": envelope.kek,
        "wrapped": envelope.wrapped.hex(),
        "nonce": envelope.nonce.hex(),
    }
    assert facts == {name: VECTOR[name] for name in facts}
    assert envelope.encode() == DATA
    assert module._body(envelope, bytes.fromhex(VECTOR["payload"])) == bytes.fromhex(VECTOR["body"])


def test_what_is_sealed_opens(local: LocalKeys) -> None:
    contents = [(replace(HEADER, revision=number + 1), bytes([number]) * number) for number in range(5)]
    envelopes = seal_envelopes(local, contents)
    assert open_envelopes(local, envelopes) == [body for _, body in contents]
    assert [Envelope.decode(envelope.encode()) for envelope in envelopes] == envelopes


def test_the_service_is_asked_once_and_every_data_key_is_fresh(recorded: Recorded) -> None:
    envelopes = seal_envelopes(recorded, [(HEADER, b"body")] * 3)
    open_envelopes(recorded, envelopes)
    assert recorded.asked == [("wrap", 3), ("unwrap", 3)]
    assert {len(payload) for payload in recorded.payloads} == {64}
    assert len({payload[:32] for payload in recorded.payloads}) == 3
    assert len({envelope.sealed for envelope in envelopes}) == 3


def test_every_byte_counts_with_and_without_its_checksum(local: LocalKeys) -> None:
    data = seal_envelopes(local, [(HEADER, b"body of it")])[0].encode()
    for place in range(len(data)):
        for forged in (False, True):
            changed = bytearray(data)
            changed[place] ^= 0x01
            try:
                envelope = Envelope.decode(with_checksum(bytes(changed)) if forged else bytes(changed))
            except (IntegrityError, IncompatibleError):
                continue
            assert forged
            if place >= len(data) - 4:  # the checksum itself, made right again
                continue
            (outcome,) = open_envelopes(local, [envelope])
            assert type(outcome) in {IntegrityError, UsageError}, place


@pytest.mark.parametrize("part", ["wrapped", "nonce", "sealed", "header"])
def test_parts_of_two_envelopes_do_not_open(local: LocalKeys, part: str) -> None:
    other = replace(HEADER, revision=2)
    one, two = seal_envelopes(local, [(HEADER, b"body"), (other, b"body")])
    mixed = replace(one, **{part: getattr(two, part)})
    error = error_of(open_envelopes(local, [mixed])[0], IntegrityError)
    assert error.where["shard"] == HEADER.shard[:16].hex()


def test_a_data_key_that_leaked_is_of_no_use_under_another_header(recorded: Recorded) -> None:
    """Who knows one data key can seal with it, but the KEK's wrapping of it names the header that it was drawn for."""
    (mine,) = seal_envelopes(recorded, [(HEADER, b"body")])
    key = recorded.payloads[0][:32]
    tenant = Header(Kind.TENANT, REPOSITORY, "default")
    forged = AESGCM(key).encrypt(mine.nonce, b"T" * 32, tenant.pack())
    (outcome,) = open_envelopes(recorded, [replace(mine, header=tenant, sealed=forged)])
    error_of(outcome, IntegrityError)


def test_a_rotation_rewraps_the_data_key_and_nothing_else(local: LocalKeys) -> None:
    before = seal_envelopes(local, [(HEADER, b"one"), (replace(HEADER, revision=2), b"two")])
    assert local.rotate() == 2
    after = good(rewrap_envelopes(local, before))
    for old, new in zip(before, after, strict=True):
        assert local.version(old.wrapped) == 1
        assert local.version(new.wrapped) == 2
        assert new == replace(old, wrapped=new.wrapped)
    assert open_envelopes(local, after) == [b"one", b"two"]


def test_errors_stand_in_their_places_and_stop_nothing(local: LocalKeys) -> None:
    one, two, three = seal_envelopes(local, [(replace(HEADER, revision=n), bytes([n])) for n in (1, 2, 3)])
    lost = IntegrityError("lost before")
    foreign = replace(two, kek="local:0000000000000000")
    broken = replace(three, wrapped=three.wrapped[:-1])
    outcomes = open_envelopes(local, [one, lost, foreign, broken, two])
    assert (outcomes[0], outcomes[4]) == (b"\x01", b"\x02")
    assert outcomes[1] is lost
    assert error_of(outcomes[2], UsageError).where["kek"] == "local:0000000000000000"
    assert error_of(outcomes[3], IntegrityError).where["keyring_revision"] == "3"
    rewrapped = rewrap_envelopes(local, [one, lost, foreign, broken, two])
    assert [type(outcome) for outcome in rewrapped] == [Envelope, IntegrityError, UsageError, IntegrityError, Envelope]
    with pytest.raises(IntegrityError, match="lost before"):
        good(outcomes)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="no keyring or tenant key"):
        Envelope.decode(data)


@given(st.integers(0, len(DATA) - 5), st.binary(min_size=1, max_size=8), st.integers(-3, 3))
def test_forged_bytes_are_an_envelope_in_its_one_form_or_refused(place: int, new: bytes, longer: int) -> None:
    changed = (DATA[:place] + new + DATA[place + len(new) + longer :])[: len(DATA) + longer]
    if len(changed) < 4:
        return
    forged = with_checksum(changed)
    with suppress(IntegrityError, IncompatibleError):
        assert Envelope.decode(forged).encode() == forged


@pytest.mark.parametrize(
    ("place", "value", "error"),
    [
        (8, 2, IncompatibleError),  # version
        (10, 3, IncompatibleError),  # kind
        (11, 0, IncompatibleError),  # cipher
        (10, 2, IntegrityError),  # a tenant key with a depth
        (12, 0, IntegrityError),  # revision 0
        (32, 0, IntegrityError),  # depth
        (32, 33, IntegrityError),
        (33, 0, IntegrityError),  # the tenant's name
        (33, 65, IntegrityError),
        (34, 1, IntegrityError),  # reserved
        (40, 0x2F, IntegrityError),
        (40, 0xFF, IntegrityError),
        (60, 0x61, IntegrityError),  # behind the name
        (152, 1, IntegrityError),  # reserved
        (160, 0, IntegrityError),  # the lengths
        (162, 0xFF, IntegrityError),
        (167, 0xFF, IntegrityError),
        (168, 0x0A, IntegrityError),  # the KEK's name
        (168, 0xC3, IntegrityError),
    ],
)
def test_impossible_values_are_refused(place: int, value: int, error: type[VeraError]) -> None:
    changed = bytearray(DATA)
    changed[place] = value
    with pytest.raises(error):
        Envelope.decode(with_checksum(bytes(changed)))


def test_what_lengths_claim_costs_no_memory() -> None:
    claimed = with_checksum(DATA[:164] + b"\xff\xff\xff\x7f" + DATA[168:])
    tracemalloc.start()
    with pytest.raises(IntegrityError):
        Envelope.decode(claimed)
    assert tracemalloc.get_traced_memory()[1] < 1 << 16
    tracemalloc.stop()


@pytest.mark.parametrize(
    "change",
    [
        {"revision": 0},
        {"revision": 1 << 32},
        {"depth": 0},
        {"depth": 33},
        {"shard": bytes(31)},
        {"keyring_id": bytes(17)},
        {"repository_id": b""},
        {"tenant": "UPPER"},
        {"kind": Kind.TENANT},
    ],
)
def test_headers_that_there_are_not(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(HEADER, **change)


@pytest.mark.parametrize(
    "change",
    [{"kek": ""}, {"kek": "ä"}, {"kek": "k" * 257}, {"wrapped": b""}, {"wrapped": bytes(1025)}, {"nonce": b""}],
)
def test_envelopes_that_there_are_not(change: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        replace(Envelope.decode(DATA), **change)


def test_a_body_can_be_too_long(local: LocalKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BODY", 10)
    assert seal_envelopes(local, [(HEADER, bytes(10))])
    with pytest.raises(UsageError, match="more than 10 bytes"):
        seal_envelopes(local, [(HEADER, bytes(11))])


def test_the_header_has_its_size() -> None:
    assert len(HEADER.pack()) == HEADER_BYTES
