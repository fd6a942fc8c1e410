"""Codecs: every content comes back, nothing grows, no bytes but the right ones decode, and nothing else leaves them."""

from __future__ import annotations

import hashlib
import random
import threading
import zlib
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vera_core.codec import (
    MAX_INLINE,
    Encoded,
    Policy,
    Stored,
    crc32,
    decode,
    decode_many,
    digest,
    encode,
    encode_many,
    looks_random,
    pack_block,
    toolchain,
    unpack_block,
)
from vera_core.errors import FormatError, UsageError
from vera_core.format.stream import CHUNK, StreamEncoder, decode_stream
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = b'{"invoice": 4711, "customer": "ACME", "lines": [1, 2, 3]}' * 20
NOISE = random.Random(7).randbytes(64 << 10)

contents = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=40), st.integers(1, 2000)),
    st.integers(0, 40_000).map(lambda size: NOISE[:size]),
    st.sampled_from([b"", b"\0", b"\0" * 70_000, TEXT, TEXT * 40, b"\x89PNG\r\n" + TEXT, NOISE]),
)
policies = st.sampled_from(Policy)


def size_or_refusal(attempt: Callable[[], bytes]) -> int | None:
    """The size of what came, None for a FormatError; anything else fails the test."""
    try:
        return len(attempt())
    except FormatError:
        return None


def back(encoded: Encoded) -> bytes:
    return decode(encoded.codec, encoded.stored, encoded.size, encoded.parameter)


@given(contents, policies)
def test_every_content_comes_back_with_true_proofs(content: bytes, policy: Policy) -> None:
    encoded = encode(content, policy)
    assert back(encoded) == content
    assert encoded.size == len(content)
    assert encoded.sha256 == hashlib.sha256(content).digest()
    assert encoded.crc32 == zlib.crc32(encoded.stored)
    assert encoded.codec is Codec.RAW or len(encoded.stored) < len(content)


@given(st.lists(contents, max_size=12), policies)
def test_batch_equals_one_by_one(batch: list[bytes], policy: Policy) -> None:
    encoded = encode_many(batch, policy)
    assert encoded == [encode(content, policy) for content in batch]
    assert decode_many([Stored(item.codec, item.stored, item.size, item.parameter) for item in encoded]) == batch


def test_methods_chosen_by_the_bytes() -> None:
    assert encode(b"").codec is Codec.RAW
    assert encode(b"x").codec is Codec.CONSTANT
    assert encode(bytes(MAX_INLINE))[:3] == (Codec.CONSTANT, 0, b"")
    assert encode(b"\xff" * 9)[:3] == (Codec.CONSTANT, 255, b"")
    assert encode(TEXT).codec is Codec.ZSTD
    assert encode(TEXT * 40, Policy.FAST).codec is Codec.LZ4
    assert encode(NOISE).codec is Codec.RAW
    assert encode(NOISE[:999]).codec is Codec.RAW
    assert encode(b"\x1f\x8b" + TEXT).codec is Codec.RAW, "gzip is not compressed again"
    assert encode(b"\x1f\x8b" + TEXT, Policy.SMALL).codec is Codec.ZSTD, "small tries everything"
    assert encode(b"\0\0\0\x18ftypisom" + TEXT).codec is Codec.RAW
    assert encode(b"RIFF\0\0\0\0WEBPVP8 " + TEXT).codec is Codec.RAW
    assert encode(b"RIFF\0\0\0\0WAVEfmt " + TEXT).codec is Codec.ZSTD


def test_randomness_is_told_from_text_and_code() -> None:
    machine = random.Random(3)
    code = bytes(machine.choice((0, 0x48, 0x89, machine.randrange(256))) for _ in range(20_000))
    assert looks_random(NOISE)
    assert looks_random(zstandard.compress(b"".join(b"%d," % machine.randrange(10**9) for _ in range(20_000))))
    assert not looks_random(code)
    assert not looks_random(TEXT * 100)
    assert not looks_random(NOISE.hex().encode())


