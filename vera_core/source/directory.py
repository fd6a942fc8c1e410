"""The pseudo-sources of `vera pack`: a directory with all files below it, or a list that names files.

Both look once, at first use; what is added or changed later is found by a new source.
"""

from __future__ import annotations

import json
import mimetypes
import os
import re
import stat
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vera_core.errors import BadTimeError, UnavailableError, UsageError
from vera_core.model import DEFAULT_TENANT, MAX_NAME_BYTES, check_name, parse_time, to_micros
from vera_core.source.attributes import attribute_trouble
from vera_core.source.base import LateRows, LocalContents, Unreadable
from vera_core.source.catalogue import Catalogue
from vera_core.source.files import LocalFiles
from vera_core.source.lists import list_reader
from vera_core.source.rows import (
    FILE_PLACE,
    RawRow,
    Reject,
    RejectReason,
    metadata_text,
    shown,
    uid_trouble,
)
from vera_core.source.sql_rows import canonical
from vera_core.source.times import MAX_MICROS, MIN_MICROS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    from vera_core.source.base import Bounds, Fetched, Terms, Window
    from vera_core.source.rows import RawBatch, Row, RowBatch

COMPRESSED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}
COLUMNS = ("uid", "path", "created_at", "size", "media_type", "metadata", "retention_class")
REQUIRED = ("uid", "path")
_TYPES = mimetypes.MimeTypes(filenames=())  # Only what Python knows itself: the same on every machine.


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What the rows of a pseudo-source have in common. `spool`: a directory for its temporary catalogue.

    `name`: the source's name; "" makes one of the file's or directory's. `retention_class`: "" for the repository's
    default.
    """

    spool: Path
    tenant: str = DEFAULT_TENANT
    name: str = ""
    retention_class: str = ""


class _FileSource:
    """What both have in common: rows from a catalogue, contents from local files."""

    def __init__(self, path: Path, terms: Terms, packing: Packing, *, roots: Sequence[Path]) -> None:
        self.name = check_name(packing.name, "source") if packing.name else source_name(path)
        self.tenant = check_name(packing.tenant, "tenant")
        self._path = path
        self._class = packing.retention_class or terms.default_class
        self._classes = terms.classes
        if self._class not in terms.classes:
            raise UsageError(
                f"the repository has no retention class {self._class!r}",
                todo=f"It has: {', '.join(sorted(terms.classes))}.",
            )
        self._files = LocalFiles(roots, terms.inline_limit)
        self.local = LocalContents(tuple(roots), terms.inline_limit, self._paths_of)
        self._catalogue = Catalogue(self._find, packing.spool)

    @property
    def blind_spots(self) -> tuple[str, ...]:
        """See `Source.blind_spots`."""
        return (f"{self._path} is looked at once; files that appear or change after that need another run.",)

    def batches(self, window: Window) -> Iterator[RawBatch]:
        """See `Source.batches`."""
        return self._catalogue.batches(window)

    def days(self) -> dict[date, int]:
        """Every day that has rows, and how many, in order: the windows to pack."""
        return self._catalogue.days()

    def bounds(self) -> Bounds | None:
        """See `Source.bounds`."""
        return self._catalogue.bounds()

    def untimed(self, limit: int) -> Iterator[Reject]:
        """See `Source.untimed`."""
        return iter(self._catalogue.untimed(limit))

    def late(self, mark: str, *, before: date) -> LateRows:  # noqa: ARG002 - the protocol's signature
        """See `Source.late`; there are none, as a new source looks anew."""
        return LateRows({}, mark)

    def fetch(self, rows: Sequence[Row]) -> Iterator[Fetched]:
        """See `Source.fetch`."""
        return self._files.fetch_many([(self._path_of(row.uid, row.place), row.size) for row in rows])

    def _paths_of(self, batch: RowBatch) -> list[str]:
        rows = zip(batch.uids, batch.places, batch.rejects, strict=True)
        return ["" if reject else self._path_of(uid, place) for uid, place, reject in rows]

    def _path_of(self, uid: str, place: str) -> str:  # noqa: ARG002 - where uids are paths, places are not needed
        return place.removeprefix(FILE_PLACE)

    def _find(self) -> Iterable[RawRow | Reject]:
        raise AssertionError("each kind finds its rows in its own way")


class DirectorySource(_FileSource):
    """All files below a directory: uid is the path from there with "/", created_at the modification time (UTC).

    Links are not followed and special files not read; both are rejected by name, as are names that are no uid. The
    media type follows from the name.

    Raises:
        UsageError: it is no directory, or name or class are none.
    """

    def __init__(self, path: Path, terms: Terms, packing: Packing) -> None:
        if not path.is_dir():
            raise UsageError("there is no such directory", todo="Check the path.", path=path)
        if packing.spool.resolve().is_relative_to(path.resolve()):
            raise UsageError("the spool lies in the directory", todo="Name another spool.", path=packing.spool)
        super().__init__(path.resolve(), terms, packing, roots=[path.resolve()])
        self._root = str(path.resolve()).rstrip("/")

    def _path_of(self, uid: str, place: str) -> str:  # noqa: ARG002
        return f"{self._root}/{uid}"

    def _find(self) -> Iterator[RawRow | Reject]:
        root = self._root
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            try:
                with os.scandir(directory) as found:
                    entries = sorted(found, key=lambda entry: entry.name)
            except OSError as error:
                raise UnavailableError(
                    f"a directory can't be read: {error.strerror}",
                    todo="Give the right to read it, or pack the others by themselves.", path=shown(directory),
                ) from error  # fmt: skip
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                elif (row := self._row(entry, entry.path[len(root) + 1 :])) is not None:
                    yield row

    def _row(self, entry: os.DirEntry[str], uid: str) -> RawRow | Reject | None:
        try:
            facts = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            # Removed between two looks: it was never there.
            return None
        created_at = facts.st_mtime_ns // 1000
        if not MIN_MICROS <= created_at <= MAX_MICROS:
            return Reject(shown(uid), RejectReason.BAD_TIME.value, "modified outside year 1 to 9999")
        trouble = uid_trouble(uid)
        if trouble:
            return _rejected(uid, created_at, RejectReason.BAD_UID, trouble)
        if not stat.S_ISREG(facts.st_mode):
            what = "a symbolic link" if stat.S_ISLNK(facts.st_mode) else "no regular file"
            return _rejected(uid, created_at, RejectReason.NOT_A_FILE, f"{uid} is {what}")
        return RawRow(uid, created_at, self._class, "", facts.st_size, media_type_of(entry.name))


class ManifestSource(_FileSource):
    """The files that a CSV or JSON Lines file names, one a line.

    Columns (CSV: a header line; JSON Lines: keys): `uid` and `path` (relative to the list), and if wanted `created_at`
    (ISO 8601 with zone, or a date; else the modification time), `size`, `media_type`, `metadata` (an object of texts;
    in CSV as JSON), `retention_class`. Files must lie in `roots`, by default the list's own directory.

    Raises:
        UsageError: there is no such list, its columns are others, or it is neither .csv nor .jsonl.
    """

    def __init__(self, path: Path, terms: Terms, packing: Packing, *, roots: Sequence[Path] = ()) -> None:
        self._read = list_reader(path)
        super().__init__(path.resolve(), terms, packing, roots=list(roots) or [path.resolve().parent])

    def _find(self) -> Iterator[RawRow | Reject]:
        for line, values in self._read(self._path):
            unknown = sorted(set(values) - set(COLUMNS))
            missing = [name for name in REQUIRED if name not in values]
            if unknown or missing:
                what = f"has unknown columns: {', '.join(unknown)}" if unknown else f"lacks {' and '.join(missing)}"
                raise UsageError(
                    f"the list {what}",
                    todo=f"It may have: {', '.join(COLUMNS)}.", path=self._path, line=line,
                )  # fmt: skip
            yield self._row(values)

    def _row(self, values: dict[str, Any]) -> RawRow | Reject:
        uid = canonical(values["uid"])
        located = self._locate(values["path"])
        path = "" if isinstance(located, Unreadable) else located
        created_at = self._time(values.get("created_at"), path)
        if isinstance(created_at, Reject):
            return created_at._replace(uid=shown(uid if uid is not None else values["uid"]))
        trouble = uid_trouble(uid)
        if trouble or uid is None:
            return _rejected(values["uid"], created_at, RejectReason.BAD_UID, trouble or "the uid is no text")
        if isinstance(located, Unreadable):
            return _rejected(uid, created_at, RejectReason(located.reason), located.detail)
        row = RawRow(uid, created_at, canonical(values.get("retention_class")) or self._class, FILE_PLACE + path)
        return self._described(row, values)

    def _described(self, row: RawRow, values: dict[str, Any]) -> RawRow:
        """The row with size, media type and metadata, or rejected for one of them."""
        if row.retention_class not in self._classes:
            detail = f"the repository has no retention class {shown(row.retention_class)}"
            return _rejected(row.uid, row.created_at, RejectReason.UNKNOWN_CLASS, detail)
        media_type = canonical(values.get("media_type")) or media_type_of(row.place)
        size = canonical(values.get("size")) or None
        if size is not None and not (size.isascii() and size.isdigit()):
            detail = f"the size {shown(size)} is no number of bytes"
            return _rejected(row.uid, row.created_at, RejectReason.WRONG_SIZE, detail)
        try:
            pairs = _metadata(values.get("metadata"))
        except ValueError as error:
            return _rejected(row.uid, row.created_at, RejectReason.BAD_METADATA, str(error))
        trouble = attribute_trouble(media_type, pairs)
        if trouble:
            return _rejected(row.uid, row.created_at, RejectReason.BAD_METADATA, trouble)
        declared = None if size is None else int(size)
        return row._replace(size=declared, media_type=media_type, metadata=metadata_text(pairs))

    def _locate(self, value: object) -> str | Unreadable:
        if isinstance(value, str) and value and not value.startswith("/"):
            value = f"{self._path.parent}/{value}"
        return self._files.locate(value)

    def _time(self, value: object, path: str) -> int | Reject:
        """Microseconds since 1970 UTC, or why there are none."""
        if value is None or value == "":
            try:
                return Path(path).stat().st_mtime_ns // 1000
            except OSError:
                detail = f"there is no created_at, and no file {path} with a modification time"
                return Reject("", RejectReason.NULL_TIME.value, detail)
        try:
            return to_micros(value if isinstance(value, datetime) else parse_time(str(value)))
        except BadTimeError as error:
            return Reject("", RejectReason.BAD_TIME.value, shown(error.what))


def source_name(path: Path) -> str:
    """A valid source name made of the last part of a path."""
    name = re.sub(r"[^a-z0-9._-]+", "-", path.resolve().name.lower()).lstrip("-_.")[:MAX_NAME_BYTES]
    return check_name(name or "root", "source")


@lru_cache(maxsize=4096)
def _media_type_of_suffix(suffix: str) -> str:
    kind, encoding = _TYPES.guess_type("x" + suffix, strict=True)
    return COMPRESSED.get(encoding or "", kind or "") if encoding else kind or ""


def media_type_of(name: str) -> str:
    """The media type of a file by its name; "" if Python knows none."""
    dot = name.rfind(".")
    return _media_type_of_suffix(name[dot:].lower()) if dot > name.rfind("/") else ""


def _rejected(uid: object, created_at: int, reason: RejectReason, detail: str) -> RawRow:
    return RawRow(shown(uid), created_at, "", reject=reason.value, detail=shown(detail))


def _metadata(value: object) -> tuple[tuple[str, str], ...]:
    """Pairs of an object of plain values (or its JSON text); nulls are left out."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        value = json.loads(value)
    if not isinstance(value, dict):
        raise ValueError("metadata is no object")
    pairs = []
    for name, item in value.items():
        text = canonical(item)
        if text is None and item is not None:
            raise ValueError(f"metadata {shown(name)} is no plain value")
        if text is not None:
            pairs.append((str(name), text))
    return tuple(pairs)
