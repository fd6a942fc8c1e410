"""The writer alone: what it takes in which order and batches, what it refuses, what it holds, when its sink fails."""

from __future__ import annotations

import hashlib
import io
import random
import tracemalloc
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.support import NOON, OPTIONS, File, encoded, opened, ordered, pack, place_in_order
from vera_core.codec import MAX_DICTIONARIES, MAX_DICTIONARY, MAX_INLINE
from vera_core.encoding import Encoded, EncodedBatch, Trained, encode
from vera_core.errors import UsageError
from vera_core.format import Names, ShardOptions, ShardWriter, layout
from vera_core.format.groups import ELSEWHERE, GROUP_BYTES, group_entries
from vera_core.format.layout import MAX_ENTRIES, MAX_SHARED, MAX_TIME, MIN_TIME
from vera_core.format.sharing import Contents
from vera_core.format.waiting import ROW
from vera_core.model import Codec, Origin

TEXT = encode(b"some text, repeated. " * 20)
NOISE = random.Random(3).randbytes(1 << 20)
FIRST, SECOND, THIRD = sorted(("one", "two", "three"), key=place_in_order)


def writer(options: ShardOptions = OPTIONS, dictionaries: tuple[bytes, ...] = ()) -> tuple[ShardWriter, io.BytesIO]:
    out = io.BytesIO()
    return ShardWriter(out, options=options, dictionaries=dictionaries), out


def names(*uids: str) -> Names:
    return Names(uids, [NOON] * len(uids), [("", ())] * len(uids))


def batch(count: int) -> EncodedBatch:
    return EncodedBatch.of([TEXT] * count)


large = st.integers(0, 700_000).map(lambda size: NOISE[size : size + (size & 1) * size])
contents = st.one_of(st.binary(max_size=30), st.sampled_from([b"", b"same " * 9, bytes(99), NOISE[:300_000]]), large)
uids = st.one_of(st.integers(0, 9).map(str), st.text("abcdé", min_size=1, max_size=9))
files = st.builds(File, uids, contents, st.integers(0, 2**50), st.sampled_from(["", "a/b"]))


@given(st.lists(files, max_size=16), st.sampled_from([None, 1, 3]), st.data())
def test_batches_don_t_show(made: list[File], entries: int | None, draw: st.DataObject) -> None:
    """One by one, at once, or cut anywhere: the same bytes."""
    made = ordered(made)
    options = replace(OPTIONS, group_entries=entries)
    expected, summary = pack(made, options)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(made)), max_size=5)))
    for bounds in ([*range(len(made) + 1)], [0, *cuts, len(made)]):
        mixed, out = writer(options)
        for begin, end in pairwise(bounds):
            if end - begin == 1:
                file = made[begin]
                ordinal = mixed.append(file.uid, file.created_at, encode(file.content), media_type=file.media_type)
            else:
                ordinal = mixed.append_batch(*encoded(made[begin:end]))
            assert ordinal == begin
            assert mixed.entries == end
        assert mixed.finish() == summary
        assert out.getvalue() == expected


def test_files_out_of_order_are_refused_and_leave_no_trace() -> None:
    made, out = writer()
    made.append(SECOND, NOON, TEXT)
    with pytest.raises(UsageError, match=rf"in the order of the first 8 bytes.*uid={FIRST}.*Sort them"):
        made.append(FIRST, NOON, TEXT)
    made.append(SECOND, NOON, TEXT)
    for wrong in ((FIRST,), (FIRST, THIRD), (SECOND, FIRST), (THIRD, SECOND), (SECOND, THIRD, SECOND)):
        with pytest.raises(UsageError, match="in the order of"):
            made.append_batch(names(*wrong), batch(len(wrong)))
    assert made.append_batch(names(SECOND, THIRD), batch(2)) == 2
    for late in (FIRST, SECOND):
        with pytest.raises(UsageError, match="in the order of"):
            made.append(late, NOON, TEXT)
    made.append(THIRD, NOON, TEXT)
    made.finish()
    expected = [File(uid, b"some text, repeated. " * 20) for uid in (SECOND, SECOND, SECOND, THIRD, THIRD)]
    assert out.getvalue() == pack(expected)[0]


