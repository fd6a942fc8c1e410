"""The `vera` program: runs a command and turns whatever comes out of it into an exit code and words.

What the commands are is commands.py's table; what they print is output.py's business. Nothing here knows an operation.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from typer import Abort, Exit, TyperException

from vera_core.cli.group import application
from vera_core.cli.output import describe, emit, wants_json, warn
from vera_core.cli.signals import watch
from vera_core.errors import UsageError, VeraError
from vera_core.operations.pace import LEAN

if TYPE_CHECKING:
    from collections.abc import Sequence

BUG = 1
INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + signal.SIGPIPE
TRACEBACK_VARIABLE = "VERA_TRACEBACK"


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; returns its exit code (docs/exit-codes.md). Never raises what a person could act on."""
    as_json = wants_json(arguments)
    try:
        code = _execute(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _failed({"kind": "interrupted", "what": "interrupted"}, INTERRUPTED, as_json=as_json)
    except BrokenPipeError:
        # Who read standard output went away (`vera ls | head`): nothing more to say, not even at exit.
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except VeraError as error:
        return _failed(error.to_json(), error.kind.exit_code, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last boundary: what arrives here is a bug, and is named as one
        return _bug(error, as_json=as_json)
    return code


def main() -> NoReturn:
    """The entry point of the `vera` script."""
    for name, value in LEAN.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="vera: %(message)s")
    watch()
    sys.exit(run(sys.argv[1:]))


def _execute(arguments: Sequence[str]) -> int:
    group = application()
    try:
        # Not group.main(): that would answer a closed pipe, and every other OSError of that kind, by itself.
        with group.make_context("vera", list(arguments) or ["--help"]) as context:
            group.invoke(context)
    except Exit as leave:
        return leave.exit_code
    except Abort:
        raise KeyboardInterrupt from None
    except TyperException as error:
        place = getattr(getattr(error, "ctx", None), "command_path", "vera")
        message = error.format_message().strip().rstrip(".").replace("Value error, ", "")
        raise UsageError(message[:1].lower() + message[1:], todo=f"See `{place} --help`.") from error
    return 0


def _failed(error: dict[str, object], code: int, *, as_json: bool) -> int:
    if as_json:
        emit({"error": {**error, "exit_code": code}})
    else:
        warn(describe(error))
    return code


def _bug(error: Exception, *, as_json: bool) -> int:
    if os.environ.get(TRACEBACK_VARIABLE):
        logging.getLogger(__name__).error("unexpected error", exc_info=error)
    about: dict[str, object] = {
        "kind": "bug",
        "what": f"an error that VERA did not expect: {type(error).__name__}: {error}",
        "todo": f"This is a bug in VERA. Run it again with {TRACEBACK_VARIABLE}=1 and report what it prints.",
    }
    return _failed(about, BUG, as_json=as_json)
