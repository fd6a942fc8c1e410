"""Where a reader's bytes come from: the `RangeSource` protocol and its adapters for files and memory.

The adapter for an object store lives with the store. Nothing here knows the format.
"""

from __future__ import annotations

import os
from itertools import starmap
from mmap import PROT_READ, mmap
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vera_core.errors import VeraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType


class RangeSource(Protocol):
    """A shard's bytes, readable by ranges. Its own failures (network, missing object) pass through the reader."""

    @property
    def where(self) -> Mapping[str, object]:
        """Names of the object (bucket, key, version_id, path) that every error of the reader carries."""
        ...

    def read_suffix(self, length: int) -> tuple[bytes, int]:
        """The last `min(length, size)` bytes, and the whole size in bytes."""
        ...

    def read_at(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes (at least 1) from `offset`; the reader refuses any other number."""
        ...

    def read_ranges(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As `read_at` for each (offset, length), in the order of offsets; a length may be 0.

        Where a request is dear, neighbours come in one, and several requests run at once; memory stays bounded.
        """
        ...


class BytesSource:
    """A shard in memory."""

    def __init__(self, data: bytes, **where: object) -> None:
        self._data = data
        self.where: Mapping[str, object] = where

    def read_suffix(self, length: int) -> tuple[bytes, int]:
        """As `RangeSource`."""
        return self._data[-length:], len(self._data)

    def read_at(self, offset: int, length: int) -> bytes:
        """As `RangeSource`."""
        return self._data[offset : offset + length]

    def read_ranges(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As `RangeSource`."""
        return starmap(self.read_at, places)


class FileSource:
    """A local file, opened once and read with `pread`, so threads may share it. Close it, or use it in `with`."""

    def __init__(self, path: Path) -> None:
        self.where: Mapping[str, object] = {"path": path}
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_suffix(self, length: int) -> tuple[bytes, int]:
        """As `RangeSource`."""
        size = os.fstat(self._handle).st_size
        return self.read_at(max(0, size - length), min(length, size)), size

    def read_at(self, offset: int, length: int) -> bytes:
        """As `RangeSource`."""
        data = os.pread(self._handle, length, offset)
        while len(data) < length and (more := os.pread(self._handle, length - len(data), offset + len(data))):
            data += more
        return data

    def read_ranges(self, places: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """As `RangeSource`; one by one, which is as fast as a file is read."""
        return starmap(self.read_at, places)

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class MappedFile(FileSource):
    """A local file, mapped into memory: a read is a copy, not a system call, which lookups in a small shard feel.

    Only for files that stay as they are on a disk that works: where a mapped file is cut short or can't be read, the
    operating system kills the process, instead of giving an error. Not for empty files.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._map = mmap(self._handle, 0, prot=PROT_READ)

    def read_at(self, offset: int, length: int) -> bytes:
        """As `RangeSource`."""
        return self._map[offset : offset + length]

    def close(self) -> None:
        """Closes file and map; a second time does nothing."""
        self._map.close()
        super().close()


class Run(NamedTuple):
    """Ranges that one request brings: from `start` to `end`; `places` are the (offset, length) that were wanted."""

    start: int
    end: int
    places: list[tuple[int, int]]


def coalesce(places: Iterable[tuple[int, int]], *, gap: int, most: int) -> Iterator[Run]:
    """Joins ranges that follow each other with at most `gap` bytes between them, to runs of up to `most` bytes.

    A range longer than that is a run of its own.
    """
    run: Run | None = None
    for offset, length in places:
        end = offset + length
        if run is not None and run.start <= offset <= run.end + gap and end - run.start <= most:
            run.places.append((offset, length))
            run = run._replace(end=max(run.end, end))
        else:
            if run is not None:
                yield run
            run = Run(offset, end, [(offset, length)])
    if run is not None:
        yield run


def named(error: VeraError, where: Mapping[str, object]) -> VeraError:
    """The error, with names added; those that it has already win."""
    known = {name: str(value) for name, value in where.items() if value is not None}
    error.where = {**known, **error.where}
    return error


class Naming:
    """`with Naming(where):` adds names to any VeraError on its way out (`named`)."""

    __slots__ = ("_where",)

    def __init__(self, where: Mapping[str, object]) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, VeraError):
            named(error, self._where)
