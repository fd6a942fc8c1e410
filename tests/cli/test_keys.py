"""Encrypted repositories on the command line: `vera init --encrypt`, `vera keys`, and life with a key file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import vera, write
from vera_core.keys.local import LocalKeys
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3

DAY = "2026-03-01"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of our own without settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    monkeypatch.delenv("VERA_REPOSITORY", raising=False)
    return tmp_path / "vera.toml"


def test_from_init_to_reading(embedded_s3: EmbeddedS3, settings: Path, tmp_path: Path) -> None:
    where, keys = "s3://made-encrypted/here", tmp_path / "kek.json"
    refused = vera("init", where, "--lock-mode", "COMPLIANCE")
    assert refused.code == 5
    assert refused.err.index("--encrypt") < refused.err.index("--accept-unerasable")
    assert vera("init", where, "--keys-file", str(keys)).code == 2
    without = vera("init", where, "--encrypt")
    assert without.code == 2
    assert "[keys]" in without.err
    trial = vera("init", where, "--encrypt", "--keys-file", str(keys), "--dry-run")
    assert trial.code == 0, trial.err
    assert not keys.exists(), "a dry run makes nothing"

    made = vera("init", where, "--lock-mode", "COMPLIANCE", "--encrypt", "--keys-file", str(keys))
    assert made.code == 0, made.err
    assert "BACK IT UP" in made.text
    assert LocalKeys(keys).kek in made.text

    printed = made.text[made.text.index("  [keys]") :].partition("\n\n")[0]
    write(tmp_path / "in" / "a.txt", b"to be read again")
    assert vera("pack", "in", "-r", where).code == 2, "the key service is not configured yet"
    settings.write_text(f'repository = "{where}"\n{printed}\n')
    packed = vera("pack", "in")
    assert packed.code == 0, packed.err
    assert vera("get", "a.txt", "--created-at", DAY).out == b"to be read again"
    _look_after(where)
    keys.rename(tmp_path / "lost.json")
    assert vera("get", "a.txt", "--created-at", DAY).code == 3


def _look_after(where: str) -> None:
    """What an operator does with the keys of a repository that has files."""
    listed = vera("keys")
    assert listed.code == 0, listed.err
    assert f"{where}  " in listed.text
    assert "version 1: 2" in listed.text, "a keyring and the tenant key"
    examined = vera("doctor", "--dry-run")
    assert examined.code == 0, examined.err
    assert re.search(r"key encryption key +local:[0-9a-f]{16}, version 1\n +tenant keys +1\n", examined.text)
    dry = vera("keys", "rotate", "--dry-run", "--json").document
    assert (dry["plan"]["current"], dry["done"]) == (1, None)
    rotated = vera("keys", "rotate")
    assert rotated.code == 0, rotated.err
    assert "has version 2 now" in rotated.text
    again = vera("keys", "rewrap", "--json").document
    assert (again["ok"], again["done"]["rewrapped"], again["done"]["raise_to"]) == (True, 0, 2)
    assert vera("get", "a.txt", "--created-at", DAY).out == b"to be read again"

    copy = S3Store("copy-of-the-keys")
    copy.create_bucket()
    assert "has no registered copies" in vera("keys", "copies").text
    added = vera("keys", "copies", "add", "s3://copy-of-the-keys/spare")
    assert added.code == 0, added.err
    assert len(list(copy.list_objects("spare/"))) == 2
    assert vera("keys", "copies", "--json").document["copies"][0]["place"] == "s3://copy-of-the-keys/spare"
    drilled = vera("keys", "drill", "--percent", "100", "--json").document
    assert [(line["opened"], line["files"]) for line in drilled["places"]] == [(1, 1), (1, 1)]

    keyring = next(info for info in copy.list_objects("spare/") if "tenant" not in info.key)
    copy.delete(keyring.key, version_id=copy.head(keyring.key).version_id)
    assert vera("keys", "drill", "--percent", "100").code == 6
    plan = vera("keys", "restore", "--dry-run")
    assert plan.code == 0, plan.err
    assert "missing" in plan.text
    assert vera("keys", "restore", "--json").document["done"]["restored"] == 1
    assert vera("keys", "drill", "--percent", "100").code == 0
    removed = vera("keys", "copies", "remove", "s3://copy-of-the-keys/spare")
    assert removed.code == 6, "the tenant key is locked there"
    for wrong in (["ls", "more"], ["copies", "mend", "s3://x/y"], ["copies", "add"], ["drill", "--dry-run"]):
        assert vera("keys", *wrong).code == 2, wrong
