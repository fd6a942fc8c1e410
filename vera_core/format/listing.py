"""The whole index in memory, in ordinal order, as columns: what a pass over all entries works on.

About 85 bytes an entry and its uid while it lives. Lookups of single uids use pages (index.py) instead.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from vera_core.errors import FormatError
from vera_core.format.columns import TIME_BIAS, parse_attributes
from vera_core.format.index import CODECS, COLUMNS, key_of
from vera_core.format.layout import MAX_NAMES_BYTES, RESTORE
from vera_core.model import Entry, Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from vera_core.format.index import Page


def _row(size: str) -> np.dtype[np.void]:
    """A row whose sizes are of type `size`."""
    return np.dtype(
        [
            ("created_at", "<u8"),
            ("offset", "<u8"),
            ("size", size),
            ("stored_size", size),
            ("uid_start", "<u4"),
            ("crc32", "<u4"),
            ("origin_commit", "<u4"),
            ("origin_ordinal", "<u4"),
            ("attributes", "<u4"),
            ("uid_length", "<u2"),
            ("parameter", "<u2"),
            ("codec", "u1"),
            ("flags", "u1"),
            ("digest", "u1", (32,)),
        ]
    )


_BATCH = 512
_OWN = tuple(name for name in COLUMNS if name not in ("attributes", "ordinal"))


class Listing:
    """All entries of a shard by ordinal. `rows` is a structured array; `created_at` is biased as in its column.

    Raises:
        FormatError: the ordinals are not 0 to `entries` - 1, each once.
    """

    def __init__(self, pages: Iterable[Page], entries: int, *, streamed: bool) -> None:
        self.rows: NDArray[np.void] = np.zeros(entries, _row("<u8" if streamed else "<u4"))
        self._attributes: list[bytes] = []
        self._attribute_bytes = 0
        codes: dict[bytes, int] = {}
        uids = io.BytesIO()
        seen = np.zeros(entries, np.bool_)
        for page in pages:
            columns = dict(zip(COLUMNS, (column.values() for column in page.body.columns), strict=True))
            ordinals = columns["ordinal"].astype(np.int64)
            seen[ordinals] = True
            for name in _OWN:
                self.rows[name][ordinals] = columns[name]
            lengths = columns["uid_length"]
            self.rows["uid_start"][ordinals] = np.uint64(uids.tell()) + np.cumsum(lengths) - lengths
            self.rows["digest"][ordinals] = page.digests()
            self.rows["crc32"][ordinals] = page.crcs()
            table = np.array([self._number(codes, text) for text in page.body.attribute_table()], np.uint32)
            self.rows["attributes"][ordinals] = table[columns["attributes"].astype(np.int64)]
            uids.write(page.body.all_uids())
            if uids.tell() + self._attribute_bytes > MAX_NAMES_BYTES:
                raise FormatError("uids and attributes of the shard take more than 1 GiB", todo=RESTORE)
        if not bool(seen.all()):
            raise FormatError("the index names an ordinal twice and another never", todo=RESTORE)
        self._uids = uids.getvalue()

    def _number(self, codes: dict[bytes, int], text: bytes) -> int:
        """The number of an attribute string in this listing, which a new one gets here."""
        code = codes.setdefault(text, len(codes))
        if code == len(self._attributes):
            self._attributes.append(text)
            self._attribute_bytes += len(text)
        return code

    def __len__(self) -> int:
        return len(self.rows)

    def uids(self, begin: int, end: int) -> list[bytes]:
        """The uids of ordinals `begin` to `end` - 1."""
        rows = self.rows[begin:end]
        starts, lengths = rows["uid_start"].tolist(), rows["uid_length"].tolist()
        return [self._uids[start : start + length] for start, length in zip(starts, lengths, strict=True)]

    def attributes(self, begin: int, end: int) -> list[bytes]:
        """The attributes of ordinals `begin` to `end` - 1."""
        return [self._attributes[code] for code in self.rows["attributes"][begin:end].tolist()]

    def entries(self, begin: int, end: int) -> list[Entry]:
        """The entries of ordinals `begin` to `end` - 1.

        Raises:
            FormatError: a uid or attribute is not UTF-8.
        """
        rows = self.rows[begin:end]
        names = ("created_at", "size", "stored_size", "offset", "codec", "crc32", "parameter", "origin_commit")
        columns = [rows[name].tolist() for name in (*names, "origin_ordinal", "flags")]
        digests = rows["digest"].tobytes()
        made = []
        for number, (uid, attributes, *values) in enumerate(
            zip(self.uids(begin, end), self.attributes(begin, end), *columns, strict=True)
        ):
            created, size, stored, offset, codec, crc, parameter, commit, origin, flags = values
            try:
                text = uid.decode()
            except UnicodeDecodeError as error:
                raise FormatError("a uid in the index is not UTF-8", todo=RESTORE, uid=uid) from error
            proof = digests[32 * number : 32 * number + 32]
            kind, metadata = parse_attributes(attributes)
            made.append(
                Entry(
                    text,
                    key_of(uid),
                    begin + number,
                    created - TIME_BIAS,
                    size,
                    stored,
                    offset,
                    CODECS[codec],
                    crc,
                    proof,
                    parameter,
                    kind,
                    metadata,
                    Origin(commit, origin) if commit else None,
                    flags,
                )
            )
        return made

    def batches(self) -> Iterator[tuple[int, int]]:
        """Cuts all ordinals into ranges of up to 512."""
        for begin in range(0, len(self.rows), _BATCH):
            yield begin, min(begin + _BATCH, len(self.rows))
