"""Proving what is sealed in an encrypted shard: every file opened, decoded and digested, many at a time. Pure.

What it takes is less than the tenant key and a keyring, and goes to another process as bytes. Reading files is the
business of opening.py; what else a shard states is verified by format/verify.py, which asks this.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from vera_core.codec import MAX_INLINE, Dictionaries, Stored, digest_many
from vera_core.errors import FormatError
from vera_core.format.layout import MAX_TIME, MIN_TIME, RESTORE
from vera_core.format.sealed import HEAD, parse_inside
from vera_core.keys.mac import Mac
from vera_core.keys.sealing import FileSealer
from vera_core.keys.streams import OpenedStream, Segments
from vera_core.keys.tenant import KEYED_UID_BYTES, Purpose
from vera_core.keys.tree import KeyTree
from vera_core.model import Codec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from vera_core.keys.keyring import Keyring
    from vera_core.keys.tenant import TenantKey
    from vera_core.model import Entry

_PACKED = struct.Struct("<32s32s16s16sB")
_HEAD = np.dtype(
    [
        ("created_at", "<i8"),
        ("size", "<u4"),
        ("codec", "u1"),
        ("parameter", "u1"),
        ("uid", "<u2"),
        ("attributes", "<u2"),
    ]
)
"""As `sealed.HEAD`; the last two are lengths."""
_DECODED = 4 << 20
"""Contents that are decoded at once, in bytes; together with sealed files and plaintexts some 10 MiB are held."""
_CODECS = {int(codec): codec for codec in Codec}


@dataclass(frozen=True, slots=True)
class Seals:
    """The keys of all files of one shard: tenant's subkeys for uids and contents, ids, and the shard's key tree."""

    uid_key: bytes = field(repr=False)
    content_key: bytes = field(repr=False)
    repository_id: bytes
    keyring_id: bytes
    tree: KeyTree = field(repr=False)

    @classmethod
    def of(cls, tenant: TenantKey, keyring: Keyring) -> Self:
        """Those that a shard's keyring gives."""
        uid_key, content_key = tenant.subkey(Purpose.UID), tenant.subkey(Purpose.CONTENT)
        return cls(uid_key, content_key, keyring.header.repository_id, keyring.header.keyring_id, keyring.tree)

    def pack(self) -> bytes:
        """As bytes, which are secret."""
        head = self.uid_key, self.content_key, self.repository_id, self.keyring_id, self.tree.depth
        return _PACKED.pack(*head) + self.tree.nodes

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The inverse of `pack`."""
        uid_key, content_key, repository_id, keyring_id, depth = _PACKED.unpack_from(data)
        return cls(uid_key, content_key, repository_id, keyring_id, KeyTree(depth, data[_PACKED.size :]))

    def digests(
        self, first: int, keyed_uids: Sequence[bytes], sealed: Sequence[bytes], dictionaries: Dictionaries
    ) -> bytes:
        """The keyed digests, end to end, of the contents of sealed files with the ordinals from `first` on.

        Raises:
            ErasedError: the key of one was destroyed.
            FormatError: one is not what is sealed under that keyed uid, or can't be decoded.
            IntegrityError: one does not open; it is named.
        """
        leaves = self.tree.run(first, first + len(sealed))
        plaintexts = FileSealer(self.repository_id, self.keyring_id).open_many(first, leaves, sealed)
        names, stored = _parsed(plaintexts)
        mac = Mac(self.uid_key).digest_alone
        keyed = b"".join([mac(name)[:KEYED_UID_BYTES] for name in names])
        if keyed.hex().encode() != b"".join(keyed_uids):
            raise FormatError("a sealed file lies under the name of another", todo=RESTORE)
        digest = Mac(self.content_key).digest_alone
        return b"".join([found for batch in _batches(stored) for found in digest_many(batch, dictionaries, digest)])

    def check_stream(self, entry: Entry, pieces: Iterable[bytes]) -> None:
        """Opens the sealed stream of an entry, whose stored bytes come in pieces, and takes all of them.

        Raises:
            ErasedError: its key was destroyed.
            IntegrityError: it is not what is sealed under that keyed uid, or its content has another keyed digest.
        """
        (leaf,) = self.tree.run(entry.ordinal, entry.ordinal + 1)
        segments = Segments((self.repository_id, self.keyring_id), entry.ordinal, leaf)
        stream = OpenedStream(segments, entry.stored_size, pieces)
        keyed = Mac(self.uid_key).digest_alone(stream.inside.uid.encode())[:KEYED_UID_BYTES]
        if keyed.hex() != entry.uid:
            raise FormatError("a sealed file lies under the name of another", todo=RESTORE)
        for _ in stream.contents(Mac(self.content_key).hasher(), entry.sha256):
            pass


def _parsed(plaintexts: Sequence[bytes]) -> tuple[list[bytes], list[Stored]]:
    """The uids and stored contents in plaintexts, checked as by `parse_inside`, which sees those of other attributes.

    Raises:
        FormatError: one is not what a writer seals.
    """
    lengths = np.array(list(map(len, plaintexts)), np.int64)
    if int(lengths.min(initial=HEAD.size)) < HEAD.size:
        raise FormatError("a sealed file is too short for what it begins with", todo=RESTORE)
    heads = np.frombuffer(b"".join([plaintext[: HEAD.size] for plaintext in plaintexts]), _HEAD)
    uid_ends = HEAD.size + heads["uid"].astype(np.int64)
    begins = uid_ends + heads["attributes"]
    times, sizes, codes = heads["created_at"], heads["size"], heads["codec"].tolist()
    impossible = (times < MIN_TIME) | (times > MAX_TIME) | (sizes > MAX_INLINE) | (begins > lengths)
    if bool(impossible.any()) or not _CODECS.keys() >= set(codes):
        raise FormatError("a sealed file states impossible values", todo=RESTORE)
    ends, starts = uid_ends.tolist(), begins.tolist()
    names = [plaintext[HEAD.size : end] for plaintext, end in zip(plaintexts, ends, strict=True)]
    contents = [plaintext[start:] for plaintext, start in zip(plaintexts, starts, strict=True)]
    sorts = {plaintext[end:start]: plaintext for plaintext, end, start in zip(plaintexts, ends, starts, strict=True)}
    try:
        plain = b" ".join(names).decode().isprintable()
    except UnicodeDecodeError:
        plain = False
    for plaintext in sorts.values() if plain else plaintexts:
        parse_inside(plaintext)
    codecs = [_CODECS[code] for code in codes]
    return names, list(map(Stored, codecs, contents, sizes.tolist(), heads["parameter"].tolist()))


def _batches(items: list[Stored]) -> Iterator[list[Stored]]:
    begin = size = 0
    for number, item in enumerate(items):
        if number > begin and size + item.size > _DECODED:
            yield items[begin:number]
            begin, size = number, 0
        size += item.size
    yield items[begin:]
