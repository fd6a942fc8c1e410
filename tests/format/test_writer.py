"""The writer alone: what it refuses, what it holds, what it does when its sink fails."""

from __future__ import annotations

import hashlib
import io
import random
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.support import NOON, OPTIONS, File, opened, pack
from vera_core.codec import MAX_INLINE, Encoded, Policy, encode
from vera_core.errors import UsageError
from vera_core.format import ShardOptions, ShardWriter, layout
from vera_core.format.index import page_entries
from vera_core.format.layout import MAX_ENTRIES, MAX_TIME, MIN_TIME
from vera_core.format.rows import Contents, sort_order
from vera_core.model import Codec, Origin

TEXT = encode(b"some text, repeated. " * 20)


def writer(options: ShardOptions = OPTIONS) -> tuple[ShardWriter, io.BytesIO]:
    out = io.BytesIO()
    return ShardWriter(out, options=options), out


@pytest.mark.parametrize(
    ("uid", "created_at", "extra", "message"),
    [
        ("", NOON, {}, "0 bytes"),
        ("x" * 513, NOON, {}, "513 bytes"),
        ("a\nb", NOON, {}, "control character"),
        ("\udc80", NOON, {}, "not valid UTF-8"),
        ("u", MIN_TIME - 1, {}, "outside year"),
        ("u", MAX_TIME + 1, {}, "outside year"),
        ("u", NOON, {"media_type": "x" * 128}, "128 bytes, allowed are 127"),
        ("u", NOON, {"media_type": "\udc80"}, "not valid UTF-8"),
        ("u", NOON, {"metadata": (("k", "v" * 4092),)}, "4097 bytes, allowed are 4096"),
        ("u", NOON, {"metadata": (("k", "1"), ("k", "2"))}, "given twice"),
        ("u", NOON, {"metadata": (("", "1"),)}, "empty"),
    ],
)
def test_bad_rows_are_refused_and_leave_no_trace(
    uid: str, created_at: int, extra: dict[str, object], message: str
) -> None:
    made, out = writer()
    made.append("before", NOON, TEXT)
    with pytest.raises(UsageError, match=message):
        made.append(uid, created_at, TEXT, **extra)  # type: ignore[arg-type]
    assert made.append("after", NOON, TEXT) == 1
    made.finish()
    assert (
        out.getvalue()
        == pack([File("before", b"some text, repeated. " * 20), File("after", b"some text, repeated. " * 20)])[0]
    )


def test_impossible_encodings_are_refused() -> None:
    made, _ = writer()
    for wrong in (TEXT._replace(size=3), TEXT._replace(size=MAX_INLINE + 1)):
        with pytest.raises(UsageError, match="can't be stored inline"):
            made.append("u", NOON, wrong)


def test_options_are_checked() -> None:
    with pytest.raises(UsageError, match="16 bytes, not 3"):
        ShardOptions(b"abc", "standard")
    with pytest.raises(UsageError, match="1 to 16384 entries, not 0"):
        replace(OPTIONS, page_entries=0)
    made, _ = writer(replace(OPTIONS, retention_class="Not A Name"))
    with pytest.raises(UsageError, match="no valid retention class"):
        made.finish()


def test_nothing_follows_finish() -> None:
    made, _ = writer()
    made.finish()
    for attempt in (made.finish, lambda: made.append("u", NOON, TEXT)):
        with pytest.raises(UsageError, match="finished"):
            attempt()
    with pytest.raises(UsageError, match="shard of its own"):
        made.append_stream("u", NOON, io.BytesIO(b""), 0)


def test_a_streamed_file_is_alone() -> None:
    made, out = writer()
    content = b"0123456789" * 1000
    encoded = made.append_stream("big", NOON, io.BytesIO(content), len(content), media_type="text/plain")
    assert (encoded.size, encoded.sha256, encoded.stored) == (10_000, hashlib.sha256(content).digest(), b"")
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
    for number in range(511):
        made.append(f"u{number}", NOON, TEXT)
    with pytest.raises(OSError, match="no space"):
        made.append("last", NOON, TEXT)
    with pytest.raises(UsageError):
        made.append("more", NOON, TEXT)
    with pytest.raises(UsageError):
        made.finish()


def test_size_and_entries_count_what_waits() -> None:
    made, out = writer()
    assert (made.entries, made.size) == (0, 0)
    for number in range(1000):
        made.append(f"u{number}", NOON, encode(b"%d" % number * 300))
    assert made.entries == 1000
    before = made.size
    made.finish()
    assert before <= opened(out.getvalue()).footer.data_end <= before + 30_000


def test_memory_per_entry() -> None:
    """Under 150 bytes an entry and its uid at the peak, sorting included, whatever was stored."""

    class Nowhere:
        def write(self, data: bytes, /) -> None:
            """Keeps nothing."""

    made = ShardWriter(Nowhere(), options=OPTIONS)
    digests = random.Random(5).randbytes(32 * 50_000)
    tracemalloc.start()
    for number in range(50_000):
        stored = Encoded(Codec.RAW, 0, b"12345678", 7, digests[32 * number : 32 * number + 32], 8)
        made.append(f"{number:036d}", NOON, stored)
    made.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50_000 * (150 + 36) + (3 << 20)


def test_contents_are_found_across_runs() -> None:
    contents = Contents()
    known: dict[int, int] = {}
    source = random.Random(11)
    for group in range(60):
        fresh = sorted({source.getrandbits(64) for _ in range(source.randrange(40))})
        contents.add(np.array(fresh, np.uint64), np.arange(len(known), len(known) + len(fresh), dtype=np.uint32))
        known.update({prefix: len(known) + at for at, prefix in enumerate(fresh)})
        asked = [source.choice([*known, 5]) if known else group for _ in range(30)]
        assert contents.find(np.array(asked, np.uint64)).tolist() == [known.get(prefix, -1) for prefix in asked]


@given(st.lists(st.tuples(st.integers(0, 3), st.binary(min_size=1, max_size=3)), max_size=30))
def test_sorting_breaks_ties_by_uid_then_ordinal(rows: list[tuple[int, bytes]]) -> None:
    """Keys that collide can't be made from real uids, so the sort is tested by itself."""
    lengths = np.array([len(uid) for _, uid in rows], np.uint64)
    starts = np.cumsum(lengths) - lengths
    order = sort_order(np.array([key for key, _ in rows], np.uint64), starts, lengths, b"".join(uid for _, uid in rows))
    assert order.tolist() == sorted(range(len(rows)), key=lambda at: (*rows[at], at))


def test_page_sizes() -> None:
    assert [page_entries(count) for count in (0, 1 << 18, (1 << 18) + 1, 1 << 20, MAX_ENTRIES)] == [
        256, 256, 512, 1024, 16384,
    ]  # fmt: skip


def test_long_names_make_small_pages() -> None:
    files = [
        File(f"{number:0512d}", b"x", metadata=(("k", f"{number:04000d}"),), origin=Origin(1, number))
        for number in range(300)
    ]
    data, _ = pack(files)
    reader = opened(data)
    assert len(reader.directory) >= 5
    assert max(np.diff(reader.directory.places.tolist())) < 1 << 20
    assert reader.find(files[7].uid)[0].metadata == files[7].metadata
    assert reader.verify().entries == 300


def test_too_many_pages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "MAX_PAGES", 20)
    made = ShardWriter(io.BytesIO(), options=replace(OPTIONS, page_entries=1))
    empty = encode(b"", Policy.FAST)
    for number in range(21):
        made.append(f"{number}", NOON, empty)
    with pytest.raises(UsageError, match="21 index pages"):
        made.finish()
