"""A whole run, small: what it prints, writes and puts into the page; and what counts as reached."""

from __future__ import annotations

import re
import shutil
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from benchmarks.__main__ import main
from benchmarks.business import make_database
from benchmarks.corpora import record_corpus
from benchmarks.erasing import erase_many, erase_one, erase_slots
from benchmarks.growth import grow
from benchmarks.packing import Kind, pack_s3
from benchmarks.peers import PEERS
from benchmarks.process import Meter
from benchmarks.reading import measure_reads
from benchmarks.repacking import repack_one
from benchmarks.report import rewrite
from benchmarks.results import (
    Comparison,
    Destroying,
    Encrypting,
    Entrant,
    Erasing,
    Lookups,
    Machine,
    Packed,
    Repacking,
    Results,
    load,
    save,
)
from benchmarks.tables import tables
from benchmarks.targets import targets
from benchmarks.world import Transit, World
from tests.openbao import OpenBao

if TYPE_CHECKING:
    from vera_core.store.embedded import EmbeddedS3

DOCS = Path(__file__).parents[2] / "docs"
MACHINE = Machine(when="2026-03-02", cores=2, processor="", system="", load=0.0, versions={})


def entrant(seconds: float, stored: int, reads: float) -> Entrant:
    found = Lookups(per_second=reads, cold_reads=3, cold_bytes=50_000, cold_seconds=0.001)
    return Entrant(
        title="it | that", seconds=seconds, slowest_seconds=seconds, cpu_seconds=seconds, peak_bytes=1 << 20,
        stored_bytes=stored, lookups=found,
    )  # fmt: skip


def results(**entrants: Entrant) -> Results:
    """JSON records on which VERA takes 1 s and 100 bytes, and whatever is given."""
    everyone = {name: entrant(2.0, 200, 100.0) for name in PEERS} | {"vera": entrant(1.0, 100, 100.0)}
    everyone |= {name.replace("_", "-"): found for name, found in entrants.items()}
    comparison = Comparison(
        files=200_000, content_bytes=1000, entrants=everyone, freeze_seconds=1.0, verify_seconds=1.0
    )
    return Results(machine=MACHINE, comparisons={"json": comparison})


def unmet(found: Results) -> list[str]:
    return [target.what for target in targets(found) if target.met is False]


def test_targets_are_ratios_to_peers() -> None:
    assert unmet(results()) == []
    assert len(unmet(results(tar_zstd=entrant(1.09, 200, 0)))) == 1
    assert len(unmet(results(tar_zstd=entrant(1.11, 95, 0)))) == 1
    assert len(unmet(results(zip=entrant(1.49, 149, 0)))) == 2
    assert len(unmet(results(swh_raw=entrant(9.0, 900, 140.0)))) == 1
    slow = replace(entrant(1.0, 100, 100.0), peak_bytes=300 << 20)
    assert len(unmet(results(vera=slow))) == 1


def test_who_is_missing_is_neither_reached_nor_failed() -> None:
    found = targets(results(zip=Entrant(title="zip", missing="not installed")))
    assert [target.measured for target in found if target.met is None] == ["not measured"] * 2


def test_results_are_read_back(tmp_path: Path) -> None:
    found = results(zip=Entrant(title="zip", missing="not installed"))
    save(found, tmp_path / "it.json")
    assert load(tmp_path / "it.json") == found


