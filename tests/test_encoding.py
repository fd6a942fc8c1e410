"""Encoding: nothing grows, batches equal single files, the bytes choose how, dictionaries only where they pay."""

from __future__ import annotations

import hashlib
import json
import random
import threading
import zlib
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vera_core.codec import MAX_INLINE, Dictionaries, Stored, decode
from vera_core.dictionary import train_common
from vera_core.encoding import (
    DICTIONARY_LEVELS,
    EncodedBatch,
    Encoder,
    Trained,
    encode,
    facts_of,
    kind_of,
    looks_random,
    toolchain,
)
from vera_core.errors import UsageError
from vera_core.model import Codec, Policy
from vera_core.training import train_dictionaries

TEXT = b'{"invoice": 4711, "customer": "ACME", "lines": [1, 2, 3]}' * 20
NOISE = random.Random(7).randbytes(64 << 10)
SOURCE = Path(json.__file__).read_bytes()


def number_of(trained: Trained, kind: str) -> int:
    """The dictionary for files of a kind; 0 for none."""
    return trained.kinds.get(kind, trained.kinds.get("", 0))


def record(number: int) -> bytes:
    """A JSON record of some 500 bytes with much in common with its like."""
    own = random.Random(number)
    lines = [
        {"article": own.randrange(10**6), "amount": own.randrange(99), "price": f"{own.random():.2f} EUR", "tax": 21}
        for _ in range(own.randrange(2, 7))
    ]
    return json.dumps({"invoice": number, "customer": {"id": own.randrange(10**9)}, "lines": lines}).encode()


def page(number: int) -> bytes:
    """A piece of markup."""
    own = random.Random(number)
    return b"<html><head><title>Statement %d</title></head><body><table class=statement>%s</table></body></html>" % (
        number,
        b"".join(b"<tr><td>%d</td><td>%d EUR</td></tr>" % (row, own.randrange(10**6)) for row in range(9)),
    )


contents = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=40), st.integers(1, 2000)),
    st.integers(0, 40_000).map(lambda size: NOISE[:size]),
    st.integers(0, 5000).map(record),
    st.integers(0, 5000).map(page),
    st.sampled_from([b"", b"\0", b"\0" * 70_000, TEXT, TEXT * 40, TEXT * 70, b"\x89PNG\r\n" + TEXT, NOISE]),
)
policies = st.sampled_from(Policy)
RECORDS, PAGES = [record(number) for number in range(300)], [page(number) for number in range(300)]
TRAINED = {policy: train_dictionaries(RECORDS + PAGES, [""] * 600, policy=policy, files=60_000) for policy in Policy}


@given(contents, policies, st.booleans())
def test_every_content_comes_back_with_true_proofs(content: bytes, policy: Policy, plain: bool) -> None:
    trained = Trained() if plain else TRAINED[policy]
    [encoded] = Encoder(policy, trained).encode([content])
    if plain:
        assert encoded == encode(content, policy)
    item = Stored(encoded.codec, encoded.stored, encoded.size, encoded.parameter)
    assert decode(item, Dictionaries(trained.dictionaries)) == content
    assert encoded.size == len(content)
    assert encoded.sha256 == hashlib.sha256(content).digest()
    assert encoded.crc32 == zlib.crc32(encoded.stored)
    assert encoded.codec is Codec.RAW or len(encoded.stored) < len(content)


@given(st.lists(contents, max_size=12), policies, st.lists(st.integers(0, 12), max_size=3))
def test_a_batch_equals_one_by_one_and_any_cut(batch: list[bytes], policy: Policy, cuts: list[int]) -> None:
    encoder = Encoder(policy, TRAINED[policy])
    whole = encoder.encode(batch)
    single = [next(iter(encoder.encode([content]))) for content in batch]
    assert list(whole) == single
    again = EncodedBatch.of(single)
    assert (again.facts.tobytes(), again.stored) == (whole.facts.tobytes(), whole.stored)
    bounds = [0, *sorted(min(cut, len(batch)) for cut in cuts), len(batch)]
    parts = [encoded for begin, end in pairwise(bounds) for encoded in encoder.encode(batch[begin:end])]
    assert parts == single


