"""Hostile bytes: flips, cuts, splices and mutations with right checksums.

Whatever the bytes: FormatError or IncompatibleError, or exactly the right answer; never wrong content, never much
memory. What groups say of each other, and dictionaries, are in test_hostile_groups.py.
"""

from __future__ import annotations

import dataclasses
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fixtures.format.make import ENCRYPTED
from tests.format.support import HEAD_FIELDS, OPTIONS, REFUSALS, File, Parts, exercise, opened, pack
from tests.format.truth import GOLDEN, GROUPED, NUMBERS, SMALL, UIDS, holds, survives
from vera_core.codec import crc32
from vera_core.errors import FormatError, IncompatibleError
from vera_core.format import layout
from vera_core.format.columns import COLUMNS

if TYPE_CHECKING:
    from vera_core.format.layout import Footer


@pytest.mark.parametrize("name", ["one", "shared", "shared-far", "dictionaries", "streamed-raw", "zero-length"])
def test_verify_finds_every_flipped_byte(name: str) -> None:
    data = GOLDEN[name]
    for at in range(0, len(data), 1 if len(data) < 1_100 else 3):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(REFUSALS):
            opened(bytes(damaged)).verify()


@pytest.mark.parametrize("name", ["empty", "one", "streamed-empty"])
def test_every_cut_is_refused(name: str) -> None:
    data = GOLDEN[name]
    for end in range(len(data)):
        with pytest.raises(FormatError):
            opened(data[:end])
        with pytest.raises(FormatError):
            opened(data[end + 1 :] if end < len(data) - 1 else b"")


@given(st.sampled_from(sorted(GOLDEN)), st.data())
def test_flips_cuts_and_splices(name: str, draw: st.DataObject) -> None:
    data = bytearray(GOLDEN[name])
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data)))
        length = draw.draw(st.integers(0, 300))
        other = GOLDEN[draw.draw(st.sampled_from(SMALL))]
        start = draw.draw(st.integers(0, len(other)))
        match draw.draw(st.sampled_from(["flip", "cut", "insert", "overwrite", "zero"])):
            case "flip" if at < len(data):
                data[at] ^= draw.draw(st.integers(1, 255))
            case "cut":
                del data[at : at + length]
            case "insert":
                data[at:at] = other[start : start + length]
            case "overwrite":
                data[at : at + length] = other[start : start + length]
            case _:
                data[at : at + length] = bytes(len(data[at : at + length]))
    if bytes(data) != GOLDEN[name] and bytes(data) not in GOLDEN.values():
        assert not survives(name, bytes(data))


@given(st.binary(max_size=600))
def test_arbitrary_bytes(data: bytes) -> None:
    with pytest.raises(FormatError):
        opened(data)


# From here on the checksums are right: what is refused is refused for what it says.


@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_sealing_again_changes_nothing(name: str) -> None:
    assert Parts.of(GOLDEN[name]).seal() == GOLDEN[name]


