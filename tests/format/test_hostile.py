"""Hostile bytes: flips, cuts, splices and mutations with right checksums.

Whatever the bytes: FormatError or IncompatibleError, or exactly the right answer; never wrong content, never much
memory.
"""

from __future__ import annotations

import dataclasses
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.support import REFUSALS, File, Parts, exercise, opened, pack, repack_page, unpack_page
from vera_core.codec import crc32, pack_block, unpack_block
from vera_core.errors import FormatError, IncompatibleError
from vera_core.format import layout, listing
from vera_core.format.groups import HEAD_SIZE, parse_group_head

if TYPE_CHECKING:
    from vera_core.format.layout import Footer

HERE = Path(make.__file__).parent
GOLDEN = {path.stem: path.read_bytes() for path in sorted(HERE.glob("*.vera"))}
SMALL = [name for name, data in GOLDEN.items() if len(data) < 4_000]
UIDS = ("invoices/2026/4711.json", "copy-1", "often", "contract.pdf", "big.csv", "absent")
TRUTH = {name: {entry.ordinal: entry for entry in opened(data).entries()} for name, data in GOLDEN.items()}


def survives(name: str, data: bytes) -> bool:
    """Whether the changed shard `data` was read whole; fails unless everything it then said was right."""
    try:
        exercise(data, UIDS)
    except REFUSALS:
        return False
    assert {entry.ordinal: entry for entry in opened(data).entries()} == TRUTH[name]
    return True


@pytest.mark.parametrize("name", ["one", "shared", "streamed-raw", "zero-length"])
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

NUMBERS = st.one_of(
    st.integers(0, 70_000), st.integers(0, 2**64 - 1), st.sampled_from([2**31, 2**32 - 1, 2**62, 2**63])
)


@pytest.mark.parametrize("name", SMALL)
def test_sealing_again_changes_nothing(name: str) -> None:
    assert Parts.of(GOLDEN[name]).seal() == GOLDEN[name]


FOOTER_NUMBERS = (
    "shard_size",
    "entries",
    "content_bytes",
    "stored_bytes",
    "min_key",
    "max_key",
    "data_end",
    "pages_size",
    "table_offset",
)


@given(st.sampled_from(SMALL), st.sampled_from(FOOTER_NUMBERS), NUMBERS)
def test_footer_numbers(name: str, field: str, value: int) -> None:
    def change(footer: Footer) -> Footer:
        changed = dataclasses.asdict(footer)
        changed[field] = value
        return layout.Footer(**changed)

    data = Parts.of(GOLDEN[name]).seal(change)
    assert survives(name, data) == (data == GOLDEN[name])


@given(st.sampled_from(SMALL), st.integers(0, 4), st.integers(0, 3), NUMBERS)
def test_directory_numbers(name: str, column: int, row: int, value: int) -> None:
    parts = Parts.of(GOLDEN[name])
    values = parts.directory[column]
    if row < len(values) and column < 3:  # sizes and checksums are made right when it is sealed
        values[row] = value
    data = parts.seal()
    assert survives(name, data) == (data == GOLDEN[name])


@given(st.sampled_from([name for name in SMALL if name != "empty"]), st.data())
def test_page_bytes(name: str, draw: st.DataObject) -> None:
    """Any byte of an index page's head, columns and proofs."""
    parts = Parts.of(GOLDEN[name])
    head, core, proofs = (bytearray(part) for part in unpack_page(parts.pages[0]))
    part = draw.draw(st.sampled_from([head, core, core, core, proofs]))
    for _ in range(draw.draw(st.integers(1, 3))):
        part[draw.draw(st.integers(0, len(part) - 1))] = draw.draw(st.integers(0, 255))
    parts.pages[0] = repack_page(bytes(head), bytes(core), bytes(proofs))
    survives(name, parts.seal())


@given(st.sampled_from([name for name in SMALL if name != "empty" and "streamed" not in name]), st.data())
def test_group_bytes(name: str, draw: st.DataObject) -> None:
    """Any byte of a group's head and columns."""
    parts = Parts.of(GOLDEN[name])
    head = parse_group_head(parts.data[:HEAD_SIZE], layout.HEADER_SIZE)
    body = bytearray(unpack_block(parts.data[HEAD_SIZE : head.size], head.raw_size))
    fixed = bytearray(parts.data[:HEAD_SIZE])
    part = draw.draw(st.sampled_from([fixed, body, body]))
    for _ in range(draw.draw(st.integers(1, 3))):
        part[draw.draw(st.integers(0, len(part) - 1))] = draw.draw(st.integers(0, 255))
    stored = pack_block(bytes(body))
    if part is body and len(stored) == head.stored_size:
        fixed[48:52] = crc32(stored).to_bytes(4, "little")
        fixed[60:64] = crc32(bytes(fixed[:60])).to_bytes(4, "little")
        parts.data = bytes(fixed) + stored + parts.data[head.size :]
    else:
        fixed[60:64] = crc32(bytes(fixed[:60])).to_bytes(4, "little")
        parts.data = bytes(fixed) + parts.data[HEAD_SIZE:]
    survives(name, parts.seal())