def test_larger_than_inline_is_refused() -> None:
    with pytest.raises(UsageError, match="Stream it"):
        encode(TEXT * (MAX_INLINE // len(TEXT) + 1))
    with pytest.raises(FormatError, match="decoded in memory"):
        decode(Codec.CONSTANT, b"", MAX_INLINE + 1, 0)
    with pytest.raises(FormatError, match="decoded in memory"):
        decode(Codec.CONSTANT, b"", -1, 0)


@given(st.sampled_from(Codec), st.binary(max_size=60), st.integers(0, 5_000), st.integers(0, 300))
def test_arbitrary_bytes_raise_format_errors_only(codec: Codec, stored: bytes, size: int, parameter: int) -> None:
    assert size_or_refusal(lambda: decode(codec, stored, size, parameter)) in (size, None)
    assert size_or_refusal(lambda: b"".join(decode_stream(codec, [stored], size, parameter))) in (size, None)


@given(st.sampled_from([Policy.FAST, Policy.BALANCED]), st.data())
def test_damage_never_yields_other_than_size_bytes(policy: Policy, data: st.DataObject) -> None:
    encoded = encode(TEXT * 30, policy)
    stored = bytearray(encoded.stored)
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= data.draw(st.integers(1, 255))
    batch = [Stored(encoded.codec, bytes(stored), encoded.size)] * 2
    assert size_or_refusal(lambda: decode(*batch[0])) in (encoded.size, None)
    assert size_or_refusal(lambda: decode_many(batch)[1]) in (encoded.size, None)


@pytest.mark.parametrize("codec", [Codec.RAW, Codec.ZSTD, Codec.LZ4])
def test_exact_end(codec: Codec) -> None:
    policy = Policy.FAST if codec is Codec.LZ4 else Policy.BALANCED
    encoded = encode(NOISE if codec is Codec.RAW else TEXT * 30, policy)
    assert encoded.codec is codec
    for stored in (
        encoded.stored + b"\0",
        encoded.stored[:-1],
        b"",
        encoded.stored * 2,
        encoded.stored + zstandard.compress(b"more"),
    ):
        with pytest.raises(FormatError):
            decode(codec, stored, encoded.size)
        with pytest.raises(FormatError):
            b"".join(decode_stream(codec, [stored], encoded.size))
    for size in (0, encoded.size - 1, encoded.size + 1):
        with pytest.raises(FormatError):
            decode(codec, encoded.stored, size)
    with pytest.raises(FormatError):
        decode(codec, encoded.stored, encoded.size, 1)


def magicless(content: bytes, **options: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, **options)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def test_frames_that_the_format_forbids() -> None:
    good = magicless(TEXT, compression_level=3, write_content_size=1)
    assert decode(Codec.ZSTD, good, len(TEXT)) == TEXT
    unsized = magicless(TEXT, compression_level=3, write_content_size=0)
    checked = magicless(TEXT, compression_level=3, write_content_size=1, write_checksum=1)
    for frame in (unsized, checked):
        with pytest.raises(FormatError, match="states no content size"):
            decode(Codec.ZSTD, frame, len(TEXT))
    wide = TEXT * 12_000
    assert 8 << 20 < len(wide) <= MAX_INLINE
    with pytest.raises(FormatError, match="a window of"):
        decode(Codec.ZSTD, magicless(wide, window_log=24, write_content_size=1), len(wide))


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = magicless(bytes(200 << 20), compression_level=1, write_content_size=1)
    with pytest.raises(FormatError, match="states 209715200 bytes"):
        decode(Codec.ZSTD, bomb, 1000)
    assert len(bomb) < 10_000


def stream(content: bytes, policy: Policy) -> tuple[bytes, Encoded]:
    encoder = StreamEncoder(content[:CHUNK], len(content), policy)
    stored = b"".join(encoder.feed(content[at : at + CHUNK]) for at in range(0, len(content), CHUNK))
    last, encoded = encoder.finish()
    return stored + last, encoded


@given(contents, policies, st.integers(1, 5_000))
def test_streams_come_back_in_any_pieces(content: bytes, policy: Policy, step: int) -> None:
    stored, encoded = stream(content, policy)
    assert encoded.codec in (Codec.RAW, Codec.ZSTD)
    assert (encoded.size, encoded.sha256) == (len(content), hashlib.sha256(content).digest())
    assert encoded.crc32 == crc32(stored)
    pieces = [stored[at : at + step] for at in range(0, len(stored), step)]
    assert b"".join(decode_stream(encoded.codec, pieces, encoded.size)) == content


def test_long_streams() -> None:
    content = TEXT * 3_000 + NOISE * 30
    stored, encoded = stream(content, Policy.BALANCED)
    pieces = list(
        decode_stream(encoded.codec, [stored[at : at + 777] for at in range(0, len(stored), 777)], len(content))
    )
    assert b"".join(pieces) == content
    assert max(len(piece) for piece in pieces) <= CHUNK
    for broken in (stored[:-1], stored + b"\0", stored[:-4]):
        with pytest.raises(FormatError):
            list(decode_stream(encoded.codec, [broken], len(content)))
    assert sum(len(piece) for piece in decode_stream(Codec.CONSTANT, [], 5 << 20, 9)) == 5 << 20
    encoded = encode(TEXT * 40, Policy.FAST)
    assert b"".join(decode_stream(Codec.LZ4, [encoded.stored[:9], encoded.stored[9:]], encoded.size)) == TEXT * 40


@given(st.binary(max_size=20_000).map(lambda data: data * 2))
def test_digest_and_blocks(data: bytes) -> None:
    assert digest(data) == hashlib.sha256(data).digest()
    packed = pack_block(data)
    assert len(packed) <= len(data)
    assert unpack_block(packed, len(data)) == data


def test_threads_have_their_own_contexts() -> None:
    batch = [TEXT + b"%d" % number for number in range(200)]
    expected = encode_many(batch)
    results: list[bool] = []

    def work() -> None:
        for _ in range(10):
            encoded = encode_many(batch)
            same = [Stored(item.codec, item.stored, item.size, item.parameter) for item in encoded]
            results.append(encoded == expected and decode_many(same) == batch)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40


def test_toolchain_names_libraries_and_versions() -> None:
    assert {part.split("/")[0] for part in toolchain().split()} == {"zstandard", "libzstd", "lz4"}
    assert ".".join(map(str, zstandard.ZSTD_VERSION)) in toolchain()
