"""Repositories and sources to pack, and the independent reader that compares what is archived with the source."""

from __future__ import annotations

import atexit
import io
import os
import random
import shutil
import tempfile
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

import pytest

from vera_core.config import ConfigLog, Encryption, RepositoryConfig
from vera_core.keys.local import LocalKeys
from vera_core.keyspace import Keyspace
from vera_core.model import LockMode, RetentionClass, to_micros
from vera_core.operations.pack import PackReport, pack_window
from vera_core.operations.repository import LOCK_SLACK, Repository, Workplace
from vera_core.operations.retrieve import Retriever
from vera_core.routing import Routing, RoutingEpoch
from vera_core.source.base import BigContent, Bounds, Fetched, LateRows, Unreadable, Window
from vera_core.source.rows import RawBatch, RawRow, Reject, RejectReason, Row, batched, metadata_text
from vera_core.store.base import missing_object
from vera_core.store.memory import MemoryStore
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vera_core.store.base import ObjectStore

PREFIX = "archive"
KEK_VARIABLE = "VERA_TEST_KEK"
KEYS = Keyspace(PREFIX)
DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
CONFIG = RepositoryConfig(
    repository_id="5a" * 16,
    lock_mode=LockMode.GOVERNANCE,
    classes=(RetentionClass("std", 100), RetentionClass("long", 3000)),
    default_class="std",
    routing=Routing(epochs=(RoutingEpoch(date.min, 1),)),
    part_rows=40,
    inline_limit=20_000,
)


def make_repository(store: ObjectStore, spool: Path, **changes: Any) -> Repository:
    """A repository with 2 slots a day and 40 rows a part, without the probe (which test_init.py runs)."""
    now = store.now()
    body = {"type": "init", **replace(CONFIG, **changes).to_json()}
    ConfigLog(store, KEYS).append(body, now=now, until=now + LOCK_SLACK)
    return opened(store, spool)


def make_encrypted(store: ObjectStore, spool: Path, **changes: Any) -> Repository:
    """As `make_repository`, encrypted; its KEK is `local_kek`."""
    return make_repository(store, spool, encryption=Encryption(local_kek().kek), **changes)


EITHER = pytest.mark.parametrize("make", [make_repository, make_encrypted], ids=["plain", "encrypted"])
"""For tests that hold in every repository: `make` makes one."""
Make: TypeAlias = "Callable[..., Repository]"


def local_kek() -> LocalKeys:
    """The key service of all encrypted repositories of a test run, in whichever process."""
    if KEK_VARIABLE not in os.environ:
        directory = Path(tempfile.mkdtemp(prefix="vera-test-kek-"))
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        os.environ[KEK_VARIABLE] = str(directory / "kek.json")
        LocalKeys.create(directory / "kek.json")
    return LocalKeys(Path(os.environ[KEK_VARIABLE]))


def opened(store: ObjectStore, spool: Path, actor: str = "test", *, freshness_seconds: float = 5.0) -> Repository:
    """A new handle, as another process would have."""
    place = Workplace(actor, spool, freshness_seconds, key_service=local_kek, buckets=known_bucket)
    return Repository(store, PREFIX, place)


def copy_bucket(**options: Any) -> MemoryStore:
    """A bucket in memory that repositories of this process find by its name, as for a registered copy of keys."""
    store = MemoryStore(f"copy-{len(_BUCKETS)}", **options)
    _BUCKETS[store.bucket] = store
    return store


_BUCKETS: dict[str, MemoryStore] = {}


def known_bucket(name: str) -> ObjectStore:
    """The bucket of that name: one of `copy_bucket`, else one on the embedded server."""
    return _BUCKETS[name] if name in _BUCKETS else S3Store(name)


def copied(store: MemoryStore) -> MemoryStore:
    """A bucket with the same versions, to try something else from the same beginning."""
    copy = MemoryStore()
    copy._keys = {key: list(versions) for key, versions in store._keys.items()}
    copy._made = store._made
    return copy


@dataclass(frozen=True, slots=True)
class File:
    """A file of a `MemorySource`; `fails` is the reason why it can't be read, or "".

    `breaks`: what a big one raises when it is opened (`OSError`, `MissingObjectError`), or "cut" for fewer bytes.
    """

    uid: str
    content: bytes = b""
    created_at: datetime = NOON
    retention_class: str = "std"
    media_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    fails: str = ""
    reject: str = ""
    breaks: str = ""


