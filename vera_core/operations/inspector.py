"""Verifying finished shards beside the building of the next ones: in a process of its own where that pays.

Building and verifying both keep Python's interpreter lock most of the time, so threads would not share two cores.
"""

from __future__ import annotations

import json
import struct
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vera_core.errors import FormatError, VeraError
from vera_core.format import FileSource, ShardReader, Verified
from vera_core.keys.seals import Seals
from vera_core.operations.child import OWN_PROCESS_ROWS, ChildProcess, serve

if TYPE_CHECKING:
    from collections.abc import Iterator

_LENGTH = struct.Struct("<I")


class Inspect(Protocol):
    """Verifies local shards whole."""

    def __call__(self, path: Path, seals: Seals | None = None) -> Verified:
        """What is in the shard at `path`; of an encrypted one, every file is opened where its `seals` are given.

        Raises:
            FormatError: the first finding.
        """


def inspect_file(path: Path, seals: Seals | None = None) -> Verified:
    """An `Inspect` in this thread."""
    with FileSource(path) as source:
        return ShardReader.open(source, sealed=True).verify(seals)


@contextmanager
def inspector(rows: int) -> Iterator[Inspect]:
    """An `Inspect` for shards that hold `rows` rows in all; for one thread at a time."""
    if rows < OWN_PROCESS_ROWS:
        yield inspect_file
        return
    child = ChildProcess(__name__)
    try:
        yield lambda path, seals=None: ask(child, path, seals)
    finally:
        child.end()
        child.close()


def ask(child: ChildProcess, path: Path, seals: Seals | None = None) -> Verified:
    """An `Inspect` in a process that runs this module; keys go through its pipe, which nobody else can read.

    Raises:
        UnavailableError: the process was killed.
    """
    keys = b"" if seals is None else seals.pack()
    child.send(_LENGTH.pack(len(keys)) + keys + str(path).encode("utf-8", "surrogateescape"))
    found: dict[str, Any] = json.loads(child.receive())
    if "what" in found:
        raise FormatError(found["what"], todo=found["todo"], **found["where"])
    return Verified(**{**found, "sha256": bytes.fromhex(found["sha256"])})


def answer(call: bytes) -> tuple[bytes]:
    """What the process says of the shard at a path."""
    try:
        (length,) = _LENGTH.unpack_from(call)
        end = _LENGTH.size + length
        seals = Seals.unpack(call[_LENGTH.size : end]) if length else None
        found = inspect_file(Path(call[end:].decode("utf-8", "surrogateescape")), seals)
    except VeraError as error:
        return (json.dumps(error.to_json()).encode(),)
    return (json.dumps({**asdict(found), "sha256": found.sha256.hex()}).encode(),)


if __name__ == "__main__":
    serve(answer)
