"""Erasing in an encrypted repository by the command line alone: certificates, proved again, and keys that come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.support import MARCH, new_repository, uri, vera
from tests.protocol.packing import File, MemorySource, local_kek, pack
from vera_core.config import Encryption
from vera_core.keys.local import LocalKeys

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.s3 import S3Store

DAY = "2026-03-01"
ASK = ("--created-at", DAY, "--request-id", "art17-1", "--reason", "GDPR Art. 17(1)(b)")


def archive(store: S3Store, tmp_path: Path, encryption: Encryption | None) -> None:
    repo = new_repository(store, tmp_path / "spool", encryption=encryption)
    pack(repo, MemorySource([File(f"letter/{number}", b"dear %d" % number, MARCH) for number in range(8)]))


@pytest.fixture
def settings(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of the test's bucket, with the tests' key file."""
    keys = local_kek()
    assert isinstance(keys, LocalKeys)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("VERA_KEYS__SERVICE", "local")
    monkeypatch.setenv("VERA_KEYS__FILE", str(keys._path))


@pytest.mark.usefixtures("settings")
def test_an_erasure_is_certified_and_proved_again(s3_store: S3Store, tmp_path: Path) -> None:
    archive(s3_store, tmp_path, Encryption(local_kek().kek))
    kept = {info.key: s3_store.get(info.key).data for info in s3_store.list_objects("") if info.key.endswith(".keys")}
    assert vera("erasures", "certificate", "art17-1").code == 3
    done = vera("erase", "letter/1", "letter/2", *ASK, "--json").document
    assert (done["erased"], done["destroyed"], done["stage"], done["hidden_until"]) == (2, 2, "done", None)
    assert sorted(file["uid"] for file in done["files"]) == ["letter/1", "letter/2"]
    shown = vera("erasures", "certificate", "art17-1")
    assert shown.code == 0, shown.err
    assert "keys destroyed" in shown.text
    assert "signature" in shown.text
    assert "letter/" not in shown.text
    document = vera("erasures", "certificate", "art17-1", "--json").document["documents"][0]
    assert (document["format"], document["signature"]) == ("vera-erasure-certificate-v1", "")
    assert len(document["files"]) == 2
    assert {keyring["revision"] for keyring in document["keyrings"]} == {2}
    assert vera("erasures", "certificate", "art17-1", "--verify").code == 0

    for key, data in kept.items():
        if not key.endswith("tenant.keys"):
            s3_store.put(key, data)
    again = vera("erasures", "certificate", "art17-1", "--verify")
    assert again.code == 6
    assert "a version of a keyring opens" in again.text
    assert vera("get", "letter/1", "--created-at", DAY).code == 4
    assert vera("get", "letter/3", "--created-at", DAY).code == 0
    destroyed = vera("erasures", "destroy", "--json").document
    assert destroyed["purged"] > 0
    assert vera("erasures", "certificate", "art17-1", "--verify", "--json").document["ok"]
    assert vera("erasures", "destroy", "--json").document["purged"] == 0


@pytest.mark.usefixtures("settings")
def test_an_unencrypted_repository_has_no_certificate(s3_store: S3Store, tmp_path: Path) -> None:
    archive(s3_store, tmp_path, None)
    done = vera("erase", "letter/1", *ASK, "--json").document
    assert (done["erased"], done["destroyed"]) == (1, 0)
    none = vera("erasures", "certificate", "art17-1")
    assert none.code == 3
    assert f"hidden until {done['hidden_until']}" in none.err
    assert vera("erasures", "destroy").code == 2
    assert vera("erasures", "run", "--verify").code == 2
