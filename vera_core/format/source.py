"""Where a reader's bytes come from: the `RangeSource` protocol and its adapters for files and memory.

The adapter for an object store lives with the store. Nothing here knows the format.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from vera_core.errors import VeraError

if TYPE_CHECKING:
    from collections.abc import Mapping
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

    def close(self) -> None:
        """Closes the file; a second time does nothing."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)

    def __enter__(self) -> FileSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Naming:
    """`with Naming(where):` adds names to any VeraError on its way out; names it already has win."""

    __slots__ = ("_where",)

    def __init__(self, where: Mapping[str, object]) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: TracebackType | None) -> None:
        if isinstance(error, VeraError):
            known = {name: str(value) for name, value in self._where.items() if value is not None}
            error.where = {**known, **error.where}
