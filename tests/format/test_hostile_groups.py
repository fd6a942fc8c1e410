"""Hostile groups and dictionaries, with right checksums: places that lie, entries out of order, wrong dictionaries."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.support import OPTIONS, File, Parts, opened, ordered, pack
from tests.format.truth import GOLDEN, NUMBERS, TRUTH, holds, survives
from vera_core.codec import crc32
from vera_core.encoding import encode
from vera_core.errors import FormatError
from vera_core.format import groups, layout
from vera_core.format.groups import ELSEWHERE
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def far_places(name: str) -> list[int]:
    """Offsets in and around contents and blocks."""
    entries = [entry.offset for entry in TRUTH[name]]
    blocks = [int(at) for at in opened(GOLDEN[name]).directory.blocks]
    exact = [0, 255, 256, *entries, *blocks, len(GOLDEN[name])]
    return [at + off for at in exact for off in (-1, 0, 1, 64)]


@given(st.sampled_from(["shared", "shared-far"]), st.data())
def test_places(name: str, draw: st.DataObject) -> None:
    parts = Parts.of(GOLDEN[name])
    block = parts.groups[draw.draw(st.integers(0, len(parts.groups) - 1))]
    place = block.columns["place"]
    row = draw.draw(st.integers(0, len(place) - 1))
    far = st.sampled_from(far_places(name)).map(lambda at: max(0, ELSEWHERE + at))
    place[row] = draw.draw(st.one_of(st.integers(0, len(place) + 2), far, NUMBERS))
    block.change(place=place)
    survives(name, parts.seal())


FOUR = ordered([File(f"uid-{number}", b"%d." % number * 40) for number in range(4)])


def refused(data: bytes, match: str, uids: Sequence[str] = ()) -> None:
    """Whatever is asked of a shard, it is refused for the reason that `match` says."""
    reader = opened(data)
    attempts: tuple[Callable[[], object], ...] = (
        reader.verify,
        lambda: list(reader.entries()),
        lambda: list(reader.read_all()),
        lambda: [reader.find(uid) for uid in uids],
    )
    for attempt in attempts[: None if uids else 3]:
        with pytest.raises(FormatError, match=match):
            attempt()


@pytest.mark.parametrize("place", [1, 2, 3, 4, 5, ELSEWHERE - 1])
def test_places_in_a_group(place: int) -> None:
    """Row 1 shares the content of row 0; no other place of its group is right."""
    parts = Parts.of(pack([FOUR[0], FOUR[1]._replace(content=FOUR[0].content), *FOUR[2:]])[0])
    [block] = parts.groups
    assert block.columns["place"].tolist() == [0, 1, 0, 0]
    block.change(place=[0, place, 0, 0])
    if place == 1:
        assert holds(parts.seal())
    else:
        refused(parts.seal(), "where it can't be|no other brought")


def test_a_place_of_a_sharer() -> None:
    parts = Parts.of(pack([file._replace(content=FOUR[0].content) for file in FOUR])[0])
    assert parts.groups[0].columns["place"].tolist() == [0, 1, 1, 1]
    parts.groups[0].change(place=[0, 1, 2, 1])
    refused(parts.seal(), "where it can't be", [file.uid for file in FOUR])


def test_a_place_of_nothing() -> None:
    """Row 0 is empty; row 1 says that it is stored there."""
    parts = Parts.of(pack([FOUR[0]._replace(content=b""), *FOUR[1:]])[0])
    [block] = parts.groups
    block.contents = block.contents[int(block.columns["stored_size"][1]) :]
    block.change(place=[0, 1, 0, 0])
    stored = len(block.contents)
    refused(parts.seal(lambda footer: replace(footer, stored_bytes=stored)), "where it can't be", [FOUR[1].uid])


def test_nothing_is_not_shared() -> None:
    for files, place in (([b"", b""], 1), ([b"zz", b"zz"], 1), ([b"text", b""], ELSEWHERE + 256)):
        parts = Parts.of(pack([file._replace(content=content) for file, content in zip(FOUR, files, strict=False)])[0])
        parts.groups[0].change(place=[0, place])
        refused(parts.seal(), "where it can't be", [FOUR[0].uid])


def test_a_block_of_another_place() -> None:
    """Nothing else of an empty file's group depends on where it is."""
    parts = Parts.of(pack([FOUR[0]._replace(content=b"")])[0])
    parts.groups[0].lies["position"] = 300
    refused(parts.seal(), "states impossible values", [FOUR[0].uid])


