"""Cost estimates: sums that close, tables that are checked, and figures near what an archive really takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.packing import DAY, MemorySource, make_repository, pack, some_files
from vera_core.errors import UsageError
from vera_core.operations.cost import PRICES, PriceTable, Workload, estimate, monthly, read_prices
from vera_core.operations.inventory import write_inventory

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.memory import MemoryStore

FREE = PriceTable("free", "2026-01-01", "us", 0.0, 0.0, 0.0)


def test_the_estimate_is_what_an_archive_takes(memory_store: MemoryStore, tmp_path: Path) -> None:
    repo = make_repository(memory_store, tmp_path)
    files = some_files(400)
    report = pack(repo, MemorySource(files))
    counted = write_inventory(repo, "default", DAY)
    size = sum(len(file.content) for file in files)
    ratio, rows = size / report.stored_bytes, repo.config.part_rows
    found = estimate(Workload(files=400, content_bytes=size, compression=ratio, slots=2, part_rows=rows))
    assert abs(found.shards - len(report.shards)) <= 3
    assert abs(found.objects - counted.objects - 6) <= 6, "the audit's entries are not in a day's count"
    assert found.duration == 400 / 20_000


@given(
    st.builds(
        Workload,
        files=st.integers(0, 10**11),
        content_bytes=st.integers(0, 10**16),
        compression=st.floats(0.1, 50),
        days=st.integers(1, 20_000),
        slots=st.sampled_from([1, 4, 65_536]),
        encrypted=st.booleans(),
    )
)
def test_sums_close(work: Workload) -> None:
    found = estimate(work)
    assert bool(found.objects) == bool(work.files)
    assert found.shards * work.part_rows >= work.files
    assert found.shards * work.shard_bytes >= found.stored_bytes or not work.files
    assert found.objects >= found.shards * (3 if work.encrypted else 2)
    for line, table in zip(found.lines, PRICES, strict=True):
        assert line.saved_monthly == pytest.approx(line.monthly_before - line.monthly_after)
        assert line.monthly_before == monthly(table, objects=work.files, stored_bytes=work.content_bytes)


def test_a_hundred_million_small_files() -> None:
    found = estimate(Workload(files=100_000_000, content_bytes=4096 * 100_000_000, days=3650))
    standard, rare, *_ = found.lines
    assert found.objects < 100_000_000 / 1000, "1,000 times fewer objects"
    assert standard.writing_before == 500.0
    assert rare.monthly_before == pytest.approx(100_000_000 * 128 / (1 << 20) * 0.0125), "billed as 128 KiB each"
    assert rare.saved_monthly > 0.95 * rare.monthly_before


def test_ones_own_prices(tmp_path: Path) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(
        '[[prices]]\nname = "ours"\ndated = "2026-11-01"\nsource = "contract 17"\n'
        "gib_month = 0.01\nput_thousand = 0\nget_thousand = 0.0\noverhead_object = 512\n"
    )
    (table,) = read_prices(path)
    assert (table.name, table.overhead_object) == ("ours", 512)
    assert monthly(table, objects=2, stored_bytes=2 << 30) == pytest.approx(0.02, rel=1e-3)
    assert monthly(FREE, objects=0, stored_bytes=0) == 0


@pytest.mark.parametrize(
    "text",
    [
        "prices = 3",
        "",
        "[[prices]]\nname = 'x'",
        "[[prices]]\nname='x'\ndated='y'\nsource='z'\ngib_month='1'\nput_thousand=1\nget_thousand=1",
        "[[prices]]\nname='x'\ndated='y'\nsource='z'\ngib_month=-1\nput_thousand=1\nget_thousand=1",
        "[[prices]]\nname='x'\ndated='y'\nsource='z'\ngib_month=1\nput_thousand=true\nget_thousand=1",
        "\x00",
    ],
)
def test_bad_prices(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match="price tables"):
        read_prices(path)
    with pytest.raises(UsageError, match="can't be read"):
        read_prices(tmp_path / "gone.toml")


def test_bad_numbers() -> None:
    with pytest.raises(UsageError, match="compression is 0"):
        Workload(files=1, content_bytes=1, compression=0)
