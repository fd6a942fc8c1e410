"""Files that are sealed as streams: what was sealed comes back, and nothing that was altered, cut, moved or swapped."""

from __future__ import annotations

import hashlib
import hmac
import io
import itertools
import json
import random
import struct
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.support import NOON, Parts
from tests.keys import second
from tests.keys.test_shards import REPOSITORY, TENANT, Built, File, told
from tests.keys.test_tree import VECTORS
from vera_core.codec import MAX_INLINE, Stored, crc32, decode
from vera_core.errors import BadUidError, ErasedError, IntegrityError, UsageError
from vera_core.format import FileSource, ShardOptions, ShardReader, ShardWriter, sealed
from vera_core.format.sealed import (
    FIRST_PLAINTEXT,
    FIRST_SEGMENT,
    LAST_SEGMENT,
    SEGMENT,
    STREAM_HEAD,
    first_plaintext,
    segments_of,
)
from vera_core.keys import streams
from vera_core.keys.keyring import Keyring
from vera_core.keys.seals import Seals
from vera_core.keys.shards import BigFile, ShardOpener, ShardSealer, append_big
from vera_core.keys.streams import OpenedStream, Segments
from vera_core.keys.tenant import TenantKey
from vera_core.keys.tree import KeyTree
from vera_core.model import Codec, Origin, Policy
from vera_core.operations.inspector import inspect_file

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(make.__file__).parent
IDS = REPOSITORY, b"K" * 16
ZIP = b"PK\x03\x04"
"""What no stream compresses begins with."""
SMALL = 64


@contextmanager
def small_segments() -> Iterator[None]:
    """Segments of `SMALL` bytes instead of a MiB, so that a small file has many."""
    with patch.object(streams, "SEGMENT", SMALL), patch.object(sealed, "SEGMENT", SMALL):
        yield


def build(file: File, sealer: ShardSealer | None = None, policy: Policy = Policy.BALANCED) -> Built:
    """A shard of one streamed file."""
    sealer, out = sealer or ShardSealer.fresh(TENANT, 1), io.BytesIO()
    writer = ShardWriter(out, options=ShardOptions(REPOSITORY, "standard", encryption=sealer.encryption))
    content = io.BytesIO(file.content)
    big = BigFile(file.uid, file.created_at, file.media_type, file.metadata, content, len(file.content), file.origin)
    append_big(writer, big, policy, sealer)
    summary = writer.finish()
    return Built(out.getvalue(), sealer.keyring(summary.sha256), [file])


def streamed(opener: ShardOpener) -> File:
    """The only file of a shard, read as a stream."""
    [entry] = opener.reader.entries()
    found, content = opener.stream(entry)
    pieces = list(content)
    assert max(map(len, pieces), default=0) <= 1 << 20
    return told(found, b"".join(pieces))


def check_whole(built: Built) -> None:
    """Everything that a shard of one streamed file can be asked for says the same."""
    [file] = built.files
    opener = built.opener()
    reader = opener.reader
    assert (reader.encrypted, reader.streamed) == (True, True)
    [entry] = opener.find(file.uid)
    assert streamed(opener) == told(*opener.read(entry)) == file
    assert [told(*pair) for pair in opener.read_all()] == [told(*pair) for pair in opener.read_many([entry])] == [file]
    assert opener.get(file.uid) == file.content
    [facts] = opener.facts([entry])
    assert facts.sha256 == hashlib.sha256(file.content).digest()
    assert told(facts, file.content) == file
    assert (entry.sha256, entry.codec, entry.created_at) == (TENANT.keyed_digest(file.content), Codec.RAW, 0)
    assert entry.size == entry.stored_size == sum(sealed.segment_lengths(entry.stored_size))
    assert opener.check_all() == 1
    assert reader.verify(Seals.unpack(Seals.of(TENANT, built.keyring).pack())) == reader.verify()


texts = st.sampled_from(["", "text/plain", "m" * 127])
pairs = st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=9), max_size=3).map(
    lambda some: tuple(some.items())
)


