"""Every hostile file, read in every way: only the format's own errors come out, in seconds and little memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures.hostile import make
from tests.format.gauntlet import OPERATIONS, run_apart

if TYPE_CHECKING:
    from pathlib import Path

    from tests.format.gauntlet import Outcome

MEMORY = 64 << 20
SECONDS = 10
"""CPU time of all operations together; nearly all take less than a tenth of one."""
COMMITTED = sorted(path.stem for path in make.HERE.glob("*.vera"))


@pytest.fixture(scope="module")
def committed() -> dict[str, list[Outcome]]:
    return run_apart(sorted(make.HERE.glob("*.vera")))


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Outcome]]:
    directory = tmp_path_factory.mktemp("hostile")
    make.write(directory, make.LARGE)
    outcomes = run_apart(sorted(directory.iterdir()))
    for path in directory.iterdir():
        path.unlink()
    return outcomes


def check(name: str, outcomes: list[Outcome]) -> None:
    assert [outcome.operation for outcome in outcomes] == list(OPERATIONS), outcomes
    assert [outcome for outcome in outcomes if outcome.error.startswith("BUG")] == []
    assert max(outcome.peak for outcome in outcomes) < MEMORY, outcomes
    assert sum(outcome.seconds for outcome in outcomes) < SECONDS, outcomes
    errors = {outcome.operation: outcome.error.partition(":")[0] for outcome in outcomes}
    if name in make.WHOLE:
        assert set(errors.values()) == {""}, errors
    else:
        assert errors["verify"] == ("IncompatibleError" if name in make.INCOMPATIBLE else "FormatError"), errors


@pytest.mark.parametrize("name", COMMITTED)
def test_a_hostile_file_does_no_harm(name: str, committed: dict[str, list[Outcome]]) -> None:
    check(name, committed[f"{name}.vera"])


def test_large_hostile_files_do_no_harm(large: dict[str, list[Outcome]]) -> None:
    assert large
    for name, outcomes in large.items():
        check(name.removesuffix(".vera"), outcomes)


def test_the_committed_files_are_those_that_are_made() -> None:
    made = make.build()
    assert sorted(made) == COMMITTED
    assert {name for name, data in made.items() if (make.HERE / f"{name}.vera").read_bytes() != data} == set()
    assert sum(map(len, made.values())) < 1 << 20


def test_the_gauntlet_tells_what_goes_wrong(tmp_path: Path) -> None:
    """A file that is not there is no format error; memory and time are measured."""
    [outcomes] = run_apart([tmp_path / "absent"]).values()
    assert all(outcome.error.startswith("BUG FileNotFoundError") for outcome in outcomes)
    assert all(0 < outcome.peak < MEMORY for outcome in outcomes)
