"""Columns: any numbers come back, whole and one by one, in the fewest bytes that the rule gives."""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vera_core.errors import FormatError, UsageError
from vera_core.format.columns import (
    COLUMNS,
    Body,
    encode_attributes,
    encode_body,
    encode_table,
    origin_numbers,
    parse_attributes,
    parse_table,
)
from vera_core.model import Origin

u64 = st.integers(0, 2**64 - 1)
values = st.one_of(
    st.lists(u64, max_size=20),
    st.lists(st.integers(0, 300), max_size=20),
    st.builds(
        lambda base, unit, steps: [(base + unit * step) % 2**64 for step in steps],
        u64,
        st.integers(1, 2**33),
        st.lists(st.integers(0, 2**30), max_size=20),
    ),
)


def column(numbers: list[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.array(numbers, np.uint64)


@given(values)
def test_a_column_comes_back_in_the_stated_size(numbers: list[int]) -> None:
    block = encode_table([column(numbers)])
    [found], end = parse_table(block, 0, 1, 1 << 16)
    assert end == len(block)
    assert found.values().tolist() == numbers
    # docs/format-v1.md, "Columns", in other words
    base = min(numbers, default=0)
    most = max(numbers, default=0) - base
    unit = gcd(*(number - base for number in numbers)) if most > 255 else 1
    unit = unit if unit < 2**32 else 1
    assert (found.base, found.unit) == (base, unit)
    width = len(found.planes)
    assert width == (len(f"{most // unit:x}") + 1) // 2 * (most > 0)
    assert len(block) == 4 + 13 + width * len(numbers)


def test_values_wrap_at_the_end_of_64_bits() -> None:
    """A reader takes any base, unit and distance."""
    block = (2).to_bytes(4, "little") + bytes([1]) + (2**64 - 1).to_bytes(8, "little") + b"\xff\xff\xff\xff" + b"\0\2"
    [found], _ = parse_table(block, 0, 1, 2)
    assert found.values().tolist() == [2**64 - 1, 2 * (2**32 - 1) - 1]


@pytest.mark.parametrize("at", range(17))
def test_a_table_that_is_cut_or_states_too_much(at: int) -> None:
    block = encode_table([column([5, 700])])
    with pytest.raises(FormatError):
        parse_table(block[:at], 0, 1, 2)
    for wrong in ({4: 9}, {13: 0, 14: 0, 15: 0, 16: 0}, {0: 3}):
        changed = bytearray(block)
        for place, value in wrong.items():
            changed[place] = value
        with pytest.raises(FormatError):
            parse_table(bytes(changed), 0, 1, 2)


rows = st.lists(
    st.tuples(st.binary(min_size=1, max_size=30), st.binary(max_size=9), st.lists(u64, min_size=9, max_size=9)),
    min_size=1,
    max_size=30,
)


@given(rows, st.booleans())
def test_a_body_comes_back(made: list[tuple[bytes, bytes, list[int]]], equal: bool) -> None:
    uids = [uid.ljust(30) if equal else uid for uid, _, _ in made]
    table = list(dict.fromkeys(text for _, text, _ in made))
    columns = {name: column([numbers[at % 9] for _, _, numbers in made]) for at, name in enumerate(COLUMNS)}
    columns["uid_length"] = column([len(uid) for uid in uids])
    columns["attributes"] = column([table.index(text) for _, text, _ in made])
    body = Body(encode_body(list(columns.values()), table, b"".join(uids)), 0)
    assert body.uids() == uids == [body.uid(row) for row in range(len(uids))]
    assert body.attribute_table() == table
    assert [body.attributes(code) for code in columns["attributes"].tolist()] == [text for _, text, _ in made]
    for name, found in zip(COLUMNS, body.columns, strict=True):
        assert found.values().tolist() == columns[name].tolist()


def test_uids_of_one_length_lie_by_position() -> None:
    lengths = [column([3, 3])] + [column([0, 0])] * 10
    assert encode_body(lengths, [b""], b"abcxyz").endswith(b"axbycz")
    lengths[0] = column([3, 2])
    assert encode_body(lengths, [b""], b"abcxy").endswith(b"abcxy")


@given(st.binary(max_size=60))
def test_attributes_are_read_strictly(data: bytes) -> None:
    try:
        found = parse_attributes(data)
    except FormatError:
        return
    assert encode_attributes(*found) == (b"" if data == b"\0" else data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80" + b"m" * 128,
        b"\x05abc",
        b"\0\x01\0\x01\0k",
        b"\0\0\0\x01\0v",
        b"\0\x01\0\0\0k\x01\0\0\0k",
        b"\0\x01\0\0\0\xff",
        b"\x01\xff",
        b"\0k",
    ],
)
def test_attributes_that_can_not_be(data: bytes) -> None:
    with pytest.raises(FormatError, match="media type or metadata"):
        parse_attributes(data)


@pytest.mark.parametrize("origin", [Origin(0, 5), Origin(-1, 0), Origin(1 << 32, 0), Origin(1, 1 << 32), Origin(1, -1)])
def test_origins_that_can_not_be(origin: Origin) -> None:
    with pytest.raises(UsageError, match="no origin with commit"):
        origin_numbers(origin)
    assert origin_numbers(None) == (0, 0)
    assert origin_numbers(Origin(2**32 - 1, 0)) == (2**32 - 1, 0)
