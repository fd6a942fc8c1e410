"""What the format's tests share: building a shard in memory, taking one apart, and sealing a mutated one again."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.codec import crc32, encode, pack_block
from vera_core.errors import FormatError, IncompatibleError
from vera_core.format import BytesSource, ShardOptions, ShardReader, ShardSummary, ShardWriter
from vera_core.format.columns import Body, encode_table
from vera_core.format.index import PROOF
from vera_core.format.layout import (
    DIRECTORY,
    FOOTER_SIZE,
    HEADER_SIZE,
    REQUIRED,
    Footer,
    Section,
    pack_sections,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from vera_core.codec import Policy
    from vera_core.model import Entry, Origin

OPTIONS = ShardOptions(bytes(range(16)), "standard")
NOON = 1_772_625_600_000_000
REFUSALS = (FormatError, IncompatibleError)


class File(NamedTuple):
    """A file to archive."""

    uid: str
    content: bytes
    created_at: int = NOON
    media_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    origin: Origin | None = None


def pack(
    files: Sequence[File], options: ShardOptions = OPTIONS, policy: Policy | None = None
) -> tuple[bytes, ShardSummary]:
    """A shard of `files`, and what the writer says of it."""
    out = io.BytesIO()
    writer = ShardWriter(out, options=options)
    for number, file in enumerate(files):
        encoded = encode(file.content, policy) if policy else encode(file.content)
        ordinal = writer.append(
            file.uid,
            file.created_at,
            encoded,
            media_type=file.media_type,
            metadata=file.metadata,
            origin=file.origin,
        )
        assert ordinal == number
    summary = writer.finish()
    return out.getvalue(), summary


def opened(data: bytes) -> ShardReader:
    """A reader of a shard in memory."""
    return ShardReader.open(BytesSource(data, bucket="b", key="k.vera", version_id="v1"))


class CountingSource(BytesSource):
    """Counts requests and the bytes they bring."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data, key="counted")
        self.requests: list[int] = []

    def read_suffix(self, length: int) -> tuple[bytes, int]:
        data, total = super().read_suffix(length)
        self.requests.append(len(data))
        return data, total

    def read_at(self, offset: int, length: int) -> bytes:
        self.requests.append(length)
        return super().read_at(offset, length)


def exercise(data: bytes, uids: Sequence[str]) -> None:
    """Everything a reader can be asked for; raises what the reader raises."""
    reader = opened(data)
    reader.header()
    for uid in uids:
        for entry in reader.find(uid):
            assert entry.uid == uid
            check(reader, entry)
    for entry in reader.entries():
        check(reader, entry)
    if not reader.streamed:
        for entry, content in reader.read_all():
            assert len(content) == entry.size
    reader.verify()


def check(reader: ShardReader, entry: Entry) -> None:
    """Reads an entry as a stream (small pieces of memory, whatever its size)."""
    assert sum(len(piece) for piece in reader.read_stream(entry)) == entry.size


@dataclass
class Parts:
    """A shard taken apart, to be changed and sealed again with right checksums and right places."""

    header: bytes
    data: bytes
    pages: list[bytes]
    directory: list[NDArray[np.uint64]]
    footer: Footer
    section: Section
    extra_sections: list[tuple[Section, bytes]] = field(default_factory=list)

    @classmethod
    def of(cls, shard: bytes) -> Parts:
        reader = opened(shard)
        places = reader.directory.places
        pages = [shard[places[n] : places[n + 1]] for n in range(len(reader.directory))]
        columns: list[NDArray[np.uint64]] = [
            np.array(values, np.uint64)
            for values in (
                reader.directory.first_keys.tolist(),
                list(reader.directory.joined),
                reader.directory.counts.tolist(),
                [len(page) for page in pages],
                reader.directory.crcs.tolist(),
            )
        ]
        footer = reader.footer
        return cls(
            shard[:HEADER_SIZE], shard[HEADER_SIZE : footer.data_end], pages, columns, footer, reader.sections[0]
        )

    def seal(self, change: Callable[[Footer], Footer] = lambda footer: footer) -> bytes:
        """The shard, with places and checksums made right, `change` applied to the footer last."""
        columns = list(self.directory)
        columns[3] = np.array([len(page) for page in self.pages], np.uint64)
        columns[4] = np.array([crc32(page) for page in self.pages], np.uint64)
        raw = encode_table(columns)
        stored = pack_block(raw)
        head = self.header[:-4] + crc32(self.header[:-4]).to_bytes(4, "little")
        front = b"".join((head, self.data, *self.pages))
        sections = [replace(self.section, crc=crc32(stored), offset=len(front), size=len(stored), raw_size=len(raw))]
        for section, data in self.extra_sections:
            at = sections[-1].offset + sections[-1].size
            sections.append(replace(section, offset=at, size=len(data), crc=crc32(data)))
        front = b"".join((front, stored, *(data for _, data in self.extra_sections)))
        table = pack_sections(sections)
        footer = replace(
            self.footer,
            shard_size=len(front) + len(table) + FOOTER_SIZE,
            data_end=HEADER_SIZE + len(self.data),
            pages_size=sum(len(page) for page in self.pages),
            table_offset=len(front),
            sections=len(sections),
            table_crc=crc32(table),
            header_crc=int.from_bytes(head[-4:], "little"),
        )
        return front + table + change(footer).pack()


def unpack_page(page: bytes) -> tuple[bytes, bytes, bytes]:
    """A page's fixed head, its core (uncompressed) and its proofs."""
    count = int.from_bytes(page[4:8], "little")
    raw, stored = int.from_bytes(page[16:20], "little"), int.from_bytes(page[20:24], "little")
    from vera_core.codec import unpack_block

    assert len(page) == 32 + stored + PROOF * count
    return page[:32], unpack_block(page[32 : 32 + stored], raw), page[32 + stored :]


def repack_page(head: bytes, core: bytes, proofs: bytes) -> bytes:
    """Undoes `unpack_page`, whatever the core has become."""
    stored = pack_block(core)
    sizes = len(core).to_bytes(4, "little") + len(stored).to_bytes(4, "little")
    return head[:16] + sizes + head[24:] + stored + proofs


__all__ = [
    "DIRECTORY",
    "NOON",
    "OPTIONS",
    "REFUSALS",
    "REQUIRED",
    "Body",
    "CountingSource",
    "File",
    "Parts",
    "exercise",
    "opened",
    "pack",
    "repack_page",
    "unpack_page",
]
