"""Opens the sealed files of one shard, wherever their bytes come from: a shard's reader, or what is left of a shard.

docs/format-v1.md, "Encrypted shards". Reading a whole shard is shards.py's; what is left of one is found by
format/salvage.py.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from vera_core.codec import MAX_INLINE, decode, decode_many
from vera_core.errors import FormatError, IntegrityError, UsageError, VeraError
from vera_core.format.layout import RESTORE
from vera_core.format.sealed import parse_inside
from vera_core.format.source import named
from vera_core.keys.sealing import FileSealer
from vera_core.keys.streams import OpenedStream, Segments, ends, opened_facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from vera_core.codec import Dictionaries, Stored
    from vera_core.format.layout import Encryption
    from vera_core.format.sealed import Inside
    from vera_core.keys.keyring import Keyring
    from vera_core.keys.tenant import TenantKey
    from vera_core.model import Entry

_DECODED = 8 << 20
"""Contents that are decoded at once, in bytes."""


class SealedShard(NamedTuple):
    """What opening a file takes of its shard; both functions are called when they are needed.

    `where` names it in errors; `encryption` is what its header says. `numbers` gives the place among the dictionaries,
    from 1 on, of each by its number in the shard, where some are lost; None where none is.
    """

    where: Mapping[str, object]
    encryption: Callable[[], Encryption]
    dictionaries: Callable[[], Dictionaries]
    numbers: Mapping[int, int] | None = None


class _Unsealed(NamedTuple):
    """An entry as the shard has it, and what was sealed in it."""

    entry: Entry
    inside: Inside


class FileOpener:
    """Opens sealed files. Threads may share it; it holds secrets: keep it no longer than needed.

    Entries that it gives say what an unencrypted shard would (uid, time, size, codec, attributes), but for the place
    and checksum of the stored bytes, which are those of the sealed file, and `key` and `sha256`, which are keyed.

    Raises:
        IntegrityError: keyring and tenant key are not of one tenant.
    """

    def __init__(self, shard: SealedShard, tenant: TenantKey, keyring: Keyring) -> None:
        self._shard = shard
        self._tenant = tenant
        self._keyring = keyring
        of = keyring.header
        if (of.repository_id, of.tenant) != (tenant.header.repository_id, tenant.header.tenant):
            raise self.not_its_keyring()
        self._files = FileSealer(of.repository_id, of.keyring_id)

    def open(self, entry: Entry, sealed: bytes) -> tuple[Entry, bytes]:
        """A sealed entry opened, and its content, of its sealed bytes.

        Raises:
            ErasedError: its key was destroyed.
            IntegrityError: bytes, keyring, name or digest are not those of the entry.
        """
        return next(self.open_many([(entry, sealed)]))

    def open_many(self, coming: Iterable[tuple[Entry, bytes]]) -> Iterator[tuple[Entry, bytes]]:
        """Sealed entries with their sealed bytes, opened in the order in which they come; neighbours are quickest.

        Raises:
            ErasedError, IntegrityError: as `open`, for the first of them.
        """
        batch: list[_Unsealed] = []
        size = 0
        for unsealed in self._unsealed(coming):
            if batch and size + unsealed.inside.stored.size > _DECODED:
                yield from self._decoded(batch)
                batch, size = [], 0
            batch.append(unsealed)
            size += unsealed.inside.stored.size
        yield from self._decoded(batch)

    def stream(self, entry: Entry, pieces: Iterable[bytes]) -> tuple[Entry, Iterator[bytes]]:
        """The entry of a streamed shard opened, and its content in pieces, of its stored bytes in pieces.

        The last piece is given only once the whole has verified.

        Raises:
            ErasedError: its key was destroyed.
            IntegrityError: as `open`; of the content, while it is taken.
        """
        try:
            stream = OpenedStream(self._segments(entry), entry.stored_size, pieces)
            self._check_name(entry, stream.inside)
        except VeraError as error:
            raise self._named(self._explained(error), entry) from error
        return _opened(entry, stream.inside), self._contents(entry, stream)

    def stream_facts(self, entry: Entry, fetch: Callable[[int, int], bytes]) -> Entry:
        """The entry of a streamed shard opened, with the SHA-256 of its content; two segments of it are fetched.

        Raises:
            ErasedError: its key was destroyed.
            IntegrityError: they do not open.
        """
        try:
            segments = self._segments(entry)
            first, last = (fetch(entry.offset + at, length) for at, length in ends(entry.stored_size))
            inside, plain = opened_facts(segments, entry.stored_size, first, last)
            self._check_name(entry, inside)
        except VeraError as error:
            raise self._named(self._explained(error), entry) from error
        return _opened(entry, inside)._replace(sha256=plain)

    def not_its_keyring(self) -> IntegrityError:
        """What is said where the keyring is another shard's."""
        return IntegrityError(
            "the keyring is not that of this shard",
            todo="Restore this shard's own from a registered copy.",
            **{**self._shard.where, **self._keyring.header.where()},
        )

    def _unsealed(self, coming: Iterable[tuple[Entry, bytes]]) -> Iterator[_Unsealed]:
        asked: list[int] = []
        leaves = self._keyring.tree.leaves(iter(asked.pop, None))  # one walk through the tree for all of them
        for entry, sealed in coming:
            asked.append(entry.ordinal)
            try:
                inside = parse_inside(self._plaintext(entry, next(leaves), sealed))
                self._check_name(entry, inside)
            except VeraError as error:
                raise self._named(error, entry) from error
            yield _Unsealed(entry, inside)

    def _plaintext(self, entry: Entry, leaf: bytes, sealed: bytes) -> bytes:
        try:
            return self._files.open(entry.ordinal, leaf, sealed)
        except IntegrityError as error:
            raise self._explained(error) from None

    def _explained(self, error: VeraError) -> VeraError:
        """What is wrong where something does not open: perhaps the keyring."""
        if isinstance(error, IntegrityError):
            scheme, of = self._shard.encryption(), self._keyring.header
            if (scheme.keyring_id, scheme.depth) != (of.keyring_id, of.depth):
                return self.not_its_keyring()
        return error

    def _check_name(self, entry: Entry, inside: Inside) -> None:
        if self._tenant.keyed_uid(inside.uid) != entry.uid:
            raise IntegrityError("a sealed file lies under the name of another", todo=RESTORE)

    def _segments(self, entry: Entry) -> Segments:
        of = self._keyring.header
        (leaf,) = self._keyring.tree.leaves([entry.ordinal])
        return Segments((of.repository_id, of.keyring_id), entry.ordinal, leaf)

    def _contents(self, entry: Entry, stream: OpenedStream) -> Iterator[bytes]:
        try:
            yield from stream.contents(self._tenant.keyed_hasher(), entry.sha256)
        except VeraError as error:
            raise self._named(error, entry) from error

    def _decoded(self, batch: Sequence[_Unsealed]) -> Iterator[tuple[Entry, bytes]]:
        contents: Sequence[bytes | None] = [None] * len(batch)
        if len(batch) > 1:  # a single one is decoded faster by itself
            with suppress(FormatError):  # one by one, to name the one
                contents = decode_many([self._placed(inside.stored) for _, inside in batch], self._shard.dictionaries())
        for (entry, inside), known in zip(batch, contents, strict=True):
            try:
                content = self._decode(inside.stored) if known is None else known
                if self._tenant.keyed_digest(content) != entry.sha256:
                    raise IntegrityError("the content does not match its keyed digest", todo=RESTORE)
            except VeraError as error:
                raise self._named(error, entry) from error
            yield _opened(entry, inside), content

    def _decode(self, stored: Stored) -> bytes:
        return decode(self._placed(stored), self._shard.dictionaries())

    def _placed(self, stored: Stored) -> Stored:
        """The stored content with its dictionary's place in the place of its number.

        Raises:
            FormatError: the dictionary is lost.
        """
        numbers = self._shard.numbers
        if numbers is None or not (stored.codec.takes_dictionary and stored.parameter):
            return stored
        if stored.parameter not in numbers:
            raise FormatError(f"dictionary {stored.parameter} is lost", todo=RESTORE)
        return stored._replace(parameter=numbers[stored.parameter])

    def _named(self, error: VeraError, entry: Entry) -> VeraError:
        return named(error, {**self._shard.where, "uid": entry.uid, "entry": entry.ordinal})


def whole(entry: Entry, content: Iterable[bytes]) -> bytes:
    """The content of a stream in memory.

    Raises:
        UsageError: it is larger than `MAX_INLINE` bytes.
    """
    if entry.size > MAX_INLINE:
        raise UsageError(f"a content of {entry.size} bytes is too large for memory", todo="Read it as a stream.")
    return b"".join(content)


def _opened(entry: Entry, inside: Inside) -> Entry:
    stored = inside.stored
    return entry._replace(
        uid=inside.uid,
        created_at=inside.created_at,
        size=stored.size,
        codec=stored.codec,
        parameter=stored.parameter,
        media_type=inside.media_type,
        metadata=inside.metadata,
    )
