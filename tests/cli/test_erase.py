"""A person's files by the command line alone: found, looked through, erased, approved, refused, readmitted."""

from __future__ import annotations

import csv
import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import MARCH, new_repository, uri, vera
from tests.protocol.packing import File, MemorySource, pack
from vera_core.model import Erasability, RetentionClass

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.s3 import S3Store

DAY = "2026-03-01"
CLASSES = (RetentionClass("std", 100), RetentionClass("ledger", 3000, Erasability.REGULATED))
ASK = ("--request-id", "art17-1", "--reason", "GDPR Art. 17(1)(b)")


def customer(number: int, of: str) -> File:
    pairs = (("customer", of), ("kind", "letter"))
    return File(f"letter/{number}", b"dear %d" % number, MARCH + timedelta(days=number % 2), metadata=pairs)


@pytest.fixture
def store(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3Store:
    """Letters of two customers on two days, and an entry in a ledger; VERA_REPOSITORY names the repository."""
    repo = new_repository(s3_store, tmp_path / "spool", classes=CLASSES)
    files = [customer(number, "4711" if number < 4 else "4712") for number in range(8)]
    ledger = File("ledger/1", b"paid", MARCH, retention_class="ledger", metadata=(("customer", "4711"),))
    source = MemorySource([*files, ledger])
    for day in (MARCH.date(), MARCH.date() + timedelta(1)):
        pack(repo, source, day)
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    return s3_store


def test_a_person_is_found_looked_through_and_erased(store: S3Store, tmp_path: Path) -> None:
    shown = vera("find", "customer=4711")
    assert (shown.code, len(shown.text.splitlines())) == (0, 5)
    assert vera("find", "customer=4711", "kind=letter", "--to", DAY).text.count("letter/") == 2
    listed = tmp_path / "customer.csv"
    found = vera("find", "customer=4711", "-o", str(listed), "--json").document
    assert (found["ok"], found["files"]) == (True, 5)
    with listed.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["uid"] for row in rows} == {"letter/0", "letter/1", "letter/2", "letter/3", "ledger/1"}
    assert {json.loads(row["metadata"])["customer"] for row in rows} == {"4711"}
    assert {row["retention_class"] for row in rows} == {"std", "ledger"}
    assert vera("find", "customer=4711", "-o", str(listed)).code == 7, "what somebody looked through is not replaced"

    lines = listed.read_text().splitlines(keepends=True)
    listed.write_text("".join(line for line in lines if not line.startswith("letter/3,")))
    plan = vera("erase", "--list", str(listed), *ASK, "--dry-run")
    assert plan.code == 5
    assert "refused: ledger/1: Art. 17(3)(b): of the regulated class ledger" in plan.text
    assert vera("get", "letter/0", "--created-at", DAY).code == 0
    done = vera("erase", "--list", str(listed), *ASK, "--json")
    assert done.code == 5
    assert (done.document["erased"], done.document["refused"], done.document["stage"]) == (3, 1, "refused for now")
    assert done.document["hidden_until"].startswith("20")
    for uid, code in (("letter/0", 4), ("letter/2", 4), ("letter/3", 0), ("letter/4", 0), ("ledger/1", 0)):
        day = "2026-03-02" if uid == "letter/3" else DAY
        assert vera("get", uid, "--created-at", day).code == code, uid
    assert vera("find", "customer=4711").text.count("\n") == 2
    left = tmp_path / "customer.jsonl"
    assert vera("find", "customer=4711", "-o", str(left)).text == f"2 files are listed in {left}.\n"
    assert {json.loads(line)["uid"] for line in left.read_text().splitlines()} == {"letter/3", "ledger/1"}

    listing = vera("erasures")
    assert listing.code == 0
    assert "art17-1" in listing.text
    shown = vera("erasures", "show", "art17-1")
    assert (shown.code, "refused: ledger/1" in shown.text) == (0, True)
    assert vera("erasures", "run").text == "There is nothing to do.\n"
    again = vera("erase", "--list", str(listed), *ASK, "--json")
    assert (again.code, again.document["erased"], again.document["files"]) == (5, 3, [])


