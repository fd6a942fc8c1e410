"""Lookups say what the reader says, whatever is looked up in whatever order, and keep what they may keep."""

from __future__ import annotations

import gc
import io
import random
import threading
import tracemalloc
import weakref
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format.make import ENCRYPTED
from tests.format.large import noise, records
from tests.format.support import NOON, OPTIONS, CountingSource, File, opened, ordered, pack
from tests.format.test_index import files, trainings
from vera_core.codec import digest
from vera_core.encoding import Trained, encode
from vera_core.errors import FormatError, UnavailableError, UsageError
from vera_core.format import BytesSource, FileSource, Lookup, MappedFile, ShardWriter
from vera_core.model import Codec, Policy

NOISE = noise(1 << 17)
GOLDEN = Path(__file__).parents[1] / "fixtures" / "format"
MANY = [File(f"uid-{number}", b"text %d" % number) for number in range(20_000)]
"""More than `Lookup` is sure to keep."""


def looking(data: bytes, *, digests: bool = True, cache_bytes: int = 64 << 20) -> Lookup:
    source = BytesSource(data, bucket="b", key="k.vera", version_id="v1")
    return Lookup.open(source, digests=digests, cache_bytes=cache_bytes)


@given(
    st.lists(files, max_size=60), st.sampled_from([None, 1, 3, 40]), trainings, st.randoms(), st.sampled_from(Policy)
)
def test_it_gives_what_the_reader_finds(
    made: list[File], entries: int | None, trained: Trained | None, rng: random.Random, policy: Policy
) -> None:
    data, _ = pack(made, replace(OPTIONS, group_entries=entries), policy, trained)
    reader, lookups = opened(data), [looking(data), looking(data, digests=False)]
    newest = {file.uid: file.content for file in made}
    uids = [*newest, "", "a", "b", "aa", "ababab", "uid-", "uid-3", "absent", "\udc80"] * 2
    rng.shuffle(uids)
    for uid in uids:
        found = reader.find(uid)
        expected = reader.read(found[-1]) if found else None
        assert expected == reader.get(uid) == newest.get(uid)
        for lookup in lookups:
            assert lookup.get(uid) == expected


def test_every_codec_is_looked_up() -> None:
    """In contents of many sizes; and in the golden files, which have all codecs."""
    some = NOISE.hex().encode()
    made = [File(f"constant {size}", b"c" * size) for size in (1, 300, 1 << 20)]
    made += [File(f"raw {size}", NOISE[:size]) for size in (0, 1, 255, 70_000)]
    made += [File(f"text {size}", some[:size]) for size in (60, 255, 256, 3000, 65_791, 65_792, 200_000)]
    made += [file._replace(uid=f"copy of {file.uid}") for file in made]
    for policy in Policy:
        lookup = looking(pack(made, policy=policy)[0])
        assert [lookup.get(file.uid) for file in made] == [file.content for file in made]
    seen = set()
    for path in GOLDEN.glob("*.vera"):
        if path.stem in ENCRYPTED:  # refused: test_sealed.py
            continue
        data = path.read_bytes()
        lookup, reader = looking(data), opened(data)
        for entry in reader.entries():
            seen.add(entry.codec)
            assert lookup.get(entry.uid) == reader.get(entry.uid) == reader.read(reader.find(entry.uid)[-1])
    assert seen == set(Codec)


@pytest.mark.parametrize("count", [200_000, 175_000])
def test_an_entry_takes_48_bytes_besides_its_uid(count: int) -> None:
    """Measured: what Python has allocated, and what was written to the map, once all groups are kept."""
    data, uids = records(count)
    source = BytesSource(data)
    tracemalloc.start()
    lookup = Lookup.open(source, digests=False)
    allocated = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    for number in range(len(lookup._reader.directory)):
        lookup._load(number)
    assert lookup._count == count
    assert lookup.cached_bytes <= sum(map(len, uids)) + 48 * count
    # The table has its size from the beginning; what is kept later lies in the map, one behind the other.
    assert allocated <= lookup.cached_bytes - lookup._end + (1 << 19)


@pytest.mark.parametrize("uid_bytes", [9, 512])
def test_what_is_too_much_is_forgotten(uid_bytes: int) -> None:
    made = [file._replace(uid=file.uid.rjust(uid_bytes, "0")) for file in MANY]
    lookup = looking(pack(made)[0], cache_bytes=0)
    forgot, kept = 0, 0
    for file in random.Random(1).choices(made, k=2000):
        assert lookup.get(file.uid) == file.content
        forgot += lookup._count < kept
        kept = lookup._count
        assert lookup.cached_bytes <= 10 << 20
    assert forgot


def test_threads_share_a_lookup() -> None:
    lookup = looking(pack(MANY)[0], cache_bytes=0)
    wrong: list[str] = []

    def work(seed: int) -> None:
        for file in random.Random(seed).choices(MANY, k=500):
            wrong.extend([] if lookup.get(file.uid) == file.content else [file.uid])
            wrong.extend([] if lookup.get(f"no {file.uid}") is None else [f"no {file.uid}"])

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("digests", [True, False])
def test_damage_is_named(digests: bool) -> None:
    text = NOISE.hex().encode()
    made = [File(f"uid-{number}", text[number : number + 3000]) for number in range(100)]
    made += [File("noise", NOISE[:1000])]
    data, _ = pack(made)
    for entry in islice(opened(data).entries(), 0, None, 10):
        for at in (entry.offset, entry.offset + entry.stored_size - 1):
            damaged = bytearray(data)
            damaged[at] ^= 1
            lookup = looking(bytes(damaged), digests=digests)
            for _ in range(2):
                with pytest.raises(FormatError, match="CRC32") as caught:
                    lookup.get(entry.uid)
                assert caught.value.where == {"bucket": "b", "key": "k.vera", "version_id": "v1", "uid": entry.uid}
                assert caught.value.todo
    reader = opened(data)
    damaged = bytearray(data)
    damaged[reader.directory.blocks[0] + 100] ^= 1
    with pytest.raises(FormatError, match="uid=noise"):
        looking(bytes(damaged), digests=digests).get("noise")