BAD: list[tuple[str, int, dict[str, object], str]] = [
    ("", NOON, {}, "0 bytes"),
    ("x" * 513, NOON, {}, "513 bytes"),
    ("a\nb", NOON, {}, "control character"),
    ("\udc80", NOON, {}, "not valid UTF-8"),
    ("u", MIN_TIME - 1, {}, "outside year"),
    ("u", MAX_TIME + 1, {}, "outside year"),
    ("u", 1 << 70, {}, "outside year"),
    ("u", NOON, {"media_type": "x" * 128}, "128 bytes, allowed are 127"),
    ("u", NOON, {"media_type": "\udc80"}, "not valid UTF-8"),
    ("u", NOON, {"metadata": (("k", "v" * 4092),)}, "4097 bytes, allowed are 4096"),
    ("u", NOON, {"metadata": (("k", "1"), ("k", "2"))}, "given twice"),
    ("u", NOON, {"metadata": (("", "1"),)}, "empty"),
    ("u", NOON, {"origin": Origin(0, 3)}, "no origin"),
    ("u", NOON, {"origin": Origin(1, 1 << 32)}, "no origin"),
]


@pytest.mark.parametrize(("uid", "created_at", "extra", "message"), BAD)
def test_bad_rows_are_refused_and_leave_no_trace(
    uid: str, created_at: int, extra: dict[str, object], message: str
) -> None:
    made, out = writer()
    made.append(FIRST, NOON, TEXT)
    with pytest.raises(UsageError, match=message):
        made.append(uid, created_at, TEXT, **extra)  # type: ignore[arg-type]
    attributes = (extra.get("media_type", ""), extra.get("metadata", ()))
    among: Any = ((SECOND, uid), (NOON, created_at), (("", ()), attributes), (None, extra.get("origin")))
    with pytest.raises(UsageError, match=message):
        made.append_batch(Names(*among), batch(2))
    assert made.entries == 1
    assert made.append(SECOND, NOON, TEXT) == 1
    made.finish()
    assert out.getvalue() == pack([File(uid, b"some text, repeated. " * 20) for uid in (FIRST, SECOND)])[0]


def test_impossible_encodings_are_refused() -> None:
    made, _ = writer()
    for wrong in (TEXT._replace(size=3), TEXT._replace(size=MAX_INLINE + 1)):
        with pytest.raises(UsageError, match="can't be stored inline"):
            made.append("u", NOON, wrong)
    with pytest.raises(UsageError, match="a dictionary that the shard does not have"):
        made.append("u", NOON, TEXT._replace(parameter=1))
    for uneven in (names(FIRST), names(FIRST, SECOND, THIRD), names(FIRST, SECOND)._replace(created_at=[NOON])):
        with pytest.raises(UsageError, match="uids were given for 2 contents"):
            made.append_batch(uneven, batch(2))
    assert made.entries == 0


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="16 bytes, not 3"):
        ShardOptions(b"abc", "standard")
    with pytest.raises(UsageError, match="1 to 16384 entries, not 0"):
        replace(OPTIONS, group_entries=0)
    made, _ = writer(replace(OPTIONS, retention_class="Not A Name"))
    with pytest.raises(UsageError, match="no valid retention class"):
        made.finish()
    for wrong in ((b"x",) * (MAX_DICTIONARIES + 1), (bytes(MAX_DICTIONARY + 1),)):
        with pytest.raises(UsageError, match="64 dictionaries of 131072 bytes at most"):
            writer(OPTIONS, wrong)


def test_a_shard_has_as_many_dictionaries_as_stated() -> None:
    """The limits of dictionaries and sections fit each other; one without entries or use is no special case."""
    many = tuple(b"%d" % number * 20 for number in range(MAX_DICTIONARIES))
    made, out = writer(OPTIONS, many)
    made.finish()
    reader = opened(out.getvalue())
    assert len(reader.dictionaries()) == MAX_DICTIONARIES
    assert reader.verify().entries == 0
    data, _ = pack([File("u", b"text")], trained=Trained((bytes(MAX_DICTIONARY),), {}))
    assert opened(data).verify().entries == 1


def test_nothing_follows_finish() -> None:
    made, _ = writer()
    made.finish()
    for attempt in (made.finish, lambda: made.append("u", NOON, TEXT), lambda: made.append_batch(names("u"), batch(1))):
        with pytest.raises(UsageError, match="finished"):
            attempt()
    with pytest.raises(UsageError, match="shard of its own"):
        made.append_stream("u", NOON, io.BytesIO(b""), 0)