@given(st.lists(contents, max_size=8), st.data())
def test_a_selection_is_what_was_chosen(batch: list[bytes], draw: st.DataObject) -> None:
    whole = Encoder().encode(batch)
    chosen = draw.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch)))
    kept = whole.select(np.array(chosen, np.bool_))
    assert list(kept) == [encoded for encoded, keep in zip(whole, chosen, strict=True) if keep]
    facts = facts_of(batch)
    assert (facts.facts["size"].tolist(), facts.stored) == ([len(content) for content in batch], b"")
    assert (facts.facts["digest"] == whole.facts["digest"]).all()


def test_methods_chosen_by_the_bytes() -> None:
    assert encode(b"").codec is Codec.RAW
    assert encode(b"x").codec is Codec.CONSTANT
    assert encode(bytes(MAX_INLINE))[:3] == (Codec.CONSTANT, 0, b"")
    assert encode(b"\xff" * 9)[:3] == (Codec.CONSTANT, 255, b"")
    assert encode(TEXT).codec is Codec.ZSTD_BLOCK
    assert encode(TEXT * 3000).codec is Codec.ZSTD
    assert encode(TEXT * 40, Policy.FAST).codec is Codec.LZ4
    assert encode(NOISE).codec is Codec.RAW
    assert encode(NOISE[:999]).codec is Codec.RAW
    assert encode(b"\x1f\x8b" + TEXT).codec is Codec.RAW, "gzip is not compressed again"
    assert encode(b"\x1f\x8b" + TEXT, Policy.SMALL).codec is Codec.ZSTD_BLOCK, "small tries everything"
    assert encode(b"\0\0\0\x18ftypisom" + TEXT).codec is Codec.RAW
    assert encode(b"RIFF\0\0\0\0WEBPVP8 " + TEXT).codec is Codec.RAW
    assert encode(b"RIFF\0\0\0\0WAVEfmt " + TEXT).codec is Codec.ZSTD_BLOCK


def test_policies_trade_speed_for_size() -> None:
    corpus = [SOURCE[at : at + size] for at, size in ((0, 2000), (2000, 9000), (0, 12_000))]
    sizes = {policy: int(Encoder(policy).encode(corpus).facts["stored_size"].sum()) for policy in Policy}
    assert sizes[Policy.SMALL] < sizes[Policy.BALANCED] < sizes[Policy.FAST] < sum(map(len, corpus))
    records = [record(number) for number in range(1000, 1200)]
    trained = {
        policy: int(Encoder(policy, TRAINED[policy]).encode(records).facts["stored_size"].sum()) for policy in Policy
    }
    plain = int(Encoder(Policy.SMALL).encode(records).facts["stored_size"].sum())
    assert trained[Policy.SMALL] < min(trained[Policy.BALANCED], trained[Policy.FAST])
    assert max(trained.values()) < plain


def test_randomness_is_told_from_text_and_code() -> None:
    machine = random.Random(3)
    code = bytes(machine.choice((0, 0x48, 0x89, machine.randrange(256))) for _ in range(20_000))
    assert looks_random(NOISE)
    assert looks_random(zstandard.compress(b"".join(b"%d," % machine.randrange(10**9) for _ in range(20_000))))
    assert not looks_random(code)
    assert not looks_random(TEXT * 100)
    assert not looks_random(NOISE.hex().encode())


