"""What the format's tests share: building a shard in memory, taking one apart, and sealing a mutated one again."""

from __future__ import annotations

import hashlib
import io
import struct
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.codec import crc32, unpack_block
from vera_core.encoding import Encoder, Trained, pack_block
from vera_core.errors import FormatError, IncompatibleError
from vera_core.format import BytesSource, Lookup, Names, ShardOptions, ShardReader, ShardSummary, ShardWriter
from vera_core.format.columns import COLUMNS, Body, encode_body, encode_table
from vera_core.format.directory import encode_dictionary
from vera_core.format.groups import MAGIC
from vera_core.format.layout import (
    DICTIONARY,
    DIRECTORY,
    FOOTER_SIZE,
    HEADER_SIZE,
    REQUIRED,
    Footer,
    Section,
    pack_sections,
)
from vera_core.model import Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from vera_core.encoding import EncodedBatch
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


def place_in_order(uid: str) -> tuple[bytes, bytes]:
    """What entries are sorted by."""
    name = uid.encode()
    return hashlib.sha256(name).digest()[:8], name


def ordered(files: Iterable[File]) -> list[File]:
    """Files as a writer takes them; versions of one uid stay in their order."""
    return sorted(files, key=lambda file: place_in_order(file.uid))


def encoded(
    files: Sequence[File], policy: Policy = Policy.BALANCED, trained: Trained | None = None
) -> tuple[Names, EncodedBatch]:
    """Files as `ShardWriter.append_batch` takes them."""
    batch = Encoder(policy, trained).encode([file.content for file in files], [file.media_type for file in files])
    names = Names(
        [file.uid for file in files],
        [file.created_at for file in files],
        [(file.media_type, file.metadata) for file in files],
        [file.origin for file in files],
    )
    return names, batch


def pack(
    files: Iterable[File],
    options: ShardOptions = OPTIONS,
    policy: Policy = Policy.BALANCED,
    trained: Trained | None = None,
) -> tuple[bytes, ShardSummary]:
    """A shard of `files`, sorted before, and what the writer says of it."""
    out = io.BytesIO()
    writer = ShardWriter(out, options=options, dictionaries=(trained or Trained()).dictionaries)
    rows = ordered(files)
    if rows:
        writer.append_batch(*encoded(rows, policy, trained))
    summary = writer.finish()
    return out.getvalue(), summary


def opened(data: bytes) -> ShardReader:
    """A reader of a shard in memory; of an encrypted one it reads what is sealed."""
    return ShardReader.open(BytesSource(data, bucket="b", key="k.vera", version_id="v1"), sealed=True)


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
    if reader.encrypted:
        uids = ["0" * 32, *(entry.uid for entry in islice(reader.entries(), 20))]
    for uid in uids:
        for entry in reader.find(uid):
            assert entry.uid == uid
            check(reader, entry)
    if not reader.streamed and not reader.encrypted:
        lookup = Lookup.open(BytesSource(data))
        for uid in uids:
            assert lookup.get(uid) == reader.get(uid)
    for entry in reader.entries():
        check(reader, entry)
    if not reader.streamed:
        for entry, content in reader.read_all():
            assert len(content) == entry.size
    reader.verify()


def check(reader: ShardReader, entry: Entry) -> None:
    """Reads an entry as a stream (small pieces of memory, whatever its size)."""
    assert sum(len(piece) for piece in reader.read_stream(entry)) == entry.size


_HEAD = struct.Struct("<8sQQQQIIIII")
HEAD_FIELDS = (
    "position",
    "first",
    "first_key",
    "content_size",
    "count",
    "flags",
    "raw_size",
    "stored_size",
    "crc",
)


