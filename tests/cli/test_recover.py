"""`vera recover` as people use it: on a file, on an object, on a shard of the repository."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import random
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.support import (
    VERA,
    change_stored_byte,
    new_repository,
    process,
    some_directory,
    uri,
    vera,
)
from tests.protocol.packing import opened
from tests.protocol.test_erasure import erase
from vera_core.codec import digest
from vera_core.encoding import Encoder
from vera_core.format import FileSource, Names, ShardOptions, ShardReader, ShardWriter
from vera_core.model import Erasability, Origin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store

DAY = "2026-03-01"
NOON = 1_772_625_600_000_000
REPOSITORY = "5a" * 16
FILES = {f"in/{number}.json": b'{"number": %d, "text": "some text"}' % number * 5 for number in range(60)}


def write_shard(path: Path, files: Mapping[str, bytes] = FILES, **options: Any) -> bytes:
    """A shard in small groups under its digest's name in `path`; returns its bytes."""
    out = io.BytesIO()
    options = {"retention_class": "std", "group_entries": 10, **options}
    writer = ShardWriter(out, options=ShardOptions(bytes.fromhex(REPOSITORY), **options))
    uids = sorted(files, key=lambda uid: (digest(uid.encode())[:8], uid.encode()))
    names = Names(uids, [NOON + number for number in range(len(uids))], [("", ())] * len(uids))
    writer.append_batch(names, Encoder().encode([files[uid] for uid in uids]))
    writer.finish()
    path.mkdir(exist_ok=True)
    (path / name_of(out.getvalue())).write_bytes(out.getvalue())
    return out.getvalue()


def name_of(data: bytes) -> str:
    return f"{hashlib.sha256(data).hexdigest()[:32]}.vera"


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def reader(path: Path) -> ShardReader:
    return ShardReader.open(FileSource(path))


def damage(path: Path, *places: int, tail: int = 0) -> None:
    """Changes a byte at each place and zeroes the last `tail` bytes."""
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 0x20
    data[len(data) - tail :] = bytes(tail)
    path.write_bytes(bytes(data))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, without any repository."""
    for name in ("VERA_REPOSITORY", "VERA_SETTINGS"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def shard(here: Path) -> Path:
    """A local shard under its digest's name."""
    return here.parent / "shards" / name_of(write_shard(here.parent / "shards"))


# ---------------------------------------------------------------------- a local file


def test_without_directory_and_footer_it_comes_back_bit_for_bit(shard: Path, here: Path) -> None:
    data = shard.read_bytes()
    damage(shard, tail=300)
    done = process("recover", str(shard), cwd=here)
    assert done.code == 0, done.err
    assert "All 60 files are saved, in a shard that is bit for bit the one that was archived." in done.text
    out = here / f"{shard.stem}.recovered.vera"
    assert out.read_bytes() == data
    assert names_in(here) == [out.name]
    again = process("recover", str(shard), cwd=here)
    assert (again.code, again.out) == (7, b"")
    assert "--force" in again.err
    assert process("recover", str(shard), "--force", cwd=here).code == 0


def test_what_is_lost_is_told_and_the_rest_saved(shard: Path, here: Path) -> None:
    whole = reader(shard)
    entries = list(whole.entries())
    lost_group, lost_entry = range(10, 20), entries[35]
    damage(shard, whole.directory.blocks[1] + 70, lost_entry.offset)
    refused = process("recover", str(shard), cwd=here)
    assert refused.code == 2
    assert "49 of 60 files are saved" in refused.text, "what is left is shown all the same"
    assert "commit" in refused.err
    assert names_in(here) == []

    done = process("recover", str(shard), "--commit", "7", "-o", "saved.vera", "--losses", "lost.jsonl", cwd=here)
    assert done.code == 6
    assert "lost: entries 10 to 19: the checksum of a group does not match" in done.text
    assert f"lost: entry 35, {lost_entry.uid}: the stored bytes do not match their CRC32" in done.text
    saved = reader(here / "saved.vera")
    saved.verify()
    kept = [entry for entry in entries if entry.ordinal not in {*lost_group, 35}]
    assert [(entry.uid, entry.origin) for entry in saved.entries()] == [
        (entry.uid, Origin(7, entry.ordinal)) for entry in kept
    ]
    assert {entry.uid: content for entry, content in saved.read_all()} == {
        entry.uid: FILES[entry.uid] for entry in kept
    }
    losses = [json.loads(line) for line in (here / "lost.jsonl").read_text().splitlines()]
    assert {(loss["first"], loss["count"], loss["uid"]) for loss in losses} == {(10, 10, ""), (35, 1, lost_entry.uid)}


