"""Decoding: exactly the right bytes or a FormatError, from whole contents, batches and streams, with dictionaries."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import TYPE_CHECKING

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vera_core.codec import (
    MAX_INLINE,
    NO_DICTIONARIES,
    Dictionaries,
    Stored,
    crc32,
    decode,
    decode_many,
    digest,
    unpack_block,
)
from vera_core.dictionary import train
from vera_core.encoding import Encoded, Encoder, Trained, encode, pack_block
from vera_core.errors import FormatError
from vera_core.format.stream import CHUNK, StreamEncoder, Whole, decode_stream
from vera_core.model import Codec, Policy
from vera_core.zstd_frame import block_frame

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = b'{"invoice": 4711, "customer": "ACME", "lines": [1, 2, 3]}' * 20
NOISE = random.Random(7).randbytes(64 << 10)


def record(number: int) -> bytes:
    return b'{"invoice": %d, "customer": "ACME %d", "currency": "EUR", "lines": [%d]}' % (
        number,
        number % 9,
        number * 7,
    )


def trained(first: int) -> bytes:
    made = train([record(number) for number in range(first, first + 200)], 3, 2048)
    assert made is not None
    return made


FORMATTED, OTHER, RAW = trained(0), trained(5_000), b"".join(record(number) for number in range(20))
DICTIONARIES = Dictionaries((FORMATTED, OTHER, RAW))
ENCODER = Encoder(Policy.BALANCED, Trained((FORMATTED, OTHER, RAW), {"one": 1, "two": 2, "three": 3}))

contents = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda unit, times: unit * times, st.binary(min_size=1, max_size=40), st.integers(1, 2000)),
    st.integers(0, 40_000).map(lambda size: NOISE[:size]),
    st.integers(0, 10**6).map(record),
    st.sampled_from([b"", b"\0", b"\0" * 70_000, TEXT, TEXT * 40, b"\x89PNG\r\n" + TEXT, NOISE]),
)
policies = st.sampled_from(Policy)


def size_or_refusal(attempt: Callable[[], bytes]) -> int | None:
    """The size of what came, None for a FormatError; anything else fails the test."""
    try:
        return len(attempt())
    except FormatError:
        return None


def stored(encoded: Encoded) -> Stored:
    return Stored(encoded.codec, encoded.stored, encoded.size, encoded.parameter)


def with_dictionary(content: bytes, kind: str) -> Stored:
    """`content` by one of the dictionaries."""
    [encoded] = ENCODER.encode((content,), (kind,))
    assert encoded.codec in {Codec.ZSTD, Codec.ZSTD_BLOCK}
    assert encoded.parameter == {"one": 1, "two": 2, "three": 3}.get(kind, 0)
    return stored(encoded)


def streamed(item: Stored, dictionaries: Dictionaries = NO_DICTIONARIES) -> bytes:
    return b"".join(decode_stream(Whole(item.codec, item.size, item.parameter), [item.stored], dictionaries))


def every_way(item: Stored, dictionaries: Dictionaries = DICTIONARIES) -> set[int | None]:
    """The sizes that come of an item alone, in a batch and as a stream; None for a FormatError."""
    return {
        size_or_refusal(lambda: decode(item, dictionaries)),
        size_or_refusal(lambda: streamed(item, dictionaries)),
        size_or_refusal(lambda: decode_many([item, item], dictionaries)[1]),
    }


@given(st.lists(st.tuples(contents, st.sampled_from(["one", "two", "three", "none"])), max_size=12))
def test_batches_and_streams_equal_one_by_one(batch: list[tuple[bytes, str]]) -> None:
    made = [content for content, _ in batch]
    items = [stored(encoded) for encoded in ENCODER.encode(made, [kind for _, kind in batch])]
    assert decode_many(items, DICTIONARIES) == made
    assert [decode(item, DICTIONARIES) for item in items] == made
    assert [streamed(item, DICTIONARIES) for item in items] == made


def test_larger_than_inline_is_refused() -> None:
    for size in (MAX_INLINE + 1, -1):
        with pytest.raises(FormatError, match="decoded in memory"):
            decode(Stored(Codec.CONSTANT, b"", size))


arbitrary = st.builds(
    Stored, st.sampled_from(Codec), st.binary(max_size=60), st.integers(0, 5_000), st.integers(0, 300)
)


@given(arbitrary)
def test_arbitrary_bytes_raise_format_errors_only(item: Stored) -> None:
    for dictionaries in (NO_DICTIONARIES, DICTIONARIES):
        assert every_way(item, dictionaries) <= {item.size, None}


@given(st.sampled_from(["fast", "none", "one", "two", "three"]), st.data())
def test_damage_never_yields_other_than_size_bytes(kind: str, data: st.DataObject) -> None:
    item = stored(encode(TEXT * 30, Policy.FAST)) if kind == "fast" else with_dictionary(TEXT * 30, kind)
    changed = bytearray(item.stored)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    damaged = item._replace(stored=bytes(changed))
    assert every_way(damaged) <= {item.size, None}


@pytest.mark.parametrize("step", [1, 2, 5, 1000])
@pytest.mark.parametrize("head", [b"\x60\x2c\0", b"\xc0\x68\x2c\x01\0\0\0\0\0\0"], ids=["segment", "window"])
def test_an_empty_compressed_block_is_refused_however_it_comes(head: bytes, step: int) -> None:
    """libzstd refuses it in a whole frame, and passed over it in a stream."""
    run = (300 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"x"  # the last block: 300 times "x"
    empty = (2 << 1).to_bytes(3, "little")
    for blocks, right in ((run, True), (empty + run, False), (empty * 2 + run, False)):
        stored = head + blocks
        pieces = [stored[at : at + step] for at in range(0, len(stored), step)]
        item = Stored(Codec.ZSTD, stored, 300)
        attempts = (
            lambda item=item: decode(item),
            lambda item=item: decode_many([item, item])[0],
            lambda pieces=pieces: b"".join(decode_stream(Whole(Codec.ZSTD, 300), pieces)),
        )
        assert [size_or_refusal(attempt) for attempt in attempts] == [300 if right else None] * 3


@pytest.mark.parametrize("codec", [Codec.RAW, Codec.ZSTD, Codec.LZ4])
def test_exact_end(codec: Codec) -> None:
    policy = Policy.FAST if codec is Codec.LZ4 else Policy.BALANCED
    item = stored(encode({Codec.RAW: NOISE, Codec.ZSTD: TEXT * 3000}.get(codec, TEXT * 400), policy))
    assert item.codec is codec
    frames = (item.stored + b"\0", item.stored[:-1], b"", item.stored * 2, item.stored + zstandard.compress(b"more"))
    wrong = [item._replace(stored=frame) for frame in frames]
    wrong += [item._replace(size=size) for size in (0, item.size - 1, item.size + 1)]
    for changed in [*wrong, item._replace(parameter=1)]:
        with pytest.raises(FormatError):
            decode(changed)
        with pytest.raises(FormatError):
            decode_many([item, changed])
    for changed in wrong:
        with pytest.raises(FormatError):
            streamed(changed)


@given(st.one_of(st.integers(1, 600), st.integers(65_000, 66_000)), st.sampled_from(["none", "one", "three"]))
def test_a_block_is_a_frame_without_what_follows_from_sizes(size: int, kind: str) -> None:
    content = (TEXT * 999)[:size]
    [encoded] = ENCODER.encode((content,), (kind,))
    item = stored(encoded)
    if encoded.codec is Codec.ZSTD_BLOCK:
        frame = zstandard.FRAME_HEADER + block_frame(encoded.stored, size)
        alone = Stored(Codec.ZSTD, frame[4:], size, encoded.parameter)
        assert every_way(alone) == every_way(item) == {size}
        assert decode(alone, DICTIONARIES) == decode(item, DICTIONARIES) == content
        assert len(frame) - len(encoded.stored) == (9 if size < 256 else 10)
    assert encoded.codec is not Codec.ZSTD or size > 65_791


def test_blocks_that_the_format_forbids() -> None:
    item = stored(encode(TEXT * 30))
    assert item.codec is Codec.ZSTD_BLOCK
    assert every_way(item) == {item.size}
    wrong = [item._replace(stored=stored) for stored in (b"", b"x", item.stored[:-1], bytes(item.size), bytes(1 << 22))]
    wrong += [item._replace(size=size) for size in (-1, 0, 1, 255, 256, item.size - 1, item.size + 1, 65_792, 1 << 40)]
    for changed in wrong:
        assert every_way(changed) == {None}, changed
    with pytest.raises(FormatError, match=r"a zstd block of 0 bytes is stored for a content of 99"):
        decode(Stored(Codec.ZSTD_BLOCK, b"", 99))


def magicless(content: bytes, **options: int) -> bytes:
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, **options)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def test_frames_that_the_format_forbids() -> None:
    good = magicless(TEXT, compression_level=3, write_content_size=1)
    assert decode(Stored(Codec.ZSTD, good, len(TEXT))) == TEXT
    unsized = magicless(TEXT, compression_level=3, write_content_size=0)
    checked = magicless(TEXT, compression_level=3, write_content_size=1, write_checksum=1)
    for frame in (unsized, checked):
        with pytest.raises(FormatError, match="states no content size"):
            decode(Stored(Codec.ZSTD, frame, len(TEXT)))
    wide = TEXT * 12_000
    assert 8 << 20 < len(wide) <= MAX_INLINE
    with pytest.raises(FormatError, match="a window of"):
        decode(Stored(Codec.ZSTD, magicless(wide, window_log=24, write_content_size=1), len(wide)))


def test_a_frame_without_content_is_refused() -> None:
    """An empty content is raw; a batch of such frames makes zstandard free its memory twice, which ends the process."""
    empty = Stored(Codec.ZSTD, bytes.fromhex("2000010000"), 0)
    assert zstandard.decompress(zstandard.FRAME_HEADER + empty.stored) == b""
    for count in (1, 3):
        with pytest.raises(FormatError, match="states 0 bytes"):
            decode_many([empty] * count)
    with pytest.raises(FormatError, match="states 0 bytes"):
        decode(empty)
    with pytest.raises(FormatError):
        streamed(empty)


def test_a_bomb_is_refused_by_its_header() -> None:
    bomb = Stored(Codec.ZSTD, magicless(bytes(200 << 20), compression_level=1, write_content_size=1), 1000)
    attempts: list[Callable[[], bytes]] = [
        lambda: decode(bomb),
        lambda: decode_many([bomb])[0],
        lambda: streamed(bomb),
    ]
    for attempt in attempts:
        with pytest.raises(FormatError, match="states 209715200 bytes"):
            attempt()
    assert len(bomb.stored) < 10_000


@pytest.mark.parametrize("kind", ["one", "two", "three"])
def test_frames_of_another_dictionary(kind: str) -> None:
    """Without its dictionary a frame never decodes; with a wrong one it may, to as many bytes, which SHA-256 tells."""
    content = record(77) * 3
    item = with_dictionary(content, kind)
    attempts: list[Callable[[], bytes]] = [
        lambda: decode(item),
        lambda: decode_many([item])[0],
        lambda: streamed(item),
    ]
    for attempt in attempts:
        with pytest.raises(FormatError, match=f"dictionary {item.parameter} is not in this shard"):
            attempt()
    with pytest.raises(FormatError, match="dictionary 9 is not in this shard"):
        decode(item._replace(parameter=9), DICTIONARIES)
    for other in {0, 1, 2, 3} - {item.parameter}:
        assert every_way(item._replace(parameter=other)) <= {item.size, None}


@pytest.mark.parametrize(
    "data", [FORMATTED[:8], FORMATTED[:99], FORMATTED[:4] + bytes(900), FORMATTED[:8] + NOISE[:999]]
)
def test_dictionaries_that_are_none(data: bytes) -> None:
    with pytest.raises(FormatError, match="refuses a dictionary"):
        Dictionaries((FORMATTED, data))


@given(st.integers(0, len(FORMATTED) - 1), st.integers(1, 255))
def test_damaged_dictionaries(at: int, flip: int) -> None:
    """Their checksum is the shard's business; here nothing but a FormatError comes of them."""
    changed = bytearray(FORMATTED)
    changed[at] ^= flip
    item = with_dictionary(record(5), "one")

    def attempt() -> bytes:
        return decode(item, Dictionaries((bytes(changed),)))

    assert size_or_refusal(attempt) in (item.size, None)


