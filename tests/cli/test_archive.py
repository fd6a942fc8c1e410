"""Archiving a directory again and again: it goes on where it stopped, and nothing falls between two runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.cli.support import MARCH, some_directory, write
from tests.protocol.packing import DAY, make_encrypted, make_repository, opened
from vera_core.errors import UnavailableError
from vera_core.operations.archive import archive, current_windows
from vera_core.operations.freeze import freeze_window
from vera_core.operations.retrieve import Retriever
from vera_core.operations.sources import terms
from vera_core.source.base import Window
from vera_core.source.directory import DirectorySource, Packing
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from pathlib import Path

    from tests.protocol.packing import Make
    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore


def encrypted(store: MemoryStore, spool: Path) -> Repository:
    """An encrypted repository with room for the largest file of `some_directory`."""
    return make_encrypted(store, spool, inline_limit=1 << 20)


EITHER = pytest.mark.parametrize("make", [make_repository, encrypted], ids=["plain", "encrypted"])


def source_of(repo: Repository, root: Path) -> DirectorySource:
    return DirectorySource(root, terms(repo.config), Packing(spool=repo.workplace.spool, name="dir"))


def revisions(repo: Repository, root: Path) -> list[int]:
    return [window.revision for window in current_windows(repo, source_of(repo, root), DAY)]


@EITHER
def test_a_run_that_died_after_freezing_is_finished_before_new_files(
    memory_store: MemoryStore, tmp_path: Path, make: Make
) -> None:
    repo = make(memory_store, tmp_path / "spool")
    files = some_directory(tmp_path / "in")
    with repo.scratch() as scratch:
        freeze_window(repo, source_of(repo, tmp_path / "in"), Window("dir", "default", DAY), scratch)
    write(tmp_path / "in" / "came later", b"later")
    assert revisions(repo, tmp_path / "in") == [1, 2]
    report = archive(repo, source_of(repo, tmp_path / "in"))
    assert (report.ok, report.packed_now) == (True, len(files) + 1)
    reader = Retriever(opened(memory_store, tmp_path / "spool"))
    for uid, content in {**files, "came later": b"later"}.items():
        assert reader.get(uid, DAY) == content
    assert revisions(repo, tmp_path / "in") == [2], "nothing is left to do"


@EITHER
@pytest.mark.parametrize("writes", [2, 4, 6, 8, 10, 12, 14])
def test_a_run_that_broke_off_is_finished_with_what_came_meanwhile(
    memory_store: MemoryStore, tmp_path: Path, make: Make, writes: int
) -> None:
    """The store is gone from its n-th write on; the next run has one file more. All are there, and none twice."""
    repo = make(memory_store, tmp_path / "spool")
    root = tmp_path / "in"
    files = some_directory(root)
    broken = FaultyStore(memory_store, [Rule(Action.FAIL, kind="put*", nth=writes, times=None)])
    faulty = opened(broken, tmp_path / "spool")
    with pytest.raises(UnavailableError):
        archive(faulty, source_of(faulty, root))
    write(root / "came later", b"later")
    assert archive(repo, source_of(repo, root)).ok
    reader = Retriever(opened(memory_store, tmp_path / "spool"))
    wanted = {**files, "came later": b"later"}
    assert sorted(report.uid for report in reader.list_day(DAY)) == sorted(wanted)
    for uid, content in wanted.items():
        assert reader.get(uid, DAY) == content
        assert len(reader.versions(uid, DAY)) == 1, uid


@EITHER
def test_a_file_that_was_not_there_is_tried_again_until_it_is(
    memory_store: MemoryStore, tmp_path: Path, make: Make
) -> None:
    repo = make(memory_store, tmp_path / "spool")
    root = tmp_path / "in"
    files = some_directory(root)
    missing = root / "away"
    write(missing, b"here")
    with repo.scratch() as scratch:
        freeze_window(repo, source_of(repo, root), Window("dir", "default", DAY), scratch)
    missing.unlink()
    report = archive(repo, source_of(repo, root))
    assert (report.rejected, report.packed_now) == (1, len(files))
    write(missing, b"here")
    report = archive(repo, source_of(repo, root))
    assert (report.ok, report.packed_now) == (True, 1)
    assert revisions(repo, root) == [2], "nothing is left to do"


@EITHER
def test_rejected_files_are_named(memory_store: MemoryStore, tmp_path: Path, make: Make) -> None:
    repo = make(memory_store, tmp_path / "spool")
    root = tmp_path / "in"
    some_directory(root)
    (root / "telling link").symlink_to(root / "nowhere")
    os.utime(root / "telling link", (MARCH.timestamp(), MARCH.timestamp()), follow_symlinks=False)
    report = archive(repo, source_of(repo, root))
    assert [(line.uid, line.reason) for line in report.rejects] == [("telling link", "not-a-file")]