@pytest.mark.parametrize("bit", range(64))
def test_unknown_features_are_refused_by_name(bit: int) -> None:
    flag = 1 << bit
    if flag == layout.STREAMED:
        return
    parts = Parts.of(GOLDEN["one"])
    header = bytearray(parts.header)
    header[16:24] = flag.to_bytes(8, "little")
    parts.header = bytes(header)
    name = layout.INCOMPAT_NAMES.get(flag, f"unknown feature {flag:#x}")
    with pytest.raises(IncompatibleError, match=f"uses {name}, which"):
        opened(parts.seal(lambda footer: replace(footer, incompat=flag)))
    with pytest.raises(IncompatibleError, match=f"uses {name}, which"):
        layout.Header.parse(parts.seal()[:256])


def test_compat_flags_are_ignored() -> None:
    parts = Parts.of(GOLDEN["one"])
    header = bytearray(parts.header)
    header[24:32] = b"\xff" * 8
    parts.header = bytes(header)
    exercise(parts.seal(lambda footer: replace(footer, compat=2**64 - 1)), UIDS)


def test_other_versions_are_refused_by_number() -> None:
    footer = bytearray(GOLDEN["one"][-192:])
    footer[8] = 2
    footer[180:184] = crc32(bytes(footer[:180])).to_bytes(4, "little")
    with pytest.raises(IncompatibleError, match="format version 2, this VERA reads 1"):
        opened(GOLDEN["one"][:-192] + bytes(footer))


def test_unknown_sections() -> None:
    parts = Parts.of(GOLDEN["one"])
    known = parts.section
    parts.extra_sections = [(replace(known, tag=b"FILTER\0\0", flags=0, raw_size=5), b"12345")]
    exercise(parts.seal(), UIDS)
    parts.extra_sections = [(replace(known, tag=b"FILTER\0\0", raw_size=5), b"12345")]
    with pytest.raises(IncompatibleError, match="section 'FILTER'"):
        opened(parts.seal())
    parts.extra_sections = [(replace(known, raw_size=5), b"12345")]
    with pytest.raises(FormatError, match="2 sections PAGEDIR"):
        opened(parts.seal())


def test_lying_about_stored_ranges() -> None:
    """Overlapping and foreign ranges in index *and* group are still found: DATA is walked, not believed."""
    parts = Parts.of(GOLDEN["shared"])
    head, core, proofs = unpack_page(parts.pages[0])
    from vera_core.format.columns import COMMON, Body, encode_body

    body = Body(core, 24)
    columns: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = [column.values() for column in body.columns]
    offsets = columns[len(COMMON) + 1]
    columns[len(COMMON) + 1] = np.where(offsets == offsets.max(), offsets - np.uint64(1), offsets)
    attributes = sorted(set(body.all_attributes()), key=body.all_attributes().index)
    parts.pages[0] = repack_page(head, core[:24] + encode_body(columns, attributes, body.all_uids()), proofs)
    reader = opened(parts.seal())
    with pytest.raises(FormatError, match="DATA and index describe an entry differently"):
        reader.verify()
    wrong = [entry for entry in reader.entries() if entry.offset == int(offsets.max()) - 1]
    assert wrong
    with pytest.raises(FormatError, match=f"uid={wrong[0].uid}"):
        reader.read(wrong[0])


def test_memory_stays_bounded() -> None:
    """The largest counts and sizes that checks let pass, in a few hundred bytes of shard."""
    base = Parts.of(GOLDEN["one"])
    huge = 2**61

    def claims(footer: Footer) -> Footer:
        return replace(footer, entries=layout.MAX_ENTRIES, content_bytes=huge)

    corpus = [base.seal(claims)]
    for column, value in ((2, layout.MAX_PAGE_ENTRIES), (3, layout.MAX_BLOCK)):
        parts = Parts.of(GOLDEN["one"])
        parts.directory[column][0] = value
        corpus.append(parts.seal(claims))
    zeros, _ = pack([File("zeros", bytes(16 << 20))])
    corpus += [zeros, *(data for name, data in GOLDEN.items() if name != "pages")]
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


def test_a_page_of_enormous_names_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that compress to nothing can't make a listing hold more than the limit."""
    files = [File(f"{number:03d}" + "x" * 500, b"", metadata=(("k", f"{number}" * 900),)) for number in range(300)]
    data, _ = pack(files)
    assert len(list(opened(data).entries())) == 300
    monkeypatch.setattr(listing, "MAX_NAMES_BYTES", 400_000)
    with pytest.raises(FormatError, match="uids and attributes"):
        list(opened(data).entries())


def test_pages_too_small_for_their_entries_are_refused() -> None:
    parts = Parts.of(GOLDEN["shared"])
    parts.directory[2][0] = 5_000
    with pytest.raises(FormatError, match="directory contradicts"):
        opened(parts.seal(lambda footer: replace(footer, entries=5_000)))
