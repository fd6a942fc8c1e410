"""What people ask for by uid in an encrypted repository: reports show uids where they were told, objects never."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.protocol.erasing import MIDNIGHT, UID, draft
from tests.protocol.law import hold_order
from tests.protocol.packing import DAY, MemorySource, make_encrypted, opened, pack, some_files
from vera_core.erasures import Target
from vera_core.errors import ErasedError
from vera_core.operations.erase import Outcome
from vera_core.operations.erasure_reports import Stage, show_request
from vera_core.operations.erasures import plan_request, run_due, submit
from vera_core.operations.hold import HoldOrder, execute_hold
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.readmit import Readmission, readmit
from vera_core.operations.retrieve import Retriever

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore

FILES = some_files(30)
OTHER = FILES[8].uid


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path) -> Repository:
    made = make_encrypted(memory_store, tmp_path)
    pack(made, MemorySource(FILES))
    return made


def assert_nameless(store: MemoryStore) -> None:
    """No version of any object shows a uid."""
    for info in store.list_versions(""):
        if not info.is_delete_marker:
            data = store.get(info.key, version_id=info.version_id).data
            assert b"doc/" not in data, info.key


def test_a_hold_beats_an_erasure_until_it_is_released(repo: Repository, memory_store: MemoryStore) -> None:
    held = execute_hold(repo, hold_order(UID))
    assert [(file.uid, len(file.versions)) for file in held.files] == [(UID, 1)]
    report = submit(repo, draft(UID, OTHER))
    assert {file.uid: file.outcome for file in report.files} == {UID: Outcome.REFUSED, OTHER: Outcome.ERASED}
    assert (report.stage, report.destroyed, report.refused) == (Stage.REFUSED, 1, 1)
    assert Retriever(repo).get(UID, DAY) == next(file.content for file in FILES if file.uid == UID)
    whole_case = HoldOrder(tenant="default", case=hold_order(UID).case, reason="settled", targets=(), release=True)
    released = execute_hold(repo, whole_case)
    assert [file.uid for file in released.files] == [repo.naming("default").name(UID)], "nobody told the uid"
    assert run_due(repo, "default").ok
    shown = show_request(repo, "default", "r-1")
    assert (shown.stage, shown.destroyed) == (Stage.DONE, 2)
    assert {file.uid for file in shown.files} == {repo.naming("default").name(uid) for uid in (UID, OTHER)}
    assert survey_keys(repo, "default", DAY).ok
    assert_nameless(memory_store)


def test_a_readmitted_uid_is_archived_again_under_new_keys(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    submit(repo, draft(UID))
    done = readmit(
        repo, Readmission(tenant="default", target=Target(UID, MIDNIGHT), request="r-2", reason="by mistake")
    )
    assert done.uid == UID
    later = [replace(file, content=b"again") for file in FILES if file.uid == UID]
    assert pack(repo, MemorySource(later, name="later")).archived == 1
    reader = Retriever(opened(memory_store, tmp_path))
    first, second = reader.versions(UID, DAY)
    assert (first.erased, second.erased) == (True, False)
    assert reader.get(UID, DAY) == b"again"
    submit(repo, draft(UID, request="r-3"))
    with pytest.raises(ErasedError):
        Retriever(opened(memory_store, tmp_path)).get(UID, DAY)
    assert survey_keys(repo, "default", DAY).ok
    assert_nameless(memory_store)


def test_a_plan_says_the_same_and_changes_nothing(repo: Repository, memory_store: MemoryStore) -> None:
    before = [(info.key, info.version_id) for info in memory_store.list_versions("")]
    plan = plan_request(repo, draft(UID, "doc/never"))
    assert {file.uid: file.outcome for file in plan.files} == {UID: Outcome.PLANNED, "doc/never": Outcome.MISSING}
    assert plan.hidden_until is None
    assert [(info.key, info.version_id) for info in memory_store.list_versions("")] == before
