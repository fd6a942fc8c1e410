"""Contents in local files, inside the directories that the settings allow.

Fast where nothing is wrong (open, fstat, read of the known size), careful where something is. Which rows name which
files is the sources' business.
"""

from __future__ import annotations

import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vera_core.source.base import BigContent, Unreadable
from vera_core.source.rows import RejectReason, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vera_core.source.base import Fetched

PROBED = 16
"""So many files are read alone, to see how quickly they come."""
SLOW_SECONDS = 0.0005
"""What a file takes on average where it is waited for: a disk's or a network's answer, not the page cache's."""
AT_ONCE = 16

# A FIFO must not block the open; a link is looked at before it is followed.
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW


class ForbiddenPathError(OSError):
    """The path leads out of the allowed directories."""


class LocalFiles:
    """Reads files that lie in one of `roots`; contents above `inline_limit` bytes are streamed."""

    def __init__(self, roots: Sequence[Path], inline_limit: int) -> None:
        self._roots = tuple(_with_slash(os.path.normpath(root)) for root in roots)
        self._real_roots = tuple(_with_slash(os.path.realpath(root)) for root in roots)
        self._limit = inline_limit
        self._allowed_directory = lru_cache(maxsize=1 << 16)(self._allows)

    def locate(self, value: object) -> str | Unreadable:
        """The absolute path that a row names; a relative one starts at the root, if there is only one."""
        if not isinstance(value, str) or not value or "\0" in value:
            return Unreadable(RejectReason.MISSING_CONTENT, f"{shown(value)} is no path")
        if not value.isascii() and shown(value) != value:
            return Unreadable(RejectReason.FORBIDDEN_PLACE, f"the path is not printable UTF-8: {shown(value)}")
        path = value
        if not path.startswith("/"):
            if len(self._roots) != 1:
                return Unreadable(
                    RejectReason.FORBIDDEN_PLACE, f"{shown(value)} is relative, and there are several roots"
                )
            path = self._roots[0] + path
        if "/." in path or "//" in path:
            path = os.path.normpath(path)
        if not path.startswith(self._roots):
            return Unreadable(RejectReason.FORBIDDEN_PLACE, f"{shown(value)} is outside the allowed roots")
        return path

    def located(self, values: Sequence[object]) -> Sequence[str | Unreadable]:
        """As `locate`, for a column: at once if nothing is special about any of them, else one by one."""
        texts = [value for value in values if isinstance(value, str) and value]
        if len(texts) < len(values):
            return [self.locate(value) for value in values]
        if texts and len(self._roots) == 1 and not texts[0].startswith("/"):
            texts = [self._roots[0] + text for text in texts]
        whole = "\0".join(texts)
        plain = whole.isascii() and whole.count("\0") < len(texts) and "/." not in whole and "//" not in whole
        if plain and all(map(str.startswith, texts, repeat(self._roots))):
            return texts
        return [self.locate(value) for value in values]

    def fetch_many(self, wanted: Sequence[tuple[str, int | None]]) -> Iterator[Fetched]:
        """The contents of (path, declared bytes or None), in order.

        One after the other while they come quickly, from the page cache or a near disk; several at once where the first
        ones show that each is waited for, and all sizes are declared, so that the caller bounds the memory.
        """
        quickly, rest, spent = self._fetch_quickly(wanted), wanted[PROBED:], 0.0
        for _ in wanted[:PROBED]:
            began = time.perf_counter()
            item = next(quickly)
            spent += time.perf_counter() - began
            yield item
        if spent > PROBED * SLOW_SECONDS and all(size is not None for _, size in rest):
            yield from self._pool.map(self._fetch_one, rest)
        else:
            yield from quickly

    def _fetch_quickly(self, wanted: Sequence[tuple[str, int | None]]) -> Iterator[Fetched]:
        """As `fetch` for each, with the fewest steps for a file that gives exactly the bytes it was declared with.

        What gives that many is a regular file: of others, only an empty pipe ends where its size says, at 0.
        """
        allowed, open_file, read, close = self._allowed_directory, os.open, os.read, os.close
        for path, size in wanted:
            data = b""
            if size and size <= self._limit and allowed(path[: path.rindex("/")] or "/"):
                try:
                    handle = open_file(path, _FLAGS)
                    try:
                        data = read(handle, size + 1)
                    finally:
                        close(handle)
                except OSError:
                    data = b""  # `fetch` says why
            yield data if data and len(data) == size else self.fetch(path, size)

    def fetch(self, path: str, size: int | None) -> Fetched:
        """The content of the file at `path`, which must have `size` bytes if that is not None."""
        try:
            handle = self._open(path)
        except OSError as error:
            return _unreadable(path, error)
        try:
            facts = os.fstat(handle)
            if not stat.S_ISREG(facts.st_mode):
                return Unreadable(RejectReason.NOT_A_FILE, f"{path} is no regular file")
            actual = facts.st_size
            if size is not None and actual != size:
                return Unreadable(RejectReason.WRONG_SIZE, f"{path} has {actual} bytes, declared are {size}")
            if actual > self._limit:
                return BigContent(actual, lambda: self._stream(path))
            # One byte more than it should have, to see a file that grows meanwhile.
            data = os.read(handle, actual + 1)
            while 0 < len(data) < actual and (more := os.read(handle, actual + 1 - len(data))):
                data += more
        except OSError as error:
            return _unreadable(path, error)
        finally:
            os.close(handle)
        if len(data) != actual:
            return Unreadable(RejectReason.WRONG_SIZE, f"{path} changed while it was read")
        return data

    def _fetch_one(self, wanted: tuple[str, int | None]) -> Fetched:
        return self.fetch(*wanted)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(AT_ONCE, thread_name_prefix="vera-files")

    def _open(self, path: str) -> int:
        if not self._allowed_directory(path[: path.rindex("/")] or "/"):
            raise ForbiddenPathError(f"{path} leads out of the allowed roots")
        try:
            return os.open(path, _FLAGS)
        except OSError:
            if not Path(path).is_symlink():
                raise
        real = os.path.realpath(path)
        if not real.startswith(self._real_roots):
            raise ForbiddenPathError(f"{path} leads out of the allowed roots")
        return os.open(real, _FLAGS)

    def _allows(self, directory: str) -> bool:
        """Whether a directory really is in a root, wherever links on the way to it lead."""
        return _with_slash(os.path.realpath(directory)).startswith(self._real_roots)

    def _stream(self, path: str) -> BinaryIO:
        return os.fdopen(self._open(path), "rb")


def _with_slash(path: str) -> str:
    return path if path.endswith("/") else path + "/"


def _unreadable(path: str, error: OSError) -> Unreadable:
    if isinstance(error, ForbiddenPathError):
        return Unreadable(RejectReason.FORBIDDEN_PLACE, str(error))
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return Unreadable(RejectReason.MISSING_FILE, f"there is no file {path}")
    return Unreadable(RejectReason.UNREADABLE, f"{path}: {error.strerror}")
