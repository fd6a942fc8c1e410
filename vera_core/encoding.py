"""How one file's content becomes stored bytes: the codec chosen by the bytes, with dictionaries that are given. Pure.

The codec is chosen by looking at the bytes, never at the name. Contents are encoded in batches, which come out as
columns (`EncodedBatch`): libzstd gives up the interpreter lock once for each, and nothing is made for each file that
the shard's columns don't need. Undone by codec.py; docs/format-v1.md, "Codecs". Which dictionaries pay: training.py.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import accumulate, compress, pairwise, repeat
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, cast

import lz4
import lz4.block
import numpy as np
import zstandard

from vera_core.codec import MAX_INLINE, crc32, digest
from vera_core.errors import UsageError
from vera_core.model import Codec, Policy
from vera_core.zstd_frame import LARGEST_BLOCK_CONTENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

Digest: TypeAlias = "Callable[[bytes], bytes]"
"""`codec.digest`, or what gives the same faster."""

FACTS = np.dtype(
    [
        ("size", "<u4"),
        ("stored_size", "<u4"),
        ("crc32", "<u4"),
        ("parameter", "<u2"),
        ("codec", "u1"),
        ("digest", "u1", (32,)),
    ]
)
"""What is known of an encoded content: its bytes, those stored and their CRC32, and its SHA-256."""

_SAMPLE_FROM = 8 << 10
_SAMPLE = 2048
DICTIONARY_UP_TO = 64 << 10
"""Bytes of contents above which a dictionary gains next to nothing."""


class Encoded(NamedTuple):
    """A content as it will be stored.

    `crc32` is over `stored`, `sha256` over the content, `size` the content's bytes; `parameter` as in `model.Entry`.
    """

    codec: Codec
    parameter: int
    stored: bytes
    crc32: int
    sha256: bytes
    size: int


@dataclass(frozen=True, slots=True)
class EncodedBatch:
    """Encoded contents as columns: `facts`, shape (n,) of `FACTS`, and their stored bytes end to end."""

    facts: NDArray[np.void]
    stored: bytes | memoryview

    def __len__(self) -> int:
        return len(self.facts)

    @classmethod
    def of(cls, contents: Sequence[Encoded]) -> EncodedBatch:
        """The columns of single contents."""
        facts = np.zeros(len(contents), FACTS)
        facts["size"] = [item.size for item in contents]
        facts["stored_size"] = [len(item.stored) for item in contents]
        facts["crc32"] = [item.crc32 for item in contents]
        facts["parameter"] = [item.parameter for item in contents]
        facts["codec"] = [item.codec for item in contents]
        facts["digest"] = np.frombuffer(b"".join([item.sha256 for item in contents]), np.uint8).reshape(-1, 32)
        return cls(facts, b"".join([item.stored for item in contents]))

    def select(self, chosen: NDArray[np.bool_]) -> EncodedBatch:
        """The contents where `chosen`, shape (n,), is true."""
        if bool(chosen.all()):
            return self
        places = pairwise(accumulate(self.facts["stored_size"].tolist(), initial=0))
        kept = zip(places, chosen.tolist(), strict=True)
        return EncodedBatch(self.facts[chosen], b"".join([self.stored[a:b] for (a, b), keep in kept if keep]))

    def __iter__(self) -> Iterator[Encoded]:
        """The contents one by one."""
        places = pairwise(accumulate(self.facts["stored_size"].tolist(), initial=0))
        for row, (begin, end) in zip(self.facts, places, strict=True):
            size, _, crc, parameter, codec, sha256 = row
            stored = bytes(self.stored[begin:end])
            yield Encoded(Codec(codec), int(parameter), stored, int(crc), sha256.tobytes(), int(size))


@dataclass(frozen=True, slots=True, eq=False)
class _Method:
    """A way to compress: the codec and, for zstd, level and dictionary (0: none). Each is made once, and is itself."""

    codec: Codec
    level: int = 0
    dictionary: int = 0


_RAW = _Method(Codec.RAW)
_CONSTANT = _Method(Codec.CONSTANT)

_SMALL_UP_TO = 16 << 10
_METHODS: dict[Policy, tuple[_Method, _Method]] = {
    # For contents up to `_SMALL_UP_TO` bytes, and larger ones. lz4 is not for the former: it gives up the interpreter
    # lock on each call. Without a dictionary level 1 is neither faster nor smaller on small contents than level 3.
    Policy.FAST: (_Method(Codec.ZSTD, -1), _Method(Codec.LZ4)),
    Policy.BALANCED: (_Method(Codec.ZSTD, 3),) * 2,
    Policy.SMALL: (_Method(Codec.ZSTD, 12),) * 2,
}
DICTIONARY_LEVELS = {Policy.FAST: (1,), Policy.BALANCED: (1, 3), Policy.SMALL: (12,)}
"""zstd levels of contents with a dictionary: the first, or another where that is smaller on the sample."""
_STREAM_LEVELS = {Policy.FAST: 1, Policy.BALANCED: 3, Policy.SMALL: 9}

_COMPRESSED = (
    # First bytes of formats whose content is compressed already.
    b"\x1f\x8b",  # gzip
    b"PK\x03\x04",  # zip, docx, xlsx, jar
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",  # JPEG
    b"GIF8",
    b"\x28\xb5\x2f\xfd",  # zstd
    b"\x04\x22\x4d\x18",  # lz4
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!",
    b"OggS",
    b"fLaC",
    b"ID3",
    b"\x1a\x45\xdf\xa3",  # Matroska, WebM
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000
)
_FIRST_BYTES = frozenset(magic[0] for magic in _COMPRESSED) | {ord("R"), 0}


def toolchain() -> str:
    """The libraries that decide stored bytes, with versions. Same rows, options and toolchain give the same shard."""
    libzstd = ".".join(str(part) for part in zstandard.ZSTD_VERSION)
    return f"zstandard/{zstandard.__version__} libzstd/{libzstd} lz4/{lz4.library_version_string()}"


@dataclass(frozen=True, slots=True)
class Trained:
    """Dictionaries, numbered from 1, and which of them the files of a kind are compressed with ("": other kinds).

    `levels` are the zstd levels that each is used with, the policy's usual one if there are none.
    """

    dictionaries: tuple[bytes, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    levels: tuple[int, ...] = ()


class _Compressors(threading.local):
    """A thread's compressors: they are dear to make and not safe to share."""

    def __init__(self) -> None:
        self.made: dict[_Method, zstandard.ZstdCompressor] = {}


