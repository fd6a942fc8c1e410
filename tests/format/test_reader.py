"""The reader alone: how many requests it makes, what its errors name, and how it treats a source that lies."""

from __future__ import annotations

import io
import random
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.format.large import noise, records
from tests.format.support import NOON, OPTIONS, CountingSource, File, opened, ordered, pack
from vera_core.codec import digest
from vera_core.encoding import encode
from vera_core.errors import FormatError, UnavailableError, UsageError
from vera_core.format import SUFFIX, BytesSource, FileSource, ShardReader, ShardWriter
from vera_core.format.source import MappedFile
from vera_core.format.stream import CHUNK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.format.large import Large

NOISE = noise(1 << 20)


@pytest.fixture(scope="module")
def large() -> Large:
    """200,000 files like JSON records of 2.8 KB, with a dictionary of 16 KiB."""
    return records(200_000)


@pytest.fixture(scope="module")
def huge() -> Large:
    """1,000,000 of these, stored as 120 bytes, so that they fit into memory."""
    return records(1_000_000, 120)


def test_a_small_shard_takes_one_request() -> None:
    data, _ = pack([File(f"uid-{number}", b"text %d " % number * 40) for number in range(20)])
    assert len(data) < SUFFIX
    source = CountingSource(data)
    reader = ShardReader.open(source)
    assert [reader.read(entry) for entry in reader.find("uid-7")] == [b"text 7 " * 40]
    assert reader.get("uid-8") == b"text 8 " * 40
    assert source.requests == [len(data)]


def cold(shard: Large, uid: str) -> list[int]:
    """The bytes of each request of a cold lookup, its dictionary included."""
    source = CountingSource(shard.data)
    reader = ShardReader.open(source)
    [entry] = reader.find(uid)
    assert len(reader.dictionaries()) == 1
    # What is stored is no zstd frame, so `read` stops behind its request.
    with pytest.raises(FormatError, match=r"zstd .*"):
        reader.read(entry)
    assert source.requests[0] == SUFFIX
    assert source.requests[-1] == entry.stored_size or entry.offset > len(shard.data) - SUFFIX
    return source.requests


def test_a_cold_lookup_takes_three_requests_and_64_kb_at_200_000(large: Large) -> None:
    for uid in random.Random(2).sample(large.uids, 30):
        requests = cold(large, uid)
        assert len(requests) <= 3
        assert sum(requests) <= 64 << 10


def test_a_cold_lookup_takes_three_requests_and_128_kib_at_1_000_000(huge: Large) -> None:
    for uid in [huge.uids[0], huge.uids[-1], *random.Random(3).sample(huge.uids, 30)]:
        requests = cold(huge, uid)
        assert len(requests) <= 3
        assert sum(requests) <= 128 << 10


def test_a_warm_lookup_takes_one(huge: Large) -> None:
    source = CountingSource(huge.data)
    reader = ShardReader.open(source)
    [first] = reader.find(huge.uids[0])
    source.requests.clear()
    assert reader.find(huge.uids[0]) == [first]
    assert source.requests == []
    with pytest.raises(FormatError):
        reader.get(huge.uids[0])
    assert source.requests == [first.stored_size]
    assert reader.find("no such uid") == []
    assert reader.get("no such uid") is None
    assert len(source.requests) <= 2


def test_listing_reads_blocks_only(large: Large) -> None:
    source = CountingSource(large.data)
    reader = ShardReader.open(source)
    assert [entry.uid for entry in reader.entries()] == large.uids
    blocks = sum(reader.directory.sizes)
    assert sum(source.requests[1:]) <= blocks
    assert len(source.requests) <= 1 + len(reader.directory)


def test_reading_all_takes_requests_of_8_mib() -> None:
    files = ordered([File(f"uid-{number}", NOISE[number % 3000 * 200 :][:60_000]) for number in range(500)])
    data, _ = pack(files)
    source = CountingSource(data)
    assert [content for _, content in ShardReader.open(source).read_all()] == [file.content for file in files]
    assert len(source.requests) <= 2 + len(data) // (7 << 20)
    assert sum(source.requests) <= len(data) + SUFFIX