@given(
    st.integers(0, 6 * SMALL + 2),
    st.booleans(),
    st.sampled_from(["a", "ü" * 256, "a/../b"]),
    st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    texts,
    pairs,
    st.one_of(st.none(), st.builds(Origin, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1))),
    st.sampled_from(Policy),
)
def test_what_was_sealed_comes_back(
    size: int,
    raw: bool,
    uid: str,
    created_at: int,
    media_type: str,
    metadata: tuple[tuple[str, str], ...],
    origin: Origin | None,
    policy: Policy,
) -> None:
    content = random.Random(size).randbytes(size)
    content = ZIP + content if raw else content.hex().encode()
    with small_segments():
        check_whole(build(File(uid, content, created_at, media_type, metadata, origin), policy=policy))


@pytest.mark.parametrize("more", [-1, 0, 1])
@pytest.mark.parametrize("count", [1, 3])
def test_around_the_ends_of_segments(count: int, more: int) -> None:
    content = ZIP + random.Random(count).randbytes(count * SEGMENT + more - 4)
    built = build(File("big", content))
    check_whole(built)
    [entry] = built.reader().entries()
    assert segments_of(entry.stored_size) == 2 + count + (more > 0)


def test_every_stream_is_as_long_as_its_segments() -> None:
    for size in range(SMALL * 5):
        with small_segments():
            segments = size // SMALL + (size % SMALL > 0)
            stored = FIRST_SEGMENT + LAST_SEGMENT + size + 28 * segments
            assert segments_of(stored) == 2 + segments
            lengths = list(sealed.segment_lengths(stored))
            assert (len(lengths), sum(lengths)) == (2 + segments, stored)
    for size in (0, 47, FIRST_SEGMENT + LAST_SEGMENT - 1, FIRST_SEGMENT + LAST_SEGMENT + 28, 1 << 60):
        with pytest.raises(IntegrityError, match="no sealed stream has"):
            segments_of(size)
    assert (FIRST_PLAINTEXT, LAST_SEGMENT, STREAM_HEAD.size, SEGMENT) == (5092, 60, 22, 1 << 20)


def test_what_is_larger_than_memory_is_a_stream_only() -> None:
    content = bytes(MAX_INLINE + 1)
    opener = build(File("big", content)).opener()
    [entry] = opener.reader.entries()
    assert entry.size < 10_000
    for attempt in (lambda: opener.read(entry), lambda: opener.get("big"), lambda: list(opener.read_all())):
        with pytest.raises(UsageError, match=r"too large for memory \(.*key=k.vera.*as a stream"):
            attempt()
    assert streamed(opener).content == content
    assert opener.facts([entry])[0].size == len(content)


class Noise:
    """A file of noise that is nowhere."""

    def __init__(self, size: int) -> None:
        self.left = size
        self.source = random.Random(1)
        self.sha256 = hashlib.sha256()

    def read(self, length: int, /) -> bytes:
        data = self.source.randbytes(min(length, self.left))
        self.left -= len(data)
        self.sha256.update(data)
        return data


