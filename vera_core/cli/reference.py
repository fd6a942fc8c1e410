"""Writes docs/cli.md from the commands themselves: `python -m vera_core.cli.reference > docs/cli.md`.

A test holds the page to what this module prints, so that it can't go out of date.
"""

from __future__ import annotations

import sys
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from vera_core.cli.group import COMMANDS, load

if TYPE_CHECKING:
    from collections.abc import Iterator

INTRODUCTION = """\
# The command line

    vera COMMAND [OPTIONS] [ARGUMENTS]

`vera --help` lists the commands, `vera COMMAND --help` says what one does. This page says the same; it is made from
them by `python -m vera_core.cli.reference`.

## What all commands have in common

**The repository** is named by `--repository`, else by `VERA_REPOSITORY`, else by `repository` in `vera.toml`.
Credentials, region, endpoint, CA bundle and proxies come the AWS SDK's own way: `AWS_ACCESS_KEY_ID` and
`AWS_SECRET_ACCESS_KEY`, `AWS_PROFILE` and `~/.aws/config`, instance roles, `AWS_REGION`, `AWS_ENDPOINT_URL_S3`,
`AWS_CA_BUNDLE`, `HTTPS_PROXY`.

**Settings** come from `vera.toml` in the current directory (or the file that `--settings` names), then from variables
that begin with `VERA_`, then from options; the later wins.

**Times** carry a zone (`2026-03-01T12:00:00+01:00`, `2026-03-01T11:00:00Z`) or are a day (`2026-03-01`, in UTC). A time
without a zone is an error: which one is meant is not for a program to guess.

**Results** go to standard output, errors and progress to standard error; progress is shown only where that is a
terminal. Colours are not used.

**`--json`** prints one JSON document to standard output and nothing else, whether the command succeeds or fails. A
result has `ok`; a failure is an object `error` with `kind`, `what`, `where`, `todo` and `exit_code`. Times are ISO 8601
with a trailing Z, days are YYYYMMDD, sizes bytes, durations seconds. Only `vera ls DAY --json` can have both a result
and an error: the files that were listed before the failure, and the `error` beside them.

**Exit codes** say what kind of failure it was: [exit-codes.md](exit-codes.md). An unexpected error is exit code 1 and
one line; `VERA_TRACEBACK=1` prints where it came from.

**Interrupting** a command with Ctrl-C or SIGTERM is safe at any point: what it had not acknowledged is done again by
the next run, and nothing half-written is left. So is killing it.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, *(line for name in COMMANDS for line in _section(name))]).rstrip() + "\n"


def _section(name: str) -> Iterator[str]:
    command = load(name)
    arguments = [item for item in command.params if item.param_type_name == "argument"]
    options = [item for item in command.params if item.param_type_name == "option"]
    usage = " ".join(["vera", name, *("[OPTIONS]" if options else "",), *(_metavar(item) for item in arguments)])
    yield from (f"## vera {name}", "", f"    {usage}", "", cleandoc(command.help or ""), "")
    yield from ("| argument or option | |", "| --- | --- |")
    for item in [*arguments, *options]:
        yield f"| `{_title(item)}` | {_about(item)} |"
    yield ""
    for block in (command.epilog or "").split("\n\n"):
        title, *lines = block.removeprefix("\b\n").splitlines()
        yield from (title, "", *(f"  {line}" for line in lines), "")


def _metavar(item: Any) -> str:
    return str(item.metavar) if item.required else f"[{item.metavar}]"


def _title(item: Any) -> str:
    if item.param_type_name == "argument":
        return str(item.metavar)
    names = ", ".join(sorted(item.opts, key=len))
    return names if item.is_flag else f"{names} {str(item.metavar).replace('|', chr(92) + '|')}"


def _about(item: Any) -> str:
    notes = []
    if item.envvar:
        notes.append(f"Variable: `{item.envvar}`.")
    if item.default is not None and item.default is not False and item.param_type_name == "option":
        notes.append(f"Default: `{getattr(item.default, 'value', item.default)}`.")
    return " ".join([str(item.help or ""), *notes]).replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(page())
