"""What a measured process says of its time, reads and memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from benchmarks.process import call

if TYPE_CHECKING:
    from benchmarks.process import Meter

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux says it in /proc")
MIB = 1 << 20


def read_twice(meter: Meter, *, path: str, size: int) -> dict[str, Any]:
    with Path(path).open("rb", buffering=0) as file, meter:
        found = [len(file.read(size)), len(file.read(size))]
    return {"found": found}


def sleep_outside(meter: Meter) -> dict[str, Any]:
    time.sleep(0.5)
    with meter:
        time.sleep(0.1)
    time.sleep(0.5)
    return {}


def take_memory(meter: Meter, *, own: int, helper: int) -> dict[str, Any]:
    program = f"data = b'x' * {helper}; import time; time.sleep(0.5)"
    with meter:
        kept = b"x" * own
        subprocess.run([sys.executable, "-c", program], check=True)
    return {"size": len(kept)}


def fail(meter: Meter) -> dict[str, Any]:
    raise ValueError("on purpose")


@linux
def test_reads_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1000))
    measured = call(read_twice, {"path": path, "size": 300})
    assert measured.outcome == {"found": [300, 300]}
    assert (measured.reads, measured.read_bytes) == (2, 600)


def test_only_what_the_meter_holds_is_timed() -> None:
    assert 0.1 <= call(sleep_outside, {}).seconds < 0.5


@linux
def test_memory_of_process_and_helpers_is_told_apart() -> None:
    little = call(take_memory, {"own": 0, "helper": 0}, watch=True)
    own = call(take_memory, {"own": 100 * MIB, "helper": 0}, watch=True)
    helper = call(take_memory, {"own": 0, "helper": 200 * MIB}, watch=True)
    assert own.own_bytes - little.own_bytes == pytest.approx(100 * MIB, rel=0.1)
    assert helper.helper_bytes - little.helper_bytes == pytest.approx(200 * MIB, rel=0.1)
    assert helper.own_bytes == pytest.approx(little.own_bytes, rel=0.1)


def test_a_failure_is_told() -> None:
    with pytest.raises(RuntimeError, match="fail failed"):
        call(fail, {})