def test_memory_does_not_grow_with_a_file(tmp_path: Path) -> None:
    size, path = 96 << 20, tmp_path / "big.vera"
    sealer = ShardSealer.fresh(TENANT, 1)
    noise = Noise(size)
    tracemalloc.start()
    try:
        with path.open("wb") as sink:
            writer = ShardWriter(sink, options=ShardOptions(REPOSITORY, "standard", encryption=sealer.encryption))
            append_big(writer, BigFile("big", NOON, "", (), noise, size), Policy.BALANCED, sealer)
            summary = writer.finish()
        inspect_file(path, sealer.seals(summary.sha256))
        with FileSource(path) as source:
            opener = ShardOpener(ShardReader.open(source, sealed=True), TENANT, sealer.keyring(summary.sha256))
            [entry] = opener.reader.entries()
            hasher = hashlib.sha256()
            for piece in opener.stream(entry)[1]:
                hasher.update(piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert hasher.digest() == noise.sha256.digest()
    assert peak < 24 << 20


# ---------------------------------------------------------------------- what must not open


def segments_under_test(count: int, ordinal: int = 0, root: bytes = make.ROOT) -> tuple[Segments, list[bytes], bytes]:
    """Segments of `SMALL` bytes, the sealed ones of a content in `count` of them, and its keyed digest."""
    (leaf,) = KeyTree.of_root(3, root).run(ordinal, ordinal + 1)
    segments = Segments(IDS, ordinal, leaf)
    content = make.noise(count * SMALL, count)
    first = first_plaintext(NOON, b"uid", b"", (len(content), Codec.RAW))
    made = [segments.seal(0, first)]
    made += [segments.seal(number + 1, content[number * SMALL :][:SMALL]) for number in range(count)]
    made.append(segments.seal(count + 1, hashlib.sha256(content).digest(), last=True))
    return segments, made, TENANT.keyed_digest(content)


def opens(segments: Segments, stored: bytes, digest: bytes, step: int = 1000) -> bytes:
    with small_segments():
        pieces = (stored[at : at + step] for at in range(0, len(stored), step))
        stream = OpenedStream(segments, len(stored), pieces)
        return b"".join(stream.contents(TENANT.keyed_hasher(), digest))


def test_every_bit_counts() -> None:
    segments, made, digest = segments_under_test(3)
    stored = b"".join(made)
    assert opens(segments, stored, digest) == make.noise(3 * SMALL, 3)
    bits = [*range(0, 8 * FIRST_SEGMENT, 37), *range(8 * (FIRST_SEGMENT - 20), 8 * len(stored))]
    for bit in bits:
        changed = bytearray(stored)
        changed[bit >> 3] ^= 1 << (bit & 7)
        with pytest.raises(IntegrityError, match="does not open"):
            opens(segments, bytes(changed), digest)


def test_every_byte_of_a_shard_counts() -> None:
    """What is changed is an error, for who reads with the keys, or changes nothing."""
    with small_segments():
        built = build(File("uid", ZIP + make.noise(150), NOON, "text/plain"))
        for at in range(0, len(built.data), 3):
            changed = bytearray(built.data)
            changed[at] ^= 1 << at % 8
            try:
                found = streamed(built.opener(data=bytes(changed)))
            except IntegrityError:
                continue
            assert found == built.files[0]


def test_segments_can_be_neither_cut_off_nor_moved_nor_swapped() -> None:
    segments, made, digest = segments_under_test(4)
    others = {
        "another root": segments_under_test(4, root=bytes(32))[1],
        "another place": segments_under_test(4, ordinal=1)[1],
        "another length": segments_under_test(5)[1],
    }
    first, one, two, three, four, last = made
    wrong = {
        "cut off": [first, one, two, three],
        "cut off at a segment that ends nothing": [first, one, two, three, four[:60]],
        "without the end of the content": [first, one, two, three, last],
        "without the beginning": [first, two, three, four, last],
        "reordered": [first, two, one, three, four, last],
        "twice": [first, one, one, two, three, four, last],
        "longer": [first, one, two, three, four, four, last],
        "last one first": [first, four, three, two, one, last],
        "empty": [first, last],
        "nothing": [first],
    } | {
        f"{number} of {name}": [*made[:number], other[number], *made[number + 1 :]]
        for name, other in others.items()
        for number in range(6)
        # The same key, number and bytes are the same segment.
        if other[number] != made[number]
    }
    assert len(wrong) > 20
    for name, parts in wrong.items():
        with pytest.raises(IntegrityError):
            pytest.fail(f"{name}: {opens(segments, b''.join(parts), digest)!r}")


def test_nothing_is_given_out_at_the_end_of_what_does_not_verify() -> None:
    segments, made, digest = segments_under_test(4)
    content = make.noise(4 * SMALL, 4)
    other = segments.seal(5, bytes(32), last=True)
    for parts, keyed in ((made, bytes(32)), ([*made[:-1], other], digest)):
        received = bytearray()
        stored = b"".join(parts)
        with small_segments():
            pieces = OpenedStream(segments, len(stored), [stored]).contents(TENANT.keyed_hasher(), keyed)
            with pytest.raises(IntegrityError, match="does not match its digests"):
                received.extend(itertools.chain.from_iterable(pieces))
        assert content.startswith(received)
        assert len(received) < len(content)


def test_first_segments_that_no_writer_makes() -> None:
    segments, made, digest = segments_under_test(1)
    right = first_plaintext(NOON, b"uid", b"", (SMALL, Codec.RAW))
    head = struct.pack("<qQBBHH", NOON, SMALL, 0, 0, 3, 0) + b"uid"
    assert right == head.ljust(FIRST_PLAINTEXT, b"\0")
    wrong = {
        "codec lz4": struct.pack("<qQBBHH", NOON, SMALL, 2, 0, 3, 0) + b"uid",
        "codec of nobody": struct.pack("<qQBBHH", NOON, SMALL, 9, 0, 3, 0) + b"uid",
        "parameter": struct.pack("<qQBBHH", NOON, SMALL, 0, 1, 3, 0) + b"uid",
        "size": struct.pack("<qQBBHH", NOON, 1 << 62, 0, 0, 3, 0) + b"uid",
        "larger": struct.pack("<qQBBHH", NOON, SMALL + 1, 0, 0, 3, 0) + b"uid",
        "smaller": struct.pack("<qQBBHH", NOON, SMALL - 1, 0, 0, 3, 0) + b"uid",
        "no zstd": struct.pack("<qQBBHH", NOON, SMALL, 1, 0, 3, 0) + b"uid",
        "time": struct.pack("<qQBBHH", 1 << 62, SMALL, 0, 0, 3, 0) + b"uid",
        "no uid": struct.pack("<qQBBHH", NOON, SMALL, 0, 0, 0, 0),
        "bad uid": struct.pack("<qQBBHH", NOON, SMALL, 0, 0, 3, 0) + b"a\nb",
        "attributes": struct.pack("<qQBBHH", NOON, SMALL, 0, 0, 3, 2) + b"uid\x09x",
        "beyond its end": struct.pack("<qQBBHH", NOON, SMALL, 0, 0, 3, 60_000) + b"uid",
        "something behind it": head + b"\0\0x",
    }
    for name, plaintext in wrong.items():
        made[0] = segments.seal(0, plaintext.ljust(FIRST_PLAINTEXT, b"\0"))
        with pytest.raises(IntegrityError):
            pytest.fail(f"{name}: {opens(segments, b''.join(made), digest)!r}")


def resealed(built: Built, change: dict[str, Any]) -> bytes:
    """The shard with another digest or keyed uid in its block, all checksums right again."""
    parts = Parts.of(built.data)
    [block] = parts.groups
    if "digest" in change:
        block.proofs = change["digest"] + block.proofs[32:]
    if "contents" in change:
        block.contents = change["contents"]
        block.proofs = block.proofs[:32] + crc32(block.contents).to_bytes(4, "little")
    return parts.seal()


def test_what_was_altered_with_all_sums_made_right_is_found_with_the_keys(tmp_path: Path) -> None:
    with small_segments():
        built = build(File("uid", ZIP + make.noise(1000)))
        [entry] = built.reader().entries()
        stored = built.data[entry.offset : entry.offset + entry.stored_size]
        flipped = bytearray(stored)
        flipped[-200] ^= 1
        at = FIRST_SEGMENT + 28 + SMALL
        swapped = stored[:FIRST_SEGMENT] + stored[at : at + 28 + SMALL] + stored[FIRST_SEGMENT:at]
        swapped += stored[at + 28 + SMALL :]
        for change in ({"digest": bytes(32)}, {"contents": bytes(flipped)}, {"contents": swapped}):
            data = resealed(built, change)
            path = tmp_path / "altered.vera"
            path.write_bytes(data)
            inspect_file(path)
            with pytest.raises(IntegrityError, match=rf"uid={entry.uid}, entry=0"):
                inspect_file(path, Seals.of(TENANT, built.keyring))
            opener = built.opener(data=data)
            for attempt in (streamed, lambda opener: opener.get("uid"), ShardOpener.check_all):
                with pytest.raises(IntegrityError, match=rf"key=k.vera.*uid={entry.uid}, entry=0"):
                    attempt(opener)


def test_under_the_name_of_another_it_is_refused() -> None:
    sealer, out = ShardSealer.fresh(TENANT, 1), io.BytesIO()
    writer = ShardWriter(out, options=ShardOptions(REPOSITORY, "standard", encryption=sealer.encryption))
    stream = sealer.seal_stream(BigFile("one", NOON, "", (), io.BytesIO(b"x"), 1), Policy.BALANCED)
    writer.append_sealed(TENANT.keyed_uid("two"), stream)
    keyring = sealer.keyring(writer.finish().sha256)
    built = Built(out.getvalue(), keyring, [])
    opener = built.opener()
    [entry] = opener.find("two")
    ways = (
        lambda: opener.stream(entry),
        lambda: opener.facts([entry]),
        lambda: opener.reader.verify(Seals.of(TENANT, built.keyring)),
    )
    for way in ways:
        with pytest.raises(IntegrityError, match="under the name of another"):
            way()


def test_without_its_key_it_does_not_open() -> None:
    built = build(File("uid", b"gone"))
    gone = built.keyring.puncture([0])
    opener = built.opener(keyring=gone)
    [entry] = opener.reader.entries()
    assert not opener.holds(entry)
    ways = (
        lambda: opener.stream(entry),
        lambda: opener.read(entry),
        lambda: opener.facts([entry]),
        lambda: opener.reader.verify(Seals.of(TENANT, gone)),
    )
    for way in ways:
        with pytest.raises(ErasedError):
            way()
    assert opener.check_all(opener.holds) == 0
    other = build(File("uid", b"gone"))
    stranger = Keyring(other.keyring.header, KeyTree.fresh(1))
    for keyring, match in ((other.keyring, "not that of this shard"), (stranger, "not that of this shard")):
        with pytest.raises(IntegrityError, match=match):
            built.opener(keyring=keyring).stream(entry)
    tenant = TenantKey(TENANT.header, bytes(32))
    with pytest.raises(IntegrityError, match="under the name of another"):
        built.opener(tenant=tenant).stream(entry)


# ---------------------------------------------------------------------- sealing


def test_what_can_t_be_sealed_is_refused() -> None:
    sealer = ShardSealer.fresh(TENANT, 1)
    options = ShardOptions(REPOSITORY, "standard", encryption=sealer.encryption)
    right = BigFile("uid", NOON, "", (), io.BytesIO(b"content"), 7)

    def attempt(file: BigFile) -> None:
        append_big(ShardWriter(io.BytesIO(), options=options), file, Policy.BALANCED, sealer)

    with pytest.raises(BadUidError):
        attempt(right._replace(uid="a\nb"))
    for wrong in (right._replace(created_at=1 << 60), right._replace(size=-1), right._replace(media_type="m" * 128)):
        with pytest.raises(UsageError):
            attempt(wrong)
    for size in (0, 6, 8):
        with pytest.raises(UsageError, match="the file holds"):
            attempt(right._replace(size=size, content=io.BytesIO(b"content")))
    plain = ShardWriter(io.BytesIO(), options=ShardOptions(REPOSITORY, "standard"))
    with pytest.raises(UsageError, match="needs an encrypted shard"):
        append_big(plain, right, Policy.BALANCED, sealer)
    writer = ShardWriter(io.BytesIO(), options=options)
    with pytest.raises(UsageError, match="keyed uids"):
        writer.append_sealed("uid", sealer.seal_stream(right, Policy.BALANCED))
    writer.append_sealed(
        TENANT.keyed_uid("uid"), sealer.seal_stream(right._replace(content=io.BytesIO(b"content")), Policy.BALANCED)
    )
    with pytest.raises(UsageError, match="shard of its own"):
        writer.append_sealed(TENANT.keyed_uid("uid"), sealer.seal_stream(right, Policy.BALANCED))


def test_the_same_key_for_two_contents_gives_two_nonces() -> None:
    """Which must not be; and if it is, it shows no more than which segments are equal."""
    sealer = make.sealer()
    one, two = (build(File("uid", ZIP + content * 70), sealer) for content in (b"a", b"b"))
    nonces = {
        (built.data[256 + at : 256 + at + 12])
        for built in (one, two)
        for at in (0, FIRST_SEGMENT, FIRST_SEGMENT + 28 + 74)
    }
    assert len(nonces) == 5, "only the first segments are equal"


def test_nothing_of_it_shows() -> None:
    file = File(
        "customers/4711.zip", ZIP + b"a telling content" * 99, NOON, "application/x-telling", (("who", "ACME"),)
    )
    built = build(file)
    for said in (b"4711", b"telling", b"ACME", ZIP, NOON.to_bytes(8, "little"), hashlib.sha256(file.content).digest()):
        assert said not in built.data
    lengths = {len(build(File("u" * n, b"x" * 500, NOON, "m" * n)).data) for n in (1, 50, 100)}
    assert len(lengths) == 1, "not even how long uid and attributes are"


# ---------------------------------------------------------------------- by the specification


def test_vectors() -> None:
    assert second.vectors()["segment"] == VECTORS["segment"]
    for vector in VECTORS["segment"]:
        ids = bytes.fromhex(vector["repository_id"]), bytes.fromhex(vector["keyring_id"])
        segments = Segments(ids, vector["ordinal"], bytes.fromhex(vector["leaf"]))
        plaintext, stored = bytes.fromhex(vector["plaintext"]), bytes.fromhex(vector["stored"])
        last = bool(vector["last"])
        assert segments.seal(vector["number"], plaintext, last=last) == stored
        assert segments.open(vector["number"], stored, last=last) == plaintext
        for number, end in ((vector["number"] + 1, last), (vector["number"], not last)):
            with pytest.raises(IntegrityError, match=f"does not open.*segment={number}"):
                segments.open(number, stored, last=end)


@pytest.mark.parametrize("name", ["encrypted-stream", "encrypted-stream-zstd", "encrypted-stream-empty"])
def test_a_golden_shard_opens_with_another_implementation(name: str) -> None:
    """docs/keys-v1.md and docs/format-v1.md are all that it takes."""
    data = (HERE / f"{name}.vera").read_bytes()
    expected: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    root, secret = (bytes.fromhex(expected["secrets"][key]) for key in ("root", "tenant"))
    uid_key, content_key = (second.subkey(secret, f"vera-tenant-{use}-v1") for use in ("uid", "content"))
    ids = bytes.fromhex(expected["repository_id"]) + bytes.fromhex(expected["encryption"]["keyring_id"])
    [shown], [inside] = expected["entries"], expected["opened"]
    leaf = second.leaf(root, expected["encryption"]["depth"], 0)
    stored = data[shown["offset"] : shown["offset"] + shown["stored_size"]]
    first, *content, last = second.opened_segments(leaf, ids, 0, stored)
    created_at, size, codec, parameter, uid_size, attributes = struct.unpack_from("<qQBBHH", first)
    assert (created_at, size, parameter) == tuple(inside[key] for key in ("created_at", "size", "parameter"))
    uid, rest = first[22 : 22 + uid_size], first[22 + uid_size :]
    assert uid.decode() == inside["uid"]
    assert hmac_hex(uid_key, uid)[:32] == shown["uid"]
    assert (rest[1 : 1 + rest[0]].decode() if attributes else "") == inside["media_type"]
    assert not rest[attributes:].strip(b"\0")
    assert len(first) == 5092
    plain = decode(Stored(Codec(codec), b"".join(content), size, 0))
    assert hashlib.sha256(plain).hexdigest() == last.hex() == inside["sha256"]
    assert hmac_hex(content_key, plain) == shown["sha256"]


def hmac_hex(key: bytes, message: bytes) -> str:
    return hmac.new(key, message, hashlib.sha256).hexdigest()
