"""Directories and lists of files: every name once, as a row or as a named reject."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.source.conftest import TERMS, contents, freeze_into, rows_of
from vera_core.errors import UnavailableError, UsageError
from vera_core.model import to_micros
from vera_core.source.base import Terms, Window
from vera_core.source.directory import DirectorySource, ManifestSource, Packing, media_type_of, source_name
from vera_core.source.rows import Reject

if TYPE_CHECKING:
    from pathlib import Path

DAY = date(2026, 3, 1)
NOON = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "My Files!"
    root.mkdir()
    return root


@pytest.fixture
def packing(tmp_path: Path) -> Packing:
    return Packing(spool=tmp_path / "spool")


def put(path: Path, data: bytes = b"x", at: datetime = NOON) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    nanos = to_micros(at) * 1000 + 999
    os.utime(path, ns=(nanos, nanos))
    return path


def packed(source: DirectorySource | ManifestSource, scratch: Path, day: date = DAY) -> dict[str, bytes | str]:
    """Contents or reasons by uid."""
    manifest = freeze_into(scratch, source, Window(source.name, source.tenant, day))
    kept = manifest.row_count - manifest.reject_count
    found = {row.uid: content for row, content in contents(source, list(manifest.rows(0, kept)))}
    return found | {row.uid: row.reject for row in manifest.rejects()}


def test_every_file_by_day(tree: Path, packing: Packing, tmp_path: Path) -> None:
    put(tree / "a.json", b"1")
    put(tree / "deep" / "er" / "b.tar.gz", b"2" * 2000)
    put(tree / "deep" / "ü b", b"")
    put(tree / "old", b"3", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC))
    source = DirectorySource(tree, TERMS, packing)
    assert (source.name, source.tenant) == ("my-files-", "default")
    assert source.days() == {date(1969, 12, 31): 1, DAY: 3}
    assert packed(source, tmp_path) == {"a.json": b"1", "deep/er/b.tar.gz": b"2" * 2000, "deep/ü b": b""}
    assert packed(source, tmp_path, date(1969, 12, 31)) == {"old": b"3"}
    rows = {row.uid: row for row in rows_of(source, Window(source.name, "default", DAY))}
    assert rows["a.json"].created_at == to_micros(NOON)  # nanoseconds are cut off
    assert [rows[uid].media_type for uid in sorted(rows)] == ["application/json", "application/gzip", ""]
    assert [rows[uid].size for uid in sorted(rows)] == [1, 2000, 0]
    bounds = source.bounds()
    assert bounds is not None
    assert (bounds.first.date(), bounds.last) == (date(1969, 12, 31), NOON)
    assert (list(source.untimed(5)), source.late("m", before=DAY).mark) == ([], "m")
    assert str(tree) in source.blind_spots[0]
    assert list(packing.spool.iterdir()) == []


def test_names_and_files_that_cannot_be_archived(
    tree: Path, packing: Packing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tree / "good")
    hostile = os.fsencode(tree) + b"/bad\xff"
    with open(hostile, "wb"):  # noqa: PTH123 - not UTF-8
        os.utime(hostile, ns=(to_micros(NOON) * 1000,) * 2)
    put(tree / "line\nbreak")
    put(tree / ("d" * 200) / ("e" * 200) / ("f" * 200))
    (tree / "link").symlink_to(tree / "good")
    (tree / "nowhere").symlink_to(tree / "nothing")
    (tree / "loop").symlink_to(tree)
    os.mkfifo(tree / "pipe")
    monkeypatch.chdir(tree)  # a socket's whole path may be too long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
    for name in ("link", "nowhere", "loop", "pipe", "socket"):
        os.utime(tree / name, ns=(to_micros(NOON) * 1000,) * 2, follow_symlinks=False)
    found = packed(DirectorySource(tree, TERMS, packing), tmp_path)
    long = next(uid for uid in found if uid.startswith("dd"))
    assert found == {
        "good": b"x", "bad\\udcff": "bad-uid", "line\\nbreak": "bad-uid", long: "bad-uid", "link": "not-a-file",
        "nowhere": "not-a-file", "loop": "not-a-file", "pipe": "not-a-file", "socket": "not-a-file",
    }  # fmt: skip


def test_files_that_change_after_the_look(tree: Path, packing: Packing, tmp_path: Path) -> None:
    for name in ("gone", "grown", "replaced by a link", "kept"):
        put(tree / name, b"12345")
    source = DirectorySource(tree, TERMS, packing)
    manifest = freeze_into(tmp_path, source, Window(source.name, "default", DAY))
    (tree / "gone").unlink()
    put(tree / "grown", b"1234567")
    (tree / "replaced by a link").unlink()
    (tmp_path / "secret").write_bytes(b"12345")
    (tree / "replaced by a link").symlink_to(tmp_path / "secret")
    assert {row.uid: content for row, content in contents(source, list(manifest.rows(0, 4)))} == {
        "gone": "missing-file", "grown": "wrong-size", "replaced by a link": "forbidden-place", "kept": b"12345",
    }  # fmt: skip


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=8).filter(
            lambda name: name not in {".", ".."}
        ),
        st.binary(max_size=20),
        max_size=8,
    )
)
def test_any_names(tmp_path: Path, names: dict[str, bytes]) -> None:
    root = tmp_path / f"r{len(list(tmp_path.iterdir()))}"
    root.mkdir()
    for name, data in names.items():
        put(root / name, data)
    scratch = tmp_path / f"s{root.name}"
    scratch.mkdir()
    found = packed(DirectorySource(root, TERMS, Packing(spool=tmp_path / "spool")), scratch)
    assert len(found) == len(names)
    assert {uid: data for uid, data in found.items() if isinstance(data, bytes)} == {
        name: data
        for name, data in names.items()
        if all(ord(char) >= 32 and not 127 <= ord(char) < 160 for char in name)
    }


def test_directories_that_are_none(tree: Path, packing: Packing, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        DirectorySource(tree / "nothing", TERMS, packing)
    with pytest.raises(UsageError, match="spool lies in"):
        DirectorySource(tree, TERMS, Packing(spool=tree / "spool"))
    with pytest.raises(UsageError, match="no retention class"):
        DirectorySource(tree, TERMS, Packing(spool=tmp_path, retention_class="eternal"))
    with pytest.raises(UsageError, match="no valid source"):
        DirectorySource(tree, TERMS, Packing(spool=tmp_path, name="../x"))
    with pytest.raises(UnavailableError, match="can't be written"):
        DirectorySource(tree, TERMS, Packing(spool=put(tmp_path / "file") / "spool")).days()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Scans 2026", "scans-2026"),
        ("..", "root"),
        ("ÄÖ", "root"),
        ("-x-", "x-"),
        ("a" * 99, "a" * 64),
        ("a.b_c", "a.b_c"),
    ],
)
def test_source_names(tmp_path: Path, name: str, expected: str) -> None:
    assert source_name(tmp_path / "x" / name) == (expected if name != ".." else source_name(tmp_path))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.PDF", "application/pdf"),
        ("a", ""),
        (".bashrc", ""),
        ("a.tar.xz", "application/x-xz"),
        ("a.b/c", ""),
        ("x.unknown", ""),
    ],
)
def test_media_types(name: str, expected: str) -> None:
    assert media_type_of(name) == expected


def listed(tmp_path: Path, lines: list[dict[str, Any]], kind: str) -> Path:
    path = tmp_path / f"list.{kind}"
    if kind == "jsonl":
        path.write_text("\n\n".join(json.dumps(line) for line in lines))
    else:
        names = list({name: None for line in lines for name in line})
        texts = [",".join(names)] + [
            ",".join(
                '"'
                + (json.dumps(value) if isinstance(value, dict) else "" if value is None else str(value)).replace(
                    '"', '""'
                )
                + '"'
                for value in (line.get(name) for name in names)
            )
            for line in lines
        ]
        path.write_text("\ufeff" + "\r\n".join(texts) + "\r\n")
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_lists_of_files(tmp_path: Path, packing: Packing, kind: str) -> None:
    put(tmp_path / "files" / "a.txt", b"aaa")
    put(tmp_path / "files" / "big", b"b" * 2000)
    at = "2026-03-01T13:00:00+01:00"
    lines: list[dict[str, Any]] = [
        {"uid": "a", "path": "files/a.txt", "created_at": at, "size": 3, "media_type": "text/x",
         "metadata": {"k": "ü", "n": 5, "none": None}, "retention_class": "long"},
        {"uid": "b", "path": str(tmp_path / "files/big"), "created_at": "2026-03-01"},
        {"uid": "by mtime", "path": "files/a.txt", "created_at": None},
        {"uid": "wrong size", "path": "files/a.txt", "created_at": at, "size": 4},
        {"uid": "missing", "path": "files/x", "created_at": at},
        {"uid": "outside", "path": "/etc/passwd", "created_at": at},
        {"uid": "dots", "path": "files/../../x", "created_at": at},
        {"uid": "nothing", "path": "", "created_at": at},
        {"uid": "class", "path": "files/a.txt", "created_at": at, "retention_class": "eternal"},
        {"uid": "media", "path": "files/a.txt", "created_at": at, "media_type": "x" * 200},
        {"uid": "meta", "path": "files/a.txt", "created_at": at, "metadata": {"k": "x" * 5000}},
        {"uid": "size", "path": "files/a.txt", "created_at": at, "size": "-1"},
        {"uid": "nested", "path": "files/a.txt", "created_at": at, "metadata": {"k": {"a": 1}}},
        {"uid": "", "path": "files/a.txt", "created_at": at},
        {"uid": "naive", "path": "files/a.txt", "created_at": "2026-03-01T12:00:00"},
        {"uid": "no time", "path": "files/x", "created_at": ""},
    ]  # fmt: skip
    source = ManifestSource(listed(tmp_path, lines, kind), TERMS, packing)
    assert packed(source, tmp_path) == {
        "a": b"aaa", "b": b"b" * 2000, "by mtime": b"aaa", "wrong size": "wrong-size", "missing": "missing-file",
        "outside": "forbidden-place", "dots": "forbidden-place", "nothing": "missing-content",
        "class": "unknown-class", "media": "bad-metadata", "meta": "bad-metadata", "size": "wrong-size",
        "nested": "bad-metadata", "": "bad-uid",
    }  # fmt: skip
    rows = {row.uid: row for row in rows_of(source, Window(source.name, "default", DAY))}
    assert rows["a"][1:3] == (to_micros(datetime(2026, 3, 1, 12, tzinfo=UTC)), "long")
    assert (rows["a"].media_type, rows["a"].metadata) == ("text/x", '{"k":"ü","n":"5"}')
    assert rows["by mtime"].created_at == to_micros(NOON)
    assert rows["b"].media_type == ""
    assert sorted((reject.uid, reject.reason) for reject in source.untimed(9)) == [
        ("naive", "bad-time"), ("no time", "null-time"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.csv", "uid,path,colour\nu,p,red\n", "unknown columns: colour"),
        ("a.csv", "uid\nu\n", "lacks path"),
        ("a.csv", "uid,path\nu,p,more\n", "unknown columns"),
        ("a.jsonl", '{"uid": "u"}', "lacks path"),
        ("a.jsonl", "{", "no JSON"),
        ("a.jsonl", "[]", "no JSON object"),
        ("a.txt", "", "neither .csv nor .jsonl"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, packing: Packing, name: str, text: str, what: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=what):
        ManifestSource(tmp_path / name, TERMS, packing).days()
    with pytest.raises(UsageError, match="no such list"):
        ManifestSource(tmp_path / "other.csv", TERMS, packing)


def test_metadata_in_a_list_that_is_no_json(tmp_path: Path, packing: Packing) -> None:
    put(tmp_path / "a")
    (tmp_path / "l.csv").write_text("uid,path,metadata\nu,a,{x\nv,a,[]\n")
    assert set(packed(ManifestSource(tmp_path / "l.csv", TERMS, packing), tmp_path).values()) == {"bad-metadata"}


def test_files_modified_after_the_last_day_are_named(tree: Path, packing: Packing) -> None:
    class Entry:
        """A directory entry from a broken clock; no file system at hand keeps such times."""

        name = path = "u"

        def stat(self, *, follow_symlinks: bool) -> os.stat_result:
            times = (10**12, 10**12, 10**12, 10**12 * 1.0, 10**12 * 1.0, 10**12 * 1.0, 10**21, 10**21, 10**21)
            return os.stat_result((0o100644, 1, 1, 1, 0, 0, 0, *times))

    source = DirectorySource(tree, Terms(frozenset({"s"}), "s", 10), packing)
    row = source._row(Entry(), "u")  # type: ignore[arg-type] # see above
    assert row == Reject("u", "bad-time", "modified outside year 1 to 9999")