STORED = encode(FOUR[0].content)
RANGES = {
    # What the second file holds, and where the same bytes stand: the place it then claims.
    "header": (layout.MAGIC, 0, "where it can't be"),
    "end of the header": (bytes(8), 240, "where it can't be"),
    "block": (groups.MAGIC, 256, "no other brought"),
    "part of a content": (STORED.stored[3:12], 3, "no other brought"),
    "beginning of a content": (STORED.stored[:9], 0, "no other brought"),
    "a whole content, decoded otherwise": (STORED.stored, 0, "no other brought"),
    "own block": (groups.MAGIC, 0, "where it can't be"),
}


@pytest.mark.parametrize("name", RANGES)
def test_a_range_that_is_not_another_entrys(name: str) -> None:
    """The stored bytes of a file stand elsewhere too, so all its checksums are right there."""
    content, offset, message = RANGES[name]
    files = [FOUR[0], FOUR[1]._replace(content=content)]
    data, summary = pack(files, replace(OPTIONS, group_entries=1))
    first, second = opened(data).entries()
    assert (first.codec, second.codec) == (Codec.ZSTD_BLOCK, Codec.CONSTANT if "end" in name else Codec.RAW)
    parts = Parts.of(data)
    block = parts.groups[1]
    if "content" in name:
        offset += first.offset
    if "own" in name:
        offset = opened(data).directory.blocks[1]
    if "end" in name:
        block.proofs = block.proofs[:32] + zlib.crc32(content).to_bytes(4, "little")
        block.change(codec=[Codec.RAW], stored_size=[len(content)])
    block.change(place=[ELSEWHERE + offset])
    block.contents = b""
    stored = first.stored_size
    changed = parts.seal(lambda footer: replace(footer, stored_bytes=stored))
    if "own" not in name:
        assert changed[offset : offset + len(content)] == content
    assert summary.entries == 2
    with pytest.raises(FormatError, match=message):
        opened(changed).verify()


def test_a_row_that_decodes_the_content_of_its_group_otherwise() -> None:
    data, _ = pack([FOUR[0], FOUR[1]._replace(content=STORED.stored)])
    parts = Parts.of(data)
    [block] = parts.groups
    block.contents = block.contents[: len(STORED.stored)]
    block.change(place=[0, 1])
    stored = len(STORED.stored)
    with pytest.raises(FormatError, match="no other brought"):
        opened(parts.seal(lambda footer: replace(footer, stored_bytes=stored))).verify()


@pytest.mark.parametrize("rows", [rows for rows in itertools.permutations(range(4)) if rows != (0, 1, 2, 3)])
def test_a_group_out_of_order(rows: tuple[int, ...]) -> None:
    parts = Parts.of(pack(FOUR)[0])
    parts.groups[0].permute(rows)
    first = hashlib.sha256(FOUR[rows[0]].uid.encode()).digest()[:8]
    for key in (parts.groups[0].head["first_key"], int.from_bytes(first, "big")):
        parts.groups[0].lies["first_key"] = parts.lies[0, 0] = key
        data = parts.seal(lambda footer, key=key: replace(footer, min_key=key, max_key=2**64 - 1))  # type: ignore[misc]
        refused(data, "not sorted", [file.uid for file in FOUR])


def test_groups_that_reach_into_each_other() -> None:
    """Each is sorted, and their first keys rise."""
    parts = Parts.of(pack([FOUR[0], FOUR[2]])[0])
    other = Parts.of(pack([FOUR[1], FOUR[3]])[0])
    parts.groups += other.groups
    parts.directory += other.directory
    parts.groups[1].lies["first"] = 2
    footer = other.footer
    data = parts.seal(
        lambda own: replace(
            own,
            entries=4,
            content_bytes=own.content_bytes + footer.content_bytes,
            stored_bytes=own.stored_bytes + footer.stored_bytes,
            max_key=footer.max_key,
        )
    )
    with pytest.raises(FormatError, match="not sorted"):
        opened(data).verify()


def test_groups_exchanged() -> None:
    """The first two, and the last two of four: only then is the footer's first key right."""
    for rows in ((1, 0, 2, 3), (0, 1, 3, 2)):
        parts = Parts.of(pack(FOUR, replace(OPTIONS, group_entries=1))[0])
        parts.groups = [parts.groups[row] for row in rows]
        parts.directory = [parts.directory[row] for row in rows]
        for first, block in enumerate(parts.groups):
            block.lies["first"] = first
        with pytest.raises(FormatError, match="directory contradicts"):
            opened(parts.seal())


def test_joined_groups_say_so() -> None:
    """Versions of one uid in three groups: all are found; without the mark the shard does not verify."""
    parts = Parts.of(
        pack([File("same", b"%d" % number * 9) for number in range(3)], replace(OPTIONS, group_entries=1))[0]
    )
    assert [entry.ordinal for entry in opened(parts.seal()).find("same")] == [0, 1, 2]
    assert [row[1] for row in parts.directory] == [0, 1, 1]
    for row in range(3):
        parts.lies = {(row, 1): 1 - parts.directory[row][1]}
        with pytest.raises(FormatError, match="with which key a group begins"):
            opened(parts.seal()).verify()


