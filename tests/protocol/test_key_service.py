"""A real OpenBao that fails in the middle: packing, reading and rewrapping stop, and nothing is lost or shown."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.openbao import OpenBao
from tests.protocol.packing import DAY, PREFIX, MemorySource, make_repository, pack, some_files
from tests.store.proxy import Fault, FaultyProxy, Message
from vera_core.config import Encryption
from vera_core.errors import IntegrityError, NotFoundError, RestrictedError, UnavailableError, VeraError
from vera_core.keys.transit import TransitKeys, TransitOptions
from vera_core.operations.key_census import take_census
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever
from vera_core.operations.rewrap import RewrapReport, execute_rewrap, rotate
from vera_core.store.faulty import Action, FaultyStore, Rule

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vera_core.store.base import ObjectStore
    from vera_core.store.memory import MemoryStore

SOURCE = MemorySource(some_files(60))
ONCE = {"attempts": 1, "seconds": 3.0}
DOCUMENT = Path(__file__).parents[2] / "docs" / "encryption.md"


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """A server set up as docs/encryption.md says; what it has outlives a restart."""
    with OpenBao(tmp_path_factory.mktemp("openbao"), durable=True) as server:
        server.root.write_data("transit/config/keys", data={"disable_upsert": True})
        yield server


@pytest.fixture
def keys(bao: OpenBao) -> TransitKeys:
    """A transit key of the test's own, asked once only."""
    return bao.keys(**ONCE)


def opened(store: ObjectStore, spool: Path, keys: TransitKeys) -> Repository:
    return Repository(store, PREFIX, Workplace("test", spool, key_service=lambda: keys))


def archived(store: MemoryStore, spool: Path, keys: TransitKeys) -> Repository:
    """A packed repository."""
    make_repository(store, spool, encryption=Encryption(keys.kek))
    repo = opened(store, spool, keys)
    pack(repo, SOURCE)
    return repo


def rewrap(repo: Repository) -> RewrapReport:
    return execute_rewrap(repo, take_census(repo))


def assert_readable(repo: Repository, files: int = 60) -> None:
    reader = Retriever(repo)
    assert len(SOURCE.files) == files
    assert all(reader.get(file.uid, DAY) == file.content for file in SOURCE.files)


def assert_all_or_nothing(store: MemoryStore, spool: Path, keys: TransitKeys) -> None:
    """After whatever failed: no content lies open in the bucket, and packing goes on to the end."""
    stored = b"".join(store.get(info.key, version_id=info.version_id).data for info in store.list_versions("")
                      if not info.is_delete_marker)  # fmt: skip
    assert not any(file.content in stored or file.uid.encode() in stored for file in SOURCE.files)
    pack(opened(store, spool, keys), SOURCE)
    assert_readable(opened(store, spool, keys))


@pytest.mark.parametrize("nth", [1, 3])
def test_sealed_while_it_packs(
    bao: OpenBao, keys: TransitKeys, memory_store: MemoryStore, tmp_path: Path, nth: int
) -> None:
    make_repository(memory_store, tmp_path, encryption=Encryption(keys.kek))
    failing = FaultyStore(memory_store, [Rule(Action.RUN_AFTER, "put", "*.keys", nth, run=bao.seal)])
    try:
        with pytest.raises(UnavailableError, match="sealed") as caught:
            pack(opened(failing, tmp_path, keys), SOURCE)
        assert caught.value.kind.exit_code == 9
        with pytest.raises(UnavailableError, match="sealed"):
            Retriever(opened(memory_store, tmp_path, keys)).get(SOURCE.files[0].uid, DAY)
    finally:
        bao.unseal()
    assert_all_or_nothing(memory_store, tmp_path, keys)


def test_sealed_and_restarted_while_it_rewraps(
    bao: OpenBao, keys: TransitKeys, memory_store: MemoryStore, tmp_path: Path
) -> None:
    repo = archived(memory_store, tmp_path, keys)
    for happens in (bao.seal, bao.restart):
        rotate(opened(memory_store, tmp_path, keys))
        plan = take_census(opened(memory_store, tmp_path, keys))
        # A batch holds all keys here: it is cut off before a batch, and before the census that ends a run.
        for kind in ("list_prefixes", "put"):
            failing = FaultyStore(memory_store, [Rule(Action.RUN_BEFORE, kind, f"{PREFIX}/t/*", run=happens)])
            try:
                with pytest.raises(UnavailableError, match="key service"):
                    execute_rewrap(opened(failing, tmp_path, keys), plan)
            finally:
                bao.unseal()
        assert rewrap(repo).ok
        assert_readable(opened(memory_store, tmp_path, keys))
    assert rewrap(repo).raise_to == 3


