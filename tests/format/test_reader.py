"""The reader alone: how many requests it makes, what its errors name, and how it treats a source that lies."""

from __future__ import annotations

import io
import random
import threading
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.format.support import NOON, OPTIONS, CountingSource, File, Parts, opened, pack
from vera_core.codec import Encoded, digest, encode
from vera_core.errors import FormatError, UnavailableError, UsageError
from vera_core.format import SUFFIX, BytesSource, FileSource, ShardReader, ShardWriter
from vera_core.format.stream import CHUNK
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NOISE = random.Random(1).randbytes(1 << 20)


def records(count: int) -> tuple[bytes, list[str]]:
    """A shard of `count` small incompressible files (600 stored bytes each) under UUIDs."""
    source = random.Random(count)
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    uids = [str(uuid.UUID(int=source.getrandbits(128))) for _ in range(count)]
    for number, uid in enumerate(uids):
        at = source.randrange(len(NOISE) - 600)
        content = NOISE[at : at + 600]
        encoded = Encoded(Codec.RAW, 0, content, 0, digest(content), 600)
        writer.append(uid, NOON + number * 431_000, encoded, media_type="application/json")
    writer.finish()
    return out.getvalue(), uids


@pytest.fixture(scope="module")
def large() -> tuple[bytes, list[str]]:
    """200,000 files."""
    return records(200_000)


def test_a_small_shard_takes_one_request() -> None:
    data, _ = pack([File(f"uid-{number}", b"text %d " % number * 40) for number in range(20)])
    assert len(data) < SUFFIX
    source = CountingSource(data)
    reader = ShardReader.open(source)
    assert [reader.read(entry) for entry in reader.find("uid-7")] == [b"text 7 " * 40]
    assert source.requests == [len(data)]


def test_a_cold_lookup_takes_three_requests_and_64_kb_at_200_000(large: tuple[bytes, list[str]]) -> None:
    data, uids = large
    for uid in random.Random(2).sample(uids, 20):
        source = CountingSource(data)
        reader = ShardReader.open(source)
        [entry] = reader.find(uid)
        reader.source.read_at(entry.offset, entry.stored_size)
        assert source.requests[0] == SUFFIX
        assert source.requests[-1] == entry.stored_size
        assert len(source.requests) <= 3
        assert sum(source.requests) <= 64 << 10


def test_a_warm_lookup_takes_one(large: tuple[bytes, list[str]]) -> None:
    data, uids = large
    source = CountingSource(data)
    reader = ShardReader.open(source)
    [first] = reader.find(uids[0])
    source.requests.clear()
    assert reader.find(uids[0]) == [first]
    assert source.requests == []
    assert reader.find("no such uid") == []
    assert len(source.requests) <= 1


def test_listing_takes_few_requests(large: tuple[bytes, list[str]]) -> None:
    data, uids = large
    source = CountingSource(data)
    reader = ShardReader.open(source)
    assert [entry.uid for entry in reader.entries()] == uids
    assert len(source.requests) <= 2 + (reader.footer.pages_size >> 22) + 1


def test_the_page_cache_is_bounded(large: tuple[bytes, list[str]]) -> None:
    data, uids = large
    reader = ShardReader.open(BytesSource(data), cache_bytes=300_000)
    for uid in uids[:2_000]:
        assert reader.find(uid)[0].uid == uid
        assert reader.cached_bytes <= 300_000


def test_threads_share_a_reader() -> None:
    files = [File(f"uid-{number}", b"text %d " % number * 40) for number in range(3000)]
    data, _ = pack(files)
    reader = ShardReader.open(BytesSource(data), cache_bytes=100_000)
    wrong: list[str] = []
    found: list[str] = []

    def work(seed: int) -> None:
        for file in random.Random(seed).choices(files, k=400):
            wrong.extend(file.uid for entry in reader.find(file.uid) if reader.read(entry) != file.content)
            found.extend(entry.uid for entry in reader.find(file.uid))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(found) == 1600


def test_errors_name_object_and_entry() -> None:
    data, _ = pack([File("first", b"a" * 300 + b"b" * 300), File("second", NOISE[:500])])
    [entry] = opened(data).find("second")
    damaged = bytearray(data)
    damaged[entry.offset] ^= 1
    reader = opened(bytes(damaged))
    for attempt in (
        lambda: reader.read(entry),
        lambda: b"".join(reader.read_stream(entry)),
        lambda: list(reader.read_all()),
        reader.verify,
    ):
        with pytest.raises(FormatError) as caught:
            attempt()
        assert caught.value.where == {"bucket": "b", "key": "k.vera", "version_id": "v1", "uid": "second", "entry": "1"}
        assert caught.value.todo


