"""What is fuzzed: each target takes any bytes, and fails only if VERA did something wrong with them.

Wrong is any exception but FormatError and IncompatibleError, an answer that contradicts another way to the same answer,
and more than 64 MiB of memory.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import zstandard

from tests.format.gauntlet import CLUES, memory
from tests.format.support import REFUSALS, exercise, opened
from tests.format.test_second_reader import load
from tests.format.truth import UIDS, holds
from tests.fuzz.boxes import shard_of
from tests.fuzz.sealing import seal, seal_group
from vera_core.codec import MAX_INLINE, NO_DICTIONARIES, Dictionaries, Stored, crc32, decode, decode_many
from vera_core.errors import FormatError, UsageError
from vera_core.format import BytesSource, Survey, layout, rebuild, saved_entries, survey
from vera_core.format.columns import Body, encode_attributes, parse_attributes, parse_table
from vera_core.format.directory import parse_dictionary, parse_directory
from vera_core.format.groups import KEYED, PLAIN, Group
from vera_core.format.index import Page
from vera_core.format.sealed import FIRST_PLAINTEXT, HEAD, first_plaintext, parse_first, parse_inside
from vera_core.format.stream import Whole, decode_stream
from vera_core.model import Codec
from vera_core.zstd_frame import MAX_WINDOW, FrameFeed, check_frame

if TYPE_CHECKING:
    from collections.abc import Callable

MEMORY = 64 << 20
_MAGIC = zstandard.FRAME_HEADER
_MOST_CONTENT = 4 << 20
"""Contents of a shard in bytes that are compared; more take too long."""


def whole(data: bytes) -> None:
    """A shard as it comes: everything a reader can do. Whatever verifies must hold by the specification."""
    answers(data)


def sealed(data: bytes) -> None:
    """A shard whose checksums are made right before."""
    answers(seal(data))


def box(data: bytes) -> None:
    """A shard built of a box: columns, attributes, uids, contents and dictionaries under right places and sums."""
    answers(shard_of(data))


def answers(data: bytes) -> None:
    """Asks everything of a shard; what verifies must hold by the specification, and be the same to another reader."""
    exercise(data, UIDS)
    reader = opened(data)
    if reader.footer.content_bytes > _MOST_CONTENT:
        return
    assert holds(data)
    entries = list(reader.entries())
    if not reader.encrypted:
        second = load().Shard(data)
        assert [tuple(entry[:3]) for entry in second.entries()] == [
            (entry.uid, entry.ordinal, entry.created_at) for entry in entries
        ]
        for entry, other in zip(entries, second.entries(), strict=True):
            assert second.read(other) == b"".join(reader.read_stream(entry))
    for uid in {entry.uid for entry in entries[:30]}:
        assert reader.find(uid) == [entry for entry in entries if entry.uid == uid]


def recovery(data: bytes) -> None:
    """What can be saved of a sealed shard, as `salvage`."""
    salvage(seal(data))


def salvage(data: bytes) -> None:
    """What can be saved of a damaged shard: what is saved verifies, and makes a shard that does."""
    found = survey(BytesSource(data), CLUES, tell=lambda _: None, sealed=True)
    for saved, content in saved_entries(found):
        assert sum(map(len, content)) == saved.entry.size
    out = io.BytesIO()
    try:
        rebuild(found, out, commit=7)
    except UsageError:
        keys = found.remains.uids.sealed and not found.restorable
        assert keys or found.remains.header is None, "clues are asked for only where the header is lost"
        return
    check_rebuilt(found, out.getvalue())


def check_rebuilt(found: Survey, data: bytes) -> None:
    """The rebuilt shard verifies, and has all that was saved."""
    reader = opened(data)
    reader.verify()
    assert reader.entry_count == found.found.saved


def contents(data: bytes) -> None:
    """u8 codec, u8 parameter, u24 size, stored bytes: decoded alone, in a batch, and as a stream in pieces."""
    if len(data) < 5:
        return
    decoded_alike(_item(data[:5], data[5:]), NO_DICTIONARIES)


def dictionary(data: bytes) -> None:
    """u16 length and a dictionary, then as `contents`."""
    size = int.from_bytes(data[:2], "little")
    raw, rest = data[2 : 2 + size], data[2 + size :]
    parse_dictionary(data, 1, 256)
    loaded = Dictionaries((raw, raw[::-1]))
    if len(rest) >= 5:
        decoded_alike(_item(rest[:5], rest[5:]), loaded)


def _item(head: bytes, stored: bytes) -> Stored:
    return Stored(Codec(head[0] % len(Codec)), stored, int.from_bytes(head[2:5], "little"), head[1])


def decoded_alike(item: Stored, dictionaries: Dictionaries) -> None:
    """Every way to decode gives the same, which is as long as stated."""
    step = len(item.stored) % 7 + 1
    pieces = [item.stored[at : at + step] for at in range(0, len(item.stored), step)]
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: decode(item, dictionaries),
        lambda: decode_many([item, item], dictionaries)[1],
        lambda: b"".join(decode_stream(Whole(item.codec, item.size, item.parameter), pieces, dictionaries)),
    )
    results: set[bytes | None] = set()
    for way in ways:
        try:
            results.add(way())
        except FormatError:
            results.add(None)
    assert len(results) == 1, "ways to decode differ"
    [content] = results
    assert content is None or len(content) == item.size <= MAX_INLINE


def frame(data: bytes) -> None:
    """u64 size and a zstd frame: both checks agree with each other, and with libzstd on what they let pass."""
    size, stored = int.from_bytes(data[:8], "little"), data[8:]
    step = len(stored) % 5 + 1
    feed = FrameFeed([stored[at : at + step] for at in range(0, len(stored), step)], size)
    try:
        while feed.read(3):
            pass
        feed.finish()
    except FormatError:
        streamed = False
    else:
        streamed = True
    try:
        check_frame(stored, size)
    except FormatError:
        assert not streamed, "a stream is let pass, and the same frame is not"
        return
    assert streamed, "a frame is let pass, and the same stream is not"
    told = zstandard.get_frame_parameters(_MAGIC + stored)
    assert (told.content_size, told.dict_id, told.has_checksum) == (size, 0, False)
    assert told.window_size <= MAX_WINDOW


def columns(data: bytes) -> None:
    """A column body: a row at a time gives the same uids and attributes as all at once."""
    body = Body(data, 0)
    values = [column.values().tolist() for column in body.columns]
    uids = body.uids()
    table = body.attribute_table()
    assert [len(uid) for uid in uids] == values[0]
    assert all(code < len(table) for code in values[9])
    for row in range(min(body.count, 50)):
        assert body.uid(row) == uids[row]
        assert body.attributes(values[9][row]) == table[values[9][row]]
    assert len(b"".join(uids) + b"".join(table)) <= len(data)


def group(data: bytes) -> None:
    """A sealed block at the place that it states: what its rows say agrees with what can be looked up."""
    block = bytearray(data)
    seal_group(block, 0)
    position = int.from_bytes(block[8:16], "little")
    for uids in (PLAIN, KEYED):
        with suppress(FormatError):
            grouped(Group.parse(bytes(block), position, uids))


def grouped(parsed: Group) -> None:
    """A group, as `group`."""
    position = parsed.head.position
    begin, end = parsed.head.contents
    entries = parsed.entries()
    assert [entry.ordinal for entry in entries] == list(range(parsed.head.first, parsed.head.first + len(parsed)))
    place = parsed.column("place").tolist()
    page = Page(parsed)
    for row, entry in enumerate(entries):
        uid = entry.uid.encode()
        assert row in page.find(entry.key, uid)
        assert page.entry(row, entry.key, entry.uid) == entry == parsed.entry(row, entry.key)
        if entry.stored_size and place[row] < 1 << 16:
            assert begin <= entry.offset <= entry.offset + entry.stored_size <= end
        elif entry.stored_size:
            assert layout.HEADER_SIZE <= entry.offset <= entry.offset + entry.stored_size <= position
        else:
            assert entry.offset == 0
    assert sum(entry.stored_size for row, entry in enumerate(entries) if not place[row]) == parsed.head.content_size


def directory(data: bytes) -> None:
    """A directory under a footer that agrees with its sums: groups tile DATA, and a key leads to all of its groups."""
    table, _ = parse_table(data, 0, 5, 1 << 16)
    keys, joined, counts, sizes, brought = (column.values().tolist() for column in table)
    stored = sum(brought)
    footer = layout.Footer(
        shard_size=0,
        entries=sum(counts),
        content_bytes=0,
        stored_bytes=stored,
        min_key=keys[0] if keys else 0,
        max_key=0,
        min_created_at=0,
        max_created_at=0,
        data_start=256,
        data_end=256 + sum(sizes) + stored,
        table_offset=0,
        sections=1,
        table_crc=0,
        incompat=layout.STREAMED if len(keys) == 1 and counts[0] == 1 else 0,
        compat=0,
        repository_id=bytes(16),
        header_crc=0,
    )
    parsed = parse_directory(data, footer)
    assert [*parsed.firsts][-1] == footer.entries
    assert [*parsed.ends][-1:] == [footer.data_end][: len(keys)]
    end = footer.data_start
    for number, block in enumerate(parsed.blocks):
        assert end <= block <= block + parsed.sizes[number] <= parsed.ends[number]
        end = parsed.ends[number]
    for key in {0, *keys[:20], *(key + 1 for key in keys[:20])}:
        found = parsed.groups_of(key)
        last = max((number for number, first in enumerate(keys) if first <= key), default=-1)
        first = last
        while first > 0 and joined[first] and keys[first] == key:
            first -= 1
        assert found == range(max(first, 0), last + 1)


def attributes(data: bytes) -> None:
    """An attribute string: what is read is written again."""
    assert encode_attributes(*parse_attributes(data)) == data or data == b"\0"


def inside(data: bytes) -> None:
    """What may have been sealed: what is read is written again."""
    found = parse_inside(data)
    uid, more = found.uid.encode(), encode_attributes(found.media_type, found.metadata)
    codec, stored, size, parameter = found.stored
    lengths = (len(uid), len(data) - HEAD.size - len(uid) - len(stored))
    assert lengths[1] == len(more) or data[HEAD.size + len(uid) :][:1] == b"\0"
    head = HEAD.pack(found.created_at, size, codec, parameter, *lengths)
    assert data == b"".join((head, uid, more or bytes(lengths[1]), stored))


def first(data: bytes) -> None:
    """What a sealed stream may begin with, but for the zeros at its end: what is read is written again."""
    plaintext = data.ljust(FIRST_PLAINTEXT, b"\0")
    found = parse_first(plaintext)
    uid, more = found.uid.encode(), encode_attributes(found.media_type, found.metadata)
    again = first_plaintext(found.created_at, uid, more, (found.stored.size, found.stored.codec))
    nothing = not more and plaintext[20:22] == b"\1\0"
    assert plaintext == (again[:20] + b"\1\0" + again[22:] if nothing else again)


def fixed(data: bytes) -> None:
    """Header, footer and section table, sealed: what is read is written again, as far as it is not reserved."""
    out = bytearray(seal(data))
    if len(out) < layout.HEADER_SIZE + layout.FOOTER_SIZE:
        return
    with suppress(*REFUSALS):
        header = layout.Header.parse(bytes(out[: layout.HEADER_SIZE]))
        assert layout.Header.parse(header.pack()) == header
    total = int.from_bytes(out[-176:-168], "little")
    footer = layout.Footer.parse(bytes(out[-layout.FOOTER_SIZE :]), total)
    assert layout.Footer.parse(footer.pack(), total) == footer
    table = bytes(out[: 48 * footer.sections])
    if len(table) < 48 * footer.sections:
        return
    out[-84:-80] = crc32(table).to_bytes(4, "little")
    _seal_end(out)
    footer = layout.Footer.parse(bytes(out[-layout.FOOTER_SIZE :]), total)
    end = footer.data_end
    for section in layout.parse_sections(table, footer):
        assert section.offset == end
        end += section.size
    assert end == footer.table_offset


def _seal_end(out: bytearray) -> None:
    out[-12:-8] = crc32(bytes(out[-192:-12])).to_bytes(4, "little")


@dataclass(frozen=True, slots=True)
class Target:
    """A function to fuzz, with `weight` of the time; inputs are `largest` bytes long at most."""

    function: Callable[[bytes], None]
    weight: int
    largest: int = 8192

    @property
    def name(self) -> str:
        """Its name."""
        return self.function.__name__

    def __call__(self, data: bytes) -> None:
        """Runs it; raises what is a finding."""
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        with suppress(*REFUSALS):
            self.function(data)
        peak = memory("VmHWM") - before
        assert peak < MEMORY, f"{peak >> 20} MiB were taken"


TARGETS = {
    target.name: target
    for target in (
        Target(whole, 1),
        Target(sealed, 3),
        Target(box, 4),
        Target(recovery, 3),
        Target(salvage, 2),
        Target(contents, 2, 2048),
        Target(dictionary, 2, 4096),
        Target(frame, 1, 1024),
        Target(columns, 1, 4096),
        Target(group, 2, 4096),
        Target(directory, 1, 2048),
        Target(attributes, 1, 512),
        Target(inside, 1, 512),
        Target(first, 1, 1024),
        Target(fixed, 1, 2048),
    )
}
