"""Sealed files: they open as they were, in their place only, and any other bit is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.keys.support import ROOT
from tests.keys.test_tree import VECTORS
from vera_core.errors import IntegrityError, UsageError
from vera_core.keys import sealing
from vera_core.keys.sealing import OVERHEAD, FileSealer
from vera_core.keys.tree import KeyTree

SEALER = FileSealer(b"R" * 16, b"K" * 16)


@pytest.mark.parametrize("vector", VECTORS["file"], ids=lambda vector: str(vector["ordinal"]))
def test_it_agrees_with_the_vectors(vector: dict[str, Any]) -> None:
    leaf, plaintext = bytes.fromhex(vector["leaf"]), bytes.fromhex(vector["plaintext"])
    assert SEALER.seal(vector["ordinal"], leaf, plaintext).hex() == vector["stored"]
    assert SEALER.open(vector["ordinal"], leaf, bytes.fromhex(vector["stored"])) == plaintext


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(0, 50))
def test_a_batch_is_its_files_one_by_one(plaintexts: list[bytes], first: int) -> None:
    tree = KeyTree.of_root(6, ROOT)
    numbers = range(first, first + len(plaintexts))
    stored = SEALER.seal_many(first, tree.leaves(numbers), plaintexts)
    assert [len(item) for item in stored] == [len(plaintext) + OVERHEAD for plaintext in plaintexts]
    for number, plaintext, item in zip(numbers, plaintexts, stored, strict=True):
        assert item == SEALER.seal(number, tree.leaf(number), plaintext)
        assert SEALER.open(number, tree.leaf(number), item) == plaintext


def test_every_bit_counts() -> None:
    stored = SEALER.seal(5, ROOT, b"twenty bytes of text")
    for place in range(len(stored)):
        for bit in range(8):
            changed = bytearray(stored)
            changed[place] ^= 1 << bit
            with pytest.raises(IntegrityError, match="does not open"):
                SEALER.open(5, ROOT, bytes(changed))


@given(st.binary(max_size=100))
def test_other_bytes_do_not_open(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="does not open"):
        SEALER.open(5, ROOT, data)


def test_it_opens_in_its_place_only() -> None:
    stored = SEALER.seal(5, ROOT, b"content")
    for sealer, ordinal, leaf in (
        (SEALER, 6, ROOT),
        (SEALER, 5, bytes(32)),
        (FileSealer(b"r" * 16, b"K" * 16), 5, ROOT),
        (FileSealer(b"R" * 16, b"k" * 16), 5, ROOT),
    ):
        with pytest.raises(IntegrityError) as caught:
            sealer.open(ordinal, leaf, stored)
        assert caught.value.where["ordinal"] == str(ordinal)


def test_a_key_never_uses_a_nonce_for_two_plaintexts() -> None:
    nonces = {SEALER.seal(5, ROOT, bytes([number]))[:12] for number in range(256)}
    assert len(nonces) == 256


def test_what_cannot_be_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "MAX_PLAINTEXT", 10)
    assert SEALER.seal(0, ROOT, bytes(10))
    with pytest.raises(UsageError, match="more than 10 bytes"):
        SEALER.seal(0, ROOT, bytes(11))
    with pytest.raises(UsageError, match="16 bytes each"):
        FileSealer(b"R" * 16, b"K" * 15)
