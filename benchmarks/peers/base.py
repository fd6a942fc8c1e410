"""What a peer is, and what all of them need: the same way to read a file, the same zstd."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol, TypeAlias

import zstandard

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.corpus import Corpus, Item

LEVEL = 3
"""The zstd level of every peer that compresses with zstd: the one of `tar | zstd -3`."""

Read: TypeAlias = "Callable[[str | bytes], bytes]"
"""Gives the content that belongs to a key."""


class Peer(Protocol):
    """A way to keep many files in one."""

    title: str
    outside: bool
    """Whether other programs do the work, so that this process's own memory does not count."""
    reads: bool
    """Whether single files can be read: not where that takes reading everything before them, or a privilege."""

    def missing(self) -> str:
        """Why it can't run on this machine; "" if it can."""
        ...

    def prepare(self, corpus: Corpus) -> None:
        """What is done before packing, and is not measured with it: nothing, but by VERA."""
        ...

    def pack(self, corpus: Corpus, target: Path) -> None:
        """Packs all files of the corpus into the file `target`."""
        ...

    def key(self, corpus: Corpus, item: Item) -> str | bytes:
        """By what the file is found again."""
        ...

    def open(self, target: Path) -> AbstractContextManager[Read]:
        """Opens what `pack` made, if it `reads`: each file decompressed, and checked as far as the format does it."""
        ...

    def open_warm(self, target: Path, *, digests: bool) -> AbstractContextManager[Read]:
        """As `open`, but for many files; without `digests` those are not checked that verifying the whole checks."""
        ...


def read_file(path: str, size: int) -> bytes:
    """The content of a file of `size` bytes, in the fewest system calls that Python has for it."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(handle, size)
    finally:
        os.close(handle)


def compressor() -> zstandard.ZstdCompressor:
    """For frames of single files; made once, because making it costs more than a small file."""
    return zstandard.ZstdCompressor(level=LEVEL)


def decompressor() -> zstandard.ZstdDecompressor:
    """For those frames."""
    return zstandard.ZstdDecompressor()


class Library(ABC):
    """What peers that are libraries of this process have in common; their keys are uids."""

    outside = False
    reads = True

    def missing(self) -> str:
        """See `Peer`."""
        return ""

    def prepare(self, corpus: Corpus) -> None:  # noqa: B027 - most have nothing to prepare
        """See `Peer`."""

    def key(self, corpus: Corpus, item: Item) -> str | bytes:  # noqa: ARG002 - others need it
        """See `Peer`."""
        return item.uid

    @abstractmethod
    def open(self, target: Path) -> AbstractContextManager[Read]:
        """See `Peer`."""

    def open_warm(self, target: Path, *, digests: bool) -> AbstractContextManager[Read]:  # noqa: ARG002 - VERA has some
        """See `Peer`."""
        return self.open(target)
