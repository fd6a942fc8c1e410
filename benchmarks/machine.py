"""Where a run took place, as far as its figures depend on it. No names of hosts or people."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.results import Machine

PACKAGES = ("vera-archive", "zstandard", "numpy", "pyarrow", "swh-shard")
PROGRAMS = {"tar": "--version", "zstd": "--version", "zip": "-v", "mksquashfs": "-version"}


def this_machine() -> Machine:
    """The machine as it is now, before anything is measured."""
    versions = {"Python": platform.python_version()}
    versions |= {name: found for name in PACKAGES if (found := _package(name))}
    versions |= {name: found for name, option in PROGRAMS.items() if (found := _program(name, option))}
    return Machine(
        when=datetime.now(UTC).isoformat(timespec="minutes"),
        cores=os.cpu_count() or 1,
        processor=_processor(),
        system=f"{platform.system()} {platform.release().split('-')[0]}, {platform.machine()}",
        load=os.getloadavg()[0],
        versions=versions,
    )


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _program(name: str, option: str) -> str:
    if shutil.which(name) is None:
        return ""
    said = subprocess.run([name, option], capture_output=True, text=True, check=False).stdout
    numbers = re.search(r"\d+(\.\d+)+", said) or re.search(r"\d+\.\d+", said)
    return numbers[0] if numbers else ""


def _processor() -> str:
    known = Path("/proc/cpuinfo")
    text = known.read_text() if known.exists() else ""
    model = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return model[1] if model else platform.processor()