def test_two_persons_and_a_deadline(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERA_ACTOR", "ada@bank.example")
    assert "need the approval" in vera("erasures", "require-approval").text
    asked = vera("erase", "letter/0", "--created-at", DAY, "--received", "2026-03-02", *ASK)
    assert asked.code == 5
    assert "Nothing is erased before somebody else approves it: vera erasures approve art17-1" in asked.text
    overdue = vera("erasures")
    assert overdue.code == 6
    assert "more than a month" in overdue.text
    refused = vera("erasures", "approve", "art17-1")
    assert (refused.code, "can't approve" in refused.err) == (5, True)
    assert vera("erasures", "run", "art17-1").code == 5
    assert vera("get", "letter/0", "--created-at", DAY).code == 0

    monkeypatch.setenv("VERA_ACTOR", "bob@bank.example")
    assert "approved by" in vera("erasures", "approve", "art17-1").text
    ran = vera("erasures", "run", "--json").document
    assert (ran["ok"], ran["erased"]) == (True, 1)
    assert vera("get", "letter/0", "--created-at", DAY).code == 4
    listed = vera("erasures", "--json").document
    assert (listed["ok"], listed["requests"][0]["approver"]) == (True, "bob@bank.example")
    assert "--all lists them" in vera("erasures").text, "the run above has read all"
    every = vera("erasures", "--all", "--json").document
    assert (listed["complete"], every["complete"], every["requests"]) == (False, True, listed["requests"])

    assert vera("erase", "letter/2", "--created-at", DAY, "--request-id", "art17-2", "--reason", "x").code == 5
    assert vera("erasures", "decline", "art17-2", "--reason", "another person").code == 0
    late = vera("erase", "letter/2", "--created-at", DAY, "--request-id", "art17-2", "--reason", "x", "--json")
    assert (late.code, late.document["error"]["kind"]) == (5, "restricted")


def test_a_table_with_requests(store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vera("erasures", "import").code == 2
    database = tmp_path / "privacy.sqlite"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("CREATE TABLE asked (no TEXT, document TEXT, day TEXT, at TEXT)")
        connection.execute(f"INSERT INTO asked VALUES ('r-1', 'letter/0', '{DAY}', '2026-03-02T10:00:00Z')")
    settings = tmp_path / "vera.toml"
    settings.write_text(f"""
[erasure_table]
url = "sqlite:///{database}"
table = "asked"
id = "no"
uid = "document"
created_at = {{ column = "day", type = "text", zone = "UTC" }}
reason = {{ value = "GDPR Art. 17(1)(b)" }}
requested_by = {{ value = "customer portal" }}
requested_at = {{ column = "at", type = "text" }}
""")
    monkeypatch.setenv("VERA_SETTINGS", str(settings))
    taken = vera("erasures", "import")
    assert (taken.code, "Request r-1: done." in taken.text, "customer portal" in taken.text) == (0, True, True)
    assert vera("get", "letter/0", "--created-at", DAY).code == 4
    assert vera("erasures", "import").text == "There is nothing to do.\n"


def test_readmitting(store: S3Store) -> None:
    asked = ("letter/0", "--created-at", DAY, "--request-id", "t-88", "--reason", "by mistake")
    assert vera("readmit", *asked).code == 3
    assert vera("erase", *asked).code == 0
    assert vera("readmit", *asked).text == "letter/0 may be archived again.\n"
    assert vera("readmit", *asked, "--json").document["ok"]
    assert vera("get", "letter/0", "--created-at", DAY).code == 4


def test_calls_that_make_no_sense(store: S3Store, tmp_path: Path) -> None:
    empty = tmp_path / "empty.csv"
    empty.write_text("name\nx\n")
    wrong = tmp_path / "wrong.jsonl"
    wrong.write_text('{"uid": "u", "created_at": "yesterday"}\n')
    for arguments in (
        ("erase", *ASK),
        ("erase", "u", "--list", str(empty), *ASK),
        ("erase", "--list", str(empty), *ASK),
        ("erase", "--list", str(wrong), *ASK),
        ("erase", "--list", str(tmp_path / "none.csv"), *ASK),
        ("erase", "u", *ASK),
        ("erase", "u", "--created-at", DAY, "--request-id", "No Name", "--reason", "x"),
        ("erase", "u", "--created-at", DAY, "--request-id", "r", "--reason", ""),
        ("erase", "u", "--created-at", DAY, "--reason", "x"),
        ("erase", "u", "--created-at", DAY, "--received", "2999-01-01", *ASK),
        ("erasures", "approve"),
        ("erasures", "list", "r"),
        ("erasures", "decline", "r"),
        ("erasures", "show", "r", "--reason", "x"),
        ("erasures", "undo"),
        ("erasures", "run", "--all"),
        ("find",),
        ("find", "customer"),
        ("find", "customer=1", "--json"),
        ("find", "customer=1", "-o", "list.txt"),
        ("find", "customer=1", "--force"),
        ("find", "customer=1", "--from", "2026-03-02", "--to", DAY),
    ):
        assert vera(*arguments).code == 2, arguments
    assert vera("erase", "u", "--created-at", DAY, *ASK).code == 3
    assert vera("erasures", "show", "nobody").code == 3
