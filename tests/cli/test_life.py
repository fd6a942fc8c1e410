"""The life of a repository by the command line alone, on a real S3 server."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from typing import TYPE_CHECKING

import boto3
import pytest

from tests.cli.support import MARCH, Done, change_stored_byte, new_repository, process, some_directory, uri, vera, write
from tests.protocol.packing import opened
from tests.protocol.test_erasure import erase
from vera_core.errors import IncompatibleError

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store

DAY = "2026-03-01"


@pytest.fixture
def store(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A bucket with a repository, which VERA_REPOSITORY names."""
    new_repository(s3_store, tmp_path / "spool")
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    return s3_store


@pytest.fixture
def files(store: S3Store, tmp_path: Path) -> dict[str, bytes]:
    """Awkward files of one day, archived by `vera pack`; content by uid."""
    written = some_directory(tmp_path / "in")
    assert vera("pack", str(tmp_path / "in")).code == 0
    return written


def test_init(embedded_s3: EmbeddedS3, tmp_path: Path) -> None:
    where = "s3://made-by-init/some/where"
    plan = vera("init", where, "--dry-run", "--json").document
    assert (plan["ok"], plan["created_bucket"], plan["repository"]) == (True, True, where)
    assert vera("ls", "--repository", where).code == 3

    refused = vera("init", where, "--lock-mode", "COMPLIANCE")
    assert refused.code == 5
    assert "--accept-unerasable" in refused.err

    made = vera(
        "init", where, "--retain", "7y", "--class", "ledger=10y:regulated", "--bits", "3", "--trust-uids", "uuid7"
    )
    assert made.code == 0, made.err
    assert f"export VERA_REPOSITORY={where}" in made.text
    assert vera("init", where).code == 7
    assert vera("ls", "--repository", where).code == 0
    epochs = vera("epoch", "--repository", where, "--json").document["epochs"]
    assert [(item["n_bits"], item["state"]) for item in epochs] == [(3, "active")]
    # A UUIDv7 of 2026-03-01T10:00:00Z needs no --created-at here.
    found = vera("locate", "019ca8bb-0a80-7000-8000-000000000000", "--repository", where)
    assert found.text.startswith("default/20260301/")

    write(tmp_path / "in" / "a", b"a")
    assert vera("pack", str(tmp_path / "in"), "--class", "ledger", "--repository", where).code == 0
    kept = vera("stat", "a", "--created-at", DAY, "--repository", where, "--json").document
    assert kept["retention_class"] == "ledger"
    assert kept["lock_mode"] == "GOVERNANCE"


def test_init_refuses_a_bucket_that_cannot_lock(embedded_s3: EmbeddedS3) -> None:
    boto3.client("s3").create_bucket(Bucket="no-locks-here")
    refused = vera("init", "s3://no-locks-here/x", "--json").document
    assert (refused["error"]["kind"], refused["error"]["exit_code"]) == ("unsafe_store", 8)
    looked = vera("probe", "s3://no-locks-here/x", "--look-only", "--json")
    assert looked.code == 8
    assert not looked.document["ok"]


def test_probe(s3_store: S3Store) -> None:
    report = vera("probe", f"s3://{s3_store.bucket}/some/where", "--json").document
    assert report["ok"], report
    required = [promise for promise in report["promises"] if promise["required"]]
    assert len(required) > 10
    assert {promise["verdict"] for promise in required} == {"held"}
    assert list(s3_store.list_versions("")) == [], "everything that it made is removed"
    looked = vera("probe", f"s3://{s3_store.bucket}", "--look-only")
    assert (looked.code, looked.text) == (0, f"Bucket {s3_store.bucket}: is set up well.\n")


