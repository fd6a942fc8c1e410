"""Writing saved files to a new directory, whatever their uids are, with a list that `vera pack` takes.

What is saved is recover.py's business.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any

from vera_core.errors import ConflictError, UnavailableError
from vera_core.format import saved_entries
from vera_core.model import Origin, format_time, from_micros

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from vera_core.model import Entry
    from vera_core.operations.recover import RecoveryPlan

LIST = "files.jsonl"
OLDER = "older.jsonl"
_MAX_PART = 255


def extract(plan: RecoveryPlan, directory: Path, *, progress: Callable[[int, int], None] | None = None) -> int:
    """Writes every saved file to an empty directory; returns how many were left out because they are erased.

    The latest version of a uid goes to files/<uid> if that is a good name that nothing else has, else to
    other/<ordinal>, and is a line of files.jsonl, which `vera pack` takes; older versions go to other/<ordinal> and
    older.jsonl. Modification times are the files' created_at.

    Raises:
        UnavailableError: the shard can't be read any more.
        OSError: the directory can't be written.
    """
    erased = plan.damaged.known.erased
    commit = plan.damaged.known.commit
    total = plan.report.size
    passed = None if progress is None else lambda position: progress(min(position, total), total)
    skipped = 0
    with _Lists(directory) as lists:
        waiting: tuple[Entry, Path] | None = None
        for saved, pieces in saved_entries(plan.survey, passed):
            entry = saved.entry
            origin = entry.origin or Origin(commit or 0, entry.ordinal)
            if origin.ordinal in erased.get(origin.commit, ()):
                skipped += 1
                continue
            path = directory / "other" / f"{entry.ordinal:08d}"
            _write(path, pieces)
            if waiting is not None:
                lists.take(*waiting, older=waiting[0].uid == entry.uid)
            waiting = entry, path
        if waiting is not None:
            lists.take(*waiting, older=False)
    return skipped


class _Lists:
    """The lists of a directory, and the names of the files that they tell of."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: dict[str, IO[str]] = {}

    def __enter__(self) -> _Lists:
        self._files[LIST] = (self._directory / LIST).open("x", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files.values():
            file.close()

    def take(self, entry: Entry, path: Path, *, older: bool) -> None:
        """Gives a file its name and its line."""
        if not older:
            path = _named(path, self._directory / "files", entry.uid)
        with suppress(OSError, OverflowError):  # a file system that has no such time
            os.utime(path, ns=(entry.created_at * 1000,) * 2)
        name = OLDER if older else LIST
        if name not in self._files:
            self._files[name] = (self._directory / name).open("x", encoding="utf-8")
        line: dict[str, Any] = {
            "uid": entry.uid,
            "path": str(path.relative_to(self._directory)),
            "created_at": format_time(from_micros(entry.created_at)),
            "size": entry.size,
            "media_type": entry.media_type,
            "metadata": dict(entry.metadata),
        }
        self._files[name].write(json.dumps(line, ensure_ascii=False) + "\n")


def _named(path: Path, root: Path, uid: str) -> Path:
    """The file under its uid below `root`, where that is a good name that nothing has yet; else as it was."""
    parts = uid.split("/")
    if any(part in {"", ".", ".."} or len(part.encode()) > _MAX_PART for part in parts):
        return path
    place = root.joinpath(*parts)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.open("xb").close()  # the name is taken first: renaming would replace another file
        path.replace(place)
    except (OSError, UnicodeEncodeError):
        return path
    return place


def _write(path: Path, pieces: Iterable[bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)


@contextmanager
def new_directory(target: Path) -> Iterator[Path]:
    """A directory to write in; `target` is there, whole, once the block ends well, and else is not.

    The files go to a hidden directory beside it, which then takes its name.

    Raises:
        ConflictError: there is something at `target`.
        UnavailableError: it can't be written.
    """
    target = target.resolve()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise ConflictError("there is something already", todo="Name a new directory for the files.", path=target)
    hidden = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        hidden.mkdir()
        yield hidden
        hidden.rename(target)
    except OSError as error:
        raise UnavailableError(
            f"the files can't be written: {error.strerror or error}", todo="Choose another place.", path=target
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