def test_the_report_as_json(shard: Path, here: Path) -> None:
    entries = list(reader(shard).entries())
    damage(shard, entries[35].offset)
    done = process("recover", str(shard), "--commit", "7", "--json", cwd=here)
    report = json.loads(done.out)
    assert (done.code, done.err) == (6, "")
    assert (report["ok"], report["outcome"], report["saved"], report["lost"], report["entries"]) == (
        False, "partial", 59, 1, 60,
    )  # fmt: skip
    [told] = report["damages"]
    assert (told["first"], told["uid"], told["position"]) == (35, entries[35].uid, entries[35].offset)
    assert report["output"] == f"{shard.stem}.recovered.vera"
    assert report["sha256"] == hashlib.sha256((here / report["output"]).read_bytes()).hexdigest()
    assert report["archived_sha256"] == shard.stem


def test_a_dry_run_writes_nothing(shard: Path, here: Path) -> None:
    assert process("recover", str(shard), "--dry-run", "-o", "x", "--files", "y", cwd=here).code == 0
    damage(shard, reader(shard).directory.blocks[1] + 70)
    told = process("recover", str(shard), "--dry-run", "--json", cwd=here)
    assert told.code == 6
    assert "commit" in json.loads(told.out)["obstacle"]
    assert names_in(here) == []


def test_the_four_outcomes(shard: Path, here: Path) -> None:
    data = shard.read_bytes()
    right = hashlib.sha256(data).hexdigest()
    renamed = here / "renamed.vera"
    renamed.write_bytes(data)

    def outcome(*arguments: str) -> tuple[int, str]:
        done = vera("recover", str(renamed), "--dry-run", "--json", *arguments)
        return done.code, json.loads(done.out)["outcome"]

    assert outcome() == (0, "complete")
    assert outcome("--sha256", right) == (0, "identical")
    assert outcome("--sha256", right[:32].upper()) == (0, "identical")
    assert outcome("--sha256", "ab" * 32) == (6, "altered")
    assert "not the one that was archived" in vera("recover", str(renamed), "--dry-run", "--sha256", "ab" * 32).text
    damage(renamed, tail=300)
    assert outcome() == (6, "partial"), "whether more groups followed nothing tells"
    assert "at least 60 files" in vera("recover", str(renamed), "--dry-run").text
    assert outcome("--sha256", right) == (0, "identical"), "but the digest does"


def test_the_damaged_shard_is_never_written_over(shard: Path, here: Path) -> None:
    before = shard.read_bytes()
    (here / "link").symlink_to(shard)
    os.link(shard, here / "hard link")
    for target in (str(shard), "link", "hard link"):
        for option in ("-o", "--losses"):
            refused = vera("recover", str(shard), option, target, "--force")
            assert refused.code == 2
            assert "never written over" in refused.err
    assert vera("recover", str(shard), "-o", "same", "--losses", "same").code == 2
    assert vera("recover", str(shard), "--files", str(here)).code == 7
    assert shard.read_bytes() == before
    assert names_in(here) == ["hard link", "link"]


