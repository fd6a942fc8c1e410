"""Finding files by their metadata: a person's, of which nobody knows the uids. Reads every index; changes nothing.

The list that comes of it is for a person to look through; `vera erase --list` takes it afterwards.
"""

from __future__ import annotations

import csv
import json
from typing import IO, TYPE_CHECKING, NamedTuple

from vera_core.erasures import Target
from vera_core.errors import BadTimeError, UsageError
from vera_core.model import parse_time
from vera_core.operations.report import as_json
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots
from vera_core.source.lists import list_reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date
    from pathlib import Path

    from vera_core.model import Entry
    from vera_core.operations.repository import Repository
    from vera_core.operations.retrieve import FileReport

COLUMNS = ("uid", "created_at", "size", "media_type", "metadata", "version", "retention_class", "lock_until", "slot")
"""Of a list of files: what a person needs to judge each. Erasing reads the first two."""


class Wanted(NamedTuple):
    """Whose files: of which tenant, with all of these metadata pairs, on days from `first` to `last` (None: open)."""

    tenant: str
    metadata: Mapping[str, str]
    first: date | None = None
    last: date | None = None

    def fits(self, entry: Entry) -> bool:
        """Whether a version has all the pairs."""
        return self.metadata.items() <= dict(entry.metadata).items()


def find_files(
    repo: Repository, wanted: Wanted, progress: Callable[[int, int], None] | None = None
) -> Iterator[FileReport]:
    """The latest living version of each file of which some living version fits, day by day, in bounded memory.

    `progress` gets the number of slots read, and of all.

    Raises:
        UsageError: no metadata is asked for.
        IntegrityError: a slot can't be read: without it nobody knows whether the list is complete.
    """
    if not wanted.metadata:
        raise UsageError("no metadata is asked for", todo="Name at least one pair, like customer=4711.")
    repo.refresh_config()
    retriever = Retriever(repo, wanted.tenant)
    slots = list(all_slots(repo, tenant=wanted.tenant, first=wanted.first, last=wanted.last))
    for number, slot in enumerate(slots, 1):
        yield from retriever.search_slot(slot, wanted.fits)
        if progress is not None:
            progress(number, len(slots))


def write_list(file: IO[str], files: Iterator[FileReport], *, as_csv: bool) -> int:
    """Writes a list of files as CSV, else as JSON Lines; returns how many they are."""
    count = 0
    writer = csv.DictWriter(file, COLUMNS)
    if as_csv:
        writer.writeheader()
    for item in files:
        count += 1
        values = {name: value for name, value in as_json(item).items() if name in COLUMNS}
        if as_csv:
            writer.writerow(values | {"metadata": json.dumps(values["metadata"], ensure_ascii=False)})
        else:
            file.write(json.dumps(values, ensure_ascii=False) + "\n")
    return count


def read_targets(path: Path) -> list[Target]:
    """The files that a list names: `uid`, and `created_at` where the uid carries no time; other columns don't matter.

    Raises:
        UsageError: there is no such list, it has no uid column, or a line is malformed.
        BadTimeError: a time is none.
    """
    found = []
    for line, values in list_reader(path)(path):
        uid, created_at = values.get("uid"), values.get("created_at")
        if not isinstance(uid, str) or not uid:
            raise UsageError("the line names no uid", todo="It needs a column `uid`.", path=path, line=line)
        try:
            found.append(Target(uid, parse_time(str(created_at)) if created_at else None))
        except BadTimeError as error:
            raise BadTimeError(error.what, todo=error.todo, path=path, line=line) from None
    return found
