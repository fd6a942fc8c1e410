"""The end of a shard, made from what its groups add up to: sections, section table, footer.

Where the groups come from does not matter here: the writer makes them, recovery finds them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from vera_core.codec import crc32
from vera_core.encoding import pack_block
from vera_core.errors import UsageError
from vera_core.format import layout
from vera_core.format.columns import TIME_BIAS
from vera_core.format.directory import Place, encode_directory

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray


class GroupFacts(NamedTuple):
    """A group as it lies in a shard: bytes of its block and of its contents, and of each entry key, size and time.

    `created_at` is biased as in its column.
    """

    block_size: int
    content_size: int
    keys: NDArray[np.uint64]
    sizes: NDArray[np.uint64]
    created_at: NDArray[np.uint64]


@dataclass(slots=True)
class Outline:
    """What the groups so far add up to: the directory's rows and the footer's sums; times are biased."""

    places: list[Place] = field(default_factory=list)
    entries: int = 0
    content_bytes: int = 0
    stored_bytes: int = 0
    max_key: int = 0
    min_created_at: int = (1 << 64) - 1
    max_created_at: int = 0

    @property
    def min_key(self) -> int:
        """The first entry's key; 0 if there is none."""
        return self.places[0].first_key if self.places else 0

    def add(self, group: GroupFacts) -> None:
        """Adds the next group."""
        first_key, count = int(group.keys[0]), len(group.keys)
        joined = int(bool(self.places) and self.max_key == first_key)
        self.places.append(Place(first_key, joined, count, group.block_size, group.content_size))
        self.entries += count
        self.content_bytes += int(group.sizes.sum())
        self.stored_bytes += group.content_size
        self.max_key = int(group.keys[-1])
        self.min_created_at = min(self.min_created_at, int(group.created_at.min()))
        self.max_created_at = max(self.max_created_at, int(group.created_at.max()))


@dataclass(frozen=True, slots=True)
class Front:
    """What lies before the tail: the header's bytes, the dictionaries, and where the groups begin and end."""

    header: bytes
    dictionaries: Sequence[bytes]
    data_start: int
    data_end: int


def encode_tail(front: Front, outline: Outline, packed: Mapping[bytes, bytes] | None = None) -> bytes:
    """Everything behind DATA. `packed` gives sections that need not be compressed anew, by their plain bytes.

    Raises:
        UsageError: more groups than a reader accepts (at least 64 GiB, as writers make them).
    """
    if len(outline.places) > layout.MAX_GROUPS:
        todo = "Begin another shard earlier."
        raise UsageError(f"{len(outline.places)} groups are more than {layout.MAX_GROUPS}", todo=todo)
    # The directory last: the suffix that opening reads has it, whatever the dictionaries take.
    raw = [(layout.DICTIONARY, number, data) for number, data in enumerate(front.dictionaries, 1)]
    raw.append((layout.DIRECTORY, 0, encode_directory(outline.places)))
    parts: list[bytes] = []
    sections: list[layout.Section] = []
    at = front.data_end
    for tag, number, data in raw:
        stored = (packed or {}).get(data) or pack_block(data)
        sections.append(layout.Section(tag, layout.REQUIRED, crc32(stored), at, len(stored), len(data), number))
        parts.append(stored)
        at += len(stored)
    table = layout.pack_sections(sections)
    header, places = layout.Header.parse(front.header), outline.places
    footer = layout.Footer(
        shard_size=at + len(table) + layout.FOOTER_SIZE,
        entries=outline.entries,
        content_bytes=outline.content_bytes,
        stored_bytes=outline.stored_bytes,
        min_key=outline.min_key,
        max_key=outline.max_key,
        min_created_at=outline.min_created_at - TIME_BIAS if places else 0,
        max_created_at=outline.max_created_at - TIME_BIAS if places else 0,
        data_start=front.data_start,
        data_end=front.data_end,
        table_offset=at,
        sections=len(sections),
        table_crc=crc32(table),
        incompat=header.incompat,
        compat=header.compat,
        repository_id=header.repository_id,
        header_crc=int.from_bytes(front.header[-4:], "little"),
    )
    return b"".join((*parts, table, footer.pack()))
