"""The index in memory: it says the same as the groups it is made of, takes what it may take, and keeps what is used."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.large import records
from tests.format.support import OPTIONS, File, opened, pack
from vera_core.format import BytesSource, ShardReader
from vera_core.format.groups import key_of
from vera_core.format.index import Page
from vera_core.model import Origin

if TYPE_CHECKING:
    from vera_core.encoding import Trained

letters = st.sampled_from(["a", "b", "aa", "ab", "ba", "aab", "aba", "bab", "abab", "é"])
uids = st.one_of(letters, st.integers(0, 30).map(lambda number: f"uid-{number}"))
contents = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", b"\0" * 3000, b"\1" * 3000, b"same content " * 300, random.Random(1).randbytes(70_000)]),
)
metadata = st.lists(st.tuples(letters, letters), max_size=2, unique_by=lambda pair: pair[0]).map(tuple)
files = st.builds(
    File,
    uids,
    contents,
    st.integers(0, 2**50),
    st.sampled_from(["", "text/plain"]),
    metadata,
    st.one_of(st.none(), st.builds(Origin, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1))),
)
TRAINED = make.trained()
trainings = st.sampled_from([None, TRAINED])


@given(st.lists(files, max_size=60), st.sampled_from([None, 1, 3, 40]), trainings)
def test_what_is_kept_says_what_the_group_says(made: list[File], entries: int | None, trained: Trained | None) -> None:
    data, _ = pack(made, replace(OPTIONS, group_entries=entries), trained=trained)
    reader = opened(data)
    listed = list(reader.entries())
    for group in reader.groups():
        page = Page(group)
        for entry in group.entries():
            name = entry.uid.encode()
            rows = page.find(entry.key, name)
            assert rows == [row for row, uid in enumerate(group.body.uids()) if uid == name]
            assert page.last(entry.key, name) == rows[-1]
            assert entry in [page.entry(row, entry.key, entry.uid) for row in rows]
    newest = {file.uid: file.content for file in made}
    for uid in {*newest, "a", "b", "aa", "ababab", "uid-", "uid-3", "absent", "\udc80"}:
        assert reader.find(uid) == [entry for entry in listed if entry.uid == uid]
        assert reader.get(uid) == newest.get(uid)


@given(st.lists(letters, min_size=1, max_size=12, unique=True), st.booleans())
def test_parts_of_uids_are_no_uids(names: list[str], equal: bool) -> None:
    """Uids lie end to end, and a search finds bytes."""
    names = list(dict.fromkeys(name.ljust(4, "c") for name in names)) if equal else names
    [group] = opened(pack([File(name, b"") for name in names])[0]).groups()
    page = Page(group)
    joined = b"".join(group.body.uids())
    for begin in range(len(joined) + 1):
        for end in range(begin, len(joined) + 1):
            part = joined[begin:end]
            assert (page.last(key_of(part), part) >= 0) == (part in group.body.uids())


@pytest.mark.parametrize("micros", [True, False])
def test_an_entry_takes_48_bytes_besides_its_uid(micros: bool) -> None:
    """Measured: what Python has allocated once all groups of 200,000 files are kept."""
    data, uids = records(200_000, micros=micros)
    reader = ShardReader.open(BytesSource(data), cache_bytes=1 << 30)
    tracemalloc.start()
    for uid in uids[::100]:
        reader.find(uid)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(reader._pages) == len(reader.directory)
    uid_bytes = sum(map(len, uids))
    assert taken <= uid_bytes + 48 * len(uids)
    assert abs(reader.cached_bytes - taken) < 0.02 * taken, "what it states is what it takes"


def test_the_index_stays_within_its_bound() -> None:
    files = [File(f"uid-{number}", b"x") for number in range(20_000)]
    reader = ShardReader.open(BytesSource(pack(files)[0]), cache_bytes=300_000)
    for file in files[:4000]:
        assert reader.find(file.uid)[0].uid == file.uid
        assert reader.cached_bytes <= 300_000
    assert 1 < len(reader._pages) < len(reader.directory)


def test_what_is_asked_for_stays() -> None:
    files = [File(f"uid-{number}", b"x") for number in range(20_000)]
    reader = ShardReader.open(BytesSource(pack(files)[0]), cache_bytes=300_000)
    number = next(iter(reader.directory.groups_of(key_of(b"uid-7"))))
    reader.find("uid-7")
    page = reader._pages[number]
    for file in files[:5000]:
        reader.find(file.uid)
        reader.find("uid-7")
        assert reader._pages[number] is page
