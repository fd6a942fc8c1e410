"""From a page of a table to rows: column by column where all is well, one by one where something is wrong.

Hot: every row of every window passes through here. Which rows there are is sql.py's business.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from vera_core.format.layout import MAX_METADATA
from vera_core.model import MAX_UID_BYTES
from vera_core.source.attributes import attribute_trouble
from vera_core.source.base import Unreadable
from vera_core.source.mapping import ContentKind
from vera_core.source.rows import (
    FILE_PLACE,
    ROW_PLACE,
    RawBatch,
    RawRow,
    RejectReason,
    metadata_texts,
    shown,
    uid_trouble,
)
from vera_core.source.times import text_day

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vera_core.source.base import Terms, Window
    from vera_core.source.mapping import SourceSettings
    from vera_core.source.times import TimeReader

Column = Sequence[Any]
Trouble = tuple[RejectReason, str]
Troubles = dict[int, Trouble]

UID, TIME, TENANT, CLASS, MEDIA, PLACE, SIZE, LATE, ROW_KEY = (
    "uid:", "time", "tenant", "class", "media", "place", "size", "late", "row_key",
)  # fmt: skip
"""Roles of a page's columns; metadata columns have the role "metadata:" and their name, a uid's "uid:" and theirs."""
METADATA = "metadata:"
PAIR_BYTES = 4
"""What format v1 adds to each pair of metadata."""
MAX_SIZE = (1 << 62) - 1


def canonical(value: object) -> str | None:
    """A database value as text, the same for every driver; None if it is null or has no plain text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, Decimal, uuid.UUID)):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (datetime, date)):
        return value.isoformat()
    return None


