"""What each target begins with: golden and hostile shards and their parts, in the form that the target takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fixtures.format import make as golden
from tests.fixtures.format.make import ENCRYPTED
from tests.fixtures.hostile import make
from tests.fixtures.hostile.contents import FRAMES
from tests.fixtures.hostile.forge import Group
from tests.format.support import Parts, opened
from tests.format.truth import GOLDEN
from tests.fuzz.boxes import box_of, shard_of
from tests.fuzz.targets import TARGETS
from vera_core.format.columns import encode_attributes
from vera_core.format.layout import DIRECTORY, HEADER_SIZE
from vera_core.format.sealed import FIRST_SEGMENT
from vera_core.keys.sealing import FileSealer
from vera_core.keys.streams import Segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOSTILE = {path.stem: path.read_bytes() for path in sorted(make.HERE.glob("*.vera"))}
FINDINGS = make.HERE / "findings"
SMALL = [shard for shard in GOLDEN.values() if len(shard) < 1 << 16]
"""Larger ones take longer, don't fit a box, and have nothing that these have not."""


def _shards() -> Iterator[bytes]:
    yield from SMALL
    yield from HOSTILE.values()


def _plain() -> Iterator[bytes]:
    """Shards whose blocks are not compressed, so that changed columns are still columns."""
    yield from map(shard_of, _boxes())
    yield from HOSTILE.values()


def _damaged() -> Iterator[bytes]:
    """Shards as they are, and without their ends."""
    for shard in _plain():
        yield shard
        if len(shard) > 448:
            yield shard[: int.from_bytes(shard[-104:-96], "little")]


def _boxes() -> Iterator[bytes]:
    yield from map(box_of, SMALL)


def _contents() -> Iterator[bytes]:
    for shard in SMALL:
        reader = opened(shard)
        for entry in reader.entries():
            if not (entry.parameter and entry.codec == 1):
                head = bytes((entry.codec, entry.parameter)) + (entry.size & 0xFFFFFF).to_bytes(3, "little")
                yield head + reader.fetch(entry.offset, entry.stored_size)
    for item in FRAMES.values():
        yield bytes((1, 0)) + ((item.size or 0) & 0xFFFFFF).to_bytes(3, "little") + item.brought


def _dictionaries() -> Iterator[bytes]:
    shard = GOLDEN["dictionaries"]
    reader = opened(shard)
    dictionaries = [raw for _, raw in Parts.of(shard).dictionaries]
    for entry in reader.entries():
        if entry.parameter:
            raw = dictionaries[entry.parameter - 1]
            head = bytes((entry.codec, 1)) + entry.size.to_bytes(3, "little")
            yield len(raw).to_bytes(2, "little") + raw + head + reader.fetch(entry.offset, entry.stored_size)


def _frames() -> Iterator[bytes]:
    for item in FRAMES.values():
        yield (item.size or 0).to_bytes(8, "little") + item.brought
    for content in _contents():
        if content[0] == 1:
            yield content[2:5] + bytes(5) + content[5:]


def _bodies() -> Iterator[bytes]:
    for shard in SMALL:
        for group in Parts.of(shard).groups:
            yield group.body


def _groups() -> Iterator[bytes]:
    for shard in SMALL:
        for group in Parts.of(shard).groups:
            count = group.head["count"]
            lies = {name: group.head[name] for name in ("first_key", "count", "content_size")}
            forged = Group((), (), group.body, bytes(36 * count), group.contents, group.after, lies=lies)
            yield forged.seal(256 + (len(group.contents) if group.after else 0), group.head["first"])[0]


def _directories() -> Iterator[bytes]:
    for shard in SMALL:
        reader = opened(shard)
        yield from (reader.section_bytes(section) for section in reader.sections if section.tag == DIRECTORY)


def _attributes() -> Iterator[bytes]:
    for shard in SMALL:
        for entry in opened(shard).entries():
            yield encode_attributes(entry.media_type, entry.metadata)


def _inside() -> Iterator[bytes]:
    """What is sealed in the golden shards."""
    for name in ENCRYPTED:
        sealer, reader = golden.sealer(), opened(GOLDEN[name])
        if reader.streamed:
            continue
        files = FileSealer(golden.REPOSITORY, golden.KEYRING_ID)
        for entry in reader.entries():
            yield files.open(entry.ordinal, sealer.tree.leaf(entry.ordinal), reader.read(entry))


def _first() -> Iterator[bytes]:
    """What the golden sealed streams begin with."""
    for name in ENCRYPTED:
        reader = opened(GOLDEN[name])
        if reader.streamed:
            segments = Segments((golden.REPOSITORY, golden.KEYRING_ID), 0, golden.sealer().tree.leaf(0))
            yield segments.open(0, reader.fetch(HEADER_SIZE, FIRST_SEGMENT)).rstrip(b"\0")


def _fixed() -> Iterator[bytes]:
    """Section table, header and footer; the table begins where the target looks for it."""
    for shard in _shards():
        if len(shard) > 448:
            yield shard[-192 - 96 : -192] + shard[:256] + shard[-192:]


_SOURCES: dict[str, Callable[[], Iterator[bytes]]] = {
    "whole": _shards,
    "sealed": _plain,
    "box": _boxes,
    "recovery": _plain,
    "salvage": _damaged,
    "contents": _contents,
    "dictionary": _dictionaries,
    "frame": _frames,
    "columns": _bodies,
    "group": _groups,
    "directory": _directories,
    "attributes": _attributes,
    "inside": _inside,
    "first": _first,
    "fixed": _fixed,
}


def seeds(name: str) -> list[bytes]:
    """The different seeds of a target, and what was found with it before, shortest first."""
    found = [path.read_bytes() for path in sorted(FINDINGS.glob(f"{name}-*"))]
    every = {*_SOURCES[name](), *found}
    return sorted((seed for seed in every if len(seed) <= TARGETS[name].largest), key=lambda seed: (len(seed), seed))
