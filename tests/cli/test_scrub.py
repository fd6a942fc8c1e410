"""`vera scrub` by the command line, on a real store whose disk is damaged through the back door."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import change_stored_byte, new_repository, uri, vera
from tests.protocol.packing import DAY, KEYS, MemorySource, opened, pack, some_files
from tests.protocol.repacking import live_shards
from vera_core.operations.proofs import CLOCKS_APART

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store


@pytest.fixture
def store(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A day of files; VERA_REPOSITORY names the repository."""
    pack(new_repository(s3_store, tmp_path / "spool"), MemorySource(some_files(30)))
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    return s3_store


def test_a_scrub_from_the_plan_to_the_repair(store: S3Store, embedded_s3: EmbeddedS3, tmp_path: Path) -> None:
    plan = vera("scrub", "--dry-run", "--percent", "50")
    assert (plan.code, "never proved" in plan.text, "shards to read" in plan.text) == (0, True, True)
    assert "Done" not in plan.text
    first = vera("scrub", "--percent", "100", "--json").document
    assert (first["ok"], first["done"]["failures"]) == (True, 0)
    assert first["done"]["shards"] == first["plan"]["live"] == first["plan"]["ages"][0]["never"]
    assert "Nothing is due." in vera("scrub", "--percent", "100", "--max-age", "9d").text

    broken = live_shards(opened(store, tmp_path / "spool"))[0]
    change_stored_byte(embedded_s3, store, broken.key, broken.version_id)
    assert vera("scrub", "--findings").code == 0, "nobody looked yet"
    found = vera("scrub", "--percent", "100")
    assert (found.code, broken.key in found.text, "vera recover" in found.text) == (6, True, True)
    listed = vera("scrub", "--findings")
    assert (listed.code, broken.key in listed.text, "last whole on" in listed.text) == (6, True, True)
    document = vera("scrub", "--findings", "--json").document
    assert [(item["key"], item["failures"] > 0) for item in document["damaged"]] == [(broken.key, True)]
    assert vera("scrub", "--findings", "--day", "2027-01-01").code == 0

    for info in list(store.list_versions(KEYS.proofs("default", DAY))):
        store.delete(info.key, version_id=info.version_id, bypass_governance=True)
    assert vera("scrub", "--findings").code == 0, "the proofs are lost"
    gathered = vera("scrub", "--gather")
    assert (gathered.code, "days brought up to date" in gathered.text) == (0, True)
    assert vera("scrub", "--findings").code == 6

    change_stored_byte(embedded_s3, store, broken.key, broken.version_id)
    # The back door takes the lock away, too.
    store.set_lock(broken.key, broken.version_id, broken.lock)
    time.sleep(CLOCKS_APART.total_seconds())
    assert vera("scrub", "--percent", "1").code == 0
    assert vera("scrub", "--findings").code == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ("--percent", "0"), ("--percent", "101"), ("--percent", "much"), ("--max-age", "soon"),
        ("--findings", "--gather"), ("--day", "2026-03-01", "--from", "2026-03-01"),
    ],
)  # fmt: skip
def test_calls_that_mean_nothing(store: S3Store, wrong: tuple[str, ...]) -> None:
    assert vera("scrub", *wrong).code == 2
