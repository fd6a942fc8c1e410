"""The targets of `make fuzz` without atheris: seeds, kept findings, and changes of them by Hypothesis."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.truth import GOLDEN, holds
from tests.fuzz import __main__ as command
from tests.fuzz import seeds as begin
from tests.fuzz.boxes import box_of, shard_of
from tests.fuzz.sealing import seal
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from pathlib import Path

SEEDS = {name: begin.seeds(name) for name in TARGETS}


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_findings_are_right(name: str) -> None:
    assert SEEDS[name]
    for seed in SEEDS[name]:
        TARGETS[name](seed)
    for path in begin.FINDINGS.glob(f"{name}-*"):
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
@given(draw=st.data())
def test_changed_seeds(name: str, draw: st.DataObject) -> None:
    data = bytearray(draw.draw(st.sampled_from(SEEDS[name])))
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(0, len(data)))
        data[at : at + draw.draw(st.integers(0, 8))] = draw.draw(st.binary(max_size=8))
    TARGETS[name](bytes(data))


@pytest.mark.parametrize("name", sorted(name for name, data in GOLDEN.items() if data in begin.SMALL))
def test_boxes_hold_what_shards_do(name: str) -> None:
    box = box_of(GOLDEN[name])
    shard = shard_of(box)
    assert holds(shard)
    assert box_of(shard) == box
    assert seal(shard) == shard
    assert seal(GOLDEN[name]) == GOLDEN[name]


def test_sealing_makes_all_checksums_right() -> None:
    shard = shard_of(box_of(GOLDEN["dictionaries"]))
    damaged = bytearray(shard)
    for number in (
        252,
        256 + 24,
        len(shard) - 12,
        len(shard) - 84,
        len(shard) - 192 - 48 + 12,
        shard.index(b"GROUP\n") + 54,
    ):
        damaged[number] ^= 0xFF
    assert seal(bytes(damaged)) == shard


def test_findings_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "FINDINGS", tmp_path / "kept")
    found = tmp_path / "box-crash-0123"
    found.write_bytes(b"evil")
    (tmp_path / "other").write_bytes(b"")
    assert command.main(["--keep", str(found)]) == 0
    assert (tmp_path / "kept" / f"box-{hashlib.sha256(b'evil').hexdigest()[:12]}").read_bytes() == b"evil"
    assert command.main(["--keep", str(tmp_path / "other")]) == 2
    assert "does not begin with that of a target" in capsys.readouterr().out


def test_what_was_found_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.tell([]) == 0
    assert command.tell(["target box"]) == 1
    assert "--keep FILE" in capsys.readouterr().out
    assert command.main(["nothing"]) == 2
    assert "There is no target nothing; there are whole, " in capsys.readouterr().out


def test_without_atheris_that_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setenv("FUZZ_SECONDS", "0")
    assert command.main([]) == 0
    assert "no guided fuzzing, only the property tests" in capsys.readouterr().out