def test_a_lost_header(here: Path) -> None:
    data = write_shard(here, retention_class="ledger", erasability=Erasability.REGULATED)
    shard = here / name_of(data)
    shard.write_bytes(bytes(256) + data[256:])
    assert vera("recover", shard.name).code == 2
    assert vera("recover", shard.name, "--retention-class", "std").code == 2
    assert vera("recover", shard.name, "--retention-class", "ledger", "-o", "a").code == 0, "the footer proves the rest"
    assert (here / "a").read_bytes() == data
    damage(shard, tail=300)
    options = ("--retention-class", "ledger:regulated", "-o", "b")
    assert vera("recover", shard.name, *options).code == 2
    assert vera("recover", shard.name, *options, "--repository-id", REPOSITORY).code == 0
    assert (here / "b").read_bytes() == data


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["none.vera"], 3, "no such file"),
        (["."], 2, "no regular file"),
        (["s3://bucket-only"], 2, "no object"),
        (["junk"], 6, "nothing can be saved"),
        (["empty"], 6, "nothing can be saved"),
        (["junk", "--sha256", "abc"], 2, "no SHA-256"),
        (["junk", "--commit", "0"], 2, "no number of a commit"),
        (["junk", "--repository-id", "zz"], 2, "no repository id"),
        (["junk", "--retention-class", "No"], 2, "no valid retention class"),
        (["junk", "--retention-class", "a:never"], 2, "no retention class"),
        (["junk", "-o", "no/such/place"], 9, "can't be written"),
    ],
)
def test_what_cannot_be_recovered(arguments: list[str], code: int, says: str, here: Path) -> None:
    (here / "junk").write_bytes(random.Random(1).randbytes(50_000))
    (here / "empty").write_bytes(b"")
    done = vera("recover", *arguments)
    assert (done.code, done.out) == (code, b"")
    assert says in done.err
    assert names_in(here) == ["empty", "junk"]


def test_an_interrupt_leaves_nothing(here: Path) -> None:
    noise = random.Random(3).randbytes(40_000)
    data = write_shard(here, {f"uid-{number}": b"%d" % number + noise for number in range(2500)}, group_entries=None)
    shard = name_of(data)
    with subprocess.Popen([*VERA, "recover", shard, "-o", "out", "--files", "files"], cwd=here) as running:
        while len(names_in(here)) < 3:
            assert running.poll() is None
            time.sleep(0.01)
        running.send_signal(signal.SIGTERM)
    assert running.returncode == 143
    assert names_in(here) == [shard]


def test_progress_on_a_terminal(shard: Path) -> None:
    terminal, inner = pty.openpty()
    done = subprocess.run([*VERA, "recover", str(shard), "--dry-run"], stderr=inner, capture_output=False, check=False)
    os.close(inner)
    shown = os.read(terminal, 100_000).decode()
    os.close(terminal)
    assert done.returncode == 0
    assert "Recovering: reading" in shown
    assert "MiB/s" in shown


# ---------------------------------------------------------------------- the files


def test_files_have_their_names_where_these_are_good(here: Path) -> None:
    named = {
        "plain.txt": b"1",
        "a/b/c.txt": b"2",
        "größe-文書.txt": b"3",
        "a/b": b"a directory's name, or the directory a file's",
        "-rf": b"4",
        "x" * 255: b"5",
    }
    unnamed = {
        "/etc/passwd": b"6",
        "../outside": b"7",
        "a//b": b"8",
        "a/./b": b"9",
        "y" * 256: b"10",
        "trailing/": b"11",
    }
    files = {**named, **unnamed, "files.jsonl": b"not the list"}
    shard = here / name_of(write_shard(here, files))
    assert vera("recover", shard.name, "--files", "out").code == 0
    out = here / "out"
    assert names_in(here) == sorted([shard.name, "out"]), "no shard without -o"
    lines = [json.loads(line) for line in (out / "files.jsonl").read_text().splitlines()]
    assert {line["uid"]: (out / line["path"]).read_bytes() for line in lines} == files
    assert all((out / line["path"]).resolve().is_relative_to(out) for line in lines)
    for uid, content in named.items():
        if uid not in {"a/b", "a/b/c.txt"}:
            assert (out / "files" / uid).read_bytes() == content
    assert len(list((out / "other").iterdir())) == len(unnamed) + 1
    times = {line["uid"]: datetime.fromisoformat(line["created_at"]) for line in lines}
    assert datetime.fromtimestamp((out / "files" / "plain.txt").stat().st_mtime, UTC) == times["plain.txt"]


