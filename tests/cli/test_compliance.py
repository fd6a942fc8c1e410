"""docs/compliance.md says nothing of commands that isn't so: all exist, and those that are whole do what it says."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.cli.support import new_repository, uri, vera
from tests.protocol.packing import KEK_VARIABLE, NOON, File, MemorySource, local_kek, pack
from vera_core.cli.group import COMMANDS, load
from vera_core.config import Encryption
from vera_core.model import Erasability, RetentionClass

if TYPE_CHECKING:
    from vera_core.store.s3 import S3Store

PAGE = (Path(__file__).parents[2] / "docs" / "compliance.md").read_text()
MENTIONED = {
    "vera init --erasure-approval", "vera erase --received DATE", "vera dispose show", "vera erasures certificate",
    "vera probe", "vera probe s3://archive/ledger", "vera migrate", "vera erase", "vera get", "vera hold",
    "vera recover",
}  # fmt: skip
"""Named without all that a call needs, or run by tests of their own: `init` and `probe` take a minute, `migrate` has a
database."""


class Shown(NamedTuple):
    """A command on the page, and the exit code that the page says it ends with."""

    command: str
    code: int

    @property
    def arguments(self) -> list[str]:
        return shlex.split(self.command)[1:]


def shown() -> list[Shown]:
    """The commands of the page, in order: those in text and tables, and those in blocks of their own."""
    pattern = r"^    (?P<block>vera .+)$|`(?P<inline>vera [^`]+)`(?: \(exit code (?P<code>[0-9]+)\))?"
    found = re.finditer(pattern, PAGE, re.MULTILINE)
    return [Shown(match["block"] or match["inline"], int(match["code"] or 0)) for match in found]


def parse(command: str) -> None:
    """Raises what the command line would say of a command or an option that it does not know; runs nothing."""
    name, *arguments = shlex.split(command)[1:]
    assert name in COMMANDS
    known = load(name)
    known.make_parser(known.context_class(known, info_name=name)).parse_args(arguments)


@pytest.mark.parametrize("command", sorted({item.command for item in shown()}))
def test_every_command_exists_with_its_options(command: str) -> None:
    parse(command)


@pytest.mark.parametrize("command", ["vera verify --deeper", "vera print-audit", "vera scrub --percent"])
def test_what_does_not_exist_is_noticed(command: str) -> None:
    with pytest.raises(Exception, match=r"--deeper|print-audit|--percent"):
        parse(command)


def test_every_row_has_all_its_columns() -> None:
    tables = re.findall(r"(?:^\|.*\|\n)+", PAGE, re.MULTILINE)
    assert len(tables) == 7
    for table in tables:
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()]
        assert {len(row) for row in rows} == {len(rows[0])}
        assert all(any(row[2:]) for row in rows), "a row that neither shows anything nor leaves anything to somebody"


def file(uid: str, retention_class: str = "std", **metadata: str) -> File:
    return File(uid, f"content of {uid}".encode(), NOON, retention_class, "", tuple(metadata.items()))


@pytest.fixture
def archive(s3_store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The archive of which the page speaks; the commands run in an empty directory."""
    classes = (RetentionClass("std", 2557), RetentionClass("ledger", 2192, Erasability.REGULATED))
    files = [
        file("ledger/2026-03.csv", "ledger"), file("claims/88.pdf"), file("contracts/9.pdf"),
        file("customers/4711/letter.pdf", customer="4711"), file("customers/4711/photo.png", customer="4711"),
    ]  # fmt: skip
    encryption = Encryption(local_kek().kek)
    pack(new_repository(s3_store, tmp_path / "spool", classes=classes, encryption=encryption), MemorySource(files))
    monkeypatch.setenv("VERA_KEYS__SERVICE", "local")
    monkeypatch.setenv("VERA_KEYS__FILE", os.environ[KEK_VARIABLE])
    monkeypatch.setenv("VERA_REPOSITORY", uri(s3_store))
    monkeypatch.setenv("VERA_SPOOL", str(tmp_path / "spool"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commands_do_what_the_page_says(archive: Path) -> None:
    said: dict[str, str] = {}
    for item in dict.fromkeys(shown()):
        name = item.arguments[0]
        if item.command not in MENTIONED and name != "init" and item.command not in said:
            done = vera(*item.arguments)
            assert done.code == item.code, (item, done.text, done.err)
            said[item.command] = done.out.decode("utf-8", "replace") + done.err
    assert len(said) >= 30

    def output(*words: str) -> str:
        return next(text for command, text in said.items() if all(word in command for word in words))

    assert "Art. 17(3)(b)" in output("erase ledger/")
    assert "Art. 17(3)(e): held for LIT-2026-417" in output("erase claims/")
    assert "passed" in output("erasures certificate", "--verify")
    assert "the file was erased" in output("get customers/")
    assert "regulated" in output("locks --json")
    assert (
        (archive / "ledger.csv").read_bytes() == (archive / "copy.csv").read_bytes() == b"content of ledger/2026-03.csv"
    )
    assert "customers/4711/photo.png" in (archive / "customer.csv").read_text()


def test_nothing_is_mentioned_that_the_page_does_not_have() -> None:
    assert {item.command for item in shown()} >= MENTIONED