@dataclass(frozen=True, slots=True)
class RowMaker:
    """Makes the rows of one tenant.

    `locate` finds out where the contents of paths or URIs are, a column at a time; None if they are inline.
    """

    settings: SourceSettings
    terms: Terms
    tenant: str
    times: TimeReader
    roles: tuple[str, ...]
    locate: Callable[[Column], Sequence[str | Unreadable]] | None

    def batch(self, page: Sequence[Column], window: Window) -> tuple[RawBatch, Sequence[int]]:
        """The rows of the window in a page, which is a column for each role; and the place of each in the page."""
        columns = dict(zip(self.roles, page, strict=True))
        troubles: Troubles = {}
        times, places = self._times(columns[TIME], window, troubles)
        if len(places) < len(columns[TIME]):
            columns = {role: [column[at] for at in places] for role, column in columns.items()}
        count = len(places)
        raw = self._raw_uids(columns)
        uids = self._uids(raw, troubles)
        self._tenants(columns.get(TENANT), troubles)
        classes = self._classes(columns.get(CLASS), count, troubles)
        media = self._media(columns.get(MEDIA), count, troubles)
        metadata = self._metadata(columns, media, troubles)
        sizes = self._sizes(columns.get(SIZE), count, troubles)
        contents = self._places(columns, count, troubles)
        lates = [text or "" for text in _canonical(columns[LATE])] if LATE in columns else [""] * count
        none = [""] * count
        made = RawBatch(uids, times, classes, contents, sizes, media, metadata, lates, none, none)
        return _rejected(made, raw, troubles) if troubles else made, places

    def _times(self, values: Column, window: Window, troubles: Troubles) -> tuple[list[int], Sequence[int]]:
        """Microseconds of the rows that belong to the window, and their places in the page."""
        micros, wrong = self.times.micros(values)
        first, end = window.first_micros, window.end_micros
        if self.times.exact():
            # What the query already made sure of; a value that is no time sorts among numbers on no database.
            return micros.tolist(), range(len(values))
        inside = (first <= micros) & (micros < end)
        for at in wrong:
            micros[at], inside[at] = first, text_day(values[at]) == window.day
        if inside.all():
            places: Sequence[int] = range(len(values))
        else:
            places, micros = np.flatnonzero(inside).tolist(), micros[inside]
        if wrong:
            found = ((number, wrong[at]) for number, at in enumerate(places) if at in wrong)
            troubles.update({number: (RejectReason.BAD_TIME, trouble.detail) for number, trouble in found})
        return micros.tolist(), places

    def uid_of(self, values: Sequence[Any]) -> Any:
        """The raw uid of one row, of which the uid's columns are given."""
        columns = {UID + name: [value] for name, value in zip(self.settings.uid_columns, values, strict=True)}
        return self._raw_uids(columns | {TIME: [None]})[0]

    def _raw_uids(self, columns: Mapping[str, Column]) -> Column:
        """The uids as the database gives them, or as the template puts them together; None where a column is null."""
        parts = self.settings.uid_parts
        if parts == (("", self.settings.uid),):
            return columns[UID + self.settings.uid]
        values = {name: _canonical(columns[UID + name]) for name in self.settings.uid_columns}
        count = len(columns[TIME])
        pieces = [values[name] if name else [""] * count for _, name in parts]
        texts = [text for text, _ in parts]
        return [
            None if None in row else "".join(text + piece for text, piece in zip(texts, row, strict=True))
            for row in zip(*pieces, strict=True)
        ]

    def _uids(self, values: Column, troubles: Troubles) -> Sequence[str]:
        if set(map(type, values)) != {str}:
            values = [value if isinstance(value, str) else _uid(value) for value in values]
        elif all(values) and _most_bytes(values) <= MAX_UID_BYTES and "".join(values).isprintable():
            return values
        for at, uid in enumerate(values):
            what = uid_trouble(uid)
            if what:
                troubles.setdefault(at, (RejectReason.BAD_UID, what))
        return values

    def _tenants(self, values: Column | None, troubles: Troubles) -> None:
        if values is None:
            return
        known = self.settings.tenant.map
        wrong = {value for value in set(values) if known.get(_word(value)) != self.tenant}
        if wrong:
            for at, value in enumerate(values):
                if value in wrong:
                    detail = f"{shown(value)} is none of the tenants that the settings declare"
                    troubles.setdefault(at, (RejectReason.UNKNOWN_TENANT, detail))

    def _classes(self, values: Column | None, count: int, troubles: Troubles) -> Sequence[str]:
        given = self.settings.retention_class
        if values is None:
            return [given.value or self.terms.default_class] * count
        names = {value: given.map.get(_word(value), "" if given.map else _word(value)) for value in set(values)}
        wrong = {value for value, name in names.items() if name not in self.terms.classes}
        if wrong:
            for at, value in enumerate(values):
                if value in wrong:
                    detail = f"{shown(value)} leads to none of the repository's retention classes"
                    troubles.setdefault(at, (RejectReason.UNKNOWN_CLASS, detail))
        return [names[value] for value in values]

    def _media(self, values: Column | None, count: int, troubles: Troubles) -> Sequence[str]:
        if values is None:
            return [self.settings.media_type.value] * count
        return [text or "" for text in self._plain(values, "media type", troubles)]

    def _metadata(self, columns: Mapping[str, Column], media: Sequence[str], troubles: Troubles) -> Sequence[str]:
        """Metadata of each row, checked together with its media type; nulls are left out."""
        wrong = {kind: what for kind in set(media) if (what := attribute_trouble(kind, ()))}
        names = list(self.settings.metadata)
        texts = [self._plain(columns[METADATA + name], name, troubles) for name in names]
        most = sum(map(_most_bytes, texts)) + len(names) * (_most_bytes(names) + PAIR_BYTES)
        if wrong or most > MAX_METADATA or "" in names:
            for at, row in enumerate(zip(media, *texts, strict=True)):
                pairs = tuple((name, text) for name, text in zip(names, row[1:], strict=True) if text is not None)
                what = wrong.get(media[at]) or attribute_trouble(media[at], pairs)
                if what:
                    troubles.setdefault(at, (RejectReason.BAD_METADATA, what))
        return metadata_texts(names, texts) if names else [""] * len(media)

    def _plain(self, values: Column, name: str, troubles: Troubles) -> Sequence[str | None]:
        """Texts; a null stays one."""
        texts = _canonical(values)
        if None in texts:
            for at, (text, value) in enumerate(zip(texts, values, strict=True)):
                if text is None and value is not None:
                    detail = f"{name} is a {type(value).__name__}, not a text"
                    troubles.setdefault(at, (RejectReason.BAD_METADATA, detail))
        return texts

    def _sizes(self, values: Column | None, count: int, troubles: Troubles) -> Sequence[int | None]:
        if values is None:
            return [None] * count
        if set(map(type, values)) == {int} and min(values) >= 0 and max(values) <= MAX_SIZE:
            return values
        inline = self.settings.content.kind is ContentKind.INLINE
        sizes: list[int | None] = []
        for at, value in enumerate(values):
            size = None
            if isinstance(value, int) or (isinstance(value, Decimal) and value == value.to_integral_value()):
                size = int(value)
            elif value is not None or inline:
                what = "the content is null" if value is None else f"the size {shown(value)} is no whole number"
                reason = RejectReason.MISSING_CONTENT if value is None else RejectReason.WRONG_SIZE
                troubles.setdefault(at, (reason, what))
            if size is not None and not 0 <= size <= MAX_SIZE:
                troubles.setdefault(at, (RejectReason.WRONG_SIZE, f"the size {size} is impossible"))
                size = None
            sizes.append(size)
        return sizes

    def _places(self, columns: Mapping[str, Column], count: int, troubles: Troubles) -> Sequence[str]:
        if self.locate is None:
            keys = columns.get(ROW_KEY)
            return [""] * count if keys is None else [f"{ROW_PLACE}{text}" for text in _canonical(keys)]
        prefix = FILE_PLACE if self.settings.content.kind is ContentKind.PATH else ""
        found = self.locate(columns[PLACE])
        for at, place in enumerate(found):
            if isinstance(place, Unreadable):
                troubles.setdefault(at, (RejectReason(place.reason), place.detail))
        return [prefix + place if isinstance(place, str) else "" for place in found]