def test_the_latest_version_has_the_name(here: Path) -> None:
    out = io.BytesIO()
    writer = ShardWriter(out, options=ShardOptions(bytes(16), "std"))
    names = Names(["same"] * 3, [NOON, NOON + 1, NOON + 2], [("", ())] * 3)
    writer.append_batch(names, Encoder().encode([b"first", b"second", b"third"]))
    writer.finish()
    (here / "s.vera").write_bytes(out.getvalue())
    assert vera("recover", "s.vera", "--files", "out").code == 0
    assert (here / "out" / "files" / "same").read_bytes() == b"third"
    older = [json.loads(line) for line in (here / "out" / "older.jsonl").read_text().splitlines()]
    assert [(here / "out" / line["path"]).read_bytes() for line in older] == [b"first", b"second"]


def test_the_file_of_a_streamed_shard(here: Path) -> None:
    content = b"PK\x03\x04" + random.Random(4).randbytes(3 << 20)
    out = io.BytesIO()
    writer = ShardWriter(out, options=ShardOptions(bytes(16), "std"))
    writer.append_stream("big.zip", NOON, io.BytesIO(content), len(content))
    writer.finish()
    shard = here / name_of(out.getvalue())
    shard.write_bytes(out.getvalue()[:-250])
    done = vera("recover", shard.name, "--files", "out", "-o", "again.vera")
    assert done.code == 0, done.err
    assert (here / "out" / "files" / "big.zip").read_bytes() == content
    assert (here / "again.vera").read_bytes() == out.getvalue()
    damage(shard, 5000)
    lost = vera("recover", shard.name, "--files", "lost")
    assert lost.code == 6
    assert not (here / "lost").exists()


# ---------------------------------------------------------------------- in a bucket


