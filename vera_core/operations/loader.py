"""Loading local files and encoding them, in a process of its own where there are many.

Reading a small file gives up the interpreter lock four times, and each time a thread that builds a shard takes it for
long; so threads would take turns instead of sharing two cores. Sources whose contents lie elsewhere wait for them
anyway, and threads do for them.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from vera_core.codec import digest_alone
from vera_core.encoding import FACTS, EncodedBatch, Trained
from vera_core.keys.mac import Mac
from vera_core.keys.naming import PLAIN
from vera_core.keys.tenant import Purpose
from vera_core.model import Policy
from vera_core.operations.child import OWN_PROCESS_ROWS, ChildProcess, Part, serve
from vera_core.operations.load import (
    LOADED_BYTES,
    TRAINING_BYTES,
    Encoding,
    Loaded,
    PartWork,
    ThreadedLoading,
    load,
    load_part,
    worked_on,
)
from vera_core.source.base import BigContent, LocalSource, Unreadable
from vera_core.source.files import LocalFiles
from vera_core.source.rows import RejectReason, RowBatch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vera_core.keys.naming import Naming
    from vera_core.source.base import LocalContents, Source

Load: TypeAlias = Callable[[Iterable[RowBatch], int], Generator[Loaded]]
"""Loads and encodes the rows of a part, given with their number, ahead of whoever uses them; close what it returns.

Raises:
    UnavailableError: the source can't be reached, or a process was killed.