def test_larger_than_inline_is_refused() -> None:
    large = TEXT * (MAX_INLINE // len(TEXT) + 1)
    for trained in (Trained(), TRAINED[Policy.BALANCED]):
        with pytest.raises(UsageError, match="Stream it"):
            Encoder(Policy.BALANCED, trained).encode([TEXT, large])


def test_dictionaries_pay_on_small_records_of_each_kind() -> None:
    for policy, trained in TRAINED.items():
        assert len(trained.dictionaries) == 2
        assert (number_of(trained, "json"), number_of(trained, "markup"), number_of(trained, "other")) == (1, 2, 0)
        assert max(map(len, trained.dictionaries)) <= 16 << 10
        for make, number in ((record, 1), (page, 2)):
            fresh = [make(number) for number in range(7000, 7200)]
            plain = int(Encoder(policy).encode(fresh).facts["stored_size"].sum())
            facts = Encoder(policy, trained).encode(fresh).facts
            assert set(facts["parameter"].tolist()) == {number}
            assert int(facts["stored_size"].sum()) < plain * 0.75


def test_the_same_sample_gives_the_same_dictionaries() -> None:
    again = train_dictionaries(RECORDS + PAGES, [""] * 600, policy=Policy.BALANCED, files=60_000)
    assert again == TRAINED[Policy.BALANCED]


@pytest.mark.parametrize(
    ("sample", "files"),
    [
        ([], 0),
        (RECORDS[:63], 60_000),  # too few to train on
        (RECORDS, 60),  # too few to pay for its two copies
        ([NOISE[number * 200 :][:900] for number in range(300)], 60_000),
        ([b"\x1f\x8b" + content for content in RECORDS], 60_000),
        ([b"\0" * number for number in range(300)], 60_000),
        ([b"%d" % number for number in range(300)], 10**7),
        ([SOURCE * 9 + b"%d" % number for number in range(70)], 60_000),  # longer than a dictionary is good for
    ],
    ids=["none", "few samples", "few files", "noise", "gzip", "constant", "tiny", "long"],
)
def test_dictionaries_that_don_t_pay_are_left_out(sample: list[bytes], files: int) -> None:
    trained = train_dictionaries(sample, [""] * len(sample), policy=Policy.BALANCED, files=files)
    assert trained.dictionaries == ()


def test_common_dictionaries_hold_what_many_files_do() -> None:
    own = [b"%s %x" % (content, 7**20 + number) for number, content in enumerate(RECORDS)]
    train_on = partial(train_dictionaries, own, [""] * 300, policy=Policy.BALANCED, files=60_000)
    [plain] = train_on().dictionaries
    trained = train_on(common=True)
    [common] = trained.dictionaries
    assert common == train_common(own[:225])
    assert any(b"%x" % (7**20 + number) in plain for number in range(300))
    assert not any(b"%x" % (7**20 + number) in common for number in range(300))
    fresh = [record(number) for number in range(1000, 1100)]
    sizes = [int(Encoder(trained=each).encode(fresh).facts["stored_size"].sum()) for each in (trained, Trained())]
    assert sizes[0] < sizes[1] * 0.75


def test_noise_among_records_gets_no_dictionary() -> None:
    """Nor does it take one from the records; rare kinds share one."""
    noise = [b"\xfe\xed\xfe\xed" + NOISE[number * 200 :][:900] for number in range(200)]
    rare = [b"%s %s" % (content, b"x" * number) for number, content in enumerate(PAGES[:90])]
    kinds = ["", *(f"application/x-{number % 9}" for number in range(90))]
    trained = train_dictionaries(noise + RECORDS + rare, [""] * 500 + kinds[1:], policy=Policy.BALANCED, files=60_000)
    assert len(trained.dictionaries) == 2
    assert number_of(trained, "json") == 1
    assert number_of(trained, kind_of(noise[0], "")) == 0
    assert number_of(trained, "application/x-3") == number_of(trained, "never seen") == 2


def test_kinds() -> None:
    assert kind_of(b"{}", "text/html") == "text/html"
    assert kind_of(b"{}", "application/octet-stream") == kind_of(b"[1]", "") == "json"
    assert kind_of(b"<a>", "") == "markup"
    assert kind_of(b"hello", "") == "text"
    assert kind_of(b"\x7fELF", "") == "text"
    assert kind_of(b"\0\1\2\3\4", "") == "00010203"


def test_large_contents_use_no_dictionary() -> None:
    trained = TRAINED[Policy.BALANCED]
    [small, large] = Encoder(Policy.BALANCED, trained).encode([RECORDS[0] * 9, RECORDS[0] * 200])
    assert (small.parameter, large.parameter) == (1, 0)
    assert DICTIONARY_LEVELS.keys() == set(Policy)


def test_threads_have_their_own_contexts() -> None:
    batch = [record(number) for number in range(100)] + [TEXT + b"%d" % number for number in range(100)]
    encoder = Encoder(Policy.BALANCED, TRAINED[Policy.BALANCED])
    expected = list(encoder.encode(batch))
    results: list[bool] = []

    def work() -> None:
        results.extend(list(encoder.encode(batch)) == expected for _ in range(10))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_toolchain_names_libraries_and_versions() -> None:
    assert {part.split("/")[0] for part in toolchain().split()} == {"zstandard", "libzstd", "lz4"}
    assert ".".join(map(str, zstandard.ZSTD_VERSION)) in toolchain()