def _rejected(batch: RawBatch, uids: Column, troubles: Troubles) -> RawBatch:
    """The batch with the rows in `troubles` rejected; `uids`: as the database gave them."""
    columns: list[Any] = [list(column) for column in batch]
    for at, (reason, detail) in troubles.items():
        place, late = batch.place[at], batch.late[at]
        row = RawRow(
            shown(uids[at]), batch.created_at[at], "", shown(place) if place else "", late=shown(late),
            reject=reason.value, detail=shown(detail),
        )  # fmt: skip
        for column, value in zip(columns, row, strict=True):
            column[at] = value
    return RawBatch(*columns)


def _most_bytes(texts: Sequence[str | None]) -> int:
    """Not less than the bytes of the longest text in UTF-8; more than any limit if one of them is no valid text."""
    whole = "".join(filter(None, texts))
    longest = max(map(len, filter(None, texts)), default=0)
    if whole.isascii():
        return longest
    try:
        whole.encode()
    except UnicodeEncodeError:
        return sys.maxsize
    return 4 * longest


def _canonical(values: Column) -> Sequence[str | None]:
    """As `canonical`, of a column."""
    kinds = set(map(type, values))
    if kinds == {str}:
        return values
    return list(map(str, values)) if kinds <= {int, Decimal, uuid.UUID} else list(map(canonical, values))


def _uid(value: object) -> object:
    """A uid that is no text as text, if it is a number or UUID; anything else stays what it is and is rejected."""
    return str(value) if isinstance(value, (int, Decimal, uuid.UUID)) and not isinstance(value, bool) else value


def _word(value: object) -> str:
    """A code (tenant, class) as the settings write it: text without trailing blanks, "" for null."""
    return (canonical(value) or "").rstrip(" ")
