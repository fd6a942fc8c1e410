"""Handing a file's verified bytes to a person: to standard output, or to a file that is whole or not there.

Verification is the reader's business (vera_core.operations.retrieve); here only bytes that passed it are let out.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from vera_core.errors import ConflictError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

IN_MEMORY = 32 << 20
"""Up to so many bytes wait for their verification in memory, more in an unnamed temporary file."""
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EMLINK})
_TEXT_PROBE = 2000


def to_stdout(chunks: Iterable[bytes], *, may_be_terminal: bool = False) -> None:
    """Writes a content to standard output, nothing of it before the last chunk is verified.

    Args:
        chunks: the content.
        may_be_terminal: write binary content even to a terminal.

    Raises:
        UsageError: standard output is a terminal and the content is binary.
        UnavailableError: the temporary file of a large content can't be written.
    """
    sys.stdout.flush()
    with tempfile.SpooledTemporaryFile(max_size=IN_MEMORY) as held:
        try:
            for chunk in chunks:
                held.write(chunk)
        except OSError as error:
            raise UnavailableError(
                f"the temporary file can't be written: {error.strerror}",
                todo="Use -o FILE, or set TMPDIR to a directory with room.",
            ) from error
        held.seek(0)
        if not may_be_terminal and sys.stdout.isatty() and b"\0" in held.read(_TEXT_PROBE):
            raise UsageError(
                "the file is binary and standard output is a terminal",
                todo="Use -o FILE, or -o - if you mean it.",
            )
        held.seek(0)
        shutil.copyfileobj(held, sys.stdout.buffer, 1 << 20)
        sys.stdout.buffer.flush()


@contextmanager
def new_file(target: Path, *, force: bool) -> Iterator[IO[bytes]]:
    """A file to write in; `target` is there, whole, once the block ends well, and untouched if it does not.

    The bytes go to a hidden file beside it, which then takes its name in one step. A link is followed; `force` replaces
    a regular file and keeps its permissions.

    Raises:
        ConflictError: the target exists and `force` is not given.
        UsageError: the target is a directory, a device or the like.
        UnavailableError: it can't be written.
    """
    target = target.resolve()
    _check_target(target, force=force)
    hidden = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.part")
    try:
        with hidden.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if force:
            with suppress(FileNotFoundError):
                shutil.copymode(target, hidden)
            hidden.replace(target)
        else:
            _take_name(hidden, target)
    except OSError as error:
        raise UnavailableError(
            f"the file can't be written: {error.strerror or error}", todo="Choose another place.", path=target
        ) from error
    finally:
        hidden.unlink(missing_ok=True)


def _check_target(target: Path, *, force: bool) -> None:
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnavailableError(f"the file can't be written: {error.strerror}", path=target) from error
    if not stat.S_ISREG(mode):
        raise UsageError(
            "the output is no regular file", todo="Name a file, or leave -o out for standard output.", path=target
        )
    if not force:
        raise _taken(target)


def _take_name(hidden: Path, target: Path) -> None:
    """Gives `hidden` the name `target` without ever replacing a file that came there meanwhile."""
    try:
        os.link(hidden, target)
    except FileExistsError:
        raise _taken(target) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: creating the name first keeps others away.
        try:
            target.open("xb").close()
        except FileExistsError:
            raise _taken(target) from None
        hidden.replace(target)


def _taken(target: Path) -> ConflictError:
    return ConflictError("the file exists already", todo="Name another one, or use --force to replace it.", path=target)
