"""Two tenants in one repository: nothing of one reaches, or is told to, the other (I8)."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import (
    DAY,
    KEYS,
    File,
    MemorySource,
    assert_archived,
    make_encrypted,
    make_repository,
    opened,
    pack,
    some_files,
)
from vera_core.errors import NotFoundError, UsageError
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots, tenants
from vera_core.slotlog import encode_sidecar
from vera_core.store.chain import canonical
from vera_core.store.faulty import FaultyStore

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.repository import Repository
    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

SECRET = File("contract/acme.pdf", b"the terms", media_type="application/pdf")


@pytest.fixture(params=[make_repository, make_encrypted])
def repo(memory_store: MemoryStore, tmp_path: Path, request: pytest.FixtureRequest) -> Repository:
    made: Repository = request.param(memory_store, tmp_path)
    pack(made, MemorySource([SECRET, *some_files(20, prefix="alpha")], tenant="alpha"))
    pack(made, MemorySource(some_files(20, prefix="beta"), tenant="beta"))
    return made


def asked(store: ObjectStore, spool: Path, tenant: str, uid: str, verb: str = "get") -> list[tuple[str, str, int]]:
    """What a new reader asks of the store for a uid that it must not find, keys shortened to their kind."""
    watched = FaultyStore(store)
    reader = Retriever(opened(watched, spool), tenant)
    watched.calls.clear()
    with pytest.raises(NotFoundError) as caught:
        getattr(reader, verb)(uid, DAY)
    assert "acme" not in caught.value.what
    return [(call.kind, call.key.split(tenant)[-1].rsplit("/", 1)[-1], call.size) for call in watched.calls]


def test_a_tenant_reads_its_own_files_only(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    assert Retriever(repo, "alpha").get(SECRET.uid, DAY) == SECRET.content
    for tenant in ("beta", "nobody"):
        reader = Retriever(opened(memory_store, tmp_path), tenant)
        for verb in ("get", "stat", "stream", "versions"):
            with pytest.raises(NotFoundError):
                getattr(reader, verb)(SECRET.uid, DAY)
        assert SECRET.uid not in [report.uid for report in reader.list_day(DAY)]
    assert sorted(tenants(repo)) == ["alpha", "beta"]
    assert {slot.tenant for slot in all_slots(repo, tenant="beta")} == {"beta"}


@pytest.mark.parametrize("verb", ["get", "stat", "versions"])
def test_a_foreign_uid_and_an_unknown_one_are_asked_for_in_the_same_way(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path, verb: str
) -> None:
    """Neither the answer nor the requests that lead to it tell whether another tenant has the file."""
    slot = Retriever(repo, "beta").slot(SECRET.uid, DAY)
    unknown = next(
        uid for uid in (f"contract/none-{n}.pdf" for n in range(99))
        if Retriever(repo, "beta").slot(uid, DAY) == slot
    )  # fmt: skip
    foreign = asked(memory_store, tmp_path, "beta", SECRET.uid, verb)
    assert foreign == asked(memory_store, tmp_path, "beta", unknown, verb)
    assert foreign
    errors = []
    for uid in (SECRET.uid, unknown):
        with pytest.raises(NotFoundError) as caught:
            Retriever(repo, "beta").get(uid, DAY)
        errors.append((caught.value.what, caught.value.todo, caught.value.where | {"uid": ""}))
    assert errors[0] == errors[1]


def test_every_request_stays_in_the_tenants_own_prefix(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    watched = FaultyStore(memory_store)
    fresh = opened(watched, tmp_path)
    watched.calls.clear()
    reader = Retriever(fresh, "beta")
    for file in some_files(20, prefix="beta"):
        assert reader.get(file.uid, DAY) == file.content
    list(reader.list_day(DAY))
    pack(fresh, MemorySource(some_files(30, prefix="beta"), name="more", tenant="beta"))
    for call in watched.calls:
        if call.key:
            assert call.key.startswith((KEYS.tenant_prefix("beta"), KEYS.audit_prefix, KEYS.config_prefix)), call


def test_the_same_file_of_two_tenants_is_stored_for_each(
    repo: Repository, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """No dedup over tenants: beta's copy is archived as if alpha had none."""
    report = pack(repo, MemorySource([SECRET], name="copy", tenant="beta"))
    assert (report.archived, report.equal) == (1, 0)
    assert pack(repo, MemorySource([SECRET], name="copy", tenant="alpha")).equal == 1
    [line] = report.shards
    assert line.key.startswith(KEYS.tenant_prefix("beta"))
    assert Retriever(opened(memory_store, tmp_path), "beta").get(SECRET.uid, DAY) == SECRET.content
    assert_archived(memory_store, tmp_path, MemorySource([SECRET, *some_files(20, prefix="beta")], tenant="beta"))


def test_a_forged_sidecar_opens_no_foreign_shard(repo: Repository, memory_store: MemoryStore, tmp_path: Path) -> None:
    """Who may write beta's objects names alpha's shard in beta's sidecar: it is not believed."""
    theirs = Retriever(repo, "alpha").stat(SECRET.uid, DAY)
    slot = Retriever(repo, "beta").slot(SECRET.uid, DAY)
    log = repo.slot_log(slot)
    state = log.load()
    [mine] = [shard for shard in state.live() if shard.retention_class == "std"]
    foreign_slot = replace(slot, tenant="alpha")
    foreign = next(
        shard for shard in repo.slot_log(foreign_slot).load().live() if shard.version_id == theirs.version_id
    )
    forged = json.loads(encode_sidecar(state))
    forged["state"]["shards"] = [{"number": mine.number, **foreign.to_json()}]
    for lock in (None, mine.lock):
        memory_store.put(KEYS.sidecar(slot), canonical(forged), lock=lock)
        assert repo.slot_log(slot).current().live() == state.live()
    with pytest.raises(NotFoundError):
        Retriever(opened(memory_store, tmp_path), "beta").get(SECRET.uid, DAY)


@pytest.mark.parametrize(
    "name", ["../alpha", "alpha/", "", "Alpha", "alpha/20260301/0", "a" * 65, "\u0430lpha", ".", "-x"]
)
def test_no_name_reaches_into_another_tenant(repo: Repository, name: str) -> None:
    with pytest.raises(UsageError, match="no valid tenant"):
        Retriever(repo, name).get(SECRET.uid, DAY)