def test_everything_comes_back(files: dict[str, bytes], tmp_path: Path) -> None:
    for uid in ("empty", "a/b/c/deep.txt", "binary.bin", "every byte", "zeros.dat", "above the inline limit.bin"):
        got = vera("get", uid, "--created-at", DAY)
        assert (got.code, got.out, got.err) == (0, files[uid], "")
    assert vera("get", "größe-文書.txt", "--created-at", "2026-03-01T23:00:00+01:00").out == files["größe-文書.txt"]
    assert vera("get", "--created-at", DAY, "--", "--json").out == files["--json"]

    listed = vera("ls", DAY, "--json").document
    assert (listed["ok"], listed["count"]) == (True, len(files))
    assert {item["uid"]: item["size"] for item in listed["files"]} == {uid: len(data) for uid, data in files.items()}
    shown = vera("ls", DAY).text
    assert sorted(line.split(maxsplit=4)[-1] for line in shown.splitlines()) == sorted(files)
    assert vera("ls", "--json").document["days"][0]["day"] == "20260301"
    assert vera("ls", "--tenants").text == "default\n"
    assert vera("ls", "2026-03-02", "--json").document["files"] == []


def test_into_a_file(files: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out" / "file.bin"
    out.parent.mkdir()
    command = ("get", "binary.bin", "--created-at", DAY, "-o", str(out))
    got = vera(*command)
    assert (got.code, got.out, got.err) == (0, b"", "")
    assert out.read_bytes() == files["binary.bin"]
    assert vera(*command).code == 7
    out.write_bytes(b"something else")
    document = vera(*command, "--force", "--json").document
    assert (document["uid"], document["output"]) == ("binary.bin", str(out))
    assert out.read_bytes() == files["binary.bin"]
    assert vera("get", "no such", "--created-at", DAY, "-o", str(out), "--force").code == 3
    assert vera("get", "binary.bin", "--created-at", DAY, "-o", str(out.parent)).code == 2
    assert [path.name for path in out.parent.iterdir()] == ["file.bin"]
    assert out.read_bytes() == files["binary.bin"]


def test_again_and_changed(files: dict[str, bytes], tmp_path: Path) -> None:
    again = vera("pack", str(tmp_path / "in"), "--json").document
    assert (again["ok"], again["packed_now"], again["rejected"]) == (True, 0, 0)

    write(tmp_path / "in" / "binary.bin", b"changed", MARCH + timedelta(hours=1))
    write(tmp_path / "in" / "new", b"new", MARCH + timedelta(days=1))
    changed = vera("pack", str(tmp_path / "in"), "--json").document
    assert changed["packed_now"] == 2
    assert vera("get", "binary.bin", "--created-at", DAY).out == b"changed"
    versions = vera("stat", "binary.bin", "--created-at", DAY, "--versions", "--json").document["versions"]
    assert [item["size"] for item in versions] == [len(files["binary.bin"]), len(b"changed")]
    first = versions[0]["version"]
    assert vera("get", "binary.bin", "--created-at", DAY, "--version", first).out == files["binary.bin"]
    assert vera("get", "binary.bin", "--created-at", DAY, "--version", "9.9").code == 3
    assert vera("get", "binary.bin", "--created-at", DAY, "--version", "latest").code == 2
    assert f"  {first}" in vera("stat", "binary.bin", "--created-at", DAY, "--versions").text
    assert "changed" not in vera("stat", "binary.bin", "--created-at", DAY).text


def test_names_that_cannot_be_archived(store: S3Store, tmp_path: Path) -> None:
    root = tmp_path / "in"
    write(root / "good", b"good")
    (root / "link").symlink_to("good")
    os.mkfifo(root / "pipe")
    with open(os.fsencode(root) + b"/\xff\xfe", "wb") as bad:  # noqa: PTH123 - the name is no text
        bad.write(b"x")
    plan = vera("pack", str(root), "--dry-run", "--json").document
    assert plan["files"] == 4
    assert vera("ls").out == b"", "a dry run archives nothing"
    done = vera("pack", str(root), "--json")
    assert done.code == 10
    assert {(item["uid"], item["reason"]) for item in done.document["rejects"]} == {
        ("link", "not-a-file"), ("pipe", "not-a-file"), ("\\udcff\\udcfe", "bad-uid"),
    }  # fmt: skip
    assert vera("get", "good", "--created-at", DAY).out == b"good"
    told = vera("pack", str(root))
    assert told.code == 10
    assert "rejected: link" in told.text


def test_a_list_of_files(store: S3Store, tmp_path: Path) -> None:
    write(tmp_path / "scans" / "1.pdf", b"%PDF")
    row = {"uid": "case 17/page 1", "path": "scans/1.pdf", "created_at": "2026-03-01T10:00:00Z", "metadata": {"a": "b"}}
    (tmp_path / "list.jsonl").write_text(json.dumps(row) + "\n")
    assert vera("pack", str(tmp_path / "list.jsonl"), "--name", "scans").code == 0
    kept = vera("stat", "case 17/page 1", "--created-at", DAY, "--json").document
    assert (kept["metadata"], kept["media_type"]) == ({"a": "b"}, "application/pdf")
    assert "metadata a" in vera("stat", "case 17/page 1", "--created-at", DAY).text
    (tmp_path / "bad.csv").write_text("uid,file\n1,2\n")
    assert vera("pack", str(tmp_path / "bad.csv")).code == 2
    assert "no such directory or list" in vera("pack", str(tmp_path / "none")).err
    assert vera("pack", str(tmp_path / "scans"), "--class", "never").code == 2


def test_tenants_do_not_see_each_other(files: dict[str, bytes], tmp_path: Path) -> None:
    assert vera("get", "empty", "--created-at", DAY, "--tenant", "other").code == 3
    assert vera("ls", DAY, "--tenant", "other").out == b""
    assert vera("pack", str(tmp_path / "in"), "--tenant", "other", "--json").document["packed_now"] == len(files)
    assert vera("get", "empty", "--created-at", DAY, "--tenant", "other").code == 0
    assert vera("ls", "--tenants", "--json").document["tenants"] == ["default", "other"]
    assert vera("get", "empty", "--created-at", DAY, "--tenant", "Bad Name").code == 2


def test_verify_and_doctor_on_a_sound_archive(files: dict[str, bytes]) -> None:
    for arguments in ([], ["--deep"], ["--from", DAY, "--to", DAY], ["--tenant", "default"]):
        report = vera("verify", *arguments, "--json").document
        assert report["ok"], report
        assert report["entries"] == len(files)
    assert vera("verify", "--from", "2026-03-02", "--json").document["entries"] == 0
    assert "passed" in vera("verify").text
    assert "Nothing to put right." in vera("doctor").text
    assert vera("doctor", "--dry-run", "--json").document["done"] is None


def test_damage_is_found_and_never_handed_out(
    files: dict[str, bytes], store: S3Store, embedded_s3: EmbeddedS3, tmp_path: Path
) -> None:
    kept = vera("stat", "above the inline limit.bin", "--created-at", DAY, "--json").document
    change_stored_byte(embedded_s3, store, kept["shard"], kept["version_id"])
    got = vera("get", "above the inline limit.bin", "--created-at", DAY)
    assert (got.code, got.out) == (6, b"")
    for name in (kept["shard"], kept["version_id"], store.bucket):
        assert name in got.err
    out = tmp_path / "out"
    assert vera("get", "above the inline limit.bin", "--created-at", DAY, "-o", str(out)).code == 6
    assert not out.exists()
    deep = vera("verify", "--deep", "--json")
    assert deep.code == 6
    assert kept["shard"] in [found["key"] for check in deep.document["checks"] for found in check["findings"]]
    assert "FAILED" in vera("verify", "--deep").text
    assert vera("get", "binary.bin", "--created-at", DAY).out == files["binary.bin"], "the others are not concerned"


def test_an_attack_by_put_and_delete_changes_nothing(files: dict[str, bytes], store: S3Store) -> None:
    for key in sorted({info.key for info in store.list_versions("")}):
        store.put(key, b"nothing here")
        store.delete(key)
    assert vera("get", "binary.bin", "--created-at", DAY).out == files["binary.bin"]
    plan = vera("doctor", "--dry-run", "--json")
    assert plan.code == 6
    assert plan.document["plan"]["removals"] > 0
    mended = vera("doctor", "--json").document
    assert mended["done"]["removed"] == plan.document["plan"]["removals"]
    assert mended["done"]["sidecars"] > 0
    assert vera("doctor", "--dry-run", "--json").document["plan"]["removals"] == 0
    assert vera("verify", "--deep").code == 0
    assert vera("get", "binary.bin", "--created-at", DAY).out == files["binary.bin"]


def test_an_erased_file(files: dict[str, bytes], store: S3Store, tmp_path: Path) -> None:
    erase(opened(store, tmp_path / "spool"), "binary.bin")
    got = vera("get", "binary.bin", "--created-at", DAY)
    assert (got.code, got.out) == (4, b"")
    assert vera("get", "binary.bin", "--created-at", DAY, "-o", str(tmp_path / "out")).code == 4
    assert not (tmp_path / "out").exists()
    assert "erased" in vera("stat", "binary.bin", "--created-at", DAY, "--versions").text
    assert "binary.bin" not in vera("ls", DAY).text
    assert vera("get", "empty", "--created-at", DAY).code == 0


def test_a_process_of_its_own(files: dict[str, bytes]) -> None:
    """Bytes through a real pipe, and settings from the environment of a real process."""
    assert process("get", "every byte", "--created-at", DAY) == Done(0, files["every byte"], "")
    assert process("get", "zeros.dat", "--created-at", DAY).out == files["zeros.dat"]
    assert process("get", "no such", "--created-at", DAY).code == 3
    assert json.loads(process("ls", DAY, "--json").out)["count"] == len(files)


# ---------------------------------------------------------------------- what is not there, or not as it should be


def test_nothing_there(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vera("get", "a", "--created-at", DAY).code == 3
    assert vera("get", "a").code == 2, "without a time nobody knows where to look"
    assert vera("ls", "--repository", f"{uri(store)}/elsewhere").code == 3
    assert vera("ls", "--repository", "s3://no-such-bucket-here/x").code == 3
    monkeypatch.delenv("VERA_REPOSITORY")
    unnamed = vera("ls")
    assert unnamed.code == 2
    assert "VERA_REPOSITORY" in unnamed.err


def test_settings_that_are_wrong(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vera("ls", "--settings", str(tmp_path / "none.toml")).code == 2
    (tmp_path / "vera.toml").write_text("repositroy = 's3://x/y'")
    wrong = vera("ls", "--settings", str(tmp_path / "vera.toml"))
    assert wrong.code == 2
    assert "repositroy" in wrong.err
    monkeypatch.setenv("VERA_WORKERS", "many")
    assert "VERA_WORKERS" in vera("ls").err


def test_wrong_credentials(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    refused = vera("ls", "--json")
    assert refused.code == 2
    assert refused.document["error"]["where"]["bucket"] == store.bucket
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    absent = vera("ls")
    assert absent.code == 2
    assert "AWS_ACCESS_KEY_ID" in absent.err


def test_a_store_that_is_down(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    down = vera("get", "a", "--created-at", DAY)
    assert down.code == 9
    assert store.bucket in down.err


def test_a_newer_repository(s3_store: S3Store, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError):
        new_repository(s3_store, tmp_path, min_reader=99)  # it is made, and can't be opened even by its maker
    newer = vera("get", "a", "--created-at", DAY, "--repository", uri(s3_store))
    assert newer.code == 11
    assert "newer VERA" in newer.err


def test_epochs(files: dict[str, bytes]) -> None:
    assert vera("epoch", "2026-02-01", "4").code == 5, "files are archived after that day"
    planned = vera("epoch", "2026-04-01", "4", "--dry-run", "--json").document
    assert (planned["ok"], planned["state"]) == (True, "active")
    assert len(vera("epoch", "--json").document["epochs"]) == 1
    assert vera("epoch", "2026-04-01", "4").code == 0
    assert vera("epoch", "2026-04-01", "4").code == 2, "an epoch begins after every active one"
    assert [item["n_bits"] for item in vera("epoch", "--json").document["epochs"]] == [1, 4]
    assert vera("locate", "x", "--created-at", "2026-04-01", "--json").document["n_bits"] == 4
    assert vera("locate", "x", "--created-at", "2026-03-31", "--json").document["n_bits"] == 1
