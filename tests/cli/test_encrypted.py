"""Reading encrypted repositories on the command line: real store, real OpenBao, and an exit code for whatever fails."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import new_repository, uri, vera, write
from tests.openbao import OpenBao
from vera_core.config import Encryption
from vera_core.operations.opening import open_repository
from vera_core.operations.walk import all_slots
from vera_core.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.slots import ShardRef
    from vera_core.store.s3 import S3Store

DAY = "2026-03-01"
FILES = {f"letter/{number:02d}.txt": b"Dear customer %d" % number * 20 for number in range(40)}
ASK = ("--created-at", DAY)


@pytest.fixture(scope="module")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.fixture
def archive(s3_store: S3Store, openbao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A packed encrypted repository that the settings in the working directory name."""
    monkeypatch.chdir(tmp_path)
    for name in ("VERA_REPOSITORY", "VERA_SETTINGS", "VAULT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("BAO_TOKEN", openbao.root.token)
    keys = openbao.keys()
    new_repository(s3_store, tmp_path / "spool", encryption=Encryption(keys.kek))
    (tmp_path / "vera.toml").write_text(
        f'repository = "{uri(s3_store)}"\nspool = "{tmp_path}/spool"\n\n[keys]\nservice = "transit"\n'
        f'address = "{openbao.address}"\nkey = "{keys.kek.rpartition("/")[2]}"\nplain_http = true\n'
    )
    for name, content in FILES.items():
        write(tmp_path / "in" / name, content)
    packed = vera("pack", "in")
    assert packed.code == 0, packed.err + packed.text
    return s3_store


def shards() -> list[ShardRef]:
    repo = open_repository(Settings.load())
    return [shard for slot in all_slots(repo) for shard in repo.slot_log(slot).load().live()]


def test_reading_is_as_ever(archive: S3Store, tmp_path: Path) -> None:
    for name, content in list(FILES.items())[:5]:
        assert vera("get", name, *ASK).out == content
        found = vera("stat", name, *ASK, "--json").document
        assert (found["uid"], found["size"]) == (name, len(content))
        assert found["sha256"] == hashlib.sha256(content).hexdigest()
    listed = vera("ls", DAY, "--json").document
    assert {item["uid"] for item in listed["files"]} == set(FILES)
    for deep in ((), ("--deep",)):
        done = vera("verify", *deep)
        assert done.code == 0, done.text
    assert vera("get", "letter/none", *ASK).code == 3


def test_a_key_service_that_fails_is_told_by_its_exit_code(
    archive: S3Store, openbao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is read, nothing is verified, nothing is guessed; and all is well again once the service is."""
    (tmp_path / "plain.toml").write_text(f'repository = "{uri(archive)}"\nspool = "{tmp_path}/spool"\n')
    wrong_key = (tmp_path / "vera.toml").read_text().replace('key = "', 'key = "not-')
    (tmp_path / "wrong.toml").write_text(wrong_key)
    commands = [
        ("get", "letter/01.txt", *ASK), ("stat", "letter/01.txt", *ASK), ("ls", DAY), ("find", "a=b"), ("verify",),
        ("verify", "--deep"),
    ]  # fmt: skip

    def codes(*options: str) -> set[int]:
        found = set()
        for command in commands:
            done = vera(*command, *options)
            assert b"Dear" not in done.out
            assert not any(name in done.err for name in FILES if name not in command)
            found.add(done.code)
        return found

    assert codes("--settings", str(tmp_path / "plain.toml")) == {2}
    assert codes("--settings", str(tmp_path / "wrong.toml")) == {2}, "the repository names another KEK"
    monkeypatch.setenv("BAO_TOKEN", openbao.token('path "transit/encrypt/*" { capabilities = ["update"] }'))
    assert codes() == {5}
    monkeypatch.delenv("BAO_TOKEN")
    assert codes() == {5}, "no token"
    monkeypatch.setenv("BAO_TOKEN", openbao.root.token)
    openbao.seal()
    try:
        assert codes() == {9}
        failed = vera("ls", DAY, "--json")
        assert failed.code == 9
        assert json.loads(failed.text)["error"]["kind"] == "unavailable"
    finally:
        openbao.unseal()
    assert vera("verify", "--deep").code == 0


def test_a_keyring_that_is_gone_is_an_integrity_error_that_names_it(archive: S3Store) -> None:
    for shard in shards():
        archive.delete(shard.key.removesuffix(".vera") + ".keys")
    assert vera("get", "letter/01.txt", *ASK).out == FILES["letter/01.txt"], "a delete marker hides it, no more"
    for shard in shards():
        key = shard.key.removesuffix(".vera") + ".keys"
        for info in list(archive.list_versions(key)):
            archive.delete(key, version_id=info.version_id)
    failed = vera("get", "letter/01.txt", *ASK)
    assert failed.code == 6
    assert ".keys" in failed.err
    assert "copy" in failed.err
    assert vera("verify").code == vera("verify", "--deep").code == 6


def test_erased_files_and_recovery(archive: S3Store, tmp_path: Path) -> None:
    gone, *_ = FILES
    erased = vera("erase", gone, *ASK, "--reason", "Art. 17", "--request-id", "r-1")
    assert erased.code == 0, erased.err
    assert vera("get", gone, *ASK).code == vera("stat", gone, *ASK).code == 4
    versions = vera("stat", gone, *ASK, "--versions")
    assert versions.code == 0
    assert "erased" in versions.text
    assert vera("verify", "--deep").code == 0
    saved: set[str] = set()
    for number, shard in enumerate(shards()):
        copy = tmp_path / f"copy-{number}.vera"
        copy.write_bytes(archive.get(shard.key).data[:-200])
        assert vera("recover", str(copy), "--files", str(tmp_path / "no")).code == 2
        done = vera("recover", str(copy), "--key", shard.key, "--files", str(tmp_path / f"saved-{number}"), "--json")
        assert done.code == 0, done.text
        found = Path(tmp_path / f"saved-{number}" / "files.jsonl").read_text().splitlines()
        saved |= {json.loads(line)["uid"] for line in found}
        elsewhere = archive.put(f"replica/{number}.vera", copy.read_bytes()).version_id
        there = ("--version-id", elsewhere, "--key", shard.key, "--files", str(tmp_path / f"there-{number}"))
        assert vera("recover", f"s3://{archive.bucket}/replica/{number}.vera", *there).code == 0
        assert (tmp_path / f"there-{number}" / "files.jsonl").read_text().splitlines() == found
        sealed = ("--sealed", "--files", str(tmp_path / f"sealed-{number}"))
        assert vera("recover", str(copy), *sealed).code == 6, "nothing tells where it ended"
        assert len(list((tmp_path / f"sealed-{number}" / "other").iterdir())) == shard.entries
        assert vera("recover", str(copy), "--sealed").code == 2
    assert saved == set(FILES) - {gone}
    assert vera("recover", str(tmp_path / "copy-0.vera"), "--key", "no/shard", "--dry-run").code == 2
