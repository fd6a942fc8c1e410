"""Makes a shard that verifies of what can be saved of a damaged one, from DATA alone: without footer or directory.

Where nothing of DATA is damaged, the shard is restored: DATA is kept byte by byte and the rest made anew, so that the
digest tells whether it is the shard that was archived. Else the entries that are left are written to a new shard. Which
shards are recovered, and what becomes of the result, is decided by operations.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.encoding import Encoded, EncodedBatch
from vera_core.errors import FormatError, UsageError
from vera_core.format import layout
from vera_core.format.directory import DICTIONARY_HEAD, encode_dictionary
from vera_core.format.reader import needs_keys
from vera_core.format.remains import Clues, Damage, Extent, Remains, examine
from vera_core.format.salvage import Salvage, Saved
from vera_core.format.source import Naming
from vera_core.format.tail import Front, encode_tail
from vera_core.format.waiting import Names
from vera_core.format.writer import ShardOptions, ShardSummary, ShardWriter
from vera_core.model import Origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vera_core.format.source import RangeSource
    from vera_core.format.writer import Sink

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Survey:
    """What a pass over all of a damaged shard found; `rebuild` and `saved_entries` go by it.

    `extent` and `remains` are the shard, `found` the pass after its end.
    """

    extent: Extent
    remains: Remains
    found: Salvage
    clues: Clues

    @property
    def entries(self) -> int | None:
        """How many entries the shard had; None where nothing tells."""
        footer = self.remains.footer
        if footer is not None:
            return footer.entries
        return self.found.expected if self.found.end_known else None

    @property
    def restorable(self) -> bool:
        """Whether DATA is whole: every group, and every dictionary before them."""
        found, remains = self.found, self.remains
        numbers = list(range(1, len(remains.dictionaries) + 1))
        size = sum(DICTIONARY_HEAD + len(dictionary) for dictionary in remains.dictionaries)
        return found.whole and list(remains.numbers) == numbers and remains.data_start == layout.HEADER_SIZE + size


def survey(
    source: RangeSource,
    clues: Clues | None = None,
    *,
    tell: Callable[[Damage], None],
    progress: Callable[[int], None] | None = None,
    sealed: bool = False,
) -> Survey:
    """Reads the whole shard, and checks what is left of it; `tell` gets each damage, `progress` the bytes passed.

    `sealed` takes encrypted shards too: their files are saved as they are sealed, under their keyed uids. Memory: a
    group with its contents, and 200 bytes for each group.

    Raises:
        IncompatibleError: header or footer is whole and names a version or feature that this reader refuses; it is
            encrypted, and not `sealed`.
    """
    with Naming(source.where):
        extent = Extent(source)
        remains = examine(extent, clues or Clues())
        if remains.uids.sealed and not sealed:
            raise needs_keys()
        for damage in remains.damages:
            tell(damage)
        found = Salvage(extent, remains, tell, progress)
        for _ in found.batches():
            pass
        return Survey(extent, remains, found, clues or Clues())


def saved_entries(of: Survey, progress: Callable[[int], None] | None = None) -> Iterator[tuple[Saved, Iterator[bytes]]]:
    """Every entry that can be saved, by ordinal, and its content in pieces, checked; take these before the next entry.

    Raises:
        FormatError: a streamed content does not verify any more.
    """
    again = Salvage(of.extent, of.remains, lambda _: None, progress)
    for batch in again.batches():
        for saved in batch:
            yield saved, again.stream(saved.entry) if again.streamed else iter((saved.content,))


def rebuild(
    of: Survey, sink: Sink, *, commit: int | None = None, progress: Callable[[int], None] | None = None
) -> ShardSummary:
    """Writes a shard of what can be saved.

    `commit` is the number of the commit that brought the shard: where it can't be restored, ordinals move up, and every
    entry without an origin gets (commit, old ordinal) as its. A sealed file opens under its old ordinal only, so an
    encrypted shard is restored whole or not at all.

    Raises:
        UsageError: the header is lost and the clues don't make it, or `commit` is needed; or entries of an encrypted
            shard are lost.
        FormatError: the one entry of a streamed shard is lost.
    """
    header = check_rebuild(of, commit)
    with Naming(of.extent.source.where):
        if of.restorable:
            return _restore(of, header, sink, progress)
        assert commit is not None
        return _rewrite(of, layout.Header.parse(header), sink, commit, progress)


def check_rebuild(of: Survey, commit: int | None) -> bytes:
    """Makes sure that `rebuild` has all it needs; returns the header that it will write.

    Raises:
        UsageError, FormatError: as `rebuild`.
    """
    with Naming(of.extent.source.where):
        header = _header(of)
        if of.restorable:
            return header
        if of.found.streamed or not of.found.saved:
            raise FormatError("no entry is left to make a shard of", todo=layout.RESTORE)
        if of.remains.uids.sealed:
            raise UsageError(
                "entries are lost, and those that are left of an encrypted shard can't be moved without its keys",
                todo="Save the files as they are sealed, and open them with the shard's keyring.",
            )
        if commit is None:
            raise UsageError(
                "entries are lost, so the others need to say which commit brought them",
                todo="Give the commit's number, with which each version begins that `vera stat` shows of the shard's "
                "files; or save the files alone.",
            )
        return header


def _header(of: Survey) -> bytes:
    """The header as it is, as it was restored, or as the clues make it where nothing can prove that."""
    remains, clues = of.remains, of.clues
    if remains.header is not None:
        return remains.header
    if remains.footer is not None and clues.retention_class is not None:
        raise UsageError(
            f"the shard's header is lost, and that of a shard of class {clues.retention_class!r} has another checksum "
            "than the one that the footer keeps",
            todo="Give the right retention class.",
        )
    if clues.retention_class is None or clues.repository_id is None or clues.erasability is None:
        raise UsageError(
            "the shard's header is lost",
            todo="Give its repository id and retention class, or save the files only.",
        )
    flags = layout.STREAMED if of.found.streamed else 0
    flags |= layout.DICTIONARIES if remains.dictionaries else 0
    flags |= layout.SEALED if clues.encryption else 0
    scheme = clues.encryption or layout.Encryption()
    return layout.Header(clues.repository_id, clues.retention_class, clues.erasability, flags, encryption=scheme).pack()


def _restore(of: Survey, header: bytes, sink: Sink, progress: Callable[[int], None] | None) -> ShardSummary:
    """DATA as it is, and the rest anew."""
    remains, outline = of.remains, of.found.outline
    hashed = _Hashed(sink)
    hashed.write(header)
    for number, dictionary in enumerate(remains.dictionaries, 1):
        hashed.write(encode_dictionary(dictionary, number, hashed.size))
    for at in range(remains.data_start, of.found.end, _CHUNK):
        if progress is not None:
            progress(at)
        hashed.write(of.extent.fetch(at, min(_CHUNK, of.found.end - at)))
    front = Front(header, remains.dictionaries, remains.data_start, of.found.end)
    hashed.write(encode_tail(front, outline, remains.kept))
    return ShardSummary(
        hashed.size,
        hashed.sha256.digest(),
        outline.entries,
        outline.content_bytes,
        outline.stored_bytes,
        outline.min_key,
        outline.max_key,
    )


def _rewrite(
    of: Survey, header: layout.Header, sink: Sink, commit: int, progress: Callable[[int], None] | None
) -> ShardSummary:
    """A new shard of the entries that are left."""
    options = ShardOptions(header.repository_id, header.retention_class, header.erasability)
    writer = ShardWriter(sink, options=options, dictionaries=of.remains.dictionaries)
    again = Salvage(of.extent, of.remains, lambda _: None, progress)
    for batch in again.batches():
        entries = [saved.entry for saved in batch]
        names = Names(
            [entry.uid for entry in entries],
            [entry.created_at for entry in entries],
            [(entry.media_type, entry.metadata) for entry in entries],
            [entry.origin or Origin(commit, entry.ordinal) for entry in entries],
        )
        writer.append_batch(names, EncodedBatch.of([_encoded(saved, of.remains) for saved in batch]))
    return writer.finish()


def _encoded(saved: Saved, remains: Remains) -> Encoded:
    entry = saved.entry
    uses_dictionary = entry.codec.takes_dictionary and entry.parameter
    parameter = remains.numbers[entry.parameter] if uses_dictionary else entry.parameter
    return Encoded(entry.codec, parameter, saved.stored, entry.crc32, entry.sha256, entry.size)


class _Hashed:
    """Hashes and counts what passes on its way to a sink."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Takes all of `data`."""
        self._sink.write(data)
        self.sha256.update(data)
        self.size += len(data)
