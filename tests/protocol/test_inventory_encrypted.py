"""The inventory of an encrypted repository: read by who holds the keys, and showing nothing to anybody else."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.protocol.erasing import draft
from tests.protocol.packing import DAY, KEYS, PREFIX, MemorySource, make_encrypted, opened, pack, some_files
from vera_core.errors import IncompatibleError, IntegrityError, UnavailableError, UsageError
from vera_core.operations import inventory_files, opening
from vera_core.operations.erasures import submit
from vera_core.operations.inventory import write_inventory
from vera_core.operations.inventory_files import inventory_writer, open_inventory
from vera_core.operations.repository import Repository, Workplace
from vera_core.operations.retrieve import Retriever

if TYPE_CHECKING:
    from vera_core.store.base import ObjectStore, VersionInfo
    from vera_core.store.memory import MemoryStore

ROWS = pa.table({"uid": [f"telling-{number}" for number in range(1000)], "size": list(range(1000))})
PLACE = KEYS.inventory("default", DAY, "0", 3)
OTHER = KEYS.inventory("default", DAY, "0", 4)


def put(repo: Repository, path: Path, key: str = PLACE) -> VersionInfo:
    """Stores `ROWS` as an inventory file."""
    with inventory_writer(repo, key, path, ROWS.schema) as writer:
        writer.write_table(ROWS)
    stored = repo.store.put(key, path.read_bytes())
    return repo.store.head(key, version_id=stored.version_id)


@pytest.fixture
def repo(memory_store: MemoryStore, tmp_path: Path) -> Repository:
    return make_encrypted(memory_store, tmp_path)


def test_who_holds_the_keys_reads_it_whole_or_some_columns(store: ObjectStore, tmp_path: Path) -> None:
    repo = make_encrypted(store, tmp_path)
    info = put(repo, tmp_path / "file")
    reader = opened(store, tmp_path, "reader")
    assert open_inventory(reader, info).read().equals(ROWS)
    assert open_inventory(reader, info).read(["size"]).column_names == ["size"]
    assert sum(len(batch) for batch in open_inventory(reader, info).iter_batches(100)) == len(ROWS)


def test_neither_rows_nor_names_of_columns_can_be_read_in_it(repo: Repository, tmp_path: Path) -> None:
    info = put(repo, tmp_path / "file")
    data = repo.store.get(info.key).data
    assert not [word for word in (b"telling", b"uid", b"size", b"ARROW") if word in data]
    with pytest.raises(OSError, match="encrypted"):
        pq.ParquetFile(io.BytesIO(data))


def test_two_files_of_the_same_rows_share_nothing(repo: Repository, tmp_path: Path) -> None:
    one, other = (repo.store.get(put(repo, tmp_path / name).key).data for name in ("one", "other"))
    assert one != other


def test_a_file_in_the_place_of_another_does_not_open(repo: Repository, tmp_path: Path) -> None:
    info = put(repo, tmp_path / "file")
    stored = repo.store.put(OTHER, repo.store.get(info.key).data)
    with pytest.raises(IntegrityError, match="belongs to another place"):
        open_inventory(repo, repo.store.head(OTHER, version_id=stored.version_id))


def test_what_is_not_encrypted_or_no_parquet_is_refused(repo: Repository, tmp_path: Path) -> None:
    pq.write_table(ROWS, tmp_path / "plain")
    for data in ((tmp_path / "plain").read_bytes(), b"junk", b"", b"PARE" * 9):
        stored = repo.store.put(PLACE, data)
        with pytest.raises(IntegrityError, match="can't be opened"):
            open_inventory(repo, repo.store.head(PLACE, version_id=stored.version_id))


@pytest.mark.parametrize("at", [4, 10, 200, -9, -30, -300])
def test_altered_bytes_never_pass(repo: Repository, tmp_path: Path, at: int) -> None:
    data = bytearray(repo.store.get(put(repo, tmp_path / "file").key).data)
    data[at] ^= 1
    stored = repo.store.put(PLACE, bytes(data))
    with pytest.raises((IntegrityError, pa.ArrowException, OSError)):
        open_inventory(repo, repo.store.head(PLACE, version_id=stored.version_id)).read()


def test_errors_of_the_key_service_stay_what_they_are(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = put(repo, tmp_path / "file")
    stranger = Repository(repo.store, PREFIX, Workplace(actor="stranger", spool=tmp_path))
    for using in (lambda: open_inventory(stranger, info), lambda: put(stranger, tmp_path / "another")):
        with pytest.raises(UsageError, match="not configured here"):
            using()

    def sealed(*_: object) -> object:
        raise UnavailableError("the key service is sealed")

    service = repo.key_service()
    monkeypatch.setattr(type(service), "unwrap", sealed)
    monkeypatch.setattr(type(service), "wrap", sealed)
    for using in (lambda: open_inventory(repo, info), lambda: put(repo, tmp_path / "third")):
        with pytest.raises(UnavailableError, match="sealed"):
            using()


def test_a_pyarrow_that_cant_encrypt_is_named(
    repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = put(repo, tmp_path / "file")
    monkeypatch.setattr(inventory_files, "encryption", None)
    with pytest.raises(IncompatibleError, match="pyarrow that is installed can't encrypt"):
        open_inventory(repo, info)
    with pytest.raises(IncompatibleError, match="pyarrow that is installed can't encrypt"):
        put(repo, tmp_path / "another")


def test_the_catalogue_lists_what_was_archived_and_an_erasure_takes_it_away(
    memory_store: MemoryStore, tmp_path: Path
) -> None:
    source = MemorySource([replace(file, metadata=(("customer", "4711"),)) for file in some_files(40)])
    repo = make_encrypted(memory_store, tmp_path)
    pack(repo, source)
    report = write_inventory(repo, "default", DAY)
    assert (report.files, report.content_bytes) == (40, sum(len(file.content) for file in source.files))
    rows = listed(memory_store, tmp_path)
    assert sorted(row["uid"] for row in rows) == sorted(file.uid for file in source.files)
    assert {(row["media_type"], *row["metadata"]) for row in rows} == {("application/json", ("customer", "4711"))}
    assert submit(opened(memory_store, tmp_path), draft(source.files[0].uid)).ok
    assert not list(
        memory_store.list_versions(KEYS.inventory_slot_prefix(Retriever(repo).slot(source.files[0].uid, DAY)))
    )
    write_inventory(opened(memory_store, tmp_path), "default", DAY)
    rows = listed(memory_store, tmp_path)
    assert sorted(row["uid"] for row in rows) == sorted(file.uid for file in source.files[1:])


def listed(store: ObjectStore, spool: Path) -> list[dict[str, Any]]:
    repo = opened(store, spool, "reader")
    infos = store.list_versions(KEYS.inventory_day_prefix("default", DAY))
    return [row for info in infos for row in open_inventory(repo, info).read().to_pylist()]


def test_what_the_page_says_of_pandas_works(repo: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = MemorySource(some_files(20))
    pack(repo, source)
    write_inventory(repo, "default", DAY)
    page = (Path(__file__).parents[2] / "docs" / "encryption.md").read_text()
    code = dedent(page.split("which needs the same `vera.toml`:\n")[1].split("Only the columns")[0])
    monkeypatch.setattr(opening, "open_repository", lambda _: repo)
    shown: dict[str, Any] = {}
    exec(code, shown)
    assert list(shown["frame"].columns) == ["uid", "created_at", "size", "media_type"]
    assert set(shown["frame"]["uid"]) < {file.uid for file in source.files}
