"""Limits that keep memory and time small, where the hostile files can't tell whether they are exactly right."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.support import File, opened, pack
from vera_core import codec
from vera_core.codec import Dictionaries, Stored, decode, decode_many
from vera_core.encoding import Encoder, Trained, encode
from vera_core.errors import FormatError
from vera_core.format import BytesSource, ShardReader
from vera_core.format.columns import COLUMNS, encode_attributes, encode_body, largest_body, parse_attributes
from vera_core.format.remains import Extent
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.mark.parametrize("count", [1, 2, 700])
def test_the_largest_body(count: int) -> None:
    """Every column as wide, every attribute and uid as long as can be: not a byte more is allowed."""
    extremes = np.array([0, (1 << 64) - 1] * count, np.uint64)[:count] if count > 1 else None
    columns = [np.full(count, 512, np.uint64) if name == "uid_length" else extremes for name in COLUMNS]
    filled = [np.zeros(count, np.uint64) if column is None else column for column in columns]
    attribute = b"\x7f" + b"m" * 127 + b"\1\0\xfb\x0fk" + b"v" * 4091
    assert encode_attributes(*parse_attributes(attribute)) == attribute
    size = len(encode_body(filled, [attribute] * count, b"u" * 512 * count))
    missing = 0 if extremes is not None else 8 * (len(COLUMNS) - 1)  # one value is its own base
    assert size + missing + 8 * count * 2 == largest_body(count)  # uids and attributes all have the same length


def test_entries_share_what_is_said_of_many() -> None:
    metadata = (("about", "w" * 3_000),)
    files = [File(f"uid-{number}", b"", media_type="a/b", metadata=metadata) for number in range(50)]
    entries = list(opened(pack(files)[0]).entries())
    assert len({id(entry.metadata) for entry in entries}) == 1


@given(
    st.binary(min_size=300, max_size=300),
    st.dictionaries(st.integers(0, 28), st.binary(min_size=1, max_size=10), max_size=12),
    st.lists(st.tuples(st.integers(0, 320), st.integers(0, 320)), max_size=6),
)
def test_what_is_mended_is_read(data: bytes, mended: dict[int, bytes], reads: Sequence[tuple[int, int]]) -> None:
    extent = Extent(BytesSource(data))
    model = bytearray(data)
    for number, better in mended.items():
        extent.mend(10 * number, better)
        model[10 * number : 10 * number + len(better)] = better
    for offset, length in reads:
        assert extent.fetch(offset, length) == model[offset : offset + length]


def test_more_dictionaries_than_a_thread_keeps_decompressors_of() -> None:
    contents = [b"%d common words of a dictionary, common words" % number for number in range(codec._CONTEXTS + 9)]
    dictionaries = tuple(content * 9 for content in contents)
    kinds = {str(number): number for number in range(1, len(contents) + 1)}
    batch = Encoder(trained=Trained(dictionaries, kinds)).encode(contents, list(kinds))
    items = [Stored(item.codec, item.stored, item.size, item.parameter) for item in batch]
    loaded = Dictionaries(dictionaries)
    assert {item.parameter for item in items} == set(kinds.values())
    for _ in range(2):
        assert [decode(item, loaded) for item in items] == contents
        assert decode_many(items, loaded) == contents


def test_large_contents_in_a_batch() -> None:
    contents = [b"small" * 20, b"large" * 600_000, b"", b"\0" * 3_000_000, b"small again" * 9]
    items = [Stored(each.codec, each.stored, each.size, each.parameter) for each in map(encode, contents)]
    assert decode_many(items) == contents
    huge = Stored(Codec.ZSTD, b"\xc0\x68" + (1 << 60).to_bytes(8, "little") + b"\3\0\0x", 1 << 60)
    with pytest.raises(FormatError, match="more than is decoded in memory"):
        decode_many([*items, huge])


def alive(kind: type) -> int:
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


def test_a_reader_is_freed_without_the_garbage_collector() -> None:
    """It holds tens of MiB; in a cycle, they would wait for a collection."""
    files = [File(f"uid-{number}", b"common words %d common words" % number) for number in range(9)]
    trained = Trained((b"common words " * 9,), {"": 1})
    gc.collect()
    readers, dictionaries = alive(ShardReader), alive(Dictionaries)
    gc.disable()
    try:
        reader = opened(pack(files, trained=trained)[0])
        assert [reader.get(file.uid) for file in files] == [file.content for file in files]
        assert len(list(reader.read_all())) == len(files)
        assert (alive(ShardReader), alive(Dictionaries)) == (readers + 1, dictionaries + 1)
        del reader
        assert (alive(ShardReader), alive(Dictionaries)) == (readers, dictionaries)
    finally:
        gc.enable()
