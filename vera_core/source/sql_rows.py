"""From the records of a page to rows: column by column where all is well, one by one where something is wrong.

Hot: every row of every window passes through here. Which records there are is sql.py's business.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any

from vera_core.source.base import Unreadable
from vera_core.source.mapping import ContentKind
from vera_core.source.rows import (
    FILE_PLACE,
    ROW_PLACE,
    Metadata,
    RawRow,
    RejectReason,
    attribute_trouble,
    shown,
    uid_trouble,
)
from vera_core.source.times import TimeTrouble, text_day

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from vera_core.source.base import Terms, Window
    from vera_core.source.mapping import SourceSettings
    from vera_core.source.times import TimeReader

Trouble = tuple[RejectReason, str]
Troubles = dict[int, Trouble]

UID, TIME, TENANT, CLASS, MEDIA, PLACE, SIZE, LATE, ROW_KEY = (
    "uid", "time", "tenant", "class", "media", "place", "size", "late", "row_key",
)  # fmt: skip
"""Roles of a record's columns; metadata columns have the role "metadata:" and their name."""
METADATA = "metadata:"
SHORT_ATTRIBUTES = 1000
"""Characters below which attributes are within format v1's limits for sure."""


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
    """Makes the rows of one tenant. `locate` finds out where the content of a path or URI is; None if it is inline."""

    settings: SourceSettings
    terms: Terms
    tenant: str
    times: TimeReader
    roles: tuple[str, ...]
    locate: Callable[[object], str | Unreadable] | None

    def rows(self, records: Sequence[Sequence[Any]], window: Window) -> list[RawRow]:
        """The rows among `records` that belong to the window."""
        rows, inside = self._made(records, window)
        return rows if inside is None else list(compress(rows, inside))

    def numbered(self, records: Sequence[Sequence[Any]], window: Window) -> list[tuple[int, RawRow]]:
        """As `rows`, each with the number of its record."""
        rows, inside = self._made(records, window)
        return [(at, row) for at, row in enumerate(rows) if inside is None or inside[at]]

    def _made(self, records: Sequence[Sequence[Any]], window: Window) -> tuple[list[RawRow], list[bool] | None]:
        """A row for each record, and which of them are in the window (None: all)."""
        if not records:
            return [], None
        columns: dict[str, Sequence[Any]] = dict(zip(self.roles, zip(*records, strict=True), strict=True))
        count = len(records)
        troubles: Troubles = {}
        times, inside = self._times(columns[TIME], window, troubles)
        uids = self._uids(columns[UID], troubles)
        self._tenants(columns.get(TENANT), troubles)
        classes = self._classes(columns.get(CLASS), count, troubles)
        media = self._media(columns.get(MEDIA), count, troubles)
        metadata = self._metadata(columns, media, troubles)
        sizes = self._sizes(columns.get(SIZE), count, troubles)
        places = self._places(columns, count, troubles)
        lates: Iterable[str] = (
            [canonical(value) or "" for value in columns[LATE]] if LATE in columns else repeat("", count)
        )
        made = zip(uids, times, classes, places, sizes, media, metadata, lates, repeat(""), repeat(""))
        rows = [tuple.__new__(RawRow, values) for values in made]
        for at, (reason, detail) in troubles.items():
            row = rows[at]
            rows[at] = RawRow(
                shown(columns[UID][at]), row.created_at, "", shown(row.place) if row.place else "",
                late=shown(row.late), reject=reason.value, detail=shown(detail),
            )  # fmt: skip
        return rows, inside

    def _times(
        self, values: Sequence[Any], window: Window, troubles: Troubles
    ) -> tuple[Sequence[int], list[bool] | None]:
        """Microseconds, and which rows are in the window (None: all)."""
        micros = self.times.micros(values)
        first, end = window.first_micros, window.end_micros
        if self.times.exact():
            # What the query already made sure of; a value that is no time sorts among numbers on no database.
            return micros, None  # type: ignore[return-value]
        inside = []
        for at, value in enumerate(micros):
            if isinstance(value, TimeTrouble):
                inside.append(text_day(values[at]) == window.day)
                micros[at] = first
                troubles.setdefault(at, (RejectReason.BAD_TIME, value.detail))
            else:
                inside.append(first <= value < end)
        return micros, inside  # type: ignore[return-value] # no trouble is left

    def _uids(self, values: Sequence[Any], troubles: Troubles) -> Sequence[str]:
        if set(map(type, values)) != {str}:
            values = [value if isinstance(value, str) else _uid(value) for value in values]
        for at, uid in enumerate(values):
            if uid.__class__ is str and uid.isascii() and uid.isprintable() and 0 < len(uid) <= 512:
                continue
            what = uid_trouble(uid)
            if what:
                troubles.setdefault(at, (RejectReason.BAD_UID, what))
        return values

    def _tenants(self, values: Sequence[Any] | None, troubles: Troubles) -> None:
        if values is None:
            return
        known = self.settings.tenant.map
        wrong = {value for value in set(values) if known.get(_word(value)) != self.tenant}
        if wrong:
            for at, value in enumerate(values):
                if value in wrong:
                    detail = f"{shown(value)} is none of the tenants that the settings declare"
                    troubles.setdefault(at, (RejectReason.UNKNOWN_TENANT, detail))

    def _classes(self, values: Sequence[Any] | None, count: int, troubles: Troubles) -> Iterable[str]:
        given = self.settings.retention_class
        if values is None:
            return repeat(given.value or self.terms.default_class, count)
        names = {value: given.map.get(_word(value), "" if given.map else _word(value)) for value in set(values)}
        wrong = {value for value, name in names.items() if name not in self.terms.classes}
        if wrong:
            for at, value in enumerate(values):
                if value in wrong:
                    detail = f"{shown(value)} leads to none of the repository's retention classes"
                    troubles.setdefault(at, (RejectReason.UNKNOWN_CLASS, detail))
        return [names[value] for value in values]

    def _media(self, values: Sequence[Any] | None, count: int, troubles: Troubles) -> Sequence[str]:
        if values is None:
            return [self.settings.media_type.value] * count
        return self._plain(values, "media type", troubles)

    def _metadata(
        self, columns: Mapping[str, Sequence[Any]], media: Sequence[str], troubles: Troubles
    ) -> Sequence[Metadata]:
        """Metadata of each row, checked together with its media type."""
        wrong = {kind: what for kind in set(media) if (what := attribute_trouble(kind, ()))}
        named = [(name, columns[METADATA + name]) for name in self.settings.metadata]
        if not named and not wrong:
            return [()] * len(media)
        names = [name for name, _ in named]
        texts = [self._plain(values, name, troubles) for name, values in named]
        if all(plain is values for plain, (_, values) in zip(texts, named, strict=True)):
            metadata = _paired(names, list(zip(*texts, strict=True))) if named else [()] * len(media)
            short = sum(max(map(len, plain)) for plain in texts) < SHORT_ATTRIBUTES
            # Far below the limits, even in UTF-8; only characters that are none could be wrong.
            if not wrong and short and all("".join(plain).isascii() for plain in texts):
                return metadata
        else:
            nulls = zip(*(values for _, values in named), strict=True)
            metadata = [
                tuple((name, text) for name, text, value in zip(names, row, found, strict=True) if value is not None)
                for row, found in zip(zip(*texts, strict=True), nulls, strict=True)
            ]
        for at, row in enumerate(metadata):
            what = wrong.get(media[at]) or attribute_trouble(media[at], row)
            if what:
                troubles.setdefault(at, (RejectReason.BAD_METADATA, what))
        return metadata

    def _plain(self, values: Sequence[Any], name: str, troubles: Troubles) -> Sequence[str]:
        """Texts; a null is ""."""
        if set(map(type, values)) == {str}:
            return values
        texts = []
        for at, value in enumerate(values):
            text = "" if value is None else canonical(value)
            if text is None:
                troubles.setdefault(at, (RejectReason.BAD_METADATA, f"{name} is a {type(value).__name__}, not a text"))
            texts.append(text or "")
        return texts

    def _sizes(self, values: Sequence[Any] | None, count: int, troubles: Troubles) -> Iterable[int | None]:
        if values is None:
            return repeat(None, count)
        if set(map(type, values)) == {int} and min(values) >= 0 and max(values) < 1 << 62:
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
            if size is not None and not 0 <= size < 1 << 62:
                troubles.setdefault(at, (RejectReason.WRONG_SIZE, f"the size {size} is impossible"))
                size = None
            sizes.append(size)
        return sizes

    def _places(self, columns: Mapping[str, Sequence[Any]], count: int, troubles: Troubles) -> Iterable[str]:
        if self.locate is None:
            keys = columns.get(ROW_KEY)
            return repeat("", count) if keys is None else [f"{ROW_PLACE}{canonical(value)}" for value in keys]
        prefix = FILE_PLACE if self.settings.content.kind is ContentKind.PATH else ""
        places = []
        for at, value in enumerate(columns[PLACE]):
            place = self.locate(value)
            if isinstance(place, Unreadable):
                troubles.setdefault(at, (RejectReason(place.reason), place.detail))
                places.append("")
            else:
                places.append(prefix + place)
        return places


def _paired(names: Sequence[str], rows: Sequence[tuple[str, ...]]) -> list[Metadata]:
    """Names and texts in pairs; rows with the same texts share them, which spares memory and its collection."""
    known = {row: tuple(zip(names, row, strict=True)) for row in set(rows)}
    return [known[row] for row in rows]


def _uid(value: object) -> object:
    """A uid that is no text as text, if it is a number or UUID; anything else stays what it is and is rejected."""
    return str(value) if isinstance(value, (int, Decimal, uuid.UUID)) and not isinstance(value, bool) else value


def _word(value: object) -> str:
    """A code (tenant, class) as the settings write it: text without trailing blanks, "" for null."""
    return (canonical(value) or "").rstrip(" ")
