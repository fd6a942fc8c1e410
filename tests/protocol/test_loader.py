"""Loading in processes gives what loading in threads gives, for every kind of file, and stops in order."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.packing import DAY, NOON, make_encrypted, make_repository
from vera_core.codec import Dictionaries, Stored, decode_many
from vera_core.encoding import EncodedBatch, Trained, encode
from vera_core.errors import UnavailableError
from vera_core.keys.naming import PLAIN, KeyedNaming
from vera_core.keys.tenant import Purpose, TenantKey
from vera_core.model import Policy, to_micros
from vera_core.operations.child import OWN_PROCESS_ROWS
from vera_core.operations.load import TRAINING_ROWS, Loaded
from vera_core.operations.loader import (
    Answer,
    Call,
    Options,
    loader,
    pack_answer,
    pack_call,
    unpack_answer,
    unpack_call,
)
from vera_core.operations.pack import pack_window
from vera_core.operations.retrieve import Retriever
from vera_core.routing import Routing
from vera_core.source.base import BigContent, Terms, Unreadable, Window
from vera_core.source.directory import DirectorySource, Packing
from vera_core.source.manifest import Freezing, freeze
from vera_core.source.rows import RejectReason, RowBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from vera_core.keys.naming import Naming
    from vera_core.operations.repository import Repository
    from vera_core.store.memory import MemoryStore

INLINE = 20_000
FILES = 1707
TERMS = Terms(frozenset({"std", "long"}), "std", INLINE)
NOON_NS = to_micros(NOON) * 1000
THREADS = Options(Policy.BALANCED, 2)
ONE = Options(Policy.BALANCED, 2, processes=1)
TWO = Options(Policy.BALANCED, 2, processes=2)
TENANT = TenantKey.fresh(bytes(16), "default")
KEYED = KeyedNaming(TENANT)


@pytest.fixture
def source(tmp_path: Path) -> DirectorySource:
    """Files of all kinds: records with much in common, empty, constant, random, at the inline limit, above it."""
    root = tmp_path / "files"
    root.mkdir()
    rng = random.Random(1)
    for number in range(FILES - 7):
        record = b'{"invoice": %d, "customer": "C%07d", "currency": "EUR", "lines": [%d]}'
        (root / f"doc-{number:04d}.json").write_bytes(record % (number, rng.randrange(10**7), rng.randrange(10**9)))
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
    assert found.days() == {DAY: FILES}
    (root / "vanishes").unlink()
    (root / "grows").write_bytes(b"larger than it was")
    return found


@pytest.fixture
def rows(source: DirectorySource, tmp_path: Path) -> RowBatch:
    window = Window(source.name, source.tenant, DAY)
    manifest = freeze(source.batches(window), tmp_path / "m.parquet", window=window, by=Freezing(Routing(), tmp_path))
    (batch,) = manifest.batches(0, manifest.row_count)
    return batch


def plain(loaded: Iterable[Loaded]) -> list[object]:
    """Every row with what became of its content, and the dictionaries of the first."""
    found: list[object] = []
    for batch in loaded:
        found.append(batch.trained) if batch.trained.dictionaries else None
        for place, (row, encoded) in enumerate(zip(batch.rows.rows(), batch.encoded, strict=True)):
            special = batch.special.get(place)
            outcome = special.size if isinstance(special, BigContent) else special or encoded
            found.append((batch.rows.first + place, row, outcome))
    return found


@pytest.mark.parametrize("options", [ONE, TWO], ids=["one process", "two processes"])
@pytest.mark.parametrize("naming", [PLAIN, KEYED], ids=["plain", "keyed"])
def test_processes_load_what_threads_load(
    source: DirectorySource, rows: RowBatch, options: Options, naming: Naming
) -> None:
    options = options._replace(naming=naming)
    with loader(source, 0, THREADS._replace(naming=naming)) as load:
        here = list(load([rows], 100_000))
        part = list(load([rows.slice(5, 20)], 15))
    with loader(source, OWN_PROCESS_ROWS, options) as load:
        there = list(load([rows], 100_000))
        again = list(load([rows.slice(5, 20)], 15))
    assert plain(there) == plain(here)
    assert plain(again) == plain(part)
    assert [len(batch.trained.dictionaries) for batch in here[:2]] == [1, 0], "trained once, on the first rows"
    assert not part[0].trained.dictionaries, "15 files pay for no dictionary"
    special = {batch.rows.uids[place]: item for batch in there for place, item in batch.special.items()}
    assert special.keys() == {"big", "vanishes", "grows"}
    reasons = [item.reason for item in (special["vanishes"], special["grows"]) if isinstance(item, Unreadable)]
    assert reasons == [RejectReason.MISSING_FILE, RejectReason.WRONG_SIZE]
    big = special["big"]
    assert isinstance(big, BigContent)
    with big.open() as file:
        assert file.read() == b"big" * INLINE, "a big file is opened here"


def test_a_process_is_told_the_key_of_digests_alone_and_by_its_pipe(source: DirectorySource, rows: RowBatch) -> None:
    me = psutil.Process()
    before = {child.pid for child in me.children()}
    with loader(source, OWN_PROCESS_ROWS, TWO._replace(naming=KEYED)) as load:
        loaded = next(load([rows], 100_000))
        children = [child for child in me.children() if child.pid not in before]
        shown = [text for child in children for text in [*child.cmdline(), *child.environ().values()]]
    assert len(children) == 2
    for secret in (TENANT.secret, TENANT.subkey(Purpose.CONTENT)):
        assert not [text for text in shown if secret.hex() in text.lower()]
    content = (source.local.roots[0] / loaded.rows.uids[0]).read_bytes()
    assert loaded.encoded.facts["digest"][0].tobytes() == TENANT.keyed_digest(content)


def test_dictionaries_decode_what_was_loaded(source: DirectorySource, rows: RowBatch, tmp_path: Path) -> None:
    with loader(source, OWN_PROCESS_ROWS, TWO) as load:
        loaded = list(load([rows], 100_000))
    dictionaries = Dictionaries(loaded[0].trained.dictionaries)
    stored = 0
    for batch in loaded:
        items = [Stored(item.codec, item.stored, item.size, item.parameter) for item in batch.encoded]
        stored += sum(item.parameter == 1 for item in items)
        for place, content in enumerate(decode_many(items, dictionaries)):
            if place not in batch.special:
                assert content == (tmp_path / "files" / batch.rows.uids[place]).read_bytes()
    assert stored > FILES // 2


def test_dictionaries_are_trained_on_the_whole_first_batch(
    source: DirectorySource, rows: RowBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only on as much as is loaded at once later, which may be few files."""
    monkeypatch.setattr("vera_core.operations.load.LOADED_BYTES", 1000)
    with loader(source, 0, THREADS) as load:
        assert next(load([rows], 100_000)).trained.dictionaries