def test_a_streamed_file_is_alone() -> None:
    made, out = writer()
    content = b"0123456789" * 1000
    alone = made.append_stream("big", NOON, io.BytesIO(content), len(content), media_type="text/plain")
    assert (alone.size, alone.sha256, alone.stored) == (10_000, hashlib.sha256(content).digest(), b"")
    with pytest.raises(UsageError, match="streamed file"):
        made.append("other", NOON, TEXT)
    with pytest.raises(UsageError, match="shard of its own"):
        made.append_stream("other", NOON, io.BytesIO(b""), 0)
    summary = made.finish()
    reader = opened(out.getvalue())
    [entry] = reader.find("big")
    assert reader.read(entry) == content
    assert (summary.entries, summary.stored_bytes) == (1, entry.stored_size)
    made, _ = writer()
    made.append("first", NOON, TEXT)
    with pytest.raises(UsageError, match="shard of its own"):
        made.append_stream("big", NOON, io.BytesIO(b""), 0)
    made, _ = writer(OPTIONS, (b"a dictionary",))
    with pytest.raises(UsageError, match="shard of its own"):
        made.append_stream("big", NOON, io.BytesIO(b""), 0)


@pytest.mark.parametrize(
    ("stated", "message"), [(9, "more than 9 of 9"), (11, "only 10 of 11"), (0, "more than 0 of 0")]
)
def test_a_file_that_changed_spoils_the_shard(stated: int, message: str) -> None:
    made, _ = writer()
    with pytest.raises(UsageError, match=message):
        made.append_stream("big", NOON, io.BytesIO(b"0123456789"), stated)
    with pytest.raises(UsageError, match="failed"):
        made.finish()


@given(st.integers(1, 70_000), st.integers(1, 400))
def test_streams_do_not_depend_on_how_reads_come(size: int, step: int) -> None:
    content = random.Random(size).randbytes(size // 2) + b"text " * (size // 10)

    class Dribble(io.BytesIO):
        def read(self, length: int | None = -1, /) -> bytes:
            return super().read(min(length, step * 100) if length and length > 0 else length)

    shards = []
    for file in (io.BytesIO(content), Dribble(content)):
        made, out = writer()
        made.append_stream("u", NOON, file, len(content))
        made.finish()
        shards.append(out.getvalue())
    assert shards[0] == shards[1]


def test_a_failing_sink_ends_the_writer() -> None:
    class Full(io.BytesIO):
        def write(self, data: object, /) -> int:
            raise OSError("no space left")

    made = ShardWriter(Full(), options=OPTIONS)
    rising = sorted((f"u{number}" for number in range(512)), key=place_in_order)
    for uid in rising[:511]:
        made.append(uid, NOON, TEXT)
    with pytest.raises(OSError, match="no space"):
        made.append(rising[511], NOON, TEXT)
    for attempt in (lambda: made.append("x", NOON, TEXT), lambda: made.append_batch(names("x"), batch(1)), made.finish):
        with pytest.raises(UsageError):
            attempt()


class Nowhere:
    def write(self, data: bytes | memoryview, /) -> None:
        """Keeps nothing."""


def test_memory_per_entry() -> None:
    """Under 100 bytes an entry at the peak, uids of any length, besides a group and its contents."""
    made = ShardWriter(Nowhere(), options=OPTIONS)
    uids = sorted((f"{number:0300d}" for number in range(60_000)), key=place_in_order)
    digests = random.Random(5).randbytes(32 * len(uids))
    stored = [
        Encoded(Codec.RAW, 0, b"12345678", 7, digests[32 * number : 32 * number + 32], 8) for number in range(len(uids))
    ]
    tracemalloc.start()
    for at in range(0, len(uids), 200):
        made.append_batch(names(*uids[at : at + 200]), EncodedBatch.of(stored[at : at + 200]))
    made.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(uids) * 100 + (4 << 20)


@given(st.lists(st.lists(st.tuples(st.integers(0, 25), st.booleans()), min_size=1, max_size=8), max_size=20))
def test_contents_are_found_whenever_they_came(groups: list[list[tuple[int, bool]]]) -> None:
    """Against a plain dict: (what content, whether anything is stored) by row, group by group."""
    contents = Contents()
    known: dict[bytes, tuple[int, int]] = {}
    begin = 300
    for group in groups:
        rows = np.zeros(len(group), ROW)
        digests = [hashlib.sha256(b"%d" % what).digest() for what, _ in group]
        rows["digest"] = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32)
        rows["stored_size"] = [9 + row if stored else 0 for row, (_, stored) in enumerate(group)]
        place, sizes = [], rows["stored_size"].tolist()
        own: dict[bytes, int] = {}
        for row, sha256 in enumerate(digests):
            here = 0
            if sizes[row]:
                if sha256 in known:
                    here, sizes[row] = known[sha256][0] + ELSEWHERE, known[sha256][1]
                elif sha256 in own:
                    here, sizes[row] = own[sha256] + 1, sizes[own[sha256]]
                else:
                    own[sha256] = row
            place.append(here)
        assert contents.share(rows).tolist() == place
        assert rows["stored_size"].tolist() == sizes
        brings = np.array([row in own.values() for row in range(len(group))])
        contents.add(rows[brings], begin)
        for sha256, row in own.items():
            known[sha256] = begin, sizes[row]
            begin += sizes[row]