@pytest.mark.parametrize("field", range(5))
@given(value=NUMBERS, number=st.integers(0, 1))
def test_dictionary_blocks(field: int, value: int, number: int) -> None:
    """Position, number, size, checksum and bytes of what is kept for recovery."""
    parts = Parts.of(GOLDEN["dictionaries"])
    begin = number * (32 + len(parts.dictionaries[0][1]))
    at, size = ((8, 8), (16, 4), (20, 4), (24, 4), (32 + value % 2000, 1))[field]
    front = bytearray(parts.front)
    front[begin + at : begin + at + size] = (value % (1 << 8 * size)).to_bytes(size, "little")
    front[begin + 28 : begin + 32] = crc32(bytes(front[begin : begin + 28])).to_bytes(4, "little")
    parts.front = bytes(front)
    data = parts.seal()
    assert survives("dictionaries", data) == (data == GOLDEN["dictionaries"])


def test_dictionary_blocks_are_those_of_the_sections() -> None:
    """Whole, with right checksums, but another's."""
    parts = Parts.of(GOLDEN["dictionaries"])
    right = parts.dictionaries
    (_, first), (_, second) = right
    for wrong in ([(1, second), (2, first)], [(1, first[:-1] + b"?"), (2, second)], [(1, first)]):
        parts.dictionaries = wrong
        parts.rewrite_front()
        parts.dictionaries = right
        with pytest.raises(FormatError, match="in DATA is not that of its section"):
            opened(parts.seal()).verify()


@pytest.mark.parametrize("name", ["empty", "one", "dictionaries"])
def test_bytes_before_the_groups_that_are_nothing(name: str) -> None:
    parts = Parts.of(GOLDEN[name])
    parts.front += b"hidden"
    with pytest.raises(FormatError, match="DATA does not begin where the footer says"):
        opened(parts.seal()).verify()


def read_everything(data: bytes) -> None:
    """Content by content, as they are asked for; does not verify the shard as a whole."""
    reader = opened(data)
    for entry in reader.entries():
        reader.read(entry)


def test_dictionaries_that_are_missing_damaged_or_exchanged() -> None:
    good = Parts.of(GOLDEN["dictionaries"]).dictionaries
    (_, first), (_, second) = good
    for wrong, message in (
        ([(1, first)], "dictionary 2 is not in this shard"),
        ([(2, first), (1, second)], "numbered from 1"),
        ([(1, first), (1, second)], "numbered from 1"),
        ([(1, second), (2, first)], "zstd|SHA-256|content"),
        ([(1, b"\x37\xa4\x30\xec" + first[4:90]), (2, second)], "refuses a dictionary"),
        ([(1, b"\x37\xa4\x30\xec" + b"x" * 500), (2, second)], "refuses a dictionary"),
        ([(1, b""), (2, b"")], "zstd|SHA-256|content"),
        ([(1, bytes(129 << 10)), (2, second)], "too large"),
    ):
        parts = Parts.of(GOLDEN["dictionaries"])
        parts.dictionaries = wrong
        with pytest.raises(FormatError):
            opened(parts.seal()).verify()
        parts.rewrite_front()  # the two copies agree
        shifted = parts.seal()
        assert not holds(shifted)
        parts.front = Parts.of(GOLDEN["dictionaries"]).front
        with pytest.raises(FormatError, match=message):
            read_everything(parts.seal())


def test_dictionaries_and_their_flag_go_together() -> None:
    parts = Parts.of(GOLDEN["dictionaries"])
    header = bytearray(parts.header)
    header[16] = 0
    parts.header = bytes(header)
    with pytest.raises(FormatError, match="whether the shard has dictionaries"):
        opened(parts.seal(lambda footer: replace(footer, incompat=0)))
    parts = Parts.of(GOLDEN["one"])
    header = bytearray(parts.header)
    header[16] = layout.DICTIONARIES
    parts.header = bytes(header)
    with pytest.raises(FormatError, match="whether the shard has dictionaries"):
        opened(parts.seal(lambda footer: replace(footer, incompat=layout.DICTIONARIES)))


def test_a_streamed_shard_has_no_dictionaries() -> None:
    parts = Parts.of(GOLDEN["streamed-raw"])
    parts.dictionaries = Parts.of(GOLDEN["dictionaries"]).dictionaries
    parts.rewrite_front()
    header = bytearray(parts.header)
    header[16] = layout.DICTIONARIES | layout.STREAMED
    parts.header = bytes(header)
    assert not holds(parts.seal(lambda footer: replace(footer, incompat=header[16])))
