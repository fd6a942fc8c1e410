"""What commands import: a command that a script calls for each file must not pay for what only others need."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

from vera_core import __version__

LIGHT = (
    "get",
    "stat",
    "ls",
    "locate",
    "epoch",
    "doctor",
    "init",
    "probe",
    "erase",
    "readmit",
    "find",
    "hold",
    "retain",
    "locks",
    "dispose",
)
"""Commands that touch neither sources nor Parquet."""


def imported(statements: str) -> set[str]:
    """The top-level packages that are there after the statements, in a process of its own."""
    code = f"import sys\n{statements}\nprint(*{{name.partition('.')[0] for name in sys.modules}}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    return set(done.stderr.split())


def test_the_help_needs_no_library_but_typer() -> None:
    names = imported("from vera_core.cli.main import run\nassert run(['--help']) == 0")
    assert "typer" in names
    assert not names & {"pydantic", "boto3", "botocore", "obstore", "numpy", "zstandard", "rich", "email"}


def test_light_commands_need_no_databases_and_no_tables() -> None:
    names = imported(f"from vera_core.cli.group import load\nfor name in {LIGHT}: load(name)")
    assert {"boto3", "pydantic"} <= names
    assert not names & {"pandas", "pyarrow", "sqlalchemy", "dagster", "pydantic_settings"}


def test_the_version_is_the_packages() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["version"] == __version__