class Encoder:
    """Encodes contents by a policy with the dictionaries of one shard. Threads may share it: contexts are their own."""

    def __init__(
        self, policy: Policy = Policy.BALANCED, trained: Trained | None = None, *, digest_with: Digest = digest
    ) -> None:
        self.trained = trained or Trained()
        self._usual, self._sparing = _METHODS[policy], policy is not Policy.SMALL
        self._digest = digest_with
        self._loaded = [zstandard.ZstdCompressionDict(data) for data in self.trained.dictionaries]
        levels = self.trained.levels or DICTIONARY_LEVELS[policy][:1] * len(self._loaded)
        with_dictionary = [None, *(_Method(Codec.ZSTD, level, number) for number, level in enumerate(levels, 1))]
        self._by_kind = {kind: with_dictionary[number] for kind, number in self.trained.kinds.items()}
        self._of_others = self._by_kind.get("")
        for loaded, level in zip(self._loaded, levels, strict=True):
            loaded.precompute_compress(level=level)
        self._contexts = _Compressors()

    def encode(self, contents: Sequence[bytes], media_types: Sequence[str] | None = None) -> EncodedBatch:
        """Encodes a batch (about 1 MB is best), each content at most `MAX_INLINE` bytes, in order.

        `media_types`, one for each, help to find a content's dictionary; the same contents give the same result in any
        batch.

        Raises:
            UsageError: a content is larger.
        """
        count = len(contents)
        facts = np.zeros(count, FACTS)
        sizes = list(map(len, contents))
        stored: list[bytes] = list(contents)
        work: dict[_Method, list[int]] = {}
        for number, method in enumerate(map(self._method, contents, media_types or repeat("", count))):
            if method is not _RAW:
                work.setdefault(method, []).append(number)
        for number in work.pop(_CONSTANT, ()):
            facts["codec"][number], facts["parameter"][number] = Codec.CONSTANT, contents[number][0]
            stored[number] = b""
        for method, numbers in work.items():
            own_sizes = np.array(sizes)[numbers]
            results, codecs = self._compress([contents[number] for number in numbers], own_sizes, method)
            smaller = np.array(list(map(len, results))) < own_sizes
            better = list(compress(numbers, smaller))
            facts["codec"][better], facts["parameter"][better] = codecs[smaller], method.dictionary
            for number, result in zip(better, compress(results, smaller), strict=True):
                stored[number] = result
        facts["size"] = sizes
        facts["stored_size"] = list(map(len, stored))
        facts["crc32"] = list(map(crc32, stored))
        facts["digest"] = _digests(contents, self._digest)
        return EncodedBatch(facts, b"".join(stored))

    def _method(self, content: bytes, media_type: str) -> _Method:
        method = _chosen(content, self._usual, sparing=self._sparing)
        if method is _RAW or method is _CONSTANT or not self._loaded or len(content) > DICTIONARY_UP_TO:
            return method
        return self._by_kind.get(kind_of(content, media_type), self._of_others) or method

    def _compress(
        self, contents: list[bytes], sizes: NDArray[np.int64], method: _Method
    ) -> tuple[list[bytes], NDArray[np.uint8]]:
        """Contents of these sizes as they would be stored, and by which codec each."""
        if method.codec is Codec.LZ4:
            packed = [lz4.block.compress(content, store_size=False) for content in contents]
            return packed, np.full(len(packed), Codec.LZ4, np.uint8)
        buffers = cast("list[bytes | bytearray | memoryview]", contents)
        segments = self._compressor(method).multi_compress_to_buffer(buffers, threads=1)
        # What holds a segment can be joined and measured like bytes, without making bytes of it.
        return _as_stored([cast("bytes", segments[number]) for number in range(len(contents))], sizes)

    def _compressor(self, method: _Method) -> zstandard.ZstdCompressor:
        contexts = self._contexts.made
        found = contexts.get(method)
        if found is None:
            loaded = self._loaded[method.dictionary - 1] if method.dictionary else None
            found = contexts[method] = _compressor(method.level, loaded)
        return found