@dataclass
class Block:
    """A group taken apart. `lies` replaces fields of its head by other values.

    The last `uid_bytes` of the body are the uids, which writers compress apart from the rest.
    """

    head: dict[str, int]
    body: bytes
    proofs: bytes
    contents: bytes
    uid_bytes: int
    lies: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, shard: bytes, position: int, size: int) -> Block:
        """The group whose block takes `size` bytes at `position`."""
        head = dict(zip(HEAD_FIELDS, _HEAD.unpack_from(shard, position)[1:], strict=True))
        cut = position + 64 + head["stored_size"]
        body = unpack_block(shard[position + 64 : cut], head["raw_size"])
        begin = position + size if not head["flags"] else position - head["content_size"]
        contents = shard[begin : begin + head["content_size"]]
        uid_bytes = int(Body(body, 0).columns[0].values().sum())
        return cls(head, body, shard[cut : position + size], contents, uid_bytes)

    @property
    def after(self) -> bool:
        """Whether it lies behind its contents."""
        return bool(self.head["flags"])

    @property
    def columns(self) -> dict[str, NDArray[np.uint64]]:
        """The columns of the body."""
        return {name: column.values() for name, column in zip(COLUMNS, Body(self.body, 0).columns, strict=True)}

    def change(self, **changed: Sequence[int] | NDArray[np.uint64]) -> None:
        """Gives columns other values."""
        body = Body(self.body, 0)
        columns = self.columns | {name: np.array(values, np.uint64) for name, values in changed.items()}
        self.body = encode_body(list(columns.values()), body.attribute_table(), b"".join(body.uids()))

    def permute(self, rows: Sequence[int]) -> None:
        """Puts its entries, none of which shares a content, in another order."""
        body, count = Body(self.body, 0), len(rows)
        sizes = self.columns["stored_size"].tolist()
        ends = np.cumsum(sizes).tolist()
        self.contents = b"".join(self.contents[ends[row] - sizes[row] : ends[row]] for row in rows)
        columns = [values[list(rows)] for values in self.columns.values()]
        self.body = encode_body(columns, body.attribute_table(), b"".join(body.uid(row) for row in rows))
        digests = b"".join(self.proofs[32 * row : 32 * row + 32] for row in rows)
        crcs = b"".join(self.proofs[32 * count + 4 * row : 32 * count + 4 * row + 4] for row in rows)
        self.proofs = digests + crcs

    def seal(self, position: int) -> bytes:
        """The block, with right checksums."""
        stored = pack_block(self.body, max(0, len(self.body) - self.uid_bytes))
        rest = stored + self.proofs
        right = {
            "position": position,
            "content_size": len(self.contents),
            "raw_size": len(self.body),
            "stored_size": len(stored),
            "crc": crc32(rest),
        }
        fields = self.head | right | self.lies
        head = _HEAD.pack(MAGIC, *(fields[name] for name in HEAD_FIELDS))
        return head + crc32(head).to_bytes(4, "little") + rest


@dataclass
class Parts:
    """A shard taken apart, to be changed and sealed again with right checksums and right places.

    `front` is what lies between header and groups; `directory` the three columns that don't follow from the groups'
    sizes; `lies` replaces values of the directory, by (row, column), of which there are five;
    `behind_directory` follows it in its section.
    """

    header: bytes
    front: bytes
    groups: list[Block]
    directory: list[list[int]]
    footer: Footer
    dictionaries: list[tuple[int, bytes]]
    extra_sections: list[tuple[Section, bytes]] = field(default_factory=list)
    lies: dict[tuple[int, int], int] = field(default_factory=dict)
    behind_directory: bytes = b""

    @classmethod
    def of(cls, shard: bytes) -> Parts:
        """Takes a whole shard apart."""
        reader = opened(shard)
        directory, footer = reader.directory, reader.footer
        groups = [
            Block.of(shard, directory.blocks[number], directory.sizes[number]) for number in range(len(directory))
        ]
        rows = [
            [block.head["first_key"], joined, block.head["count"]]
            for block, joined in zip(groups, directory.joined, strict=True)
        ]
        dictionaries = [
            (section.number, reader.section_bytes(section)) for section in reader.sections if section.tag == DICTIONARY
        ]
        return cls(shard[:HEADER_SIZE], shard[HEADER_SIZE : footer.data_start], groups, rows, footer, dictionaries)

    def seal(
        self,
        change: Callable[[Footer], Footer] = lambda footer: footer,
        *,
        sections: Callable[[list[Section]], list[Section]] = lambda sections: sections,
    ) -> bytes:
        """The shard, with places and checksums made right; `change` is applied to the footer last."""
        head = self.header[:-4] + crc32(self.header[:-4]).to_bytes(4, "little")
        front = head + self.front
        rows = []
        for block, row in zip(self.groups, self.directory, strict=True):
            position = len(front) + (len(block.contents) if block.after else 0)
            sealed = block.seal(position)
            front += block.contents + sealed if block.after else sealed + block.contents
            rows.append([*row, len(sealed), len(block.contents)])
        data_end = len(front)
        for (number, column), value in self.lies.items():
            rows[number][column] = value
        table = np.array(rows, np.uint64).reshape(-1, 5)
        raw_sections = [
            *((DICTIONARY, number, raw) for number, raw in self.dictionaries),
            (DIRECTORY, 0, encode_table([np.ascontiguousarray(column) for column in table.T]) + self.behind_directory),
        ]
        listed = []
        for tag, number, raw in raw_sections:
            stored = pack_block(raw)
            listed.append(Section(tag, REQUIRED, crc32(stored), len(front), len(stored), len(raw), number))
            front += stored
        for section, data in self.extra_sections:
            listed.append(replace(section, offset=len(front), size=len(data), crc=crc32(data)))
            front += data
        packed = pack_sections(sections(listed))
        footer = replace(
            self.footer,
            shard_size=len(front) + len(packed) + FOOTER_SIZE,
            data_start=HEADER_SIZE + len(self.front),
            data_end=data_end,
            table_offset=len(front),
            sections=len(packed) // 48,
            table_crc=crc32(packed),
            header_crc=int.from_bytes(head[-4:], "little"),
        )
        return front + packed + change(footer).pack()

    def rewrite_front(self) -> None:
        """Makes the dictionary blocks those of the dictionaries."""
        self.front = b""
        for number, raw in self.dictionaries:
            self.front += encode_dictionary(raw, number, HEADER_SIZE + len(self.front))