"""

_HEAD = struct.Struct("<I")
_NO_SIZE = -1


class Options(NamedTuple):
    """How rows are loaded: `policy` and `naming` for encoding, `threads` where they do it, else `processes`.

    One process for every two cores leaves the others to building, verifying and uploading, which take as long.
    """

    policy: Policy
    threads: int
    naming: Naming = PLAIN
    processes: int = min(8, max(1, (os.cpu_count() or 1) // 2))


class Call(NamedTuple):
    """What a process is to load: paths with declared sizes and media types.

    `files`: those of the part whose dictionaries are to be trained on these, 0 to go on as before; `trained`: instead,
    dictionaries that another process trained.
    """

    paths: Sequence[str]
    sizes: Sequence[int | None]
    media_types: Sequence[str]
    files: int = 0
    trained: Trained | None = None


class Answer(NamedTuple):
    """What a process loaded, of the first of the paths: None stands for a big content, which only its source opens."""

    encoded: EncodedBatch
    special: Mapping[int, Unreadable | None]
    trained: Trained


@contextmanager
def loader(source: Source, rows: int, options: Options) -> Iterator[Load]:
    """A `Load` for `rows` rows in all; for one thread, and one use after the other."""
    local = source.local if isinstance(source, LocalSource) else None
    loading: ThreadedLoading | _LoadingProcesses
    if local is None or rows < OWN_PROCESS_ROWS:
        loading = ThreadedLoading(source, Encoding.of(options.policy, options.naming), options.threads)
    else:
        loading = _LoadingProcesses(source, local, options)
    try:
        yield lambda batches, files: load_part(batches, loading.start, files)
    finally:
        loading.close()


class _LoadingProcesses:
    """Processes that load in turn, each with a thread that receives its answers."""

    def __init__(self, source: Source, local: LocalContents, options: Options) -> None:
        self._source = source
        self._local = local
        self._encoding = Encoding.of(options.policy, options.naming)
        roots = [str(root) for root in local.roots]
        settings = json.dumps([roots, local.inline_limit, options.policy.value, self._encoding.common])
        self._children = [ChildProcess(__name__, settings) for _ in range(options.processes)]
        self._receivers = [ThreadPoolExecutor(1, thread_name_prefix="vera-load") for _ in self._children]
        tenant = options.naming.tenant_key
        for child in self._children:
            # Through the pipe: command line and environment of a process can be read by others.
            child.send(b"" if tenant is None else tenant.subkey(Purpose.CONTENT))
        self._next = 0

    def start(self, batch: RowBatch, files: int) -> Future[Loaded]:
        """See `load.Start`."""
        paths = self._local.paths_of(batch)
        if not all(paths):
            return self._start_here(batch, files)
        number = self._next = 0 if files else (self._next + 1) % len(self._children)
        call = Call(paths, batch.sizes, batch.media_types, files)
        self._children[number].send(pack_call(call))
        future = self._receivers[number].submit(self._receive, number, batch)
        if files and len(self._children) > 1:
            self._tell(self._children[1:], future.result().trained)
        return future

    def close(self) -> None:
        """Ends processes and threads."""
        for child in self._children:
            child.end()
        for receiver in self._receivers:
            receiver.shutdown(cancel_futures=True)
        for child in self._children:
            child.close()

    def _start_here(self, batch: RowBatch, files: int) -> Future[Loaded]:
        """Loads rows frozen under other settings, whose contents are no files, without dictionaries."""
        if files:
            self._tell(self._children, Trained())
        work = PartWork(self._encoding, 0)
        work.use(Trained())
        return self._receivers[0].submit(load, self._source, batch, work.encode)

    def _tell(self, children: Iterable[ChildProcess], trained: Trained) -> None:
        """Makes processes use these dictionaries from now on."""
        for child in children:
            child.send(pack_call(Call((), (), (), trained=trained)))

    def _receive(self, number: int, batch: RowBatch) -> Loaded:
        answer = unpack_answer(self._children[number].receive())
        special = {
            place: self._opened(batch, place) if outcome is None else outcome
            for place, outcome in answer.special.items()
        }
        return Loaded(batch.slice(0, len(answer.encoded)), answer.encoded, special, answer.trained)

    def _opened(self, batch: RowBatch, place: int) -> BigContent | Unreadable:
        (content,) = self._source.fetch([batch.row(place)])
        if isinstance(content, bytes):
            return Unreadable(RejectReason.WRONG_SIZE, "the file shrank while it was read")
        return content


def pack_call(call: Call) -> bytes:
    """A call as bytes."""
    types = {text: number for number, text in enumerate(dict.fromkeys(call.media_types))}
    head = {
        "count": len(call.paths),
        "types": list(types),
        "files": call.files,
        "trained": None if call.trained is None else _trained_head(call.trained),
    }
    sizes = np.array([_NO_SIZE if size is None else size for size in call.sizes], "<i8")
    codes = np.array([types[text] for text in call.media_types], "<u4")
    dictionaries = () if call.trained is None else call.trained.dictionaries
    paths = "\0".join(call.paths).encode("utf-8", "surrogateescape")
    return b"".join([_headed(head), sizes.tobytes(), codes.tobytes(), *dictionaries, paths])


def unpack_call(data: bytes) -> Call:
    """Undoes `pack_call`."""
    head, at = _split(data)
    count = head["count"]
    sizes = np.frombuffer(data, "<i8", count, at).tolist()
    codes = np.frombuffer(data, "<u4", count, at + 8 * count).tolist()
    at += 12 * count
    trained, types = None, head["types"]
    if head["trained"] is not None:
        trained, at = _trained(head["trained"], data, at)
    paths = data[at:].decode("utf-8", "surrogateescape").split("\0") if count else []
    declared = [None if size == _NO_SIZE else size for size in sizes]
    return Call(paths, declared, [types[code] for code in codes], head["files"], trained)


def pack_answer(answer: Answer) -> list[Part]:
    """An answer as bytes, in parts."""
    special = [
        [place, None if outcome is None else [outcome.reason, outcome.detail]]
        for place, outcome in answer.special.items()
    ]
    head = {"count": len(answer.encoded), "special": special, "trained": _trained_head(answer.trained)}
    facts = answer.encoded.facts.tobytes()
    return [_headed(head), facts, *answer.trained.dictionaries, answer.encoded.stored]


def unpack_answer(data: bytes) -> Answer:
    """Undoes `pack_answer`."""
    head, at = _split(data)
    facts = np.frombuffer(data, FACTS, head["count"], at)
    trained, at = _trained(head["trained"], data, at + FACTS.itemsize * head["count"])
    special = {place: None if outcome is None else Unreadable(*outcome) for place, outcome in head["special"]}
    return Answer(EncodedBatch(facts, memoryview(data)[at:]), special, trained)


def _trained_head(trained: Trained) -> list[object]:
    return [[len(data) for data in trained.dictionaries], dict(trained.kinds), list(trained.levels)]


def _trained(head: tuple[list[int], dict[str, int], list[int]], data: bytes, at: int) -> tuple[Trained, int]:
    """Dictionaries out of a call or answer, and where they end."""
    dictionaries = []
    for length in head[0]:
        dictionaries.append(data[at : at + length])
        at += length
    return Trained(tuple(dictionaries), head[1], tuple(head[2])), at


def _headed(head: object) -> bytes:
    text = json.dumps(head).encode()
    return _HEAD.pack(len(text)) + text


def _split(data: bytes) -> tuple[dict[str, Any], int]:
    """The head of a call or answer, and where it ends."""
    (length,) = _HEAD.unpack_from(data)
    end = _HEAD.size + length
    head: dict[str, Any] = json.loads(data[_HEAD.size : end])
    return head, end


def main(settings: str) -> None:
    """The process. The first call is the tenant's key for digests, empty where they are not keyed; it has no answer."""
    roots, inline_limit, policy, common = json.loads(settings)
    files = LocalFiles([Path(root) for root in roots], inline_limit)
    work: PartWork | None = None

    def answer(data: bytes) -> list[Part] | None:
        nonlocal work
        if work is None:
            digest = Mac(data).digest_alone if data else digest_alone
            work = PartWork(Encoding(Policy(policy), digest, common=common), 0)
            return None
        call = unpack_call(data)
        if call.files or call.trained is not None:
            work = PartWork(work.encoding, call.files)
        if call.trained is not None:
            work.use(call.trained)
            return None
        fetched = files.fetch_many(list(zip(call.paths, call.sizes, strict=True)))
        most = TRAINING_BYTES if call.files else LOADED_BYTES
        encoded, special = worked_on(fetched, call.media_types, work.encode, most)
        seen = {place: None if isinstance(item, BigContent) else item for place, item in special.items()}
        return pack_answer(Answer(encoded, seen, work.trained if call.files else Trained()))

    serve(answer)


if __name__ == "__main__":
    main(sys.argv[1])