def test_rotated_while_it_rewraps(keys: TransitKeys, memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = archived(memory_store, tmp_path, keys)
    rotate(repo)
    plan = take_census(repo)
    racing = FaultyStore(memory_store, [Rule(Action.RUN_BEFORE, "put", "*.keys", 2, run=keys.rotate)])
    report = execute_rewrap(opened(racing, tmp_path, keys), plan)
    assert (report.ok, report.behind, report.raise_to) == (False, plan.keys, 2), "it says that there is more to do"
    assert rewrap(repo).raise_to == 3
    assert_readable(opened(memory_store, tmp_path, keys))


def test_what_a_rewrapping_says_may_be_ended_is_not_needed(
    bao: OpenBao, keys: TransitKeys, memory_store: MemoryStore, tmp_path: Path
) -> None:
    """And old keyrings, as a backup of the bucket may have, open nothing any more."""
    repo = archived(memory_store, tmp_path, keys)
    key = next(info.key for info in memory_store.list_objects("") if info.key.endswith(".keys") and "/2026" in info.key)
    backup = memory_store.get(key).data
    rotate(repo)
    report = rewrap(repo)
    name = keys.kek.rpartition("/")[2]
    bao.root.write_data(f"transit/keys/{name}/config", data={"min_decryption_version": report.raise_to})
    assert_readable(opened(memory_store, tmp_path, keys))
    for info in list(memory_store.list_versions(key)):
        memory_store.delete(key, version_id=info.version_id)
    memory_store.put(key, backup)
    reader = Retriever(opened(memory_store, tmp_path, keys))
    with pytest.raises(RestrictedError, match="no longer unwraps"):
        [reader.get(file.uid, DAY) for file in SOURCE.files]


def test_the_documented_policy_is_enough_and_a_token_that_ends_stops_everything(
    bao: OpenBao, memory_store: MemoryStore, tmp_path: Path
) -> None:
    bao.keys(key="vera")
    policy = "\n".join(re.findall(r"^    (path \"transit.*)$", DOCUMENT.read_text(), re.MULTILINE))
    assert policy.count("path") == 5
    tokens = [bao.token(policy), bao.token(policy)]
    options = TransitOptions(address=bao.address, key="vera", attempts=1)
    keys = TransitKeys(options, token=lambda: tokens[-1])
    repo = archived(memory_store, tmp_path, keys)
    rotate(repo)
    ends = partial(bao.root.auth.token.revoke, tokens[1])
    failing = FaultyStore(memory_store, [Rule(Action.RUN_BEFORE, "list_prefixes", f"{PREFIX}/t/*", run=ends)])
    plan = take_census(repo)
    with pytest.raises(RestrictedError, match="denies"):
        execute_rewrap(opened(failing, tmp_path, keys), plan)
    for refused in _everything(memory_store, tmp_path, keys):
        with pytest.raises(RestrictedError, match="denies"):
            refused()
    tokens.pop()
    assert rewrap(opened(memory_store, tmp_path, keys)).behind == 0
    assert_readable(opened(memory_store, tmp_path, keys))


def test_a_key_that_was_deleted_stops_everything(
    bao: OpenBao, keys: TransitKeys, memory_store: MemoryStore, tmp_path: Path
) -> None:
    archived(memory_store, tmp_path, keys)
    name = keys.kek.rpartition("/")[2]
    bao.root.write_data(f"transit/keys/{name}/config", data={"deletion_allowed": True})
    bao.root.delete(f"transit/keys/{name}")
    for refused in _everything(memory_store, tmp_path, keys):
        with pytest.raises((NotFoundError, IntegrityError)) as caught:
            refused()
        assert caught.value.todo
    keys_before = {info.version_id for info in memory_store.list_versions("") if info.key.endswith(".vera")}
    more = MemorySource([*SOURCE.files, *some_files(5, seed=4, prefix="more")])
    with pytest.raises(VeraError):
        pack(opened(memory_store, tmp_path, keys), more, revision=2)
    assert keys_before == {info.version_id for info in memory_store.list_versions("") if info.key.endswith(".vera")}


def _everything(store: MemoryStore, spool: Path, keys: TransitKeys) -> list[Callable[[], object]]:
    """What needs the key service, each by a handle of its own."""
    return [
        lambda: Retriever(opened(store, spool, keys)).get(SOURCE.files[0].uid, DAY),
        lambda: take_census(opened(store, spool, keys)),
        lambda: rotate(opened(store, spool, keys)),
        lambda: opened(store, spool, keys).naming("another", make=True),
    ]


def test_one_that_hangs_is_given_up_and_one_that_answers_late_is_waited_for(
    bao: OpenBao, memory_store: MemoryStore, tmp_path: Path
) -> None:
    with FaultyProxy(bao.address) as proxy:
        bao.keys(key="slow")
        patient = bao.keys(key="slow", address=proxy.url, attempts=4, seconds=20.0)
        archived(memory_store, tmp_path, patient)
        busy = Message((("Content-Type", "application/json"),), b'{"errors": ["busy"]}', 503)
        proxy.faults.append(Fault(method="POST", path="*/rewrap/*", times=2, answer=busy))
        rotate(opened(memory_store, tmp_path, patient))
        assert rewrap(opened(memory_store, tmp_path, patient)).behind == 0
        proxy.faults.append(Fault(method="POST", path="*/decrypt/*", times=9, lose=True))
        once = bao.keys(key="slow", address=proxy.url, **ONCE)
        with pytest.raises(UnavailableError, match="does not answer"):
            Retriever(opened(memory_store, tmp_path, once)).get(SOURCE.files[0].uid, DAY)
