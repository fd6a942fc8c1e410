"""What the command-line tests share: running `vera`, files to archive, and the store's back door."""

from __future__ import annotations

import io
import json
import os
import random
import subprocess
import sys
import urllib.request
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from tests.protocol.packing import PREFIX, make_repository
from vera_core.cli.main import run

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store

VERA = [sys.executable, "-m", "vera_core.cli"]
MARCH = datetime(2026, 3, 1, 10, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Done:
    """What a command came to: its exit code, and what it printed."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def document(self) -> Any:
        """The one JSON document on standard output; nothing may be on standard error."""
        assert self.err == ""
        return json.loads(self.out)


def vera(*arguments: str) -> Done:
    """Runs the command in this process, which saves a second of imports each time; see `process` for the real thing."""
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with redirect_stdout(out), redirect_stderr(err):
        code = run(arguments)
    done = Done(code, _written(out), _written(err).decode())
    assert "Traceback" not in done.err, done.err
    assert code != 1, done.err + done.text
    return done


def process(*arguments: str, cwd: Path | None = None) -> Done:
    """Runs the command as a person would, as a process of its own."""
    done = subprocess.run([*VERA, *arguments], capture_output=True, check=False, cwd=cwd)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return Done(done.returncode, done.stdout, done.stderr.decode())


def _written(stream: io.TextIOWrapper) -> bytes:
    stream.flush()
    raw = stream.buffer
    assert isinstance(raw, io.BytesIO)
    return raw.getvalue()


def new_repository(store: ObjectStore, spool: Path, **changes: Any) -> Repository:
    """A repository without the probe, which takes its time and has its own test."""
    return make_repository(store, spool, **changes)


def uri(store: S3Store) -> str:
    return f"s3://{store.bucket}/{PREFIX}"


def write(path: Path, content: bytes, moment: datetime = MARCH) -> None:
    """A file with a modification time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (moment.timestamp(), moment.timestamp()))


def some_directory(root: Path) -> dict[str, bytes]:
    """Files of every awkward sort on one day; returns content by uid."""
    rng = random.Random(7)
    files = {
        "empty": b"",
        "a/b/c/deep.txt": b"deep\n",
        "binary.bin": rng.randbytes(5000),
        "every byte": bytes(range(256)) * 3,
        "zeros.dat": bytes(10_000),
        "above the inline limit.bin": rng.randbytes(30_000),
        "größe-文書.txt": "ünïcödé".encode(),
        "--json": b"a name like an option",
        **{f"many/{number:04d}.json": b'{"number": %d}' % number for number in range(100)},
    }
    for uid, content in files.items():
        write(root / uid, content)
    return files


def change_stored_byte(
    server: EmbeddedS3, store: S3Store, key: str, version_id: str, *, from_end: int | None = None
) -> None:
    """Flips a bit of a stored version, in its middle or so many bytes from its end, through the server's back door."""
    url = f"{server.filer_url}/buckets/{store.bucket}/{key}.versions/v_{version_id}"
    with urllib.request.urlopen(url) as reply:
        data = bytearray(reply.read())
    assert bytes(data) == store.get(key, version_id=version_id).data
    data[len(data) // 2 if from_end is None else -from_end] ^= 1
    urllib.request.urlopen(urllib.request.Request(url, data=bytes(data), method="PUT")).close()