def test_any_bytes_are_a_dictionary_of_raw_content() -> None:
    for data in (b"", b"x", NOISE, bytes(128 << 10)):
        encoder = Encoder(Policy.BALANCED, Trained((data,), {"": 1}))
        [encoded] = encoder.encode((TEXT,))
        assert encoded.parameter == 1
        assert decode(stored(encoded), Dictionaries((data,))) == TEXT


def stream(content: bytes, policy: Policy) -> tuple[bytes, Encoded]:
    encoder = StreamEncoder(content[:CHUNK], len(content), policy)
    parts = b"".join(encoder.feed(content[at : at + CHUNK]) for at in range(0, len(content), CHUNK))
    last, encoded = encoder.finish()
    return parts + last, encoded


@given(contents, policies, st.integers(1, 5_000))
def test_streams_come_back_in_any_pieces(content: bytes, policy: Policy, step: int) -> None:
    whole, encoded = stream(content, policy)
    assert encoded.codec in (Codec.RAW, Codec.ZSTD)
    assert (encoded.size, encoded.sha256) == (len(content), hashlib.sha256(content).digest())
    assert encoded.crc32 == crc32(whole)
    pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
    assert b"".join(decode_stream(Whole(encoded.codec, encoded.size), pieces)) == content


def test_long_streams() -> None:
    content = TEXT * 3_000 + NOISE * 30
    whole, encoded = stream(content, Policy.BALANCED)
    pieces = list(
        decode_stream(Whole(encoded.codec, len(content)), [whole[at : at + 777] for at in range(0, len(whole), 777)])
    )
    assert b"".join(pieces) == content
    assert max(len(piece) for piece in pieces) <= CHUNK
    for broken in (whole[:-1], whole + b"\0", whole[:-4]):
        with pytest.raises(FormatError):
            list(decode_stream(Whole(encoded.codec, len(content)), [broken]))
    assert sum(len(piece) for piece in decode_stream(Whole(Codec.CONSTANT, 5 << 20, 9), [])) == 5 << 20
    encoded = encode(TEXT * 40, Policy.FAST)
    cut = [encoded.stored[:9], encoded.stored[9:]]
    assert b"".join(decode_stream(Whole(Codec.LZ4, encoded.size), cut)) == TEXT * 40


@given(st.binary(max_size=20_000).map(lambda data: data * 2))
def test_digest_and_blocks(data: bytes) -> None:
    assert digest(data) == hashlib.sha256(data).digest()
    packed = pack_block(data)
    assert len(packed) <= len(data)
    assert unpack_block(packed, len(data)) == data


def test_threads_share_dictionaries() -> None:
    batch = [record(number) for number in range(300)]
    items = [stored(item) for item in ENCODER.encode(batch, ["one", "two", "three"] * 100)]
    dictionaries = Dictionaries((FORMATTED, OTHER, RAW))
    results: list[bool] = []

    def work() -> None:
        for _ in range(10):
            whole = decode_many(items, dictionaries) == batch
            results.append(whole and [decode(item, dictionaries) for item in items] == batch)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 40