def test_only_the_first_contents_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vera_core.format.sharing.MAX_SHARED", 3)
    assert MAX_SHARED == 1 << 20
    files = ordered([File(f"uid-{number}", NOISE[number % 5 * 100 :][:99]) for number in range(20)])
    data, summary = pack(files, replace(OPTIONS, group_entries=1))
    first = {file.content for file in files[:1]}
    for file in files:
        first |= {file.content} if len(first) < 3 else set()
    again = sum(file.content not in first for file in files)
    assert summary.stored_bytes == 99 * (3 + again)
    assert opened(data).verify().shared == 20 - 3 - again


def test_group_sizes() -> None:
    at = (0, (1 << 18) - 1, 1 << 18, (1 << 20) - 1, 1 << 20, 1 << 22, MAX_ENTRIES - 1)
    assert [group_entries(first) for first in at] == [512, 512, 1024, 1024, 2048, 4096, 4096]


def counts(data: bytes) -> list[int]:
    return [after - first for first, after in pairwise(opened(data).directory.firsts.tolist())]


def test_groups_end_with_the_entry_that_makes_them_full() -> None:
    """At 512 entries, or 2 MiB of contents (stored or shared), or 1 MiB of names."""
    noise = random.Random(4).randbytes(GROUP_BYTES)
    tiny = [File(f"uid-{number}", b"x") for number in range(1025)]
    assert counts(pack(tiny)[0]) == [512, 512, 1]
    half = GROUP_BYTES // 2
    for size, expected in ((half, [2, 2, 1]), (half - 1, [3, 2]), (half + 1, [2, 2, 1]), (GROUP_BYTES, [1] * 5)):
        different = [File(f"uid-{number}", noise[number:size] + noise[:number]) for number in range(5)]
        assert counts(pack(different)[0]) == expected
        assert counts(pack([file._replace(content=noise[:size]) for file in different])[0]) == expected
    named = [File(f"{number:0512d}", b"x", metadata=(("k", f"{number:03579d}"),)) for number in range(600)]
    assert counts(pack(named)[0]) == [256, 256, 88]


def test_long_names_make_small_groups() -> None:
    files = [
        File(f"{number:0512d}", b"x", metadata=(("k", f"{number:04000d}"),), origin=Origin(1, number))
        for number in range(600)
    ]
    data, _ = pack(files)
    reader = opened(data)
    assert len(reader.directory) == 3
    assert max(reader.directory.sizes) < 1 << 20
    assert reader.find(files[7].uid)[0].metadata == files[7].metadata
    assert reader.verify().entries == 600


def test_a_shard_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before anything is added, so that what is there can be finished."""
    rising = sorted((f"u{number}" for number in range(30)), key=place_in_order)
    made, out = writer()
    with monkeypatch.context() as patch:
        patch.setattr(layout, "MAX_ENTRIES", 20)
        made.append_batch(names(*rising[:19]), batch(19))
        with pytest.raises(UsageError, match=r"full with 19 entries.*Begin another"):
            made.append_batch(names(*rising[19:]), batch(11))
        made.append(rising[19], NOON, TEXT)
        with pytest.raises(UsageError, match="full with 20 entries"):
            made.append(rising[20], NOON, TEXT)
        made.finish()
    assert opened(out.getvalue()).verify().entries == 20


def test_too_many_groups_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_GROUPS", 20)
    made, _ = writer(replace(OPTIONS, group_entries=1))
    made.append_batch(names(*sorted((f"u{number}" for number in range(21)), key=place_in_order)), batch(21))
    with pytest.raises(UsageError, match="21 groups are more than 20"):
        made.finish()
