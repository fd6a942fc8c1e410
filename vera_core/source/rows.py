"""The rows of a window: as a source gives them (`RawBatch`), as a manifest keeps them (`Row`), and why one is rejected.

Rows come from sources in batches of columns, because a window has millions of them; `RawRow` is one row of a batch.
How rows are sorted, digested and stored is `manifest`'s business.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from itertools import compress, islice
from json.encoder import encode_basestring
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from vera_core.errors import BadUidError
from vera_core.model import MAX_UID_BYTES, check_uid
from vera_core.routing import UID_TIME_DIFFERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vera_core.model import Slot

Metadata = tuple[tuple[str, str], ...]

BATCH_ROWS = 1 << 13
"""Rows that `batched` puts into a batch."""

INLINE = ""
"""Place of a content that the source itself holds and finds by uid and time."""
ROW_PLACE = "row:"
"""Begins the place of a content in the row with this primary key."""
FILE_PLACE = "file:"
"""Begins the place of a content in a local file; an absolute path follows."""
S3_PLACE = "s3://"
"""Begins the place of a content in an S3 object; bucket/key follows."""
KEYED_PLACE = "keyed:"
"""Begins what a keyed manifest has instead of a place: 32 hex digits that only this row of its tenant has."""

FACTS = attrgetter("uid", "created_at", "size", "place", "late", "reject")
"""By what a row is known from one revision of its window to the next: of a row, or the columns of a `RawBatch`."""


class RejectReason(StrEnum):
    """Why a row is not archived; the word is what reports, logs and the rejects table show."""

    NULL_TIME = "null-time"
    BAD_TIME = "bad-time"
    TIME_DISAGREES = UID_TIME_DIFFERS
    BAD_UID = "bad-uid"
    UNKNOWN_TENANT = "unknown-tenant"
    UNKNOWN_CLASS = "unknown-class"
    BAD_METADATA = "bad-metadata"
    FORBIDDEN_PLACE = "forbidden-place"
    MISSING_CONTENT = "missing-content"
    MISSING_FILE = "missing-file"
    NOT_A_FILE = "not-a-file"
    WRONG_SIZE = "wrong-size"
    UNREADABLE = "unreadable"
    AMBIGUOUS = "ambiguous"
    ERASED = "erased"
    GONE = "gone"


class RawRow(NamedTuple):
    """A row of a window as its source gives it.

    `created_at`: microseconds since 1970 UTC, inside the window even where the row is rejected; `retention_class` a
    class of the repository; `place`: where the content is (`INLINE`, `ROW_PLACE`, `FILE_PLACE` or `S3_PLACE`); `size`:
    declared bytes, None if nobody says; `metadata`: as `metadata_text` writes them; `late`: canonical text of the
    monotonic column, "" without one; `reject`: a `RejectReason` or ""; `detail`: for people, what exactly is wrong. A
    rejected row's uid may be an escaped, cut text and its other fields may be empty.
    """

    uid: str
    created_at: int
    retention_class: str
    place: str = INLINE
    size: int | None = None
    media_type: str = ""
    metadata: str = ""
    late: str = ""
    reject: str = ""
    detail: str = ""


class RawBatch(NamedTuple):
    """Rows of a window in columns of equal length, one for each field of `RawRow`: a fraction of what rows cost."""

    uid: Sequence[str]
    created_at: Sequence[int]
    retention_class: Sequence[str]
    place: Sequence[str]
    size: Sequence[int | None]
    media_type: Sequence[str]
    metadata: Sequence[str]
    late: Sequence[str]
    reject: Sequence[str]
    detail: Sequence[str]

    def rows(self) -> Iterator[RawRow]:
        """The rows, one by one."""
        return map(RawRow._make, zip(*self, strict=True))

    def facts(self) -> Iterator[tuple[object, ...]]:
        """The facts by which each row is known."""
        *columns, reject = FACTS(self)
        return zip(*columns, map(str, reject), strict=True)

    def chosen(self, which: Sequence[bool]) -> RawBatch:
        """The rows for which `which` is true."""
        columns: list[Any] = [list(compress(column, which)) for column in self]
        return RawBatch(*columns)


class Row(NamedTuple):
    """A row of a frozen manifest: a `RawRow` with its slot, its key, and the name that the archive has for its uid.

    `slot` is None and `key` 0 if the row is rejected; else `key` is the u64 by which shards sort `name`, which is the
    uid itself in an unencrypted repository (keys/naming.py).
    """

    uid: str
    created_at: int
    slot: Slot | None
    retention_class: str
    key: int
    place: str
    size: int | None
    media_type: str
    metadata: Metadata
    late: str
    reject: str
    detail: str
    name: str


@dataclass(frozen=True, slots=True)
class RowBatch:
    """Rows of a manifest that follow each other, as columns; `first` is the number of the first.

    `columns` are those of `Row`, in its order, all of one length.
    """

    first: int
    columns: tuple[Sequence[Any], ...]

    def __len__(self) -> int:
        return len(self.columns[0])

    @property
    def uids(self) -> Sequence[str]:
        """The uids."""
        return self.columns[0]

    @property
    def created_at(self) -> Sequence[int]:
        """Microseconds since 1970 UTC."""
        return self.columns[1]

    @property
    def keys(self) -> Sequence[int]:
        """The keys, ascending within a segment."""
        return self.columns[4]

    @property
    def places(self) -> Sequence[str]:
        """Where the contents are."""
        return self.columns[5]

    @property
    def sizes(self) -> Sequence[int | None]:
        """Declared bytes, None where nobody says."""
        return self.columns[6]

    @property
    def media_types(self) -> Sequence[str]:
        """The media types."""
        return self.columns[7]

    @property
    def metadata(self) -> Sequence[Metadata]:
        """The user metadata."""
        return self.columns[8]

    @property
    def rejects(self) -> Sequence[str]:
        """Why a row is rejected, "" where it is not."""
        return self.columns[10]

    @property
    def names(self) -> Sequence[str]:
        """What the archive calls the uids."""
        return self.columns[12]

    def rows(self) -> list[Row]:
        """The rows one by one."""
        return [tuple.__new__(Row, values) for values in zip(*self.columns, strict=True)]

    def row(self, at: int) -> Row:
        """One row."""
        return Row(*(column[at] for column in self.columns))

    def slice(self, begin: int, end: int) -> RowBatch:
        """Rows [begin, end) of these, counted from 0."""
        return RowBatch(self.first + begin, tuple([column[begin:end] for column in self.columns]))


class Reject(NamedTuple):
    """A rejected row by name: its uid (escaped where it is no valid one), the reason, and what exactly is wrong."""

    uid: str
    reason: str
    detail: str = ""


def batched(rows: Iterable[RawRow]) -> Iterator[RawBatch]:
    """Rows that come one by one, in batches."""
    iterator = iter(rows)
    while batch := list(islice(iterator, BATCH_ROWS)):
        yield RawBatch(*zip(*batch, strict=True))


def metadata_text(metadata: Metadata) -> str:
    """Metadata as a compact JSON object in their own order; "" for none."""
    pairs = [f"{encode_basestring(name)}:{encode_basestring(value)}" for name, value in metadata]
    return "{" + ",".join(pairs) + "}" if pairs else ""


@lru_cache(maxsize=4096)
def parse_metadata(text: str) -> Metadata:
    """Undoes `metadata_text`."""
    return tuple(json.loads(text).items()) if text else ()


def metadata_texts(names: Sequence[str], columns: Sequence[Sequence[str | None]]) -> list[str]:
    """As `metadata_text`, for rows whose values of each name are a column; a None is left out."""
    parts = []
    for name, column in zip(names, columns, strict=True):
        head = encode_basestring(name) + ":"
        known = {text: "" if text is None else head + encode_basestring(text) for text in set(column)}
        parts.append([known[text] for text in column])
    inner = [",".join(filter(None, row)) for row in zip(*parts, strict=True)]
    return [f"{{{text}}}" if text else "" for text in inner]


def shown(value: object) -> str:
    """Any value as a short text that is valid, printable UTF-8: for rejected uids and details."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    if not text.isprintable():
        text = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
    if len(text.encode()) > MAX_UID_BYTES:
        text = text.encode()[: MAX_UID_BYTES - 3].decode("utf-8", "ignore") + "..."
    return text


def uid_trouble(uid: object) -> str:
    """What is wrong with a uid, "" if nothing is."""
    if uid is None:
        return "the uid is null"
    if not isinstance(uid, str):
        return f"the uid is a {type(uid).__name__}, not a text"
    try:
        check_uid(uid)
    except BadUidError as error:
        return error.what
    return ""
