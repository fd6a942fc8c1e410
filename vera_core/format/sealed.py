"""Files of encrypted shards: what can be seen of them in the index, and what is sealed in them.

docs/format-v1.md, "Encrypted shards". To the format a sealed file is a raw content under a keyed uid; sealing and
opening it takes keys, which are those of `vera_core.keys`. Pure.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vera_core.codec import MAX_INLINE, Stored
from vera_core.errors import BadUidError, FormatError, UsageError
from vera_core.format.columns import TIME_BIAS, parse_attributes
from vera_core.format.layout import MAX_MEDIA_TYPE, MAX_METADATA, MAX_SIZE, MAX_TIME, MIN_TIME, RESTORE
from vera_core.model import MAX_UID_BYTES, Codec, check_uid

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from vera_core.format.columns import Metadata

KEYED_UID_LENGTH = 32
"""Characters of a keyed uid, lowercase hexadecimal digits."""
SEALING = 28
"""Bytes of nonce and tag around a plaintext."""
HEAD = struct.Struct("<qIBBHH")
"""What a plaintext begins with: created_at, size, codec, parameter, lengths of uid and attribute string."""
MIN_SEALED = SEALING + HEAD.size + 1
MAX_SEALED_CONTENT = MAX_INLINE - (SEALING + HEAD.size + MAX_UID_BYTES + 1 + MAX_MEDIA_TYPE + MAX_METADATA)
"""Largest content that is sealed whatever its uid and attributes: sealed files are held in memory, as others are."""

STREAM_HEAD = struct.Struct("<qQBBHH")
"""What the first segment of a sealed stream begins with: as `HEAD`."""
SEGMENT = 1 << 20
"""Stored bytes of the content in a segment of a sealed stream, but for the last ones."""
FIRST_SEGMENT = 5120
"""Bytes of the sealed first segment, whatever is in it: it shows no length of uid or attributes."""
FIRST_PLAINTEXT = FIRST_SEGMENT - SEALING
LAST_SEGMENT = SEALING + 32
"""Bytes of the sealed last segment, which holds the SHA-256 of the content."""
MAX_SEGMENTS = 1 << 32

_DIGITS = b"0123456789abcdef"


class Inside(NamedTuple):
    """What a plaintext holds: the file's facts as an unencrypted shard states them, and its stored bytes there."""

    uid: str
    created_at: int
    media_type: str
    metadata: Metadata
    stored: Stored


def keyed_key(uid: bytes) -> int:
    """The key of a keyed uid: the number that its first 16 digits write.

    Raises:
        UsageError: it is none.
    """
    if len(uid) != KEYED_UID_LENGTH or uid.translate(None, _DIGITS):
        raise UsageError(
            "the shard is encrypted, so its files are found by keyed uids of 32 lowercase hex digits",
            todo="Make it with the tenant key.",
            uid=uid.decode("utf-8", "replace"),
        )
    return int(uid[:16], 16)


def keyed_keys(uids: Sequence[bytes]) -> NDArray[np.uint64]:
    """The keys of many keyed uids, which `look_sealed` has looked at."""
    return np.frombuffer(bytes.fromhex(b"".join([uid[:16] for uid in uids]).decode()), ">u8").astype(np.uint64)


def look_sealed(columns: Mapping[str, NDArray[np.uint64]] | NDArray[np.void], uids: bytes) -> bool:
    """Whether entries with these columns and uids, end to end, can be sealed files: raw, and of no time of their own.

    Their attributes, and that they share no content, are the caller's to look at.
    """
    stored = columns["stored_size"]
    return (
        bool((columns["uid_length"] == KEYED_UID_LENGTH).all())
        and not uids.translate(None, _DIGITS)
        and bool((columns["created_at"] == np.uint64(TIME_BIAS)).all())
        and not bool(columns["codec"].any())
        and not bool(columns["parameter"].any())
        and bool((columns["size"] == stored).all())
        and int(stored.min(initial=MIN_SEALED)) >= MIN_SEALED
    )


def parse_inside(plaintext: bytes) -> Inside:
    """What is in a plaintext; the content is not decoded yet.

    Raises:
        FormatError: it is not what a writer seals.
    """
    return _inside(plaintext, HEAD, MAX_INLINE)


def first_plaintext(created_at: int, uid: bytes, attributes: bytes, content: tuple[int, Codec]) -> bytes:
    """What is sealed in the first segment of a stream; `content` is its size and codec.

    Raises:
        UsageError: a time or size out of range.
    """
    size, codec = content
    if not MIN_TIME <= created_at <= MAX_TIME or not 0 <= size < MAX_SIZE:
        raise UsageError(f"time {created_at} or size {size} is out of range")
    head = STREAM_HEAD.pack(created_at, size, codec, 0, len(uid), len(attributes))
    return (head + uid + attributes).ljust(FIRST_PLAINTEXT, b"\0")


def parse_first(plaintext: bytes) -> Inside:
    """What is in the first segment of a stream; no content is.

    Raises:
        FormatError: it is not what a writer seals.
    """
    inside = _inside(plaintext, STREAM_HEAD, MAX_SIZE - 1)
    stored = inside.stored
    known = stored.codec in {Codec.RAW, Codec.ZSTD} and not stored.parameter
    if len(plaintext) != FIRST_PLAINTEXT or stored.stored.strip(b"\0") or not known:
        raise FormatError("a sealed stream states impossible values", todo=RESTORE)
    return inside._replace(stored=stored._replace(stored=b""))


def segments_of(stored_size: int) -> int:
    """How many segments a sealed stream of so many bytes has; at least two.

    Raises:
        FormatError: none has so many bytes.
    """
    content = stored_size - FIRST_SEGMENT - LAST_SEGMENT
    full, rest = divmod(content, SEGMENT + SEALING)
    count = 2 + full + (rest > 0)
    if content < 0 or 0 < rest <= SEALING or count > MAX_SEGMENTS:
        raise FormatError(f"no sealed stream has {stored_size} bytes", todo=RESTORE)
    return count


def segment_lengths(stored_size: int) -> Iterator[int]:
    """The bytes of each segment of a sealed stream, as it is sealed.

    Raises:
        FormatError: as `segments_of`.
    """
    left = stored_size - FIRST_SEGMENT - LAST_SEGMENT
    for number in range(segments_of(stored_size) - 1):
        length = FIRST_SEGMENT if number == 0 else min(left, SEGMENT + SEALING)
        left -= length if number else 0
        yield length
    yield LAST_SEGMENT


def _inside(plaintext: bytes, head: struct.Struct, most: int) -> Inside:
    try:
        created_at, size, codec, parameter, uid_length, attributes_length = head.unpack_from(plaintext)
    except struct.error:
        raise FormatError("a sealed file is too short for what it begins with", todo=RESTORE) from None
    names = head.size + uid_length
    begin = names + attributes_length
    if begin > len(plaintext) or codec not in _CODECS or size > most or not MIN_TIME <= created_at <= MAX_TIME:
        raise FormatError("a sealed file states impossible values", todo=RESTORE)
    try:
        uid = check_uid(plaintext[head.size : names].decode())
    except (BadUidError, UnicodeDecodeError):
        # Without the cause: errors are logged, and what was sealed is not for logs.
        raise FormatError("a sealed file has a uid that can't be", todo=RESTORE) from None
    attributes = parse_attributes(plaintext[names:begin])
    return Inside(uid, created_at, *attributes, Stored(_CODECS[codec], plaintext[begin:], size, parameter))


_CODECS = {int(codec): codec for codec in Codec}
