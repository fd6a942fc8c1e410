"""Corpora are the same for one seed, are what their listings say, and records compress as they are said to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zstandard

from benchmarks.corpora import blob_corpus, mixed_corpus, record_corpus
from benchmarks.corpus import Corpus, Item, lay_out
from benchmarks.records import records
from vera_core.model import check_uid

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kind", ["json", "mixed", "blobs"])
def test_a_corpus_is_what_its_listing_says(kind: str, tmp_path: Path) -> None:
    if kind == "mixed":
        corpus = mixed_corpus(tmp_path / "it", files=50)
    else:
        corpus = (record_corpus if kind == "json" else blob_corpus)(tmp_path / "it", 50)
    items = list(corpus.items())
    assert len({check_uid(item.uid) for item in items}) == corpus.files == 50
    assert sum(item.size for item in items) == corpus.content_bytes
    assert all(len(corpus.content(item)) == item.size for item in items)
    assert all((corpus.root / item.path).stat().st_mtime_ns // 1000 == item.created_at for item in items)
    assert sum(path.is_file() for path in corpus.root.rglob("*")) == 50
    assert Corpus.load(corpus.directory) == corpus
    sample = corpus.sample(20)
    assert len(set(sample)) == 20
    assert set(sample) <= set(items)


def test_equal_contents_are_counted_once(tmp_path: Path) -> None:
    files = [(Item(f"{number}", f"a/{number}", 1, 0), b"xy"[number % 2 :][:1]) for number in range(6)]
    assert lay_out("test", tmp_path / "it", files).distinct == 2


def test_records_are_the_same_for_one_seed_and_fill_a_day() -> None:
    first, again = list(records(300)), list(records(300))
    assert first == again
    assert list(records(300, seed=2)) != first
    times = [item.created_at for item, _ in first]
    assert times == sorted(times)
    assert 86_000_000_000 < times[-1] - times[0] < 86_400_000_000


def test_records_compress_as_the_corpus_that_they_stand_for() -> None:
    """Targets hold ratios of compressed sizes, so that a more or less compressible corpus would move them."""
    contents = [content for _, content in records(3000)]
    total = sum(map(len, contents))
    assert total / len(contents) == pytest.approx(2800, abs=100)
    alone = zstandard.ZstdCompressor(level=3)
    assert sum(len(alone.compress(content)) for content in contents) / total == pytest.approx(0.32, abs=0.01)
    dictionary = zstandard.train_dictionary(16 << 10, [*contents[:200]], level=1)
    shared = zstandard.ZstdCompressor(level=1, dict_data=dictionary)
    stored = sum(len(shared.compress(content)) for content in contents[200:])
    assert stored / sum(map(len, contents[200:])) == pytest.approx(0.205, abs=0.01)
