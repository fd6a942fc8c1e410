"""What the law asks for, by the command line: holds, extensions, and what is locked until when."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.support import new_repository, uri, vera
from tests.protocol.law import held_shards, shards_of
from tests.protocol.packing import DAY, MemorySource, opened, pack, some_files
from tests.protocol.test_dispose import Ended
from vera_core.operations.approval import require_approval

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.s3 import S3Store

AT = ("--created-at", DAY.isoformat())
CASE = ("--case", "LIT-2026-417", "--reason", "claim of 3 April")
FILES = some_files(12)
ONE, TWO = FILES[0].uid, FILES[1].uid


@pytest.fixture
def store(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """A day of files; VERA_REPOSITORY names the repository."""
    pack(new_repository(s3_store, tmp_path / "spool"), MemorySource(FILES))
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    return s3_store


def test_a_hold_from_the_claim_to_the_settlement(store: S3Store, tmp_path: Path) -> None:
    plan = vera("hold", ONE, "nowhere", *AT, *CASE, "--dry-run")
    assert (plan.code, "not found: nowhere" in plan.text) == (3, True)
    refused = vera("hold", ONE, "nowhere", *AT, *CASE)
    assert (refused.code, "1 of 2 files are not archived" in refused.err) == (3, True)
    assert held_shards(store) == set()

    listed = tmp_path / "claim.csv"
    listed.write_text(f"uid,created_at\n{ONE},{DAY}\n{TWO},{DAY}\n")
    done = vera("hold", "--list", str(listed), *CASE, "--json").document
    assert (done["ok"], done["changed"], done["case"]) == (True, 2, "LIT-2026-417")
    assert held_shards(store) == shards_of(store, tmp_path, ONE, TWO)
    assert vera("erase", ONE, *AT, "--request-id", "r-1", "--reason", "x").code == 5
    assert vera("hold", ONE, *AT, "--case", "tax", "--reason", "audit").code == 0

    assert "held for         LIT-2026-417, tax" in vera("stat", ONE, *AT).text

    released = vera("hold", "--release", *CASE)
    assert (released.code, f"still held for tax: {ONE}" in released.text) == (0, True)
    assert vera("hold", "--release", "--case", "tax", "--reason", "done").code == 0
    assert held_shards(store) == set()
    assert vera("hold", "--release", *CASE).code == 3
    for wrong in (("hold", *CASE), ("hold", ONE, "--list", str(listed), *CASE), ("hold", ONE, *AT, "--case", "x")):
        assert vera(*wrong).code == 2


def test_a_file_is_kept_longer(store: S3Store) -> None:
    why = ("--reason", "guarantee")
    assert "to be kept" not in vera("retain", ONE, *AT, "--until", "2099-12-31", *why, "--dry-run").text
    assert vera("stat", ONE, *AT, "--json").document["lock_until"] < "2090"
    done = vera("retain", ONE, *AT, "--until", "2099-12-31", *why)
    assert (done.code, "To be kept until 2100-01-01T00:00:00Z." in done.text) == (0, True)
    assert vera("stat", ONE, *AT, "--json").document["lock_until"] == "2100-01-01T00:00:00Z"
    again = vera("retain", ONE, *AT, "--until", "2099-12-31", *why, "--json").document
    assert (again["changed"], again["before"]) == (0, 1)
    shorter = vera("retain", ONE, *AT, "--until", "2098-12-31", *why)
    assert (shorter.code, "nothing shortens that" in shorter.err) == (5, True)
    plan = vera("retain", ONE, *AT, "--until", "2098-12-31", *why, "--dry-run")
    assert (plan.code, f"kept even longer: {ONE} (until 2100-01-01T00:00:00Z)" in plan.text) == (5, True)
    assert vera("retain", "nowhere", *AT, "--until", "2099-12-31", *why, "--dry-run").code == 3
    for until in ("2001-01-01", "9999-12-31", "soon", "2099-12-31T00:00:00"):
        assert vera("retain", ONE, *AT, "--until", until, *why).code == 2
    assert len(vera("ls", DAY.isoformat()).text.splitlines()) >= len(FILES)
    assert vera("verify", "--deep").code == 0


def test_what_is_locked_until_when(store: S3Store) -> None:
    assert vera("hold", ONE, TWO, *AT, *CASE).code == 0
    assert vera("retain", ONE, *AT, "--until", "2099-12-31", "--reason", "guarantee").code == 0
    report = vera("locks", "--json").document
    by_class = {(line["retention_class"], line["copies"]): line for line in report["locks"]}
    assert set(by_class) == {("std", False), ("std", True), ("long", False)}
    assert by_class["std", True]["last"] == "2100-01-01T00:00:00Z"
    assert by_class["std", False]["last"] < by_class["long", False]["last"] < "2099"
    assert sum(line["versions"] for line in report["locks"] if not line["copies"]) == len(FILES) == report["versions"]
    assert (report["held"], report["kept_longer"], report["ended"]) == (2, 1, 0)
    assert [(line["case"], line["files"], line["first_day"]) for line in report["cases"]] == [
        ("LIT-2026-417", 2, "20260301")
    ]
    shown = vera("locks", "--from", DAY.isoformat(), "--tenant", "default")
    assert shown.code == 0
    assert "LIT-2026-417" in shown.text
    assert "kept longer" in shown.text
    assert vera("locks", "--from", "2027-01-01", "--json").document["shards"] == 0


def test_nothing_to_dispose_of_and_wrong_calls(store: S3Store) -> None:
    plan = vera("dispose", "--json").document
    assert (plan["shards"], plan["stage"]) == ([], "planned")
    assert vera("dispose", "request", "year-1", "--reason", "over").code == 2
    assert vera("dispose", "list").code == 0
    assert vera("dispose", "show", "year-1").code == 3
    for wrong in (("plan", "x"), ("show",), ("run", "x", "--reason", "y"), ("request", "x"), ("list", "--class")):
        assert vera("dispose", *wrong).code == 2


def test_a_disposal_by_two_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory, where years pass at once."""
    store = Ended().at_end(tmp_path)
    who = "ada"
    monkeypatch.setattr("vera_core.cli.commands.dispose.open_repository", lambda _: opened(store, tmp_path, who))
    require_approval(opened(store, tmp_path))
    assert "may go" in vera("dispose", "--class", "std").text
    asked = vera("dispose", "request", "year-1", "--to", DAY.isoformat(), "--reason", "over")
    assert (asked.code, "vera dispose approve year-1" in asked.text) == (5, True)
    assert vera("dispose", "approve", "year-1").code == 5, "not one's own"
    who = "bob"
    assert vera("dispose", "approve", "year-1").code == 0
    assert vera("dispose", "run", "year-1").code == 0
    certificate = vera("dispose", "show", "year-1", "--json").document
    assert (certificate["requester"], certificate["approver"], certificate["signature"]) == ("ada", "bob", "")
    assert all(item["disposed"] and len(item["shard"]["sha256"]) == 64 for item in certificate["shards"])
    listed = vera("dispose", "list")
    assert (listed.code, "year-1" in listed.text, "done" in listed.text) == (0, True, True)
    assert vera("dispose", "decline", "year-1", "--reason", "too late").code == 0
