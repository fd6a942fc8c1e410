"""Encrypted repositories on the command line: `vera init --encrypt`, `vera keys`, and life with a key file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.support import vera, write
from vera_core.keys.local import LocalKeys

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
    assert packed.code in {0, 6}, packed.err  # 6: verifying does not open files yet
    assert vera("get", "a.txt", "--created-at", DAY).out == b"to be read again"
    keys.rename(tmp_path / "lost.json")
    assert vera("get", "a.txt", "--created-at", DAY).code == 3
