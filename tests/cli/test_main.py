"""The boundary of the program: every way out has its exit code and its words, and no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from vera_core.cli import main as program
from vera_core.cli.group import COMMANDS, load
from vera_core.cli.main import run
from vera_core.cli.reference import page
from vera_core.errors import Kind, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

VERA = [sys.executable, "-m", "vera_core.cli"]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Lets every command end in an error of the test's choice."""

    def arrange(error: BaseException) -> None:
        class Broken:
            def make_context(self, *_: Any) -> Any:
                raise error

        monkeypatch.setattr(program, "application", Broken)

    return arrange


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vera 0.")


def test_no_arguments_are_a_question_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    bare = capsys.readouterr().out
    assert run(["--help"]) == 0
    assert bare == capsys.readouterr().out
    assert all(f"  {name} " in bare for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    for part in (
        "Usage: vera " + name,
        "Examples:\n    vera " + name,
        "Exit codes:\n    0",
        "--json",
        "--settings FILE",
    ):
        assert part in shown
    assert (load(name).help or "").startswith(COMMANDS[name]), "the table of commands and the docstring disagree"
    assert max(map(len, shown.splitlines())) <= 120


def test_the_reference_is_what_the_commands_say() -> None:
    written = (DOCS / "cli.md").read_text()
    assert written == page(), "run: python -m vera_core.cli.reference > docs/cli.md"


def test_help_needs_none_of_the_heavy_parts() -> None:
    code = "import sys, vera_core.cli.main as m; m.run(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"boto3", "obstore", "pandas", "pyarrow", "numpy", "sqlalchemy", "dagster", "rich"}


@pytest.mark.parametrize("name", ["get", "stat", "ls", "locate"])
def test_reading_needs_no_tables(name: str) -> None:
    code = f"import sys; from vera_core.cli.group import load; load({name!r}); print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"pandas", "pyarrow", "sqlalchemy", "dagster", "rich"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gett"], "Did you mean 'get'"),
        (["get"], "missing argument"),
        (["get", "a", "--no-such"], "no such option"),
        (["--no-such"], "no such option"),
        (["locate", "a", "--bits", "17", "--created-at", "2026-03-01"], "less than or equal to 16"),
        (["locate", "a", "--bits", "x"], "valid integer"),
        (["locate", "a", "--bits", "1"], "--created-at"),
        (["locate", "", "--bits", "1", "--created-at", "2026-03-01"], "0 bytes"),
        (["locate", "a\x07b", "--bits", "1", "--created-at", "2026-03-01"], "control character"),
        (["locate", "x" * 513, "--bits", "1", "--created-at", "2026-03-01"], "513 bytes"),
        (["locate", "\udcff", "--bits", "1", "--created-at", "2026-03-01"], "not valid UTF-8"),
        (["locate", "a", "--bits", "1", "--created-at", "2026-03-01T12:00:00"], "no time zone"),
        (["locate", "a", "--bits", "1", "--created-at", "yesterday"], "no ISO 8601 time"),
        (["locate", "a", "--bits", "1", "--created-at", "2026-03-01", "--tenant", "No"], "no valid tenant"),
        (["init", "s3:/bucket"], "names no bucket"),
        (["init", "s3://b/x", "--retain", "soon"], "no retention period"),
        (["init", "s3://bucket/x", "--lock-mode", "NONE"], "NONE"),
        (["init", "s3://bucket/x", "--trust-uids", "snowflake"], "belong together"),
        (["init", "s3://bucket/x", "--compression", "magic"], "magic"),
        (["epoch", "2026-03-01"], "belong together"),
        (["verify", "--from", "2026-03-02", "--to", "2026-03-01"], "is after"),
        (["stat", "a", "--versions", "--version", "1"], "one of the two"),
        (["get", "a", "--force"], "--force"),
        (["ls", "someday"], "no day"),
    ],
)
def test_mistakes_are_usage_errors(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == Kind.USAGE.exit_code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("vera: ")
    assert says in shown.err
    assert "Traceback" not in shown.err

    assert run([*arguments, "--json"]) == Kind.USAGE.exit_code
    shown = capsys.readouterr()
    assert shown.err == ""
    error = json.loads(shown.out)["error"]
    assert (error["kind"], error["exit_code"]) == ("usage", Kind.USAGE.exit_code)


def test_standard_output_cannot_carry_both_the_file_and_a_document(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["get", "a", "--json"]) == Kind.USAGE.exit_code
    shown = capsys.readouterr()
    assert "-o FILE" in json.loads(shown.out)["error"]["what"]
    assert shown.err == ""


def test_a_flag_behind_the_dashes_is_no_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["locate", "--bits", "0", "--created-at", "2026-03-01", "--", "--json"]) == 0
    assert capsys.readouterr().out == "default/20260301/0\n"


