"""Loading local files and encoding them, in a process of its own where there are many.

Reading a small file gives up the interpreter lock four times, and each time a thread that builds a shard takes it for
long; so threads would take turns instead of sharing two cores. Sources whose contents lie elsewhere wait for them
anyway, and threads do for them.
"""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from vera_core.codec import Encoded, Policy, encode_many
from vera_core.model import Codec
from vera_core.operations.child import OWN_PROCESS_ROWS, ChildProcess, serve
from vera_core.operations.load import LoadedRow, Numbered, ahead, load, load_rows, worked_on
from vera_core.source.base import BigContent, LocalSource, Unreadable
from vera_core.source.files import LocalFiles

if TYPE_CHECKING:
    from vera_core.operations.load import Outcome
    from vera_core.source.base import LocalContents, Source

Load: TypeAlias = Callable[[Iterator[Numbered]], Generator[LoadedRow[Encoded]]]
"""Loads and encodes rows, ahead of whoever uses them, in order; close what it returns.

Raises:
    UnavailableError: the source can't be reached, or the process was killed.
"""

_RECORD = struct.Struct("<BHIII32s")
"""Codec, parameter, CRC32, stored bytes, content bytes and SHA-256 of an encoded content."""
_HEAD = struct.Struct("<II")
_BIG, _UNREADABLE = 254, 255
"""Stand for a codec where there is no encoded content."""
_CODECS = {codec.value: codec for codec in Codec}


class Options(NamedTuple):
    """How rows are loaded: `threads` where threads do it, `policy` for their encoding."""

    policy: Policy
    threads: int


@contextmanager
def loader(source: Source, rows: int, options: Options) -> Iterator[Load]:
    """A `Load` for `rows` rows in all; for one thread, and one use after the other."""
    local = source.local if isinstance(source, LocalSource) else None
    work = partial(encode_many, policy=options.policy)
    if local is None or rows < OWN_PROCESS_ROWS:
        yield lambda numbered: load_rows(source, numbered, work, threads=options.threads)
        return
    process = _LoadingProcess(source, local, work, _child(local, options.policy))
    try:
        yield lambda numbered: ahead(numbered, process.start)
    finally:
        process.end()


def _child(local: LocalContents, policy: Policy) -> ChildProcess:
    roots = [str(root) for root in local.roots]
    return ChildProcess(__name__, json.dumps([roots, local.inline_limit, policy.value]))


@dataclass(slots=True)
class _LoadingProcess:
    """The process, and a thread that receives its answers."""

    source: Source
    local: LocalContents
    work: Callable[[Sequence[bytes]], list[Encoded]]
    child: ChildProcess
    receiver: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="vera-load"))

    def start(self, batch: Sequence[Numbered]) -> Future[list[LoadedRow[Encoded]]]:
        """Begins to load a batch."""
        files = [(self.local.path_of(row), row.size) for _, row in batch]
        if not all(path for path, _ in files):
            return self.receiver.submit(load, self.source, batch, self.work)
        self.child.send(json.dumps(files).encode())
        return self.receiver.submit(self._receive, batch)

    def end(self) -> None:
        """Ends process and thread."""
        self.child.end()
        self.receiver.shutdown(cancel_futures=True)
        self.child.close()

    def _receive(self, batch: Sequence[Numbered]) -> list[LoadedRow[Encoded]]:
        loaded: list[LoadedRow[Encoded]] = []
        for item, outcome in zip(batch, unpack(self.child.receive()), strict=False):
            if outcome is None:
                loaded += load(self.source, [item], self.work)
            else:
                loaded.append(LoadedRow(*item, outcome))
        return loaded


def pack(outcomes: Sequence[Outcome[Encoded]]) -> bytes:
    """Outcomes as one answer: counts, a record of each, texts as JSON, stored bytes end to end."""
    records: list[bytes] = []
    texts: list[tuple[str, str]] = []
    stored: list[bytes] = []
    for outcome in outcomes:
        if isinstance(outcome, Encoded):
            codec, parameter, data, crc, sha256, size = outcome
            records.append(_RECORD.pack(codec, parameter, crc, len(data), size, sha256))
            stored.append(data)
        elif isinstance(outcome, BigContent):
            records.append(_RECORD.pack(_BIG, 0, 0, 0, 0, b""))
        else:
            records.append(_RECORD.pack(_UNREADABLE, 0, 0, 0, 0, b""))
            texts.append((outcome.reason, outcome.detail))
    said = json.dumps(texts).encode()
    return b"".join([_HEAD.pack(len(records), len(said)), *records, said, *stored])


def unpack(answer: bytes) -> Iterator[Encoded | Unreadable | None]:
    """Undoes `pack`; None for a big content, which only its source can open."""
    count, said = _HEAD.unpack_from(answer)
    begin = _HEAD.size + count * _RECORD.size
    texts = iter(json.loads(answer[begin : begin + said]))
    at = begin + said
    for codec, parameter, crc, length, size, sha256 in _RECORD.iter_unpack(answer[_HEAD.size : begin]):
        if codec == _BIG:
            yield None
        elif codec == _UNREADABLE:
            yield Unreadable(*next(texts))
        else:
            yield Encoded(_CODECS[codec], parameter, answer[at : at + length], crc, sha256, size)
            at += length


def main(settings: str) -> None:
    """The process."""
    roots, inline_limit, policy = json.loads(settings)
    files = LocalFiles([Path(root) for root in roots], inline_limit)
    work = partial(encode_many, policy=Policy(policy))

    def answer(call: bytes) -> bytes:
        return pack(worked_on((files.fetch(path, size) for path, size in json.loads(call)), work))

    serve(answer)


if __name__ == "__main__":
    main(sys.argv[1])
