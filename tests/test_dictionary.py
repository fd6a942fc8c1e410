"""Dictionaries: deterministic, bounded, and in encrypted shards without anything that few files hold."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vera_core.dictionary import COMMON_FILES, DICTIONARY_BYTES, SEPARATOR, WINDOW, train, train_common

NAMES = ("Maximilian Hallberg", "Wilhelmina Sørensen-Okafor", "Nguyễn Thị Minh Khai", "Bartholomew Ashworth-Quist")
ACCOUNTS = ("DE89370400440532013000", "NL91ABNA0417164300", "4556 7375 8689 9855", "SE4550000000058398257466")


def letter(number: int, source: random.Random) -> bytes:
    """A letter of a bank; number 0 to 49 are of few customers, each of whom gets fewer letters than k."""
    who = number % len(NAMES) if number < 100 else None
    name = NAMES[who] if who is not None else "".join(source.choices("abcdefghij", k=12)).title()
    account = ACCOUNTS[who] if who is not None else "".join(source.choices("0123456789", k=18))
    return (
        f'{{"type": "statement", "bank": "Example Bank N.V.", "customer": "{name}", "account": "{account}", '
        f'"balance": {source.randrange(10**7) / 100}, "currency": "EUR", "remarks": "Thank you for banking with us."}}'
    ).encode()


@pytest.fixture(scope="module")
def letters() -> list[bytes]:
    """200 letters; each of four customers got 25 of them."""
    source = random.Random(17)
    made = [letter(number, source) for number in range(200)]
    source.shuffle(made)
    return made


def windows(data: bytes) -> set[bytes]:
    return {data[at : at + WINDOW] for at in range(len(data) - WINDOW + 1)}


def free_windows(dictionary: bytes) -> list[bytes]:
    """All 8 bytes in a row that hold no byte of a separator: those of each piece."""
    pieces = dictionary.split(SEPARATOR)
    assert pieces[0] == b"", "every piece has its separator"
    return [window for piece in pieces[1:] for window in windows(piece)]


def test_a_plain_dictionary_holds_names_verbatim(letters: list[bytes]) -> None:
    """Which is why encrypted shards have another."""
    plain = train(letters, 3)
    assert plain is not None
    assert plain.startswith(b"\x37\xa4\x30\xec")
    assert any(name.encode() in plain for name in NAMES)


def test_names_and_account_numbers_stay_out(letters: list[bytes]) -> None:
    made = train_common(letters)
    assert made is not None
    assert b"Thank you for banking with us." in made, "what all have in common is there"
    holders = Counter(window for content in letters for window in windows(content))
    for window in free_windows(made):
        assert holders[window] >= COMMON_FILES
    assert len(SEPARATOR) >= WINDOW - 1, "no 8 bytes hold parts of two pieces"
    for secret in (*NAMES, *ACCOUNTS):
        planted = secret.encode()
        assert planted not in made
        for window in windows(planted):
            assert window not in made
    assert not re.search(rb"[0-9]{8}", made)


@given(st.data())
def test_the_k_file_rule_whatever_the_files(draw: st.DataObject) -> None:
    """Small alphabets and k, so that pieces meet, repeat within files, and contain the separator's own byte."""
    alphabet = draw.draw(st.sampled_from([b"ab", b"\0a", b"abc\0", bytes(range(256))]))
    pieces = draw.draw(
        st.lists(st.lists(st.sampled_from(alphabet), min_size=1, max_size=24).map(bytes), min_size=1, max_size=6)
    )
    samples = draw.draw(st.lists(st.lists(st.sampled_from(pieces), max_size=6).map(b"".join), max_size=30))
    k = draw.draw(st.integers(1, 5))
    size = draw.draw(st.integers(0, 200))
    made = train_common(samples, size, k=k)
    assert made == train_common(list(samples), size, k=k)
    if made is None:
        return
    assert len(made) <= size
    different = [windows(content) for content in set(samples)]
    for at in range(len(made) - WINDOW + 1):
        window = made[at : at + WINDOW]
        # Zeros may be a file's own; only windows without any are surely of one piece.
        if 0 not in window:
            assert sum(window in own for own in different) >= k


def test_copies_of_one_file_are_one_file() -> None:
    source = random.Random(3)
    private = letter(0, source) * 2
    others = [source.randbytes(300) for _ in range(100)]
    assert train_common([private] * 90 + others) is None
    made = train_common([private + source.randbytes(4) for _ in range(90)] + others)
    assert made is not None
    assert NAMES[0].encode() in made, "different files count, however alike: the caller samples customers, not copies"


def test_nothing_in_common_gives_none() -> None:
    source = random.Random(5)
    for samples in (
        [],
        [b""] * 100,
        [b"short"] * 100,
        [source.randbytes(500) for _ in range(100)],
        [b"the same text for all of them" + source.randbytes(9) for _ in range(COMMON_FILES - 1)],
    ):
        assert train_common(samples) is None
        if len(samples) < COMMON_FILES - 1 or len(samples[0]) < 9:
            assert train(samples, 3) is None


def test_it_compresses(letters: list[bytes]) -> None:
    source = random.Random(99)
    fresh = [letter(number, source) for number in range(500, 600)]
    made = train_common(letters)
    assert made is not None
    plain = zstandard.ZstdCompressor(level=3)
    having = zstandard.ZstdCompressor(level=3, dict_data=zstandard.ZstdCompressionDict(made))
    without = sum(len(plain.compress(content)) for content in fresh)
    assert sum(len(having.compress(content)) for content in fresh) < without * 0.55


def test_a_piece_that_looks_like_a_table_is_still_raw_content() -> None:
    """libzstd takes a dictionary that begins with its magic number for a formatted one, and refuses a bad one."""
    source = random.Random(5)
    made = train_common([b"\x37\xa4\x30\xec and some more text" + source.randbytes(30) for _ in range(60)])
    assert made is not None
    assert b"\x37\xa4\x30\xec and some" in made
    loaded = zstandard.ZstdCompressionDict(made)
    assert zstandard.ZstdDecompressor(dict_data=loaded).decompress(
        zstandard.ZstdCompressor(dict_data=loaded).compress(b"text")
    )


def test_size_and_time_are_bounded() -> None:
    source = random.Random(8)
    words = [source.randbytes(5).hex().encode() for _ in range(4000)]
    samples = [b" ".join(source.choices(words, k=6000)) for _ in range(200)]
    assert sum(map(len, samples)) > 12 << 20
    for made, size in (
        (train(samples, 3), DICTIONARY_BYTES),
        (train(samples, 3, 4096), 4096),
        (train_common(samples, k=5), DICTIONARY_BYTES),
        (train_common(samples, 999, k=5), 999),
    ):
        assert made is not None
        assert size // 2 < len(made) <= size
    begin = time.process_time()
    train(samples, 3)
    train_common(samples, k=5)
    assert time.process_time() - begin < 3


def test_training_is_deterministic(letters: list[bytes]) -> None:
    assert train(letters, 3) == train(tuple(letters), 3)
    for one, other in pairwise([train_common(letters) for _ in range(3)]):
        assert one == other