def _open(file: File) -> BinaryIO:
    if file.breaks == "OSError":
        raise OSError("the disk is on fire")
    if file.breaks == "MissingObjectError":
        raise missing_object("source", file.uid, delete_marker=False)
    return io.BytesIO(file.content[:-1] if file.breaks == "cut" else file.content)


@dataclass(slots=True)
class MemorySource:
    """Files in memory as a source; what is above `big` bytes is streamed."""

    files: list[File]
    name: str = "docs"
    tenant: str = "default"
    big: int = CONFIG.inline_limit
    blind_spots: tuple[str, ...] = ()
    fetched: int = field(default=0)

    def batches(self, window: Window) -> Iterator[RawBatch]:
        """See `Source.batches`."""
        return batched(self._rows(window))

    def _rows(self, window: Window) -> Iterator[RawRow]:
        for place, file in enumerate(self.files):
            micros = to_micros(file.created_at)
            if window.first_micros <= micros < window.end_micros:
                yield RawRow(
                    file.uid, micros, file.retention_class, f"row:{place}", None, file.media_type,
                    metadata_text(file.metadata), reject=file.reject,
                )  # fmt: skip

    def fetch(self, rows: Sequence[Row]) -> Iterator[Fetched]:
        """See `Source.fetch`."""
        for row in rows:
            self.fetched += 1
            file = self.files[int(row.place.removeprefix("row:"))]
            if file.fails:
                yield Unreadable(file.fails, "as told")
            elif len(file.content) > self.big:
                yield BigContent(len(file.content), partial(_open, file))
            else:
                yield file.content

    def bounds(self) -> Bounds | None:
        """See `Source.bounds`."""
        times = [file.created_at for file in self.files]
        return Bounds(min(times), max(times)) if times else None

    def untimed(self, limit: int) -> Iterator[Reject]:
        """See `Source.untimed`."""
        return iter(())

    def late(self, mark: str, *, before: date) -> LateRows:
        """See `Source.late`."""
        return LateRows()

    def window(self, day: date = DAY, revision: int = 1) -> Window:
        """A window of this source."""
        return Window(self.name, self.tenant, day, revision)


def some_files(count: int, *, seed: int = 1, day: date = DAY, prefix: str = "doc") -> list[File]:
    """Small files as business systems have them, the same for the same arguments."""
    rng = random.Random(f"{seed}-{prefix}")
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return [
        File(
            f"{prefix}/{number:05d}.json",
            b'{"id": %d, "text": "%s"}' % (number, rng.randbytes(rng.randint(0, 400)).hex().encode()),
            start + timedelta(seconds=rng.randint(0, 86_399)),
            "long" if number % 11 == 5 else "std",
            "application/json",
        )
        for number in range(count)
    ]


def archivable(source: MemorySource, day: date = DAY) -> dict[str, File]:
    """What must be archived of a day: the last file of each uid that nothing keeps out."""
    return {
        file.uid: file for file in source.files if file.created_at.date() == day and not file.fails and not file.reject
    }


def assert_archived(store: ObjectStore, spool: Path, source: MemorySource, day: date = DAY, versions: int = 1) -> None:
    """Compares every file with what a new reader reads, bit for bit, and each with `versions` versions (I1, I2)."""
    reader = Retriever(opened(store, spool, "reader"), source.tenant)
    wanted = archivable(source, day)
    for uid, file in wanted.items():
        assert reader.get(uid, day) == file.content, uid
        found = reader.versions(uid, day)
        assert len(found) == versions, (uid, found)
        assert found[-1].created_at == file.created_at
        assert found[-1].media_type == file.media_type
        assert found[-1].metadata == dict(file.metadata)
        assert found[-1].retention_class == file.retention_class
    listed = [report.uid for report in reader.list_day(day)]
    assert sorted(listed) == sorted(wanted), "neither more nor less, and none twice"


def pack(repo: Repository, source: MemorySource, day: date = DAY, revision: int = 1) -> PackReport:
    """Packs a window of the source."""
    return pack_window(repo, source, source.window(day, revision))


__all__ = [
    "CONFIG", "DAY", "EITHER", "KEYS", "NOON", "PREFIX", "File", "MemorySource", "Reject", "RejectReason", "archivable",
    "assert_archived", "copied", "copy_bucket", "known_bucket", "local_kek", "make_encrypted", "make_repository",
    "opened", "pack", "some_files",
]  # fmt: skip