def test_a_batch_that_holds_too_much_is_loaded_in_pieces(
    source: DirectorySource, rows: RowBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The rows say nothing of their sizes, as sources may, so batches are filled by number.
    columns = list(rows.columns)
    columns[6] = [None] * len(rows)
    unsized = RowBatch(rows.first, tuple(columns))
    monkeypatch.setattr("vera_core.operations.load.LOADED_BYTES", 100_000)
    with loader(source, 0, THREADS) as load:
        here = list(load([unsized], len(unsized)))
    assert [batch.rows.first + at for batch in here for at in range(len(batch))] == list(range(FILES))
    assert max(len(batch) for batch in here) < TRAINING_ROWS


def test_a_use_that_ends_early_leaves_nothing_for_the_next(source: DirectorySource, rows: RowBatch) -> None:
    with loader(source, OWN_PROCESS_ROWS, TWO) as load:
        first = load([rows], FILES)
        assert next(first).rows.first == 0
        assert next(first).rows.first == TRAINING_ROWS
        first.close()
        whole = plain(load([rows.slice(300, FILES)], FILES))
    with loader(source, 0, THREADS) as load:
        assert whole == plain(load([rows.slice(300, FILES)], FILES))


def test_rows_frozen_under_other_settings_are_loaded_here(source: DirectorySource, rows: RowBatch) -> None:
    """Their contents may be no local files any more, so no process can read them."""
    local = source.local
    source.local = type(local)(local.roots, local.inline_limit, lambda batch: [""] * len(batch))
    with loader(source, OWN_PROCESS_ROWS, TWO) as load:
        loaded = list(load([rows], 100_000))
    assert sum(len(batch) for batch in loaded) == FILES
    assert not any(batch.trained.dictionaries or batch.encoded.facts["parameter"][:3].any() for batch in loaded[:1])


def test_a_killed_process_is_an_error_that_says_so(source: DirectorySource, rows: RowBatch) -> None:
    before = {child.pid for child in psutil.Process().children()}
    with loader(source, OWN_PROCESS_ROWS, TWO) as load:
        for process in psutil.Process().children():
            if process.pid not in before:
                process.kill()
        with pytest.raises(UnavailableError, match="ended with code -9"):
            list(load([rows], FILES))


trained = st.builds(
    Trained,
    st.lists(st.binary(max_size=50), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=9), st.integers(0, 3)),
)
specials = st.one_of(st.none(), st.builds(Unreadable, st.sampled_from([*RejectReason]), st.text(max_size=50)))


@given(st.lists(st.binary(max_size=3000), max_size=20), st.dictionaries(st.integers(0, 30), specials), trained)
def test_answers_come_back_as_they_were(
    contents: list[bytes], special: dict[int, Unreadable | None], dictionaries: Trained
) -> None:
    encoded = EncodedBatch.of([encode(content) for content in contents])
    answer = unpack_answer(b"".join(pack_answer(Answer(encoded, special, dictionaries))))
    assert list(answer.encoded) == list(encoded)
    assert (answer.special, answer.trained) == (special, dictionaries)


paths = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@given(
    st.lists(st.tuples(paths, st.one_of(st.none(), st.integers(0, 1 << 50)), st.text(max_size=9)), max_size=20),
    st.integers(0, 1 << 40),
    st.one_of(st.none(), trained),
)
def test_calls_come_back_as_they_were(
    files: list[tuple[str, int | None, str]], number: int, dictionaries: Trained | None
) -> None:
    call = Call(
        [path for path, _, _ in files],
        [size for _, size, _ in files],
        [kind for _, _, kind in files],
        number,
        dictionaries,
    )
    assert unpack_call(pack_call(call)) == call


@pytest.mark.parametrize("make", [make_repository, make_encrypted])
def test_a_day_packed_with_processes_comes_back(
    source: DirectorySource,
    memory_store: MemoryStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Repository],
) -> None:
    for name in ("loader", "inspector"):
        monkeypatch.setattr(f"vera_core.operations.{name}.OWN_PROCESS_ROWS", 1)
    repo = make(memory_store, tmp_path / "spool", inline_limit=INLINE, part_rows=600)
    report = pack_window(repo, source, Window(source.name, source.tenant, DAY))
    assert (report.rows, report.archived, report.rejected) == (FILES, FILES - 2, 2)
    reader = Retriever(repo)
    root = tmp_path / "files"
    for path in root.iterdir():
        if path.name != "grows":
            assert b"".join(reader.stream(path.name, DAY)[1]) == path.read_bytes()