def test_many_are_read_in_the_order_of_their_places() -> None:
    files = [File(f"uid-{number}", NOISE[number * 100 :][: number % 5000]) for number in range(2000)]
    files += [replace_uid(file, f"copy of {file.uid}") for file in files[:500]]
    by_uid = {file.uid: file.content for file in files}
    data, _ = pack(files)
    source = Coalescing(data)
    reader = ShardReader.open(source)
    entries = list(reader.entries())
    random.Random(1).shuffle(entries)
    source.places = []
    found = list(reader.read_many(entries[:900]))
    assert {entry for entry, _ in found} == set(entries[:900])
    assert all(by_uid[entry.uid] == content for entry, content in found)
    assert [entry.offset for entry, _ in found] == sorted(entry.offset for entry in entries[:900])
    assert len(source.places) == 1, "all at once, for the source to join"
    assert list(reader.read_many([])) == []
    damaged = bytearray(data)
    wrong = next(entry for entry in entries if entry.stored_size)
    damaged[wrong.offset] ^= 1
    with pytest.raises(FormatError, match=f"uid={wrong.uid}"):
        list(opened(bytes(damaged)).read_many(entries))


def replace_uid(file: File, uid: str) -> File:
    return file._replace(uid=uid)


class Coalescing(BytesSource):
    """Notes what it is asked for at once."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.places: list[list[tuple[int, int]]] = []

    def read_ranges(self, places: object) -> Iterator[bytes]:
        assert isinstance(places, list)
        self.places.append(places)
        return super().read_ranges(places)


def test_threads_share_a_reader() -> None:
    files = [File(f"uid-{number}", b"text %d " % number * 40) for number in range(3000)]
    data, _ = pack(files)
    reader = ShardReader.open(BytesSource(data), cache_bytes=100_000)
    wrong: list[str] = []
    found: list[str] = []

    def work(seed: int) -> None:
        for file in random.Random(seed).choices(files, k=400):
            wrong.extend(file.uid for entry in reader.find(file.uid) if reader.read(entry) != file.content)
            wrong.extend([file.uid] if reader.get(file.uid) != file.content else [])
            found.extend(entry.uid for entry in reader.find(file.uid))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(found) == 1600
    assert reader.cached_bytes <= 100_000


def test_errors_name_object_and_entry() -> None:
    data, _ = pack([File("first", b"a" * 300 + b"b" * 300), File("second", NOISE[:500])])
    [entry] = opened(data).find("second")
    damaged = bytearray(data)
    damaged[entry.offset] ^= 1
    reader = opened(bytes(damaged))
    where = {"bucket": "b", "key": "k.vera", "version_id": "v1", "uid": "second"}
    for attempt in (
        lambda: reader.read(entry),
        lambda: b"".join(reader.read_stream(entry)),
        lambda: list(reader.read_many([entry])),
        lambda: list(reader.read_all()),
        reader.verify,
    ):
        with pytest.raises(FormatError) as caught:
            attempt()
        assert caught.value.where == {**where, "entry": str(entry.ordinal)}
        assert caught.value.todo
    with pytest.raises(FormatError) as caught:
        reader.get("second")
    assert caught.value.where == where


def test_a_wrong_digest_is_never_data() -> None:
    """Stored bytes and CRC are right, the content is not what was archived."""
    content = NOISE[:800]
    lie = encode(content)._replace(sha256=digest(b"other"))
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    for file in ordered([File("liar", content), File("honest", b"text " * 50)]):
        writer.append(file.uid, NOON, lie if file.uid == "liar" else encode(file.content))
    writer.finish()
    reader = opened(out.getvalue())
    [entry] = reader.find("liar")
    with pytest.raises(FormatError, match=r"SHA-256.*uid=liar"):
        reader.read(entry)
    with pytest.raises(FormatError, match=r"SHA-256.*uid=liar"):
        reader.get("liar")
    for attempt in (reader.read_all, lambda: reader.read_many([entry])):
        with pytest.raises(FormatError, match=r"SHA-256.*uid=liar"):
            list(attempt())
    with pytest.raises(FormatError, match=r"SHA-256.*uid=liar"):
        reader.verify()
    received: list[bytes] = []
    with pytest.raises(FormatError):
        received.extend(reader.read_stream(entry))
    assert received == [], "the last (here only) piece is held back until all has verified"


def test_digests_can_be_left_to_others() -> None:
    """Then everything else is checked still."""
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    content = b"text " * 200
    writer.append("uid", NOON, encode(content)._replace(sha256=digest(b"other")))
    writer.finish()
    data = out.getvalue()
    trusting = ShardReader.open(BytesSource(data), digests=False)
    [entry] = trusting.find("uid")
    assert trusting.get("uid") == trusting.read(entry) == content
    assert (
        [found for _, found in trusting.read_all()] == [found for _, found in trusting.read_many([entry])] == [content]
    )
    with pytest.raises(FormatError, match=r"SHA-256.*uid=uid"):
        trusting.verify()
    damaged = bytearray(data)
    damaged[entry.offset + 5] ^= 1
    trusting = ShardReader.open(BytesSource(bytes(damaged)), digests=False)
    for attempt in (lambda: trusting.get("uid"), lambda: trusting.read(entry), lambda: list(trusting.read_all())):
        with pytest.raises(FormatError, match="CRC32"):
            attempt()


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
    source.requests.clear()
    attempts: list[Callable[[], object]] = [
        lambda: reader.read(entry),
        lambda: reader.get("big"),
        lambda: list(reader.read_many([entry])),
        lambda: list(reader.read_all()),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError, match="as a stream"):
            attempt()
    assert source.requests == [], "nothing is read before it is refused"
    pieces = list(reader.read_stream(entry))
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= CHUNK
    assert max(source.requests) <= CHUNK
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
    asked: list[Callable[[ShardReader], object]] = [
        lambda reader: reader.read(entry),
        lambda reader: reader.get(entry.uid),
        lambda reader: list(reader.read_many([entry])),
        lambda reader: list(reader.entries()),
        lambda reader: list(reader.read_all()),
    ]
    for ask in asked:
        with pytest.raises(UnavailableError, match="does not answer"):
            ask(ShardReader.open(Failing(data, None)))
        for answer in (b"", b"short", data):
            with pytest.raises(FormatError, match=r"were asked for and .* came .*key=lying"):
                ask(ShardReader.open(Failing(data, answer)))

    class Cut(BytesSource):
        def read_suffix(self, length: int) -> tuple[bytes, int]:
            return b"", 5000

    with pytest.raises(FormatError, match="not read whole"):
        ShardReader.open(Cut(data))


@pytest.mark.parametrize("kind", [FileSource, MappedFile])
def test_files_are_sources(tmp_path: Path, kind: type[FileSource]) -> None:
    files = ordered([File(f"uid-{number}", NOISE[number:][: 100 << 10]) for number in range(3)])
    data, _ = pack(files)
    path = tmp_path / "shard.vera"
    path.write_bytes(data)
    with kind(path) as source:
        reader = ShardReader.open(source)
        assert reader.read(reader.find("uid-1")[0]) == reader.get("uid-1") == NOISE[1:][: 100 << 10]
        assert [content for _, content in reader.read_many(reader.entries())] == [file.content for file in files]
        assert reader.verify().size == len(data)
    source.close()
    path.write_bytes(data[:-1])
    with kind(path) as source, pytest.raises(FormatError, match=str(path)):
        ShardReader.open(source)


def test_header_of_another_shard() -> None:
    data, _ = pack([File("uid", b"text")])
    other, _ = pack([File("uid", b"text")], replace(OPTIONS, repository_id=b"another-reposito"))
    with pytest.raises(FormatError, match="different shards"):
        opened(other[:256] + data[256:])
    assert opened(other).footer.repository_id == b"another-reposito"


def test_entries_can_be_stopped_early() -> None:
    data, _ = pack([File(f"uid-{number}", b"x") for number in range(2000)])
    walk: Iterator[object] = iter(opened(data).entries())
    assert next(walk)
    del walk
