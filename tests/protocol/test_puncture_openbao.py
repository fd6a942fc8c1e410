"""Destroying keys with a real OpenBao and a real S3: few calls for many keyrings, sealed, rotated, its token denied."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.openbao import OpenBao
from tests.protocol.erasing import draft
from tests.protocol.packing import CONFIG, DAY, PREFIX, MemorySource, make_repository, pack, some_files
from vera_core.config import Encryption
from vera_core.errors import ErasedError, RestrictedError, UnavailableError
from vera_core.operations.certificates import verify_certificates
from vera_core.operations.erasure_reports import Stage, show_request
from vera_core.operations.erasures import run_due, submit
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from vera_core.keys.service import KeyService, Outcome
    from vera_core.store.s3 import S3Store

FILES = some_files(48)
UIDS = tuple(file.uid for file in FILES[::2])


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao(tmp_path_factory.mktemp("openbao")) as server:
        yield server


class Counted:
    """A key service, and how many items each call of it had."""

    def __init__(self, inner: KeyService) -> None:
        self.inner = inner
        self.asked: list[tuple[str, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def wrap(self, payloads: Sequence[bytes]) -> list[bytes]:
        self.asked.append(("wrap", len(payloads)))
        return self.inner.wrap(payloads)

    def unwrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        self.asked.append(("unwrap", len(wrapped)))
        return self.inner.unwrap(wrapped)


def archive(store: S3Store, spool: Path, service: KeyService) -> Repository:
    """Files in 16 slots."""
    routing = replace(CONFIG.routing, epochs=(replace_bits(4),))
    make_repository(store, spool, routing=routing, encryption=Encryption(service.kek), classes=CONFIG.classes)
    repo = Repository(store, PREFIX, Workplace("test", spool, key_service=lambda: service))
    pack(repo, MemorySource([replace(file, retention_class="std") for file in FILES]))
    return repo


def replace_bits(n_bits: int) -> Any:
    return CONFIG.routing.epochs[0]._replace(n_bits=n_bits)


def assert_done(repo: Repository, spool: Path) -> None:
    assert show_request(repo, "default", "r-1").stage is Stage.DONE
    assert verify_certificates(repo, "default", "r-1").ok
    reader = Retriever(repo)
    for file in FILES:
        if file.uid in UIDS:
            with pytest.raises(ErasedError):
                reader.get(file.uid, DAY)
        else:
            assert reader.get(file.uid, DAY) == file.content


def test_one_call_to_open_and_one_to_wrap_for_all_slots(bao: OpenBao, s3_store: S3Store, tmp_path: Path) -> None:
    service = Counted(bao.keys())
    repo = archive(s3_store, tmp_path, service)
    service.asked.clear()
    slots = {Retriever(repo).slot(uid, DAY) for uid in UIDS}
    assert submit(repo, draft(*UIDS)).destroyed == len(UIDS)
    assert service.asked == [("unwrap", len(slots)), ("wrap", len(slots))]
    assert_done(repo, tmp_path)


def test_sealed_before_the_keyrings_are_opened(bao: OpenBao, s3_store: S3Store, tmp_path: Path) -> None:
    repo = archive(s3_store, tmp_path, bao.keys(attempts=2, seconds=2.0))
    bao.seal()
    try:
        with pytest.raises(UnavailableError, match="sealed") as told:
            submit(repo, draft(*UIDS))
        assert "out of sight; their keys are not destroyed yet" in told.value.todo
        assert show_request(repo, "default", "r-1").stage is Stage.HIDDEN
        assert not run_due(repo, "default").ok
    finally:
        bao.unseal()
    assert run_due(repo, "default").ok
    assert_done(repo, tmp_path)


def test_rotated_between_packing_and_erasing(bao: OpenBao, s3_store: S3Store, tmp_path: Path) -> None:
    service = bao.keys()
    repo = archive(s3_store, tmp_path, service)
    service.rotate()
    submit(repo, draft(*UIDS))
    assert_done(repo, tmp_path)


def test_a_version_of_the_kek_that_is_not_allowed_any_more(bao: OpenBao, s3_store: S3Store, tmp_path: Path) -> None:
    """A keyring that could be opened again if it were allowed again does not count as destroyed."""
    service = bao.keys(key="raised")
    repo = archive(s3_store, tmp_path, service)
    repo.naming("default")
    service.rotate()
    bao.root.write_data("transit/keys/raised/config", data={"min_decryption_version": 2})
    with pytest.raises(RestrictedError, match="no longer unwraps"):
        submit(repo, draft(*UIDS))
    assert show_request(repo, "default", "r-1").stage is Stage.HIDDEN
    bao.root.write_data("transit/keys/raised/config", data={"min_decryption_version": 1})
    assert run_due(repo, "default").ok
    assert_done(repo, tmp_path)