def test_a_wrong_digest_is_never_data() -> None:
    """Stored bytes and CRC are right, the content is not what was archived."""
    content = NOISE[:800]
    lie = encode(content)._replace(sha256=digest(b"other"))
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    writer.append("liar", NOON, lie)
    writer.append("honest", NOON, encode(b"text " * 50))
    writer.finish()
    reader = opened(out.getvalue())
    [entry] = reader.find("liar")
    with pytest.raises(FormatError, match="SHA-256"):
        reader.read(entry)
    with pytest.raises(FormatError, match=r"SHA-256.*uid=liar"):
        list(reader.read_all())
    with pytest.raises(FormatError, match=r"SHA-256.*uid=liar"):
        reader.verify()
    received: list[bytes] = []
    with pytest.raises(FormatError):
        received.extend(reader.read_stream(entry))
    assert received == [], "the last (here only) piece is held back until all has verified"


def big(content: bytes) -> bytes:
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    writer.append_stream("big", NOON, io.BytesIO(content), len(content))
    writer.finish()
    return out.getvalue()


@pytest.mark.parametrize("content", [NOISE * 20, NOISE.hex().encode() * 9], ids=["raw", "zstd"])
def test_streaming_a_large_file(content: bytes) -> None:
    data = big(content)
    source = CountingSource(data)
    reader = ShardReader.open(source)
    assert reader.streamed
    [entry] = reader.find("big")
    with pytest.raises(UsageError, match="as a stream"):
        reader.read(entry)
    with pytest.raises(UsageError, match="as a stream"):
        list(reader.read_all())
    pieces = list(reader.read_stream(entry))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= CHUNK
    assert max(source.requests[1:]) <= CHUNK
    assert reader.verify().content_bytes == len(content)
    damaged = bytearray(data)
    damaged[entry.offset + entry.stored_size // 2] ^= 4
    reader = opened(bytes(damaged))
    received: list[bytes] = []
    with pytest.raises(FormatError):
        received.extend(reader.read_stream(entry))
    assert sum(map(len, received)) < len(content)


class Failing(BytesSource):
    """Fails, or gives other than what was asked for, once the suffix is read."""

    def __init__(self, data: bytes, answer: bytes | None) -> None:
        super().__init__(data, key="lying")
        self.answer = answer

    def read_at(self, offset: int, length: int) -> bytes:
        if self.answer is None:
            raise UnavailableError("the store does not answer", key="lying")
        return self.answer


def test_a_source_that_fails_or_lies() -> None:
    data, _ = pack([File(f"uid-{number}", NOISE[number : number + 2000]) for number in range(100)])
    entry = next(iter(opened(data).entries()))
    with pytest.raises(UnavailableError, match="does not answer"):
        ShardReader.open(Failing(data, None)).read(entry)
    for answer in (b"", b"short", data):
        with pytest.raises(FormatError, match=r"were asked for and .* came .*key=lying"):
            ShardReader.open(Failing(data, answer)).read(entry)

    class Cut(BytesSource):
        def read_suffix(self, length: int) -> tuple[bytes, int]:
            return b"", 5000

    with pytest.raises(FormatError, match="not read whole"):
        ShardReader.open(Cut(data))


def test_files_are_sources(tmp_path: Path) -> None:
    data, _ = pack([File("uid", NOISE[: 100 << 10])])
    path = tmp_path / "shard.vera"
    path.write_bytes(data)
    with FileSource(path) as source:
        reader = ShardReader.open(source)
        assert reader.read(reader.find("uid")[0]) == NOISE[: 100 << 10]
    source.close()
    path.write_bytes(data[:-1])
    with FileSource(path) as source, pytest.raises(FormatError, match=str(path)):
        ShardReader.open(source)


def test_header_of_another_shard() -> None:
    data, _ = pack([File("uid", b"text")])
    other, _ = pack([File("uid", b"text")], OPTIONS.__class__(b"another-reposito", "standard"))
    with pytest.raises(FormatError, match="different shards"):
        opened(other[:256] + data[256:])
    assert opened(other).footer.repository_id == b"another-reposito"
    assert Parts.of(other).footer.entries == 1


def test_entries_can_be_stopped_early() -> None:
    data, _ = pack([File(f"uid-{number}", b"x") for number in range(2000)])
    walk: Iterator[object] = iter(opened(data).entries())
    assert next(walk)
    del walk
