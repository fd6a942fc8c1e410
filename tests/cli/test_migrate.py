"""`vera migrate`: a business database from its description to a moved watermark, on real servers."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import VERA, new_repository, uri, vera, write

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.s3 import S3Store

DAYS = ("2026-03-01", "2026-03-02", "2026-03-03")
SETTINGS = """
repository = "{repository}"
spool = "spool"

[sources.letters]
url = "sqlite:///{root}/business.sqlite"
table = "letters"
uid = "uid"
created_at = {{ column = "created_at", type = "text" }}
content = {{ column = "path", kind = "path", roots = ["{root}/files"] }}
media_type = {{ value = "text/plain" }}
begin = 2026-03-01
"""


@pytest.fixture
def business(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A database of three days with ten letters each, its settings, and a repository; not migrated yet."""
    new_repository(s3_store, tmp_path / "spool")
    with closing(sqlite3.connect(tmp_path / "business.sqlite")) as database, database:
        database.execute("CREATE TABLE letters (uid TEXT PRIMARY KEY, created_at TEXT, path TEXT)")
        for day in DAYS:
            for number in range(10):
                write(tmp_path / "files" / f"{day}-{number}", f"letter {number} of {day}".encode())
                row = (f"{day}/{number}", f"{day}T{number:02d}:00:00Z", f"{day}-{number}")
                database.execute("INSERT INTO letters VALUES (?, ?, ?)", row)
    (tmp_path / "vera.toml").write_text(SETTINGS.format(repository=uri(s3_store), root=tmp_path))
    monkeypatch.setenv("VERA_SETTINGS", str(tmp_path / "vera.toml"))
    return tmp_path


@pytest.fixture
def ready(business: Path) -> Path:
    """The business with VERA's own tables."""
    assert vera("migrate", "--create-schema").code == 0
    return business


def change(business: Path, statement: str) -> None:
    with closing(sqlite3.connect(business / "business.sqlite")) as database, database:
        database.execute(statement)


def test_tables_are_made_only_when_asked_for(business: Path) -> None:
    missing = vera("migrate", "--once")
    assert missing.code == 2
    assert "--create-schema" in missing.err
    assert vera("migrate", "letters", "--dry-run").code == 2
    ddl = vera("migrate", "letters", "--print-schema").text
    assert "CREATE TABLE IF NOT EXISTS vera_watermark" in ddl
    with closing(sqlite3.connect(business / "business.sqlite")) as database:
        tables = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'vera%'"
        assert database.execute(tables).fetchone() == (0,)
        database.executescript(ddl)
    assert vera("migrate", "letters", "--dry-run").code == 0
    assert vera("migrate", "--create-schema", "--json").document["created"] is True


def test_all_that_is_due(ready: Path) -> None:
    (due,) = vera("migrate", "--dry-run", "--json").document["sources"]
    assert [item["day"] for item in due["windows"]][:3] == ["20260301", "20260302", "20260303"]
    assert "2026-03-01" in vera("migrate", "--dry-run").text

    report = vera("migrate", "letters", "--to", "2026-03-03", "--json").document
    (migrated,) = report["sources"]
    assert (report["ok"], migrated["archived"], migrated["rejected"]) == (True, 30, 0)
    assert (migrated["watermark"]["before"], migrated["watermark"]["after"]) == ("20260301", "20260304")
    assert vera("get", "2026-03-02/7", "--created-at", "2026-03-02").text == "letter 7 of 2026-03-02"
    (again,) = vera("migrate", "--to", "2026-03-03", "--json").document["sources"]
    assert again["windows"] == []
    shown = vera("migrate", "--to", "2026-03-03").text
    assert "watermark 2026-03-04" in shown
    assert "no late column" in shown, "what can't be detected is said"


def test_a_range_leaves_the_watermark_before_the_gap(ready: Path) -> None:
    report = vera("migrate", "--from", "2026-03-02", "--to", "2026-03-03", "--json")
    assert report.code == 0
    (migrated,) = report.document["sources"]
    assert migrated["watermark"]["after"] == "20260301"
    assert "2026-03-01 is not migrated yet" in vera("migrate", "--from", "2026-03-02", "--to", "2026-03-02").text
    vera("migrate", "--to", "2026-03-01")
    (due,) = vera("migrate", "--dry-run", "--to", "2026-03-04", "--json").document["sources"]
    assert due["watermark"] == "20260304"


def test_rejects_are_named_and_hold_the_watermark_unless_told_otherwise(ready: Path) -> None:
    (ready / "files" / "2026-03-02-3").unlink()
    stopped = vera("migrate", "--to", "2026-03-03", "--json")
    assert stopped.code == 10
    (migrated,) = stopped.document["sources"]
    assert (migrated["archived"], migrated["rejected"], migrated["watermark"]["after"]) == (29, 1, "20260302")
    passed = vera("migrate", "--to", "2026-03-03", "--rejects", "advance", "--json")
    assert passed.code == 0
    assert passed.document["sources"][0]["watermark"]["after"] == "20260304"

    write(ready / "files" / "2026-03-02-3", b"found again")
    retried = vera("migrate", "--to", "2026-03-03", "--retry-rejects", "--json")
    assert retried.document["sources"][0]["archived"] == 1
    assert vera("get", "2026-03-02/3", "--created-at", "2026-03-02").text == "found again"


