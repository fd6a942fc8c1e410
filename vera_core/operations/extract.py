"""Writing saved files to a new directory, whatever their uids are, with a list that `vera pack` takes.

Those of an encrypted shard are opened first, where the keys are at hand. What is saved is recover.py's business.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from vera_core.errors import ConflictError, ErasedError, IntegrityError, UnavailableError, UsageError, VeraError
from vera_core.format import Damage, Encryption, Header, saved_entries
from vera_core.format.layout import AES_256_GCM, UID_KEY
from vera_core.keys.opening import FileOpener, SealedShard
from vera_core.model import Origin, format_time, from_micros
from vera_core.operations.recover import Damages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from vera_core.model import Entry
    from vera_core.operations.recover import RecoveryPlan

LIST = "files.jsonl"
OLDER = "older.jsonl"
SEALED = "sealed.jsonl"
_MAX_PART = 255


class Extracted(NamedTuple):
    """How many saved files were not written: erased ones, and those that do not open, of which the first are named."""

    erased: int
    unopened: int
    damages: tuple[Damage, ...]


def extract(
    plan: RecoveryPlan,
    directory: Path,
    *,
    sealed: bool = False,
    tell: Callable[[Damage], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Extracted:
    """Writes every saved file to an empty directory; `tell` gets each one that does not open.

    The latest version of a uid goes to files/<uid> if that is a good name that nothing else has, else to
    other/<ordinal>, and is a line of files.jsonl, which `vera pack` takes; older versions go to other/<ordinal> and
    older.jsonl. Modification times are the files' created_at. `sealed` writes the files of an encrypted shard as they
    are sealed, to other/<ordinal>, listed in sealed.jsonl.

    Raises:
        UsageError: the shard is encrypted, and its keys are not known.
        UnavailableError: the shard can't be read any more.
        IntegrityError: the shard's keyring is gone, damaged or another's.
        VeraError: the key service's.
        OSError: the directory can't be written.
    """
    known, total = plan.damaged.known, plan.report.size
    passed = None if progress is None else lambda position: progress(min(position, total), total)
    is_sealed = plan.survey.remains.uids.sealed
    opened = _opener(plan) if is_sealed and not sealed else _as_it_is
    damages = Damages(tell)
    erased = 0
    with _Lists(directory, sealed=is_sealed and sealed) as lists:
        for saved, pieces in saved_entries(plan.survey, passed):
            origin = saved.entry.origin or Origin(known.commit or 0, saved.entry.ordinal)
            if origin.ordinal in known.erased.get(origin.commit, ()):
                erased += 1
                continue
            try:
                entry, content = opened(saved.entry, pieces)
                path = directory / "other" / f"{entry.ordinal:08d}"
                _write(path, content)
            except ErasedError:
                erased += 1
            except IntegrityError as error:
                entry = saved.entry
                damages.take(Damage(error.what, entry.offset, entry.stored_size, 1, entry.ordinal, entry.uid))
            else:
                lists.take(entry, path)
    return Extracted(erased, damages.count, tuple(damages.first))


def _as_it_is(entry: Entry, pieces: Iterator[bytes]) -> tuple[Entry, Iterator[bytes]]:
    return entry, pieces


def _opener(plan: RecoveryPlan) -> Callable[[Entry, Iterator[bytes]], tuple[Entry, Iterator[bytes]]]:
    """What opens a sealed file that was saved.

    Raises:
        UsageError, IntegrityError, VeraError: as `extract`.
    """
    damaged, remains = plan.damaged, plan.survey.remains
    if damaged.known.keys is None:
        raise UsageError(
            "the shard is encrypted: its files are opened with its keyring, which its repository has",
            todo="Name the repository, and with --key the place in it of a local file; or save the files as they are "
            "sealed, with --sealed.",
            shard=damaged.name,
        )
    tenant, keyring = damaged.known.keys()
    of = keyring.header
    own = Encryption(of.keyring_id, UID_KEY, AES_256_GCM, of.depth)
    scheme = own if remains.header is None else Header.parse(remains.header).encryption
    shard = SealedShard(damaged.source.where, lambda: scheme, lambda: remains.loaded, remains.numbers)
    files = FileOpener(shard, tenant, keyring)
    if scheme != own:
        raise files.not_its_keyring()

    def opened(entry: Entry, pieces: Iterator[bytes]) -> tuple[Entry, Iterator[bytes]]:
        if plan.survey.found.streamed:
            return files.stream(entry, pieces)
        found, content = files.open(entry, b"".join(pieces))
        return found, iter((content,))

    return opened


class _Lists:
    """The lists of a directory, and the names of the files that they tell of."""

    def __init__(self, directory: Path, *, sealed: bool) -> None:
        self._directory = directory
        self._sealed = sealed
        self._files: dict[str, IO[str]] = {}
        self._waiting: tuple[Entry, Path] | None = None

    def __enter__(self) -> _Lists:
        self._open(SEALED if self._sealed else LIST)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and self._waiting is not None:
            self._list(*self._waiting, older=False)
        for file in self._files.values():
            file.close()

    def take(self, entry: Entry, path: Path) -> None:
        """Takes the next file; the last one of a uid is the latest."""
        if self._sealed:
            self._list_sealed(entry, path)
            return
        if self._waiting is not None:
            self._list(*self._waiting, older=self._waiting[0].uid == entry.uid)
        self._waiting = entry, path

    def _open(self, name: str) -> IO[str]:
        if name not in self._files:
            self._files[name] = (self._directory / name).open("x", encoding="utf-8")
        return self._files[name]

    def _list_sealed(self, entry: Entry, path: Path) -> None:
        line: dict[str, Any] = {
            "name": entry.uid,
            "path": str(path.relative_to(self._directory)),
            "ordinal": entry.ordinal,
            "origin": entry.origin,
            "keyed_digest": entry.sha256.hex(),
        }
        self._open(SEALED).write(json.dumps(line) + "\n")

    def _list(self, entry: Entry, path: Path, *, older: bool) -> None:
        """Gives a file its name and its line."""
        if not older:
            path = _named(path, self._directory / "files", entry.uid)
        with suppress(OSError, OverflowError):  # a file system that has no such time
            os.utime(path, ns=(entry.created_at * 1000,) * 2)
        line: dict[str, Any] = {
            "uid": entry.uid,
            "path": str(path.relative_to(self._directory)),
            "created_at": format_time(from_micros(entry.created_at)),
            "size": entry.size,
            "media_type": entry.media_type,
            "metadata": dict(entry.metadata),
        }
        self._open(OLDER if older else LIST).write(json.dumps(line, ensure_ascii=False) + "\n")


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
    try:
        with path.open("xb") as file:
            for piece in pieces:
                file.write(piece)
    except VeraError:
        path.unlink()
        raise


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
