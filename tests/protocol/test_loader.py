"""Loading in a process gives what loading in threads gives, for every kind of file, and stops in order."""

from __future__ import annotations

import io
import os
import random
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.packing import DAY, NOON, make_repository
from vera_core.codec import Encoded, Policy, encode
from vera_core.errors import UnavailableError
from vera_core.model import to_micros
from vera_core.operations.child import OWN_PROCESS_ROWS
from vera_core.operations.loader import Options, loader, pack, unpack
from vera_core.operations.pack import pack_window
from vera_core.operations.retrieve import Retriever
from vera_core.routing import Routing
from vera_core.source.base import BigContent, Terms, Unreadable, Window
from vera_core.source.directory import DirectorySource, Packing
from vera_core.source.manifest import freeze
from vera_core.source.rows import RejectReason

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from vera_core.operations.load import LoadedRow, Numbered, Outcome
    from vera_core.store.memory import MemoryStore

INLINE = 20_000
TERMS = Terms(frozenset({"std", "long"}), "std", INLINE)
NOON_NS = to_micros(NOON) * 1000
OPTIONS = Options(Policy.BALANCED, 2)


@pytest.fixture
def source(tmp_path: Path) -> DirectorySource:
    """Files of all kinds: empty, small, constant, random, at the inline limit, above it."""
    root = tmp_path / "files"
    root.mkdir()
    rng = random.Random(1)
    for number in range(700):
        (root / f"doc-{number:03d}.json").write_bytes(b'{"number": %d}' % number * rng.randint(1, 300))
    (root / "empty").write_bytes(b"")
    (root / "constant").write_bytes(b"\0" * 5000)
    (root / "random süß").write_bytes(rng.randbytes(9000))
    (root / "limit").write_bytes(rng.randbytes(INLINE))
    (root / "big").write_bytes(b"big" * INLINE)
    (root / "vanishes").write_bytes(b"soon gone")
    (root / "grows").write_bytes(b"small")
    for path in root.iterdir():
        os.utime(path, ns=(NOON_NS, NOON_NS))
    found = DirectorySource(root, TERMS, Packing(spool=tmp_path / "spool", name="docs"))
    assert found.days() == {DAY: 707}
    (root / "vanishes").unlink()
    (root / "grows").write_bytes(b"larger than it was")
    return found


@pytest.fixture
def rows(source: DirectorySource, tmp_path: Path) -> list[Numbered]:
    window = Window(source.name, source.tenant, DAY)
    manifest = freeze(source.rows(window), Routing(), tmp_path / "m.parquet", window=window, spool=tmp_path)
    return list(enumerate(manifest.rows(0, manifest.row_count)))


def plain(loaded: Sequence[LoadedRow[Encoded]]) -> list[object]:
    return [
        (item.number, item.row, item.outcome.size if isinstance(item.outcome, BigContent) else item.outcome)
        for item in loaded
    ]


def test_a_process_loads_what_threads_load(source: DirectorySource, rows: list[Numbered]) -> None:
    with loader(source, 0, OPTIONS) as load:
        here = list(load(iter(rows)))
    with loader(source, OWN_PROCESS_ROWS, OPTIONS) as load:
        there = list(load(iter(rows)))
        again = list(load(iter(rows[5:20])))
    assert plain(there) == plain(here)
    assert plain(again) == plain(here[5:20])
    reasons = {item.row.uid: item.outcome.reason for item in there if isinstance(item.outcome, Unreadable)}
    assert reasons == {"vanishes": RejectReason.MISSING_FILE, "grows": RejectReason.WRONG_SIZE}
    (big,) = [item.outcome for item in there if isinstance(item.outcome, BigContent)]
    with big.open() as file:
        assert file.read() == b"big" * INLINE, "a big file is opened here"


def test_a_batch_that_holds_too_much_is_loaded_in_pieces(
    source: DirectorySource, rows: list[Numbered], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rows say nothing of their sizes, as sources may, so batches are filled by number.
    unsized = [(number, row._replace(size=None)) for number, row in rows]
    monkeypatch.setattr("vera_core.operations.load.LOADED_BYTES", 10_000)
    with loader(source, 0, OPTIONS) as load:
        here = list(load(iter(unsized)))
    assert [item.number for item in here] == [number for number, _ in unsized]


def test_a_use_that_ends_early_leaves_nothing_for_the_next(source: DirectorySource, rows: list[Numbered]) -> None:
    with loader(source, OWN_PROCESS_ROWS, OPTIONS) as load:
        first = load(iter(rows))
        assert next(first).number == 0
        first.close()
        assert [item.number for item in load(iter(rows[300:]))] == list(range(300, len(rows)))


def test_a_killed_process_is_an_error_that_says_so(source: DirectorySource, rows: list[Numbered]) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with loader(source, OWN_PROCESS_ROWS, OPTIONS) as load:
        (process,) = [child for child in psutil.Process().children() if child.pid not in before]
        process.kill()
        with pytest.raises(UnavailableError, match="ended with code -9"):
            list(load(iter(rows)))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=3000).map(encode),
            st.builds(Unreadable, st.sampled_from([*RejectReason]), st.text(max_size=50)),
            st.builds(BigContent, st.integers(0, 1 << 40), st.just(io.BytesIO)),
        ),
        max_size=20,
    )
)
def test_answers_come_back_as_they_were(outcomes: list[Outcome[Encoded]]) -> None:
    expected = [None if isinstance(outcome, BigContent) else outcome for outcome in outcomes]
    assert list(unpack(pack(outcomes))) == expected


def test_a_day_packed_with_processes_comes_back(
    source: DirectorySource, memory_store: MemoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("loader", "inspector"):
        monkeypatch.setattr(f"vera_core.operations.{name}.OWN_PROCESS_ROWS", 1)
    repo = make_repository(memory_store, tmp_path / "spool", inline_limit=INLINE, part_rows=150)
    report = pack_window(repo, source, Window(source.name, source.tenant, DAY))
    assert (report.rows, report.archived, report.rejected) == (707, 705, 2)
    reader = Retriever(repo)
    root = tmp_path / "files"
    for path in root.iterdir():
        if path.name != "grows":
            assert b"".join(reader.stream(path.name, DAY)[1]) == path.read_bytes()