def test_the_page_takes_results_again_and_again(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    page = tmp_path / "docs" / "performance.md"
    before = page.read_text()
    rewrite(results(), tmp_path / "docs")
    once = page.read_text()
    assert once != before
    assert once.count("<!-- bench:json -->") == 1
    rewrite(results(), tmp_path / "docs")
    assert page.read_text() == once
    tables = re.findall(r"(?:^\|.*\n)+", once, re.MULTILINE)
    assert tables
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    outside = [line for line in before.splitlines() if not line.startswith(("|", "**", "!", "Freezing"))]
    assert [line for line in outside if line not in once.splitlines()] == []


def test_a_run_prints_and_writes_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "out" / "it.json"
    main(["--only", "json", "--files", "200", "--rounds", "1", "--json", str(target)])
    entrants = load(target).comparisons["json"].entrants
    assert set(entrants) == set(PEERS)
    assert all(found.missing or (found.seconds and found.stored_bytes) for found in entrants.values())
    printed = capsys.readouterr().out
    assert "What VERA must reach" in printed
    assert "JSON records: 200 files" in printed
    ET.parse(target.with_suffix(".svg"))


def test_growth_tells_what_is_not_content(tmp_path: Path) -> None:
    corpus = record_corpus(tmp_path / "it", 500)
    grown = grow(corpus)
    stored = grown.entrant.stored_bytes - grown.index_bytes - grown.rest_bytes
    assert 0 < stored < corpus.content_bytes
    assert grown.index_bytes > 36 * corpus.files
    assert grown.entrant.lookups is not None


def test_packing_to_s3_reading_from_it_and_erasing_are_measured(tmp_path: Path, embedded_s3: EmbeddedS3) -> None:
    corpus, world = record_corpus(tmp_path / "it", 300), World(tmp_path, embedded_s3)
    profile = tmp_path / "profile"
    packed, prefix = pack_s3(world, corpus, database=make_database(corpus), profile=str(profile))
    assert (packed.files, packed.content_bytes) == (300, corpus.content_bytes)
    assert packed.seconds > 0
    assert packed.own_bytes > 0
    assert "function calls" in profile.read_text()
    reads = measure_reads(world, prefix, corpus)
    assert reads.warm == ["get_range"]
    assert 1 < len(reads.cold) <= 5
    place = {"prefix": prefix, "access": asdict(world.access), "spool": str(tmp_path), "corpus": str(corpus.directory)}
    place["transit"] = asdict(world.transit)
    assert erase_many(Meter(), **place) == {"files": 10, "slots": 1}  # type: ignore[arg-type]
    took, hidden = erase_one(world, corpus, prefix)
    assert took > 0
    assert 0 < hidden < 6


def test_erasing_has_targets() -> None:
    it = Erasing(
        files=10_000, slots=1000, seconds=50.0, cpu_seconds=30.0, server_cpu_seconds=20.0, single_of=40_000,
        single_seconds=1.5, hidden_seconds=4.0,
    )  # fmt: skip

    def shown(erasing: Erasing) -> Results:
        return Results(machine=MACHINE, comparisons={}, erasing=erasing)

    assert [target.met for target in targets(shown(it))] == [True] * 3
    slow = replace(it, seconds=60.0, single_seconds=2.0, hidden_seconds=5.1)
    assert [target.met for target in targets(shown(slow))] == [False] * 3
    assert len(tables(shown(it))["erase"][0].rows) == 6
    keys = Destroying(files=10_000, slots=1000, seconds=61.0, cpu_seconds=30.0, server_cpu_seconds=20.0)
    assert [target.met for target in targets(shown(replace(it, encrypted=keys)))] == [True, False, True, True]
    assert len(tables(shown(replace(it, encrypted=keys)))["erase"][0].rows) == 10


def test_destroying_keys_is_measured(tmp_path: Path, embedded_s3: EmbeddedS3) -> None:
    (tmp_path / "bao").mkdir()
    with OpenBao(tmp_path / "bao") as bao:
        bao.keys(key="bench")
        world = World(tmp_path, embedded_s3, Transit(bao.address, "bench", bao.root.token), count(100))
        corpus = record_corpus(tmp_path / "it", 200)
        found = erase_slots(world, corpus, make_database(corpus), 2, encrypt=True)
    assert (found["files"], found["slots"]) == (40, 4)


def test_repacking_is_measured_against_packing(tmp_path: Path, embedded_s3: EmbeddedS3) -> None:
    corpus = record_corpus(tmp_path / "it", 200)
    database = make_database(corpus)
    (tmp_path / "bao").mkdir()
    with OpenBao(tmp_path / "bao") as bao:
        bao.keys(key="bench")
        world = World(tmp_path, embedded_s3, Transit(bao.address, "bench", bao.root.token), count(300))
        plain, encrypted = (repack_one(world, corpus, database, kind) for kind in (Kind.PLAIN, Kind.ENCRYPTED))
    assert (plain.files, plain.left_out) == (encrypted.files, encrypted.left_out) == (140, 60)

    def shown(seconds: float) -> Results:
        packed = replace(plain.packed, seconds=1.0)
        runs = [replace(run, packed=packed, seconds=seconds) for run in (plain, encrypted)]
        return Results(machine=MACHINE, comparisons={}, repacking=Repacking(plain=runs[0], encrypted=runs[1]))

    assert [target.met for target in targets(shown(1.4))] == [True] * 4
    assert [target.met for target in targets(shown(1.5))] == [False, True] * 2
    assert len(tables(shown(1.0))["repack"][0].rows) == 6


def test_packing_encrypted_is_measured_against_packing_openly(tmp_path: Path, embedded_s3: EmbeddedS3) -> None:
    corpus = record_corpus(tmp_path / "it", 300)
    database = make_database(corpus)
    (tmp_path / "bao").mkdir()
    with OpenBao(tmp_path / "bao") as bao:
        bao.keys(key="bench")
        world = World(tmp_path, embedded_s3, Transit(bao.address, "bench", bao.root.token), count(200))
        runs = {kind: pack_s3(world, corpus, database=database, kind=kind)[0] for kind in Kind}
    assert {run.files for run in runs.values()} == {300}
    stored = [runs[kind].stored_bytes for kind in (Kind.PLAIN, Kind.COMMON, Kind.ENCRYPTED)]
    assert stored == sorted(set(stored)), "common dictionaries save less, and sealing adds some bytes to each file"

    def shown(encrypted: Packed) -> Results:
        both = replace(runs[Kind.PLAIN], seconds=10.0), replace(runs[Kind.COMMON], seconds=12.0)
        it = Encrypting(plain=both[0], common=both[1], encrypted=encrypted)
        return Results(machine=MACHINE, comparisons={}, encrypting=it)

    good = replace(runs[Kind.ENCRYPTED], seconds=16.0, own_bytes=299 << 20)
    assert [target.met for target in targets(shown(good))] == [True] * 2
    assert [target.met for target in targets(shown(replace(good, seconds=16.1, own_bytes=300 << 20)))] == [False] * 2
    assert len(tables(shown(good))["encrypted"][0].rows) == 9


def test_unknown_parts_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "json,xml"])
    assert "there is no part xml" in capsys.readouterr().err