@pytest.fixture
def store(s3_store: S3Store, tmp_path: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A bucket with a repository, which VERA_REPOSITORY names."""
    new_repository(s3_store, tmp_path / "spool", inline_limit=20_000)
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    return s3_store


@pytest.fixture
def files(store: S3Store, tmp_path: Path) -> dict[str, bytes]:
    """Awkward files of one day, archived by `vera pack`; content by uid."""
    written = some_directory(tmp_path / "in")
    assert vera("pack", str(tmp_path / "in")).code == 0
    return written


def test_a_shard_of_the_repository(
    files: dict[str, bytes], store: S3Store, embedded_s3: EmbeddedS3, tmp_path: Path, here: Path
) -> None:
    """The slot log tells version, digest and commit; nothing need be given, and a newer version misleads nobody."""
    kept = vera("stat", "binary.bin", "--created-at", DAY, "--json").document
    change_stored_byte(embedded_s3, store, kept["shard"], kept["version_id"])
    store.put(kept["shard"], b"something else")
    [found] = [
        finding
        for check in json.loads(vera("verify", "--deep", "--json").out)["checks"]
        for finding in check["findings"]
        if finding["key"] == kept["shard"] and not finding["uid"]
    ]
    for name in (found["key"], f"s3://{store.bucket}/{found['key']}"):
        done = vera("recover", name, "--json", "-o", "out.vera", "--force")
        report = done.document
        assert done.code == 6
        assert (report["outcome"], report["version_id"]) == ("partial", kept["version_id"])
        assert report["archived_sha256"].startswith(Path(kept["shard"]).stem)
        assert len(report["archived_sha256"]) == 64
        assert report["saved"] + report["lost"] == report["entries"]
        saved = reader(here / "out.vera")
        for entry, content in saved.read_all():
            assert content == files[entry.uid]
        shown = vera("stat", "--created-at", DAY, "--json", "--", entry.uid).document
        assert entry.origin is not None
        assert f"{entry.origin.commit}.{entry.origin.ordinal}" == shown["version"]
    assert list((tmp_path / "spool").glob("recover-*")) == []
    whole = vera("stat", "above the inline limit.bin", "--created-at", DAY, "--json").document
    assert vera("recover", whole["shard"], "--dry-run", "--json").document["outcome"] == "identical"


def test_a_shard_is_put_back(
    files: dict[str, bytes], store: S3Store, embedded_s3: EmbeddedS3, tmp_path: Path, here: Path
) -> None:
    """Its footer is lost: recovered it is bit for bit the archived one, and takes the damaged one's place."""
    before = vera("stat", "binary.bin", "--created-at", DAY, "--json").document
    key = before["shard"]
    replica = here / "replica.vera"
    replica.write_bytes(store.get(key, version_id=before["version_id"]).data)
    whole = vera("recover", key, "--put-back")
    assert (whole.code, "whole" in whole.err) == (7, True)
    change_stored_byte(embedded_s3, store, key, before["version_id"], from_end=9)
    assert vera("get", "binary.bin", "--created-at", DAY).code == 6
    tried = vera("recover", key, "--put-back", "--dry-run", "--json").document
    assert (tried["outcome"], tried["put_back"]) == ("identical", None)
    done = vera("recover", key, "--put-back", "--json")
    report = done.document
    assert (done.code, report["outcome"]) == (0, "identical")
    assert report["put_back"]["damaged_version"] == before["version_id"]
    after = vera("stat", "binary.bin", "--created-at", DAY, "--json").document
    assert after["version_id"] == report["put_back"]["version_id"] != before["version_id"]
    same = ("version", "sha256", "lock_until", "shard")
    assert [after[name] for name in same] == [before[name] for name in same], "also its lock"
    assert vera("get", "binary.bin", "--created-at", DAY).out == files["binary.bin"]
    assert vera("verify", "--deep").code == 0
    assert vera("doctor", "--dry-run").code == 0
    assert vera("pack", str(tmp_path / "in"), "--json").document["packed_now"] == 0

    change_stored_byte(embedded_s3, store, key, after["version_id"])
    partial = vera("recover", key, "--put-back", "-o", "some.vera")
    assert (partial.code, "Not put back" in partial.text) == (6, True)
    refused = vera("recover", str(replica), "--put-back")
    assert (refused.code, "--key" in refused.err) == (2, True)
    placed = vera("recover", str(replica), "--put-back", "--key", key)
    assert (placed.code, "Put back" in placed.text) == (0, True)
    assert vera("get", "binary.bin", "--created-at", DAY).out == files["binary.bin"]
    assert vera("verify", "--deep").code == 0


def test_erased_files_stay_erased(files: dict[str, bytes], store: S3Store, tmp_path: Path, here: Path) -> None:
    erase(opened(store, tmp_path / "spool"), "binary.bin")
    key = vera("stat", "--versions", "binary.bin", "--created-at", DAY, "--json").document["versions"][0]["shard"]
    report = vera("recover", key, "--files", "out", "--json").document
    assert (report["outcome"], report["erased"]) == ("identical", 1)
    uids = {json.loads(line)["uid"] for line in (here / "out" / "files.jsonl").read_text().splitlines()}
    assert "binary.bin" not in uids
    assert len(uids) == report["saved"] - 1
    assert not (here / "out" / "files" / "binary.bin").exists()


def test_saved_files_can_be_packed_again(files: dict[str, bytes], store: S3Store, here: Path) -> None:
    key = vera("stat", "größe-文書.txt", "--created-at", DAY, "--json").document["shard"]
    saved = vera("recover", key, "--files", "out", "--json").document["saved"]
    done = vera("pack", "out/files.jsonl", "--tenant", "saved", "--json")
    assert (done.code, done.document["rejected"], done.document["packed_now"]) == (0, 0, saved)
    listed = vera("ls", DAY, "--tenant", "saved", "--json").document["files"]
    assert {item["uid"]: item["sha256"] for item in listed} == {
        item["uid"]: hashlib.sha256(files[item["uid"]]).hexdigest() for item in listed
    }
    assert len(listed) == saved


def test_an_object_elsewhere(s3_store: S3Store, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository is needed: the digest is in the name, and a version can be named."""
    data = write_shard(here.parent / "made")
    key = f"copies/{name_of(data)}"
    first = s3_store.put(key, data[:-300]).version_id
    s3_store.put(key, b"newer, and no shard")
    where = f"s3://{s3_store.bucket}/{key}"
    monkeypatch.setenv("VERA_SPOOL", str(here.parent / "spool"))
    assert vera("recover", where).code == 6
    assert vera("recover", where, "--version-id", first).code == 0
    assert (here / f"{Path(key).stem}.recovered.vera").read_bytes() == data
    assert vera("recover", f"s3://{s3_store.bucket}/none.vera").code == 3
    assert vera("recover", f"s3://{s3_store.bucket}").code == 2
