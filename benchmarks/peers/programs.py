"""Peers that are programs: tar, tar | zstd, zip, mksquashfs. One of them also needs Python: zip, to be read."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.peers.base import LEVEL

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.corpus import Corpus, Item
    from benchmarks.peers.base import Read

THREADS = 2


class _Program:
    """What they have in common."""

    outside = True
    reads = False
    programs: tuple[str, ...] = ()

    def missing(self) -> str:
        lacking = [program for program in self.programs if shutil.which(program) is None]
        return f"{' and '.join(lacking)} not installed" if lacking else ""

    def prepare(self, corpus: Corpus) -> None:
        """See `Peer`."""

    def key(self, corpus: Corpus, item: Item) -> str:  # noqa: ARG002 - others need it
        return item.path

    def open(self, target: Path) -> AbstractContextManager[Read]:
        raise RuntimeError(f"no single files are read from {target}: see `reads`")

    def open_warm(self, target: Path, *, digests: bool) -> AbstractContextManager[Read]:  # noqa: ARG002 - they have none
        return self.open(target)


class Tar(_Program):
    """No compression, no index, no checksum of contents."""

    title = "tar"
    programs = ("tar",)

    def pack(self, corpus: Corpus, target: Path) -> None:
        subprocess.run(["tar", "-C", corpus.root, "-cf", target, "."], check=True)


class TarZstd(_Program):
    """The measure of all: one stream, compressed as a whole, without an index."""

    title = f"tar | zstd -{LEVEL}, {THREADS} threads"
    programs = ("tar", "zstd")

    def pack(self, corpus: Corpus, target: Path) -> None:
        make = ["tar", "-C", str(corpus.root), "-cf", "-", "."]
        pack = ["zstd", "-q", "-f", f"-{LEVEL}", f"-T{THREADS}", "-o", str(target)]
        with subprocess.Popen(make, stdout=subprocess.PIPE) as tar:
            subprocess.run(pack, stdin=tar.stdout, check=True)
        if tar.returncode:
            raise RuntimeError(f"tar failed with {tar.returncode}")


class Zip(_Program):
    """Deflate at its usual level, each file alone."""

    title = "zip"
    reads = True
    programs = ("zip",)

    def pack(self, corpus: Corpus, target: Path) -> None:
        target.unlink(missing_ok=True)
        subprocess.run(["zip", "-q", "-r", target.absolute(), "."], cwd=corpus.root, check=True)

    def open(self, target: Path) -> AbstractContextManager[Read]:
        return _open_zip(target)


class Squashfs(_Program):
    """A read-only file system. Reading single files takes a mount, which takes a privilege, so it is not measured."""

    title = f"squashfs, zstd -{LEVEL}"
    programs = ("mksquashfs",)

    def pack(self, corpus: Corpus, target: Path) -> None:
        options = ["-comp", "zstd", "-Xcompression-level", str(LEVEL), "-processors", str(THREADS)]
        quiet = ["-noappend", "-no-progress", "-quiet"]
        command = ["mksquashfs", str(corpus.root), str(target), *options, *quiet]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _open_zip(target: Path) -> Iterator[Read]:
    with zipfile.ZipFile(target) as archive:

        def read(key: str | bytes) -> bytes:
            assert isinstance(key, str)
            return archive.read(key)

        yield read