def test_locate_asks_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    vectors = json.loads((DOCS.parent / "tests/fixtures/routing-vectors.json").read_text())
    assert vectors
    assert run(["locate", "a/b", "--bits", "4", "--created-at", "2026-03-01T23:30:00-01:00", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["ok"], shown["day"], shown["n_bits"], shown["tenant"]) == (True, "20260302", 4, "default")


@pytest.mark.parametrize("kind", Kind)
def test_each_kind_of_error_has_its_exit_code(
    kind: Kind, raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    error = NotFoundError("it is gone", todo="Look elsewhere.", bucket="b", key="k")
    error.kind = kind
    raising(error)
    assert run(["ls"]) == kind.exit_code
    assert capsys.readouterr().err == "vera: it is gone (bucket=b, key=k)\n      Look elsewhere.\n"
    assert run(["ls", "--json"]) == kind.exit_code
    assert json.loads(capsys.readouterr().out) == {
        "error": {
            "kind": kind.name.lower(),
            "what": "it is gone",
            "where": {"bucket": "b", "key": "k"},
            "todo": "Look elsewhere.",
            "exit_code": kind.exit_code,
        }
    }


def test_a_bug_is_named_as_one(
    raising: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raising(ZeroDivisionError("division by zero"))
    assert run(["ls"]) == 1
    shown = capsys.readouterr().err
    assert "ZeroDivisionError: division by zero" in shown
    assert "VERA_TRACEBACK=1" in shown
    assert not caplog.records
    assert run(["ls", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "bug"
    monkeypatch.setenv("VERA_TRACEBACK", "1")
    assert run(["ls"]) == 1
    assert "Traceback" in caplog.text


def test_an_interrupt(raising: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]) -> None:
    raising(KeyboardInterrupt())
    assert run(["ls"]) == 130
    assert capsys.readouterr().err == "vera: interrupted\n"
    assert run(["ls", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 130


def test_a_reader_that_goes_away() -> None:
    """As in `vera ls --help | head -1`: quiet, and not a success."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run([*VERA, "ls", "--help"], stdout=pipe, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 141
    assert done.stderr == b""


def test_output_that_cannot_be_encoded() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [*VERA, "locate", "Größe", "--bits", "0", "--created-at", "2026-03-01", "--json"]
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert json.loads(done.stdout)["uid"] == "Größe"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_it_in_order(number: signal.Signals, tmp_path: Path) -> None:
    """A store that accepts connections and says nothing keeps the command waiting until the signal comes."""
    code = (
        "import socket, subprocess, sys\n"
        "server = socket.create_server(('127.0.0.1', 0)); print(server.getsockname()[1], flush=True)\n"
        "kept = []\n"
        "while True: kept.append(server.accept()); print('asked', flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as mute:
        assert mute.stdout is not None
        port = mute.stdout.readline().strip()
        environment = {
            **os.environ,
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
            "VERA_REPOSITORY": "s3://bucket/prefix",
        }
        command = [*VERA, "get", "a", "--created-at", "2026-03-01", "-o", "out"]
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path) as waiting:
            assert mute.stdout.readline() == "asked\n"
            time.sleep(0.2)
            waiting.send_signal(number)
            _, errors = waiting.communicate(timeout=30)
        mute.kill()
    assert waiting.returncode == 128 + number
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
