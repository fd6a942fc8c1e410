"""Searching whole buckets for anything that says something of a file: every version of every object, unpacked."""

from __future__ import annotations

import base64
import hashlib
import io
import random
import re
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from tests.protocol.packing import KEYS, NOON, File
from vera_core.errors import VeraError
from vera_core.format import BytesSource, ShardReader
from vera_core.keyspace import KeyKind
from vera_core.model import format_time, to_micros
from vera_core.routing import uid_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from vera_core.store.base import ObjectStore

_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
SHORTEST = 6
"""Bytes of the shortest text that is looked for: shorter ones stand somewhere by chance."""


class Needle(NamedTuple):
    """Bytes that tell something: which file's, what."""

    uid: str
    what: str
    data: bytes


class Found(NamedTuple):
    """Where something was found, and what it tells."""

    key: str
    what: str
    uid: str


def telling_files(count: int, *, prefix: str = "kunden", seed: int = 7) -> list[File]:
    """Files of which everything is recognized wherever it stands: texts that exist once, times to the microsecond."""
    rng = random.Random(f"{seed}-{prefix}")
    return [
        File(
            uid=f"{prefix}/müller-{rng.randrange(10**9):09d}/brief-{number:03d}.pdf",
            content=rng.randbytes(200) + f"Sehr geehrte Frau {rng.randbytes(12).hex()}".encode() * 3,
            created_at=NOON + timedelta(seconds=rng.randrange(30_000), microseconds=rng.randrange(100_000, 999_999)),
            retention_class="long" if number % 5 == 4 else "std",
            media_type=f"application/x-telling-{rng.randrange(10**9)}",
            metadata=((f"kundenname{number}", f"Erika Müstermann {rng.randbytes(8).hex()}"),),
        )
        for number in range(count)
    ]


def needles(files: Iterable[File]) -> list[Needle]:
    """All that could tell of these files, in the forms in which it could stand somewhere."""
    return [
        Needle(file.uid, what, data)
        for file in files
        for what, values in _telling(file).items()
        for data in values
        if len(data) >= SHORTEST
    ]


def _telling(file: File) -> dict[str, list[bytes]]:
    micros = to_micros(file.created_at)
    key = uid_key(file.uid)
    return {
        "uid": [form for text in (file.uid, *file.uid.split("/")[1:]) for form in _texts(text)],
        "media type": _texts(file.media_type),
        "metadata": [form for pair in file.metadata for text in pair for form in _texts(text)],
        "content": [file.content[at : at + 24] for at in range(0, max(len(file.content) - 24, 1), 37)],
        "digest of the content": _digests(file.content),
        "digest of the uid": _digests(file.uid.encode()),
        "key of the uid": [key.to_bytes(8, "big"), key.to_bytes(8, "little"), b"%016x" % key, b"%d" % key],
        "time": [*_times(file.created_at), b"%d" % micros, micros.to_bytes(8, "little"), micros.to_bytes(8, "big")],
    }


def _texts(text: str) -> list[bytes]:
    escaped = text.encode("ascii", "backslashreplace").replace(b"\\x", b"\\u00")
    return list(dict.fromkeys([text.encode(), escaped, text.encode().hex().encode(), text.encode("utf-16-le")]))


def _digests(data: bytes) -> list[bytes]:
    digest = hashlib.sha256(data).digest()
    return [digest, digest[:16], digest.hex().encode(), digest.hex()[:32].encode(), base64.b64encode(digest)[:40]]


def _times(moment: datetime) -> list[bytes]:
    text = format_time(moment)
    return [text.encode(), text.replace("T", " ").rstrip("Z").encode(), text[11:].rstrip("Z").encode()]


def search(store: ObjectStore, wanted: Iterable[Needle]) -> list[Found]:
    """Whatever of `wanted` stands in any version of any object of a bucket, in its name or in its tags."""
    looked_for = list(wanted)
    found = []
    for info in store.list_versions(""):
        if info.is_delete_marker:
            texts = [info.key.encode()]
        else:
            data = store.get(info.key, version_id=info.version_id).data
            tags = str(store.get_tags(info.key, info.version_id)).encode()
            texts = [info.key.encode(), tags, data, *_unpacked(info.key, data)]
        whole = b"\0\0".join(texts)
        found += [Found(info.key, needle.what, needle.uid) for needle in looked_for if needle.data in whole]
    return list(dict.fromkeys(found))


def _unpacked(key: str, data: bytes) -> Iterator[bytes]:
    """What a reader without keys makes of an object: rows of tables, entries of shards, base64 in records."""
    yield from _parquet(data)
    if KEYS.parse(key).kind is KeyKind.SHARD:
        yield from _entries(data)
    if data[:1] == b"{":
        yield from (_decoded(match[0]) for match in _BASE64.finditer(data))


def _parquet(data: bytes) -> Iterator[bytes]:
    if data[:4] != b"PAR1":
        return
    try:
        file = pq.ParquetFile(io.BytesIO(data))
    except (pa.ArrowException, OSError):
        return
    yield str(file.metadata.metadata).encode()
    for row in file.read().to_pylist():
        yield str(row).encode()


def _entries(data: bytes) -> Iterator[bytes]:
    try:
        reader = ShardReader.open(BytesSource(data), sealed=True)
        for entry in reader.entries():
            yield f"{entry} {entry.created_at} {entry.sha256.hex()}".encode()
            yield b"".join(reader.read_stream(entry))
    except VeraError:
        return


def _decoded(text: bytes) -> bytes:
    url_safe = b"-_" if b"-" in text or b"_" in text else None
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), altchars=url_safe)
    except ValueError:
        return b""
