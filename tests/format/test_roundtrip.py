"""Properties of writer and reader together, on shards of any shape."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.format.support import OPTIONS, File, opened, pack
from vera_core.codec import Policy
from vera_core.format.layout import MAX_TIME, MIN_TIME
from vera_core.model import Origin

if TYPE_CHECKING:
    from vera_core.format import ShardOptions

texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)
uids = st.one_of(texts, st.integers(0, 9).map(lambda number: f"uid-{number}"))
contents = st.one_of(
    st.binary(max_size=50),
    st.sampled_from([b"", b"\0" * 1000, b"same content " * 30, b"another content " * 300]),
)
metadata = st.lists(st.tuples(texts, st.text(max_size=20)), max_size=3, unique_by=lambda pair: pair[0]).map(tuple)
files = st.builds(
    File,
    uids,
    contents,
    st.integers(MIN_TIME, MAX_TIME),
    st.sampled_from(["", "text/plain", "application/json; charset=utf-8"]),
    st.one_of(st.just(()), metadata),
    st.one_of(st.none(), st.builds(Origin, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1))),
)
options = st.builds(lambda entries: replace(OPTIONS, page_entries=entries), st.sampled_from([None, 1, 2, 5]))


@given(st.lists(files, max_size=30), options, st.sampled_from(Policy))
def test_everything_comes_back(batch: list[File], chosen: ShardOptions, policy: Policy) -> None:
    data, summary = pack(batch, chosen, policy)
    assert (data, summary) == pack(batch, chosen, policy), "same files, same bytes"
    assert (summary.size, summary.sha256) == (len(data), hashlib.sha256(data).digest())
    assert summary.content_bytes == sum(len(file.content) for file in batch)

    reader = opened(data)
    entries = list(reader.entries())
    assert [
        File(entry.uid, reader.read(entry), entry.created_at, entry.media_type, entry.metadata, entry.origin)
        for entry in entries
    ] == batch
    assert [entry.ordinal for entry in entries] == list(range(len(batch)))
    assert all(entry.key == int.from_bytes(hashlib.sha256(entry.uid.encode()).digest()[:8], "big") for entry in entries)
    for uid in {file.uid for file in batch} | {"absent", "uid-0"}:
        assert reader.find(uid) == [entry for entry in entries if entry.uid == uid]
    assert [(entry, content) for entry, content in reader.read_all()] == [
        (entry, file.content) for entry, file in zip(entries, batch, strict=True)
    ]

    keys = [entry.key for entry in entries] or [0]
    assert (reader.footer.min_key, reader.footer.max_key) == (min(keys), max(keys))
    assert (summary.min_key, summary.max_key) == (min(keys), max(keys))
    times = [file.created_at for file in batch] or [0]
    assert (reader.footer.min_created_at, reader.footer.max_created_at) == (min(times), max(times))

    verified = reader.verify()
    assert verified.sha256 == summary.sha256
    assert verified.stored_bytes == summary.stored_bytes == sum({e.offset: e.stored_size for e in entries}.values())
    stored_again = [e for e in entries if e.stored_size and e.offset in {o.offset for o in entries[: e.ordinal]}]
    assert verified.shared == len(stored_again)


@given(st.lists(contents, min_size=1, max_size=20))
def test_identical_content_is_stored_once(batch: list[bytes]) -> None:
    data, _ = pack([File(f"uid-{number}", content) for number, content in enumerate(batch)])
    places: dict[bytes, int] = {}
    for entry in opened(data).entries():
        assert places.setdefault(entry.sha256, entry.offset) == entry.offset


def test_many_groups_and_pages_share_across_all_of_them() -> None:
    batch = [File(f"records/{number % 1700}", b"content %d" % (number % 900) * 20) for number in range(4000)]
    data, summary = pack(batch)
    reader = opened(data)
    assert len(reader.directory) == 16
    assert reader.verify().shared == 4000 - 900
    assert [content for _, content in reader.read_all()] == [file.content for file in batch]
    assert [entry.ordinal for entry in reader.find("records/7")] == [7, 1707, 3407]
    assert summary.stored_bytes < 900 * 40