def _as_stored(frames: list[bytes], sizes: NDArray[np.int64]) -> tuple[list[bytes], NDArray[np.uint8]]:
    """Frames of contents of these sizes as they are stored: a small one's only block without what follows from sizes.

    In columns what `zstd_frame.block_frame` undoes for one.
    """
    lengths = np.array(list(map(len, frames)))
    ends = np.cumsum(lengths)
    short = sizes < 256
    cut = np.where(short, 5, 6)
    heads = np.where(short, 0x20 | sizes << 8 | 5 << 16, 0x60 | sizes - 256 << 8 | 5 << 24)
    heads |= lengths - cut << cut * 8 - 21
    joined = b"".join((*frames, bytes(8)))
    begins = np.frombuffer(joined, np.uint8)[(ends - lengths)[:, None] + np.arange(8)].view("<i8").reshape(-1)
    bare = (begins & (1 << cut * 8) - 1 == heads) & (sizes <= LARGEST_BLOCK_CONTENT)
    starts = ends - lengths + np.where(bare, cut, 0)
    view = memoryview(joined)
    stored = [cast("bytes", view[begin:end]) for begin, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    return stored, np.where(bare, Codec.ZSTD_BLOCK, Codec.ZSTD).astype(np.uint8)


def facts_of(contents: Sequence[bytes], digest_with: Digest = digest) -> EncodedBatch:
    """Sizes and digests of contents that are not to be stored."""
    facts = np.zeros(len(contents), FACTS)
    facts["size"] = list(map(len, contents))
    facts["digest"] = _digests(contents, digest_with)
    return EncodedBatch(facts, b"")


def _digests(contents: Sequence[bytes], of: Digest) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(map(of, contents)), np.uint8).reshape(-1, 32)


COMPRESSING = frozenset({Codec.ZSTD, Codec.LZ4})
"""What `choose` answers for contents that are worth compressing."""
_ENCODERS = {policy: Encoder(policy) for policy in Policy}


