"""Turns the writer's rows into sorted index pages and their directory. One page's bytes are index.py's business."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.codec import crc32
from vera_core.errors import UsageError
from vera_core.format import layout
from vera_core.format.columns import COMMON
from vera_core.format.index import encode_directory, encode_page
from vera_core.format.rows import sort_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_PAGE_NAMES = 256 << 10
"""A page is closed once its uids and attributes reach so many bytes."""


class WrittenPage(NamedTuple):
    """A page's bytes, its first and last key, and its number of entries."""

    data: bytes
    first_key: int
    last_key: int
    entries: int


class DirectoryBuilder:
    """Collects what the directory says of each page."""

    def __init__(self) -> None:
        self._first_keys: list[int] = []
        self._joined: list[int] = []
        self._counts: list[int] = []
        self._pages: list[tuple[int, int]] = []
        self._last_key = -1

    def add(self, data: bytes, first_key: int, last_key: int, count: int) -> None:
        """Notes the next page."""
        self._first_keys.append(first_key)
        self._joined.append(int(first_key == self._last_key))
        self._counts.append(count)
        self._pages.append((len(data), crc32(data)))
        self._last_key = last_key

    def encode(self) -> bytes:
        """The directory, uncompressed.

        Raises:
            UsageError: more pages than a reader accepts.
        """
        if len(self._pages) > layout.MAX_PAGES:
            raise UsageError(
                f"{len(self._pages)} index pages are more than {layout.MAX_PAGES}", todo="Make pages larger."
            )
        return encode_directory(self._first_keys, self._joined, self._counts, self._pages)


def common_columns(rows: NDArray[np.void], texts: Sequence[bytes]) -> tuple[list[NDArray[np.uint64]], list[bytes]]:
    """The common columns of a body of `rows` and its attributes by appearance; `texts` is what rows number."""
    columns = [rows[name].astype(np.uint64) for name in COMMON]
    table: dict[bytes, int] = {}
    chosen = [texts[code] for code in rows["attributes"].tolist()]
    columns[-1] = np.array([table.setdefault(text, len(table)) for text in chosen], np.uint64)
    return columns, list(table)


def sorted_pages(rows: NDArray[np.void], uids: bytearray, texts: Sequence[bytes], limit: int) -> Iterator[WrittenPage]:
    """All pages in order, of up to `limit` entries; `rows` are by ordinal, `uids` theirs end to end."""
    lengths = rows["uid_length"].astype(np.uint64)
    starts = np.cumsum(lengths) - lengths
    names = lengths.astype(np.int64) + np.array([len(text) for text in texts], np.int64)[rows["attributes"]]
    for ordinals in _cuts(sort_order(rows["key"], starts, lengths, uids), names, limit):
        picked = rows[ordinals]
        begins = starts[ordinals]
        bounds = zip(begins.tolist(), (begins + lengths[ordinals]).tolist(), strict=True)
        columns, attributes = common_columns(picked, texts)
        columns += [ordinals.astype(np.uint64), picked["offset"].astype(np.uint64)]
        proofs = picked["digest"].tobytes() + picked["crc32"].tobytes()
        keys = picked["key"].astype(np.uint64)
        names_here = b"".join([uids[begin:end] for begin, end in bounds])
        page = encode_page(keys, columns, attributes, names_here, proofs)
        yield WrittenPage(page, int(keys[0]), int(keys[-1]), len(keys))


def _cuts(order: NDArray[np.int64], names: NDArray[np.int64], limit: int) -> Iterator[NDArray[np.int64]]:
    """The ordinals of each page: up to `limit`, fewer where names are long."""
    at = 0
    while at < len(order):
        ordinals = order[at : at + limit]
        fitting = int(np.searchsorted(np.cumsum(names[ordinals]), _PAGE_NAMES, "right"))
        ordinals = ordinals[: max(1, fitting)]
        yield ordinals
        at += len(ordinals)
