"""The project's own promises: documents that agree with the code, and a Makefile that says what it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vera_core.errors import Kind, VeraError

ROOT = Path(__file__).parents[1]


def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def tables(text: str) -> list[list[str]]:
    """The rows of all Markdown tables, each as its cells."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | environment, timeout=60
    )


def test_exit_codes_are_documented_as_they_are() -> None:
    rows = tables(read("docs/exit-codes.md"))[1:]
    documented = {row[0].strip("`"): (int(row[1]), int(row[2])) for row in rows}
    assert documented == {kind.name.lower(): (kind.exit_code, kind.http_status) for kind in Kind}
    assert all(len(row) == 5 and all(row) for row in rows)


def test_kinds_are_distinct_and_each_has_an_error() -> None:
    def classes(base: type[VeraError]) -> set[type[VeraError]]:
        return {base}.union(*(classes(child) for child in base.__subclasses__()))

    assert len({kind.exit_code for kind in Kind}) == len({kind.http_status for kind in Kind}) == len(Kind)
    assert not {kind.exit_code for kind in Kind} & {0, 1, 130}
    assert {error.kind for error in classes(VeraError)} == set(Kind)


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads(read("pyproject.toml"))
    wanted = [
        *project["project"]["dependencies"],
        *project["project"]["optional-dependencies"]["embedded"],
        *project["dependency-groups"]["dev"],
        *project["dependency-groups"]["bench"],
        *project["dependency-groups"]["fuzz"],
    ]
    names = {re.split(r"[\[<>=,;! ]", requirement)[0] for requirement in wanted}
    listed = {row[0].strip("`"): row[1] for row in tables(read("docs/adr/0002-dependencies.md")) if row[0] != "package"}
    assert set(listed) == names
    assert all(listed.values())


def test_records_of_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "adr").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    for name in names:
        assert re.match(rf"# {int(name[:4])}\. \S.*\n\nDecided \d{{4}}-\d\d-\d\d\.", read(f"docs/adr/{name}")), name


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.md")]


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} links to {target}"


def test_make_lists_every_target() -> None:
    result = run("make", "--no-print-directory")
    assert result.returncode == 0
    listed = set(re.findall(r"^  make ([a-z]+) +\S", result.stdout, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert phony
    assert listed == set(phony[1].split())
    assert {"demo", "dev", "test", "lint", "bench", "fuzz", "clean", "help"} <= listed


@pytest.mark.parametrize("script", [".ci/run", "scripts/check-python", "scripts/promtool", "scripts/system-packages"])
def test_scripts_are_strict_bash_and_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    assert read(script).startswith("#!/bin/bash\n")
    assert "set -euo pipefail" in read(script)
    assert run("bash", "-n", script).returncode == 0


def test_a_missing_or_old_python_is_named(tmp_path: Path) -> None:
    missing = run("scripts/check-python", "python3.99")
    assert missing.returncode == 1
    assert "python3.99 is not installed" in missing.stderr
    old = tmp_path / "python3.8"
    old.write_text('#!/bin/bash\n[ "$1" = -V ] && echo Python 3.8.20 && exit 0\nexit 1\n')
    old.chmod(0o755)
    result = run("scripts/check-python", str(old))
    assert result.returncode == 1
    assert "Python 3.8.20" in result.stderr
    assert "PYTHON=" in result.stderr


def test_the_installer_of_system_packages_names_the_command(tmp_path: Path) -> None:
    """A machine without make where nobody is root: simulated by a PATH and an `id` of its own."""
    for name in ("bash", "python3", "apt-get"):
        (tmp_path / name).symlink_to("/bin/true" if name != "bash" else "/bin/bash")
    fake = tmp_path / "id"
    fake.write_text("#!/bin/bash\necho 1000\n")
    fake.chmod(0o755)
    result = run("/bin/bash", "scripts/system-packages", PATH=str(tmp_path))
    assert result.returncode == 1
    assert "Run: sudo apt-get update && sudo apt-get install --yes --no-install-recommends make" in result.stderr


def test_every_fragment_of_the_changelog_can_be_built() -> None:
    result = run(str(Path(sys.executable).parent / "towncrier"), "build", "--draft", "--version", "next")
    assert result.returncode == 0, result.stderr


def test_the_license_is_whole() -> None:
    text = read("LICENSE")
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text