def test_rejects_are_shown_by_name(ready: Path) -> None:
    change(ready, "UPDATE letters SET created_at = NULL WHERE uid = '2026-03-01/1'")
    (ready / "files" / "2026-03-02-3").unlink()
    shown = vera("migrate", "--to", "2026-03-03")
    assert shown.code == 10
    assert "2026-03-02/3 (2026-03-02): missing-file" in shown.text
    assert "2026-03-01/1: it has no time" in shown.text


def test_mistakes(ready: Path) -> None:
    unknown = vera("migrate", "invoices", "--once")
    assert unknown.code == 2
    assert "letters" in unknown.err, "the sources that there are"
    assert vera("migrate", "--json").code == 2
    assert vera("migrate", "--rejects", "ignore", "--once").code == 2
    (ready / "business.sqlite").rename(ready / "elsewhere")
    assert vera("migrate", "--once").code == 2


def test_it_stays_until_it_is_interrupted(ready: Path) -> None:
    command = [*VERA, "migrate", "--every", "1"]
    # Nothing is due: the business begins in a far future.
    text = (ready / "vera.toml").read_text()
    (ready / "vera.toml").write_text(text.replace("begin = 2026-03-01", "begin = 9998-01-01"))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as staying:
        assert staying.stdout is not None
        looks = [staying.stdout.readline(), staying.stdout.readline()]
        time.sleep(2.5)
        staying.send_signal(signal.SIGINT)
        rest, errors = staying.communicate(timeout=30)
    assert looks[0] == "Source letters, tenant default: 0 windows; watermark 9998-01-01\n"
    assert rest == "", "a look that finds nothing says nothing"
    assert staying.returncode == 130
    assert errors.endswith("vera: interrupted\n")


def test_a_source_is_looked_at_before_its_migration(business: Path) -> None:
    done = vera("source", "check", "letters", "--json")
    assert done.code == 0
    (report,) = done.document["sources"]
    assert (report["rows"], report["day_count"], report["sampled"]) == (30, 3, 30)
    assert report["index_statement"] == "CREATE INDEX vera_by_time ON letters (created_at, uid)"
    shown = vera("source", "check")
    assert "no index begins with created_at" in shown.text
    assert "vera init --bits 0" in shown.text
    (business / "files" / f"{DAYS[1]}-3").unlink()
    broken = vera("source", "check", "letters")
    assert broken.code == 10
    assert "1 of 30 rows of the sample would be rejected: missing-file" in broken.text
    assert vera("source", "check", "letters", "--quick").code == 0, "looks at the first and the last day only"
    change(business, "UPDATE letters SET created_at = NULL WHERE uid = '2026-03-02/3'")
    assert "1 rows have no time" in vera("source", "check").text
    assert vera("source", "check", "nobody").code == 2


def test_what_a_source_will_cost(business: Path) -> None:
    done = vera("cost", "letters", "--json")
    assert done.code == 0
    assert (done.document["files"], done.document["shards"]) == (30, 3)
    assert "to write, packed" in vera("cost", "--files", "5_000", "--size", "1.5k").text
    for arguments in (
        ("cost",),
        ("cost", "letters", "--files", "3"),
        ("cost", "--files", "many"),
        ("cost", "--files", "1z"),
    ):
        assert vera(*arguments).code == 2, arguments
    assert business.exists()


def test_rejects_are_listed_and_tried_again(ready: Path) -> None:
    assert "No row is rejected" in vera("rejects", "ls").text
    lost = [ready / "files" / f"2026-03-02-{number}" for number in (3, 4)]
    for path in lost:
        path.unlink()
    assert vera("migrate", "--to", "2026-03-03").code == 10
    shown = vera("rejects", "ls").text
    assert "2026-03-02/3" in shown
    assert "missing-file: 2" in shown
    rejects = vera("rejects", "ls", "letters", "--json").document["rejects"]
    first, second = sorted(rejects, key=lambda line: str(line["uid"]))
    assert [first["uid"], first["day"], first["reason"]] == ["2026-03-02/3", "20260302", "missing-file"]
    assert second["uid"] == "2026-03-02/4"
    assert vera("rejects", "ls", "--reason", "erased", "--json").document["rejects"] == []
    assert vera("rejects", "ls", "--from", "2026-03-03", "--json").document["rejects"] == []

    write(lost[0], b"found again")
    half = vera("rejects", "retry", "letters", "--json")
    assert half.code == 10
    (left,) = vera("rejects", "ls", "--json").document["rejects"]
    assert (left["uid"], left["revision"]) == ("2026-03-02/4", 2), "the list of the revision that answers"
    write(lost[1], b"too")
    assert vera("rejects", "retry").code == 0
    assert "No row is rejected" in vera("rejects", "ls").text
    assert vera("get", "2026-03-02/4", "--created-at", "2026-03-02").text == "too"
    assert vera("rejects", "retry", "--json").document["sources"][0]["windows"] == []
    assert vera("rejects", "retry", "--reason", "erased").code == 2
