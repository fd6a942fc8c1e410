"""`vera repack`, `vera optimize` and `vera gc` as people use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.support import MARCH, change_stored_byte, new_repository, uri, vera
from tests.protocol.packing import PREFIX, File, MemorySource, opened, pack
from tests.protocol.repacking import live_shards

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store

DAY = "2026-03-01"
ASK = ("--created-at", DAY, "--request-id", "art17-1", "--reason", "GDPR Art. 17(1)(b)")


@pytest.fixture
def store(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """Sixteen letters in four small shards of one slot each; VERA_REPOSITORY names the repository."""
    repo = new_repository(s3_store, tmp_path / "spool")
    for number in range(4):
        files = [File(f"letter/{number}/{each}", b"dear %d" % each, MARCH) for each in range(8)]
        pack(repo, MemorySource(files, name=f"source-{number}"))
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    return s3_store


def test_erased_files_are_left_behind_and_the_old_shards_wait_for_their_locks(store: S3Store, tmp_path: Path) -> None:
    assert vera("repack").text.splitlines()[-1] == "Nothing to repack."
    gone = [f"letter/{number}/{each}" for number in range(4) for each in range(4)]
    assert vera("erase", *gone, *ASK).code == 0
    shown = vera("repack", "--dry-run")
    assert (shown.code, "Done" in shown.text) == (0, False)
    assert [line.split()[:4] for line in shown.text.splitlines() if line.startswith("  default/")] == [
        [f"default/20260301/{index}", "std", files, erased]
        for index, files, erased in (("0", "16", "6"), ("1", "16", "10"))
    ]
    assert vera("repack", "--ratio", "0.9").text.splitlines()[-1] == "Nothing to repack."
    assert vera("repack", "--day", "2026-03-02").text.splitlines()[-1] == "Nothing to repack."
    done = vera("repack", "--day", DAY, "--json").document
    assert (done["ok"], done["done"]["left_out"], done["done"]["files"]) == (True, 16, 16)
    assert [shard["key"] for each in done["done"]["done"] for shard in each["shards"]] == [
        shard.key for shard in live_shards(opened(store, tmp_path / "spool"))
    ]
    assert vera("repack").text.splitlines()[-1] == "Nothing to repack."
    assert vera("verify", "--deep").code == 0
    assert vera("get", "letter/2/5", "--created-at", DAY).out == b"dear 5"
    assert vera("get", gone[0], "--created-at", DAY).code == 4

    collected = vera("gc")
    assert (collected.code, collected.text.splitlines()[-1]) == (0, "Nothing to do now.")
    waiting = vera("gc", "--dry-run", "--json").document["plan"]
    assert {(line["sort"], line["step"], line["why"]) for line in waiting["lines"]} == {
        ("superseded", "wait", "locked")
    }
    assert waiting["waiting"] == done["done"]["replaced"]


def test_the_rule_for_superseded_shards_is_printed(store: S3Store) -> None:
    """For `aws s3api put-bucket-lifecycle-configuration`: it moves by tag, and expires nothing."""
    [rule] = vera("gc", "--lifecycle-rule", "DEEP_ARCHIVE").document["Rules"]
    assert rule == {
        "ID": "vera-superseded",
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": f"{PREFIX}/t/", "Tags": [{"Key": "vera-state", "Value": "superseded"}]}},
        "Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}],
        "NoncurrentVersionTransitions": [{"NoncurrentDays": 1, "StorageClass": "DEEP_ARCHIVE"}],
    }
    done = vera("gc", "--lifecycle-rule", "STANDARD")
    assert (done.code, "GLACIER_IR" in done.err) == (2, True)


def test_small_shards_are_merged(store: S3Store, tmp_path: Path) -> None:
    plan = vera("optimize", "--dry-run", "--json").document["plan"]
    assert [(line["shards"], line["saved"]) for line in plan["lines"]] == [(4, 3), (4, 3)]
    assert "Nothing to optimize." in vera("optimize", "--saves", "4").text
    shown = vera("optimize")
    assert (shown.code, "left behind" in shown.text) == (0, True)
    assert len(live_shards(opened(store, tmp_path / "spool"))) == 2
    assert vera("verify", "--deep").code == 0
    assert vera("get", "letter/2/5", "--created-at", DAY).out == b"dear 5"


def test_a_damaged_shard_is_exit_code_6_and_the_others_are_repacked(
    store: S3Store, embedded_s3: EmbeddedS3, tmp_path: Path
) -> None:
    assert vera("erase", "letter/0/0", "letter/0/1", "letter/0/2", "letter/0/3", *ASK).code == 0
    hurt = live_shards(opened(store, tmp_path / "spool"))[0]
    change_stored_byte(embedded_s3, store, hurt.key, hurt.version_id)
    done = vera("repack", "--ratio", "0", "--json")
    assert done.code == 6
    assert [finding["key"] for finding in done.document["done"]["findings"]] == [hurt.key]
    assert done.document["done"]["replaced"] == 1


def test_what_makes_no_sense_is_refused(store: S3Store) -> None:
    for arguments, what in (
        (("repack", "--ratio", "30"), "ratio"),
        (("repack", "--day", DAY, "--from", DAY), "--day"),
        (("optimize", "--saves", "0"), "save"),
        (("optimize", "--gains", "10"), "saved"),
        (("optimize", "--older-than", "long"), "period"),
        (("gc", "--grace", "soon"), "period"),
    ):
        done = vera(*arguments)
        assert done.code == 2
        assert what in done.err
