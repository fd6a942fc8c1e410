"""What the commands print: reports and errors, for people or as one JSON document. Knows no operation.

With `--json` standard output holds exactly one document, whatever happens. Without it results go to standard output,
errors and progress to standard error.
"""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from vera_core.model import parse_day
from vera_core.operations.report import Finding, Report, as_json, figures, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vera_core.operations.pack import PackReport
    from vera_core.operations.verify import VerifyReport

JSON_FLAG = "--json"
INDENT = "  "
REJECTS_SHOWN = 20
PLACES_SHOWN = 3
LINES_SHOWN = 20

_UNITS: dict[str, Callable[[float], str]] = {
    "bytes": lambda value: f"{size_text(value)} ({value:,.0f} bytes)" if value >= 1024 else f"{value:,.0f} bytes",
    "seconds": lambda value: f"{value:,.2f} s" if value < 100 else f"{value:,.0f} s",
    "files/s": lambda value: f"{value:,.0f} files/s",
    "bytes/s": lambda value: f"{size_text(value)}/s",
    "ratio": lambda value: f"{value:,.1f}",
    "USD": lambda value: f"${value:,.2f}",
    "USD/month": lambda value: f"${value:,.2f} a month",
}


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether the command line asks for JSON, even where it can't be parsed."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return JSON_FLAG in own


def emit(document: Any) -> None:
    """Prints one JSON document to standard output."""
    say(json_text(document))


def json_text(document: Any, *, indent: int | None = 2) -> str:
    """A report, or anything that holds reports, as JSON; in ASCII where standard output is not UTF-8."""
    unicode = sys.stdout.encoding.lower() in {"utf-8", "utf8"}
    return json.dumps(as_json(document), ensure_ascii=not unicode, indent=indent)


def say(text: str = "") -> None:
    """One line (or more) to standard output. What a terminal's encoding can't show is escaped, never an error."""
    _write(sys.stdout, text)


def warn(text: str) -> None:
    """One line (or more) to standard error."""
    sys.stdout.flush()
    _write(sys.stderr, text)


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(text + "\n")
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding) + "\n")


def describe(error: dict[str, object]) -> str:
    """An error as people read it: what (where), then the next step on a line of its own."""
    where = error.get("where")
    place = ", ".join(f"{name}={value}" for name, value in where.items()) if isinstance(where, dict) else ""
    first = f"vera: {error['what']}" + (f" ({place})" if place else "")
    return f"{first}\n      {error['todo']}" if error.get("todo") else first


def amount(value: float, unit: str, *, said: str = "") -> str:
    """A number with its unit, as people read it: 1.5 MiB (1,572,864 bytes), 3.20 s, 1,234 files.

    A unit that is a word of `said` is left out.
    """
    render = _UNITS.get(unit)
    if render is not None:
        return render(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
    return text if unit in said else f"{text} {unit}"


def day_words(day: str) -> str:
    """A day as people write it, from YYYYMMDD: 2026-03-01."""
    return parse_day(day).isoformat()


def show_figures(report: Report) -> None:
    """The labelled numbers of a report, aligned; the time that it took comes last."""
    ordered = sorted(figures(report), key=lambda item: item.name == "seconds")
    show_pairs([(item.label, amount(item.value, item.unit, said=item.label)) for item in ordered])


def show_pairs(pairs: Iterable[tuple[str, str]]) -> None:
    """Two aligned columns; pairs without a value are left out."""
    rows = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        say(f"{INDENT}{name:<{width}}  {value}")


def show_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Aligned columns with a header, two spaces apart; the columns in `right` are aligned to the right."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        say((INDENT + "  ".join(cells)).rstrip())


def show_first(lines: Sequence[str], *, most: int = LINES_SHOWN, indent: str = INDENT) -> None:
    """The first lines of a list that may be long, and how many more there are in JSON."""
    for line in lines[:most]:
        say(f"{indent}{line}")
    if len(lines) > most:
        say(f"{indent}... and {len(lines) - most:,} more; --json names them")


def show_findings(findings: Iterable[Finding]) -> None:
    """What was found, each sort once: severity, what, the places, and the next step on a line of its own."""
    sorts: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        sorts.setdefault((finding.severity, finding.what, finding.todo), []).append(finding)
    for (severity, what, todo), found in sorts.items():
        places = [place for place in map(_place, found) if place]
        if len(places) == 1:
            say(f"{INDENT}{severity}: {what} ({places[0]})")
        else:
            say(f"{INDENT}{severity}: {what}" + (f" ({len(found):,} times)" if len(found) > 1 else ""))
            show_first(places, most=PLACES_SHOWN, indent=INDENT * 3)
        if todo:
            say(f"{INDENT * 2}{todo}")


def _place(finding: Finding) -> str:
    named = (("key", finding.key), ("version", finding.version_id), ("uid", finding.uid))
    return ", ".join(f"{name}={value}" for name, value in named if value)


def show_packs(packs: Sequence[PackReport], verifies: Sequence[VerifyReport]) -> None:
    """What became of each window, a line each, and whether it was verified; findings below."""
    rows = [
        (
            day_words(pack.day),
            str(pack.revision),
            f"{pack.rows:,}",
            f"{pack.archived:,}",
            f"{pack.equal:,}",
            f"{pack.rejected:,}",
            str(len(pack.shards)),
            size_text(pack.stored_bytes),
            "yes" if verify.ok else "NO",
        )
        for pack, verify in zip(packs, verifies, strict=True)
    ]
    header = ("day", "revision", "rows", "archived", "equal", "rejected", "shards", "stored", "verified")
    show_table(header, rows, right=frozenset(range(1, 8)))
    for verify in verifies:
        for check in verify.checks:
            show_findings(check.findings)


def show_rejects(rejects: Iterable[tuple[str, str, str, str]], total: int) -> None:
    """Rejected files by name: (day, uid, reason, detail) each, the first of `total`."""
    shown = list(islice(rejects, REJECTS_SHOWN))
    for day, uid, reason, detail in shown:
        say(f"{INDENT}rejected: {uid} ({day_words(day)}): {reason}" + (f": {detail}" if detail else ""))
    if total > len(shown):
        say(f"{INDENT}... and {total - len(shown):,} more; --json names up to 1,000")


def show_verification(report: VerifyReport) -> None:
    """The checks with what they looked at, each finding below its check, and the sums."""
    for check in report.checks:
        verdict = "passed" if check.ok else f"FAILED, {check.failed:,} findings"
        say(f"{INDENT}{check.name.replace('_', ' '):<14}  {verdict}, {check.checked:,} checked")
        show_findings(check.findings)
        if check.failed > len(check.findings):
            say(f"{INDENT}... and {check.failed - len(check.findings):,} more")
    show_figures(report)
