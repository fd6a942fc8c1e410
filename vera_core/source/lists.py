"""Lists that people write or export: CSV with a header line, or JSON Lines; as dicts, a line each, with its number.

Which columns a list must have, and what they mean, is its readers' business.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from vera_core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Lines = Iterator[tuple[int, dict[str, Any]]]


def list_reader(path: Path) -> Callable[[Path], Lines]:
    """What reads a list of that name: gives (number of the line, values by column) for each line.

    Raises:
        UsageError: there is no such list, or it is neither .csv nor .jsonl; while reading: a line is malformed.
    """
    if not path.is_file():
        raise UsageError("there is no such list", todo="Check the path.", path=path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise UsageError("the list is neither .csv nor .jsonl", todo="Name it after its format.", path=path)
    return reader


def _read_csv(path: Path) -> Lines:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, restkey="(more values than columns)")
        try:
            for values in reader:
                yield reader.line_num, values
        except csv.Error as error:
            raise UsageError(f"the list can't be read: {error}", path=path, line=reader.line_num) from error


def _read_jsonl(path: Path) -> Lines:
    with path.open(encoding="utf-8", errors="surrogateescape") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except ValueError as error:
                raise UsageError(f"the line is no JSON: {error}", path=path, line=number) from None
            if not isinstance(values, dict):
                raise UsageError("the line is no JSON object", path=path, line=number)
            yield number, values


_READERS: dict[str, Callable[[Path], Lines]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
}