def test_a_wrong_digest_is_never_data() -> None:
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    lie = encode(NOISE[:800])._replace(sha256=digest(b"other"))
    for file in ordered([File("liar", b""), File("honest", b"text " * 50)]):
        writer.append(file.uid, NOON, lie if file.uid == "liar" else encode(file.content))
    writer.finish()
    lookup = looking(out.getvalue())
    assert lookup.get("honest") == b"text " * 50
    for _ in range(2):
        with pytest.raises(FormatError, match=r"SHA-256.*uid=liar"):
            lookup.get("liar")
    assert looking(out.getvalue(), digests=False).get("liar") == NOISE[:800], "left to others, as asked"


def test_a_digest_that_is_damaged_later_is_no_data() -> None:
    """It is read again for each file, not kept."""
    data, _ = pack([File("uid", b"text " * 50), File("other", b"else")])
    changing = bytearray(data)
    source = BytesSource(changing)  # type: ignore[arg-type]  # as a file that changes under a map
    lookup = Lookup.open(source)
    assert lookup.get("uid") == b"text " * 50
    [entry] = opened(data).find("uid")
    changing[data.index(entry.sha256)] ^= 1
    with pytest.raises(FormatError, match=r"SHA-256.*uid=uid"):
        lookup.get("uid")


@pytest.mark.parametrize("size", [0, 3000, 17 << 20])
def test_a_streamed_file(size: int) -> None:
    content = (NOISE * 140)[:size]
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    writer.append_stream("big", NOON, io.BytesIO(content), size)
    writer.finish()
    source = CountingSource(out.getvalue())
    lookup = Lookup.open(source)
    assert lookup.get("other") is None
    for _ in range(2):
        if size <= 16 << 20:
            assert lookup.get("big") == content
        else:
            source.requests.clear()
            with pytest.raises(UsageError, match="as a stream"):
                lookup.get("big")
            assert source.requests == [], "nothing is read before it is refused"


class Moody(BytesSource):
    """Once `answer` is set, gives that; None: fails."""

    moody = False
    answer: bytes | None = None

    def read_at(self, offset: int, length: int) -> bytes:
        if not self.moody:
            return super().read_at(offset, length)
        if self.answer is None:
            raise UnavailableError("the store does not answer", key="moody")
        return self.answer


def test_a_source_that_fails_or_lies() -> None:
    made = [File(f"uid-{number}", NOISE[number : number + 2000]) for number in range(100)]
    source = Moody(pack(made)[0], key="moody")
    for warm in (True, False):
        lookup = Lookup.open(source)
        assert not warm or lookup.get("uid-7") == made[7].content
        source.moody = True
        with pytest.raises(UnavailableError, match="does not answer"):
            lookup.get("uid-7")
        for answer in (b"", b"short", NOISE):
            source.answer = answer
            with pytest.raises(FormatError, match=r"were asked for and .* came .*key=moody"):
                lookup.get("uid-7")
        source.moody, source.answer = False, None
        assert lookup.get("uid-7") == made[7].content


@pytest.mark.parametrize("kind", [FileSource, MappedFile])
def test_files_are_looked_up(tmp_path: Path, kind: type[FileSource]) -> None:
    path = tmp_path / "shard.vera"
    path.write_bytes(pack(MANY[:3000])[0])
    with kind(path) as source:
        lookup = Lookup.open(source)
        assert all(lookup.get(file.uid) == file.content for file in MANY[:3000])
    path.write_bytes(path.read_bytes()[:-1])
    with kind(path) as source, pytest.raises(FormatError, match=str(path)):
        Lookup.open(source)


def test_a_warm_lookup_reads_its_content_alone() -> None:
    made = [File(f"uid-{number}", NOISE[number : number + 2000]) for number in range(3000)]
    data, _ = pack(made)
    source = CountingSource(data)
    lookup = Lookup.open(source, digests=False)
    lookup.get("uid-7")
    source.requests.clear()
    lookup.get("uid-7")
    assert source.requests == [2000]


def test_an_empty_shard() -> None:
    assert looking(pack([])[0]).get("uid") is None


def test_a_damaged_dictionary_is_named() -> None:
    made = [File(f"uid-{number}", b"common words %d common words" % number) for number in range(9)]
    data, _ = pack(made, trained=Trained((b"common words " * 9,), {"": 1}))
    damaged = bytearray(data)
    damaged[data.rindex(b"common words ")] ^= 1
    with pytest.raises(FormatError, match=r"key=k\.vera"):
        looking(bytes(damaged))


def test_it_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        lookup = looking(pack(MANY[:100])[0])
        assert lookup.get("uid-7") == b"text 7"
        there, reader = weakref.ref(lookup), weakref.ref(lookup._reader)
        del lookup
        assert there() is None
        assert reader() is None
    finally:
        gc.enable()
