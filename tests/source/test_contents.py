"""Contents in files and S3 objects: the whole file, or why not; never one that the settings don't allow."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from vera_core.errors import UnavailableError, UsageError
from vera_core.source.base import BigContent, Unreadable
from vera_core.source.files import LocalFiles
from vera_core.source.objects import S3Contents, parse_place
from vera_core.store.base import MissingObjectError
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.source.base import Fetched
    from vera_core.store.base import ObjectStore

LIMIT = 100


def reason(fetched: Fetched | str) -> str:
    assert isinstance(fetched, Unreadable), fetched
    assert fetched.detail
    return fetched.reason


class TestLocalFiles:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        (tmp_path / "root").mkdir()
        (tmp_path / "secret").write_bytes(b"secret")
        return tmp_path / "root"

    @pytest.mark.parametrize("size", [0, 1, LIMIT, LIMIT + 1, 5000])
    @pytest.mark.parametrize("declared", [True, False])
    def test_whole_files(self, root: Path, size: int, declared: bool) -> None:
        data = random.Random(size).randbytes(size)
        (root / "f").write_bytes(data)
        found = LocalFiles([root], LIMIT).fetch(f"{root}/f", size if declared else None)
        if size > LIMIT:
            assert isinstance(found, BigContent)
            assert found.size == size
            with found.open() as file:
                found = file.read()
        assert found == data

    @pytest.mark.parametrize("declared", [True, False])
    def test_files_that_are_waited_for_come_in_order_several_at_once(
        self, root: Path, declared: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        wanted: list[tuple[str, int | None]] = []
        expected: list[bytes | str] = []
        for number in range(200):
            path = root / f"file-{number}"
            if number % 7:
                path.write_bytes(b"%d" % number * number)
                expected.append(path.read_bytes())
            else:
                expected.append("missing-file")
            wanted.append((str(path), len(b"%d" % number) * number if declared else None))
        readers: set[int] = set()
        fetch = LocalFiles.fetch

        def seen(files: LocalFiles, path: str, size: int | None) -> Fetched:
            readers.add(threading.get_ident())
            return fetch(files, path, size)

        monkeypatch.setattr(LocalFiles, "fetch", seen)
        for slow in (60.0, 0.0):
            monkeypatch.setattr("vera_core.source.files.SLOW_SECONDS", slow)
            found = list(LocalFiles([root], 100_000).fetch_many(wanted))
            assert [item if isinstance(item, bytes) else reason(item) for item in found] == expected
            several = slow == 0.0 and declared
            assert (len(readers) > 1) == several, "where sizes are not declared, memory would not be bounded"

    def test_what_is_no_file(self, root: Path) -> None:
        files = LocalFiles([root], LIMIT)
        os.mkfifo(root / "pipe")
        (root / "directory").mkdir()
        (root / "f").write_bytes(b"12")
        (root / "loop").symlink_to(root / "loop")
        found = {
            name: reason(files.fetch(f"{root}/{name}", 3)) for name in ("pipe", "directory", "f", "x", "f/x", "loop")
        }
        assert found == {
            "pipe": "not-a-file", "directory": "not-a-file", "f": "wrong-size", "x": "missing-file",
            "f/x": "missing-file", "loop": "unreadable",
        }  # fmt: skip

    def test_links_may_not_lead_out(self, root: Path, tmp_path: Path) -> None:
        (root / "out").symlink_to(tmp_path / "secret")
        (root / "in").symlink_to(root / "real")
        (root / "real").write_bytes(b"real")
        (root / "up").symlink_to(tmp_path)
        (root / "chain").symlink_to(root / "out")
        files = LocalFiles([root], LIMIT)
        assert files.fetch(f"{root}/in", None) == b"real"
        for name in ("out", "up/secret", "chain"):
            assert reason(files.fetch(f"{root}/{name}", None)) == "forbidden-place"

    def test_a_root_may_be_a_link(self, root: Path, tmp_path: Path) -> None:
        (root / "f").write_bytes(b"data")
        (tmp_path / "alias").symlink_to(root)
        files = LocalFiles([tmp_path / "alias"], LIMIT)
        assert files.fetch(f"{tmp_path}/alias/f", 4) == b"data"

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, "missing-content"), ("", "missing-content"), (5, "missing-content"), ("a\0b", "missing-content"),
            ("/etc/passwd", "forbidden-place"), ("../secret", "forbidden-place"), ("a/../../x", "forbidden-place"),
            ("/../etc/passwd", "forbidden-place"), ("bad\udcff", "forbidden-place"), ("..", "forbidden-place"),
        ],
    )  # fmt: skip
    def test_paths_that_are_not_allowed(self, root: Path, value: object, expected: str) -> None:
        assert reason(LocalFiles([root], LIMIT).locate(value)) == expected

    def test_a_root_is_not_its_name_as_a_prefix(self, root: Path) -> None:
        files = LocalFiles([root], LIMIT)
        assert reason(files.locate(f"{root}x/f")) == "forbidden-place"
        assert files.locate(f"{root}//a/./b/../c") == f"{root}/a/c"

    def test_relative_paths_need_one_root(self, root: Path, tmp_path: Path) -> None:
        assert LocalFiles([root], LIMIT).locate("a/b") == f"{root}/a/b"
        assert reason(LocalFiles([root, tmp_path], LIMIT).locate("a/b")) == "forbidden-place"
        assert LocalFiles([root, tmp_path], LIMIT).locate(f"{tmp_path}/b") == f"{tmp_path}/b"

    def test_the_whole_disk_may_be_a_root(self, root: Path) -> None:
        (root / "f").write_bytes(b"data")
        assert LocalFiles([root.__class__("/")], LIMIT).fetch(f"{root}/f", None) == b"data"


class TestS3Contents:
    @pytest.fixture
    def contents(self, store: ObjectStore) -> S3Contents:
        return S3Contents([store.bucket], LIMIT, store=lambda _: store)

    @pytest.mark.parametrize("declared", [True, False])
    def test_whole_objects_in_order(self, store: ObjectStore, contents: S3Contents, declared: bool) -> None:
        chance = random.Random(3)
        files = {f"k/{n} ü": chance.randbytes(size) for n, size in enumerate([0, 1, 50, LIMIT, LIMIT + 1, 3000] * 7)}
        for key, data in files.items():
            store.put(key, data)
        uris = [f"s3://{store.bucket}/{key}" for key in files]
        sizes = [len(data) if declared else None for data in files.values()]
        found = []
        for fetched in contents.fetch(list(zip(uris, sizes, strict=True))):
            if isinstance(fetched, BigContent):
                with fetched.open() as file:
                    found.append(b"".join(iter(lambda: file.read(700), b"")))
            else:
                assert isinstance(fetched, bytes)
                found.append(fetched)
        assert found == list(files.values())

    def test_objects_that_are_not_as_declared(self, store: ObjectStore, contents: S3Contents) -> None:
        store.put("k", b"12345")
        bucket = store.bucket
        asked = [
            (f"s3://{bucket}/k", 4),
            (f"s3://{bucket}/k", 5000),
            (f"s3://{bucket}/none", None),
            (f"s3://{bucket}/none", 5000),
        ]
        assert [reason(found) for found in contents.fetch(asked)] == [
            "wrong-size",
            "wrong-size",
            "missing-file",
            "missing-file",
        ]

    def test_a_big_object_that_is_replaced_stays_the_version_that_was_found(
        self, store: ObjectStore, contents: S3Contents
    ) -> None:
        store.put("k", b"a" * 500)
        (found,) = contents.fetch([(f"s3://{store.bucket}/k", 500)])
        store.put("k", b"b" * 500)
        assert isinstance(found, BigContent)
        with found.open() as file:
            assert file.read() == b"a" * 500

    def test_an_unreachable_store_is_no_reject(self) -> None:
        class Down(MemoryStore):
            """A store that can't be reached."""

            def get_suffix(self, key: str, length: int, *, version_id: str | None = None) -> tuple[bytes, int]:
                raise UnavailableError("down")

        contents = S3Contents(["b"], LIMIT, store=lambda _: Down())
        with pytest.raises(UnavailableError, match="down"):
            list(contents.fetch([("s3://b/k", None)] * 40))

    def test_few_bytes_are_in_flight(self) -> None:
        class Counting(MemoryStore):
            """Counts what is asked for and not yet taken."""

            asked = 0

            def get_suffix(self, key: str, length: int, *, version_id: str | None = None) -> tuple[bytes, int]:
                with guard:
                    Counting.asked += 1
                raise MissingObjectError("none")

        guard = threading.Lock()
        contents = S3Contents(["b"], 8 << 20, store=lambda _: Counting())
        found = contents.fetch([("s3://b/k", 8 << 20)] * 10)
        next(found)
        assert Counting.asked <= 3

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, "missing-content"), ("", "missing-content"), ("/local", "forbidden-place"),
            ("s3://other/k", "forbidden-place"), ("s3://b/", "forbidden-place"), ("s3://b", "forbidden-place"),
            ("S3://b/k", "forbidden-place"), ("s3://b/\udcff", "forbidden-place"),
        ],
    )  # fmt: skip
    def test_uris_that_are_not_allowed(self, value: object, expected: str) -> None:
        assert reason(S3Contents(["b"], LIMIT).locate(value)) == expected
        assert S3Contents(["b"], LIMIT).locate("s3://b/a/b c") == "s3://b/a/b c"

    def test_places_are_parsed(self) -> None:
        assert parse_place("s3://b/a/b") == ("b", "a/b")
        with pytest.raises(UsageError, match="no s3://"):
            parse_place("s3://b")