def encode(content: bytes, policy: Policy = Policy.BALANCED) -> Encoded:
    """Encodes one content of at most `MAX_INLINE` bytes without a dictionary.

    Raises:
        UsageError: the content is larger.
    """
    return next(iter(_ENCODERS[policy].encode((content,))))


def kind_of(content: bytes, media_type: str) -> str:
    """What files are likely to have much in common: the media type, else what the first bytes look like."""
    if media_type and media_type != "application/octet-stream":
        return media_type
    head = content[:4]
    if not head.isascii() or min(head, default=0) < 9:
        return head.hex()
    return _OPENINGS.get(head[:1], "text")


_OPENINGS = {b"{": "json", b"[": "json", b"<": "markup"}


def choose(content: bytes, policy: Policy) -> _Method:
    """What to try on `content`: constant, raw where it looks compressed already, else the policy's method.

    Raises:
        UsageError: the content is larger than `MAX_INLINE`.
    """
    return _chosen(content, _METHODS[policy], sparing=policy is not Policy.SMALL)


def _chosen(content: bytes, usual: tuple[_Method, _Method], *, sparing: bool) -> _Method:
    """As `choose`, with less to look up."""
    size = len(content)
    if size == 0:
        return _RAW
    first = content[0]
    if first == content[-1] == content[size >> 1] and content.count(first) == size:
        return _CONSTANT
    if sparing and (
        (first in _FIRST_BYTES and _has_magic(content)) or (size >= _SAMPLE_FROM and looks_random(content))
    ):
        return _RAW
    if size > MAX_INLINE:
        raise UsageError(
            f"a content of {size} bytes is larger than the {MAX_INLINE} bytes held in memory",
            todo="Stream it to a shard of its own.",
        )
    return usual[size > _SMALL_UP_TO]


def looks_random(content: bytes) -> bool:
    """Whether the bytes are spread so evenly that compression is not worth trying.

    Takes up to 2,048 bytes spread over the content and compares the sum of squared byte counts with that of an even
    spread, n + n * (n - 1) / 256, in integers: random bytes and compressed formats exceed n * n / 256 by about an
    eighth at n = 2,048, machine code or text by a factor of 3 and more.
    """
    sample = np.frombuffer(content, np.uint8)[:: max(1, len(content) // _SAMPLE)][:_SAMPLE]
    counts = np.bincount(sample, minlength=256)
    n = len(sample)
    return int(np.dot(counts, counts)) * 256 * 4 < n * n * 5


def stream_compressor(first: bytes, size: int, policy: Policy) -> zstandard.ZstdCompressionObj | None:
    """A zstd compressor for one stream of `size` bytes that begins with `first`; None if it should be stored raw."""
    if not size or choose(first, policy) is _RAW:
        return None
    return _compressor(_STREAM_LEVELS[policy]).compressobj(size=size)


class _BlockContext(threading.local):
    """A compressor of blocks for each thread: they are dear to make and not safe to share."""

    def __init__(self) -> None:
        self.compressor = _compressor(3)


def _compressor(level: int, dictionary: zstandard.ZstdCompressionDict | None = None) -> zstandard.ZstdCompressor:
    """Makes magicless frames that state their content size, without checksum or dictionary id."""
    parameters = zstandard.ZstdCompressionParameters(
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        compression_level=level,
        write_content_size=1,
        write_checksum=0,
        write_dict_id=0,
    )
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)


_blocks = _BlockContext()


def pack_block(raw: bytes, cut: int = 0) -> bytes:
    """Compresses a block of columns; returns `raw` itself unless the zstd frame is smaller.

    From byte `cut` on another sort of bytes follows, which gets a zstd block, and so statistics, of its own.
    """
    frame = _blocks.compressor.compressobj(size=len(raw))
    head = frame.compress(raw[:cut]) + frame.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) if cut else b""
    packed = head + frame.compress(raw[cut:]) + frame.flush()
    return packed if len(packed) < len(raw) else raw


def _has_magic(content: bytes) -> bool:
    # ISO media (mp4, heic) and RIFF-WebP have their mark behind a length.
    return content.startswith(_COMPRESSED) or content[4:8] == b"ftyp" or content[8:12] == b"WEBP"
