"""What proves and lists encrypted shards, with a real OpenBao: it is asked little, and sealed it stops all of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.openbao import OpenBao
from tests.protocol.packing import DAY, KEYS, PREFIX, MemorySource, make_repository, pack, some_files
from vera_core.config import Encryption
from vera_core.errors import UnavailableError
from vera_core.operations.inventory import write_inventory
from vera_core.operations.inventory_files import open_inventory
from vera_core.operations.key_survey import survey_keys
from vera_core.operations.keyring_survey import survey_keyrings
from vera_core.operations.proofs import Place, read_proofs
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.scrub import execute_scrub
from vera_core.operations.scrub_plan import plan_scrub
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.operations.scrub import ScrubReport
    from vera_core.store.base import ObjectStore

SOURCE = MemorySource(some_files(30))


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


def uids(repo: Repository) -> list[str]:
    """What the catalogue of the day lists."""
    infos = repo.store.list_versions(KEYS.inventory_day_prefix("default", DAY))
    return sorted(uid for info in infos for uid in open_inventory(repo, info).read(["uid"])["uid"].to_pylist())


def scrub(repo: Repository) -> ScrubReport:
    return execute_scrub(repo, plan_scrub(repo, all_slots(repo), percent=100))


def test_inventory_scrub_and_surveys_need_the_key_service(store: ObjectStore, tmp_path: Path, bao: OpenBao) -> None:
    keys = bao.keys(attempts=1, seconds=3.0)
    make_repository(store, tmp_path, encryption=Encryption(keys.kek))
    place = Workplace("test", tmp_path, key_service=lambda: keys)
    repo = Repository(store, PREFIX, place)
    pack(repo, SOURCE)
    write_inventory(repo, "default", DAY)
    assert uids(Repository(store, PREFIX, place)) == sorted(file.uid for file in SOURCE.files)
    assert scrub(repo).ok
    proved = read_proofs(repo, Place("default", DAY))
    assert {proof.keyring for proof in proved.values()} == {1}
    listed = [(info.key, info.version_id) for info in store.list_versions(KEYS.inventory_day_prefix("default", DAY))]

    bao.seal()
    sealed = Repository(store, PREFIX, place)
    for using in (
        lambda: uids(sealed),
        lambda: write_inventory(sealed, "default", DAY),
        lambda: scrub(sealed),
        lambda: survey_keyrings(sealed, "default", DAY),
    ):
        with pytest.raises(UnavailableError):
            using()
    assert read_proofs(sealed, Place("default", DAY)) == proved, "nothing passes for damaged, either"
    now = [(info.key, info.version_id) for info in store.list_versions(KEYS.inventory_day_prefix("default", DAY))]
    assert now == listed, "the catalogue that was there stays"

    bao.unseal()
    keys.rotate()
    again = Repository(store, PREFIX, place)
    assert uids(again) == sorted(file.uid for file in SOURCE.files)
    assert scrub(again).ok
    report = survey_keyrings(again, "default", DAY)
    assert (report.ok, report.kek_oldest, report.kek_current, report.behind) == (True, 1, 2, report.keyrings)
    assert survey_keys(again, "default", DAY).ok
