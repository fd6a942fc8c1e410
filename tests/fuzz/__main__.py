"""`make fuzz`: the property tests with more examples, then each target with atheris, all in a bounded time.

python -m tests.fuzz                     all of it, in about FUZZ_SECONDS (300 unless set)
python -m tests.fuzz box frame           only these targets
python -m tests.fuzz --keep FILE...      keeps findings: from then on `make test` runs them
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz.seeds import FINDINGS, seeds
from tests.fuzz.targets import TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.fuzz.targets import Target

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".fuzz"
FOUND = WORK / "found"
INPUT_SECONDS = 20
"""An input that takes longer is a finding."""
PROCESS_MIB = 1024
"""A process that grows larger, with the fuzzer's own memory, is a finding."""


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 if nothing was found."""
    if arguments[:1] == ["--keep"]:
        return keep([Path(name) for name in arguments[1:]])
    if unknown := sorted(set(arguments) - set(TARGETS)):
        print(f"There is no target {', '.join(unknown)}; there are {', '.join(TARGETS)}.")
        return 2
    seconds = int(os.environ.get("FUZZ_SECONDS", "300"))
    guided = importlib.util.find_spec("atheris") is not None
    failed = []
    if not arguments:
        share = seconds // 2 if guided else seconds
        seconds -= share
        failed += search_properties(share)
    if guided:
        failed += search_targets(list(arguments or TARGETS), seconds)
    else:
        system = (
            f"{platform.python_implementation()} {platform.python_version()} on {sys.platform} {platform.machine()}"
        )
        print(f"atheris has no wheel for {system}: no guided fuzzing, only the property tests.")
    return tell(failed)


def search_properties(seconds: int) -> list[str]:
    """Runs the property tests in one random order and from one random seed after the other until the time is over."""
    end = time.time() + seconds
    environment = os.environ | {"HYPOTHESIS_PROFILE": "fuzz", "FUZZ_END": str(end)}
    options = ["-q", "-n", "2", "-p", "tests.fuzz.ending", "-m", "hypothesis and not soak", "--timeout", "0"]
    while (left := end - time.time()) > 0:
        seed = str(int.from_bytes(os.urandom(4), "big"))
        print(f"Property tests for {left:.0f} seconds, with --hypothesis-seed={seed}:", flush=True)
        command = [sys.executable, "-m", "pytest", *options, f"--hypothesis-seed={seed}"]
        if subprocess.run(command, cwd=ROOT, env=environment | {"FUZZ_SEED": seed}, check=False).returncode:
            return ["property tests (keep the printed example with @example)"]
    return []


def search_targets(names: Sequence[str], seconds: int) -> list[str]:
    """Fuzzes each target for its share of the time; returns those that failed."""
    FOUND.mkdir(parents=True, exist_ok=True)
    weights = sum(TARGETS[name].weight for name in names)
    failed = []
    for name in names:
        share = max(1, seconds * TARGETS[name].weight // weights)
        if not search_target(TARGETS[name], share):
            failed.append(f"target {name}")
    return failed


def search_target(target: Target, seconds: int) -> bool:
    """Fuzzes one target in a process of its own; whether nothing was found."""
    corpus, begin, log = (WORK / kind / target.name for kind in ("corpus", "seeds", "log"))
    shutil.rmtree(begin, ignore_errors=True)
    for folder in (corpus, begin, log.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target.name)):
        (begin / f"{number:04d}").write_bytes(seed)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={target.largest}",
        f"-timeout={INPUT_SECONDS}",
        f"-rss_limit_mb={PROCESS_MIB}",
        f"-artifact_prefix={FOUND}/{target.name}-",
        "-print_final_stats=1",
    ]
    command = [sys.executable, "-m", "tests.fuzz.run", target.name, str(corpus), str(begin), *options]
    with log.open("w") as output:
        code = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
    lines = log.read_text(errors="replace").splitlines()
    figures = dict(re.findall(r"stat::(\w+): +(\d+)", "\n".join(lines)))
    inputs, fresh = (figures.get(name, "?") for name in ("number_of_executed_units", "new_units_added"))
    verdict = "nothing found" if code == 0 else f"FOUND (exit code {code}), {log.relative_to(ROOT)} ends with:"
    print(f"{target.name}: {inputs} inputs in {seconds} s, {fresh} of them led to new code; {verdict}", flush=True)
    if code:
        print("\n".join(f"    {line}" for line in lines[-40:]), flush=True)
    return code == 0


def tell(failed: Sequence[str]) -> int:
    """Prints what was found, and what to do with it."""
    if not failed:
        print("Nothing was found.")
        return 0
    print(f"Found by {', '.join(failed)}.")
    for path in sorted(FOUND.glob("*")):
        print(f"    {path.relative_to(ROOT)}  ({path.stat().st_size} bytes)")
    print("Keep one for the tests, then correct what it shows: .venv/bin/python -m tests.fuzz --keep FILE")
    return 1


def keep(paths: Sequence[Path]) -> int:
    """Copies findings to the fixtures, each named by target and digest."""
    code = 0
    FINDINGS.mkdir(exist_ok=True)
    for path in paths:
        name, data = path.name.split("-")[0], path.read_bytes()
        if name in TARGETS:
            kept = FINDINGS / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
            kept.write_bytes(data)
            print(f"{kept} is kept: `make test` runs it")
        else:
            print(f"{path} is not kept: its name does not begin with that of a target")
            code = 2
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
