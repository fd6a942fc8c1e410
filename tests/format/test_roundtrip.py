"""Properties of writer and reader together, on shards of any shape."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.support import OPTIONS, File, opened, ordered, pack
from vera_core.format.layout import MAX_TIME, MIN_TIME
from vera_core.model import Origin, Policy

if TYPE_CHECKING:
    from vera_core.encoding import Trained
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
options = st.builds(lambda entries: replace(OPTIONS, group_entries=entries), st.sampled_from([None, 1, 2, 5]))


TRAINED = make.trained()
kinds = st.sampled_from([None, TRAINED])
records = st.builds(
    lambda number, make_one: File(
        f"{make_one.__name__}-{number}",
        make_one(number),
        media_type=f"application/{'json' if make_one is make.record else 'xml'}",
    ),
    st.integers(0, 99),
    st.sampled_from([make.record, make.page]),
)


@given(st.lists(st.one_of(files, records), max_size=30), options, st.sampled_from(Policy), kinds)
def test_everything_comes_back(made: list[File], chosen: ShardOptions, policy: Policy, trained: Trained | None) -> None:
    data, summary = pack(made, chosen, policy, trained)
    assert (data, summary) == pack(made, chosen, policy, trained), "same files, same bytes"
    assert (summary.size, summary.sha256) == (len(data), hashlib.sha256(data).digest())
    assert summary.content_bytes == sum(len(file.content) for file in made)

    reader = opened(data)
    entries = list(reader.entries())
    batch = ordered(made)
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
    assert (reader.footer.min_key, reader.footer.max_key) == (keys[0], keys[-1])
    assert (summary.min_key, summary.max_key) == (keys[0], keys[-1])
    times = [file.created_at for file in batch] or [0]
    assert (reader.footer.min_created_at, reader.footer.max_created_at) == (min(times), max(times))

    verified = reader.verify()
    assert verified.sha256 == summary.sha256
    assert verified.stored_bytes == summary.stored_bytes == sum({e.offset: e.stored_size for e in entries}.values())
    stored_again = [e for e in entries if e.stored_size and e.offset in {o.offset for o in entries[: e.ordinal]}]
    assert verified.shared == len(stored_again)


@given(st.lists(contents, min_size=1, max_size=20), options)
def test_identical_content_is_stored_once(batch: list[bytes], chosen: ShardOptions) -> None:
    data, _ = pack([File(f"uid-{number}", content) for number, content in enumerate(batch)], chosen)
    places: dict[bytes, int] = {}
    for entry in opened(data).entries():
        assert places.setdefault(entry.sha256, entry.offset) == entry.offset


def test_many_groups_share_across_all_of_them() -> None:
    batch = ordered([File(f"records/{number % 1700}", b"content %d" % (number % 900) * 20) for number in range(4000)])
    data, summary = pack(batch)
    reader = opened(data)
    assert len(reader.directory) == 8
    assert reader.verify().shared == 4000 - 900
    assert [content for _, content in reader.read_all()] == [file.content for file in batch]
    versions = reader.find("records/7")
    assert [reader.read(entry) for entry in versions] == [file.content for file in batch if file.uid == "records/7"]
    assert len(versions) == 3
    assert summary.stored_bytes < 900 * 40