FEWER = settings(max_examples=settings().max_examples // 4)
"""For tests that run once for each field."""
FOOTER_NUMBERS = (
    "shard_size",
    "entries",
    "content_bytes",
    "stored_bytes",
    "min_key",
    "max_key",
    "min_created_at",
    "max_created_at",
    "data_start",
    "data_end",
    "table_offset",
    "sections",
)


def other_than(right: int, draw: st.DataObject, bits: int = 64) -> int:
    """A number near what is right, or anywhere."""
    near = st.integers(-4, 4).map(lambda distance: right + distance)
    return draw.draw(st.one_of(near, NUMBERS)) % (1 << bits)


@pytest.mark.parametrize("field", FOOTER_NUMBERS)
@FEWER
@given(name=st.sampled_from(SMALL), draw=st.data())
def test_footer_numbers(field: str, name: str, draw: st.DataObject) -> None:
    def change(footer: Footer) -> Footer:
        changed = dataclasses.asdict(footer)
        bits = 63 if "created" in field else 32 if field == "sections" else 64
        changed[field] = other_than(changed[field], draw, bits)
        return layout.Footer(**changed)

    data = Parts.of(GOLDEN[name]).seal(change)
    assert survives(name, data) == (data == GOLDEN[name])


@pytest.mark.parametrize("column", range(5))
@FEWER
@given(name=st.sampled_from(GROUPED), row=st.integers(0, 20), draw=st.data())
def test_directory_numbers(column: int, name: str, row: int, draw: st.DataObject) -> None:
    parts = Parts.of(GOLDEN[name])
    row %= len(parts.groups)
    block = parts.groups[row]
    right = [*parts.directory[row], len(block.seal(256)), len(block.contents)]
    parts.lies[row, column] = other_than(right[column], draw)
    data = parts.seal()
    assert survives(name, data) == (data == GOLDEN[name])


def test_a_directory_that_ends_too_late() -> None:
    parts = Parts.of(GOLDEN["one"])
    parts.behind_directory = b"more"
    with pytest.raises(FormatError, match="directory contradicts"):
        opened(parts.seal())


@pytest.mark.parametrize("field", ["size", "raw_size", "offset", "number"])
@FEWER
@given(name=st.sampled_from(SMALL), row=st.integers(0, 2), draw=st.data())
def test_section_numbers(field: str, name: str, row: int, draw: st.DataObject) -> None:
    def change(sections: list[layout.Section]) -> list[layout.Section]:
        changed = dataclasses.asdict(sections[row % len(sections)])
        changed[field] = other_than(changed[field], draw, 32 if field == "number" else 64)
        sections[row % len(sections)] = layout.Section(**changed)
        return sections

    parts = Parts.of(GOLDEN[name])
    data = parts.seal(sections=change)
    # The directory's own number means nothing.
    harmless = field == "number" and row % (len(parts.dictionaries) + 1) == len(parts.dictionaries)
    assert survives(name, data) == (data == GOLDEN[name] or harmless)


@pytest.mark.parametrize("field", HEAD_FIELDS)
@FEWER
@given(name=st.sampled_from(GROUPED), number=st.integers(0, 20), draw=st.data())
def test_block_heads(field: str, name: str, number: int, draw: st.DataObject) -> None:
    parts = Parts.of(GOLDEN[name])
    block = parts.groups[number % len(parts.groups)]
    wide = field in ("position", "first", "first_key", "content_size")
    block.lies[field] = other_than(block.head[field], draw, 64 if wide else 32)
    data = parts.seal()
    assert survives(name, data) == (data == GOLDEN[name])


@given(st.sampled_from(GROUPED), st.integers(0, 20), st.data())
def test_block_bodies(name: str, number: int, draw: st.DataObject) -> None:
    """Any byte of the columns, attributes and uids."""
    parts = Parts.of(GOLDEN[name])
    block = parts.groups[number % len(parts.groups)]
    body = bytearray(block.body)
    for _ in range(draw.draw(st.integers(1, 3))):
        body[draw.draw(st.integers(0, len(body) - 1))] = draw.draw(st.integers(0, 255))
    block.body = bytes(body)
    holds(parts.seal())


@given(
    st.sampled_from(GROUPED),
    st.integers(0, 20),
    st.integers(0, len(COLUMNS)),
    st.sampled_from([(0, 1), (1, 8), (9, 4)]),
    NUMBERS,
)
def test_column_heads(name: str, number: int, column: int, field: tuple[int, int], value: int) -> None:
    """Width, base and unit of each column, the attributes' included, to any value."""
    parts = Parts.of(GOLDEN[name])
    block = parts.groups[number % len(parts.groups)]
    at = 4 + 13 * column + field[0]
    if column == len(COLUMNS):  # behind the first table
        widths = [block.body[4 + 13 * own] for own in range(len(COLUMNS))]
        at += sum(widths) * block.head["count"] + 4
    block.body = (
        block.body[:at] + (value % (1 << 8 * field[1])).to_bytes(field[1], "little") + block.body[at + field[1] :]
    )
    holds(parts.seal())


@given(st.sampled_from(GROUPED), st.integers(0, 20), st.sampled_from(COLUMNS), st.integers(0, 20), NUMBERS)
def test_column_values(name: str, number: int, column: str, row: int, value: int) -> None:
    parts = Parts.of(GOLDEN[name])
    block = parts.groups[number % len(parts.groups)]
    values = block.columns[column]
    if column in ("uid_length", "attributes"):  # `change` makes a body of them, which must be possible
        value = min(value, int(values.max()))
    values[row % len(values)] = value
    if column != "uid_length":
        block.change(**{column: values})
    data = parts.seal()
    if holds(data) and column not in ("created_at", "attributes", "origin_commit", "origin_ordinal"):
        assert survives(name, data)


@given(st.sampled_from(GROUPED), st.integers(0, 20), st.data())
def test_proofs(name: str, number: int, draw: st.DataObject) -> None:
    """Whatever stands beside a content, it is only given out if it matches; keyed digests tell only with keys."""
    parts = Parts.of(GOLDEN[name])
    block = parts.groups[number % len(parts.groups)]
    proofs = bytearray(block.proofs)
    keyed = 32 * block.head["count"] if name in ENCRYPTED else 0  # tests/keys/test_shards.py has them
    proofs[draw.draw(st.integers(keyed, len(proofs) - 1))] ^= draw.draw(st.integers(1, 255))
    block.proofs = bytes(proofs)
    assert not holds(parts.seal())


@pytest.mark.parametrize("bit", range(64))
def test_unknown_features_are_refused_by_name(bit: int) -> None:
    flag = 1 << bit
    if flag & layout.SUPPORTED:
        return
    parts = Parts.of(GOLDEN["one"])
    header = bytearray(parts.header)
    header[16:24] = flag.to_bytes(8, "little")
    parts.header = bytes(header)
    name = f"unknown feature {flag:#x}"
    with pytest.raises(IncompatibleError, match=f"uses {name}, which"):
        opened(parts.seal(lambda footer: replace(footer, incompat=flag)))
    with pytest.raises(IncompatibleError, match=f"uses {name}, which"):
        layout.Header.parse(parts.seal()[:256])


def test_compat_flags_are_ignored() -> None:
    parts = Parts.of(GOLDEN["one"])
    header = bytearray(parts.header)
    header[24:32] = b"\xff" * 8
    parts.header = bytes(header)
    assert survives("one", parts.seal(lambda footer: replace(footer, compat=2**64 - 1)))


def test_other_versions_are_refused_by_number() -> None:
    footer = bytearray(GOLDEN["one"][-192:])
    footer[8] = 2
    footer[180:184] = crc32(bytes(footer[:180])).to_bytes(4, "little")
    with pytest.raises(IncompatibleError, match="format version 2, this VERA reads 1"):
        opened(GOLDEN["one"][:-192] + bytes(footer))


def test_unknown_sections() -> None:
    parts = Parts.of(GOLDEN["one"])
    known = opened(GOLDEN["one"]).sections[0]
    parts.extra_sections = [(replace(known, tag=b"FILTER\0\0", flags=0, raw_size=5), b"12345")]
    assert survives("one", parts.seal())
    damaged = parts.seal(sections=lambda sections: [sections[0], replace(sections[1], crc=1)])
    with pytest.raises(FormatError, match=r"checksum of a section.*section=FILTER"):
        opened(damaged).verify()
    parts.extra_sections = [(replace(known, tag=b"FILTER\0\0", raw_size=5), b"12345")]
    with pytest.raises(IncompatibleError, match="section 'FILTER'"):
        opened(parts.seal())
    parts.extra_sections = [(replace(known, raw_size=5), b"12345")]
    with pytest.raises(FormatError, match="2 directories"):
        opened(parts.seal())
    with pytest.raises(FormatError, match="0 directories"):
        opened(
            Parts.of(GOLDEN["one"]).seal(sections=lambda sections: [replace(sections[0], tag=b"OTHER\0\0\0", flags=0)])
        )


def test_memory_stays_bounded() -> None:
    """The largest counts and sizes that checks let pass, in shards that are small or compress to little."""
    huge = 2**61

    def claims(footer: Footer) -> Footer:
        return replace(footer, entries=layout.MAX_ENTRIES, content_bytes=huge, stored_bytes=huge)

    corpus = [Parts.of(GOLDEN["one"]).seal(claims)]
    for column, value in ((2, layout.MAX_GROUP_ENTRIES), (3, layout.MAX_BLOCK), (4, layout.MAX_GROUP_CONTENTS)):
        parts = Parts.of(GOLDEN["one"])
        parts.lies[0, column] = value
        corpus.append(parts.seal(claims))
    for field, value in (("count", layout.MAX_GROUP_ENTRIES), ("content_size", huge), ("raw_size", layout.MAX_BLOCK)):
        parts = Parts.of(GOLDEN["one"])
        parts.groups[0].lies[field] = value
        corpus.append(parts.seal())
    zeros, _ = pack([File(f"zeros-{number}", bytes(16 << 20)) for number in range(4)])
    names, _ = pack(
        [File("x" * 200, b"", metadata=(("k", "v" * 3000),))] * 16_384, replace(OPTIONS, group_entries=16_384)
    )
    corpus += [zeros, names, *GOLDEN.values()]
    for data in corpus:
        tracemalloc.start()
        try:
            exercise(data, UIDS)
        except REFUSALS:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 64 << 20


def test_a_block_that_unpacks_to_more_than_a_block() -> None:
    parts = Parts.of(GOLDEN["one"])
    parts.groups[0].body = bytes(layout.MAX_BLOCK + 1)
    with pytest.raises(FormatError, match="impossible values"):
        opened(parts.seal()).verify()
    parts = Parts.of(GOLDEN["one"])
    parts.extra_sections = []
    with pytest.raises(FormatError, match="too large"):
        opened(parts.seal(sections=lambda sections: [replace(sections[0], raw_size=layout.MAX_BLOCK + 1)]))


def test_groups_too_small_for_their_entries_are_refused() -> None:
    parts = Parts.of(GOLDEN["shared"])
    parts.lies[0, 2] = 5_000
    with pytest.raises(FormatError, match="directory contradicts"):
        opened(parts.seal(lambda footer: replace(footer, entries=5_000)))
