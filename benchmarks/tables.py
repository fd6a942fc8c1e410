"""Results as tables, for the terminal and for docs/performance.md alike. What they must be is said by targets.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.peers import VERA
from benchmarks.targets import MIB, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.results import (
        Comparison,
        Destroying,
        Encrypting,
        Entrant,
        Erasing,
        Growth,
        Machine,
        Memory,
        OnS3,
        Packed,
        Repacked,
        Repacking,
        Results,
    )

CORPORA = {
    "json": "JSON records",
    "mixed": "Mixed real files",
    "blobs": "Incompressible blobs",
}
NONE = "-"


class Table(NamedTuple):
    """A table; `note` is a paragraph below it. Columns after the first are figures, unless it is `prose`."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    prose: bool = False


def tables(results: Results) -> dict[str, list[Table]]:
    """All tables by the part of the results that they show."""
    found = {"machine": [_machine(results.machine)]}
    for name, comparison in results.comparisons.items():
        found[name] = [_packing(name, comparison), _reading(name, comparison)]
    if results.growth is not None:
        found["growth"] = _growth(results.growth)
    if results.s3 is not None:
        found["s3"] = [_s3(results.s3)]
    if results.encrypting is not None:
        found["encrypted"] = [_encrypting(results.encrypting)]
    if results.repacking is not None:
        found["repack"] = [_repacking(results.repacking)]
    if results.memory is not None:
        found["memory"] = [_memory(results.memory)]
    if results.erasing is not None:
        found["erase"] = [_erasing(results.erasing)]
    return {**found, "targets": [_targets(results)]}


def as_text(table: Table) -> str:
    """For a terminal."""
    lines = [table.columns, *table.rows]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    side = "<" if table.prose else ">"

    def line(cells: tuple[str, ...]) -> str:
        figures = (f"  {cell:{side}{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))
        return f"{cells[0]:{widths[0]}}{''.join(figures)}".rstrip()

    return "\n".join([table.title, *map(line, lines), *([table.note] if table.note else [])])


def as_markdown(table: Table) -> str:
    """For a document."""
    rule = ("---", *("---" if table.prose else "---:" for _ in table.columns[1:]))
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in (table.columns, rule, *table.rows))
    lines = [f"| {' | '.join(cells)} |" for cells in escaped]
    return "\n".join([f"**{table.title}**", "", *lines, *(["", table.note] if table.note else [])])


def _targets(results: Results) -> Table:
    verdicts = {True: "yes", False: "NO", None: NONE}
    rows = [(target.what, target.must, target.measured, verdicts[target.met]) for target in targets(results)]
    return Table("What VERA must reach", ("VERA's figure", "must be", "measured", "met"), rows, prose=True)


def _machine(machine: Machine) -> Table:
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    rows = [
        ("when", machine.when),
        ("cores", str(machine.cores)),
        ("processor", machine.processor),
        ("system", machine.system),
        ("load before it began", f"{machine.load:.2f}"),
        ("versions", versions),
    ]
    return Table("The machine", ("", "value"), rows, prose=True)


def _packing(name: str, comparison: Comparison) -> Table:
    own = comparison.entrants[VERA]
    columns = ("packing", "files/s", "of VERA", "MB/s", "CPU us/file", "stored", "of VERA", "peak MiB")
    rows = [_packing_row(comparison, entrant, own) for entrant in comparison.entrants.values()]
    mean = comparison.content_bytes / comparison.files
    spread = max(
        entrant.slowest_seconds / entrant.seconds for entrant in comparison.entrants.values() if entrant.seconds
    )
    freezing, verifying = (seconds / own.seconds for seconds in (comparison.freeze_seconds, comparison.verify_seconds))
    note = (
        f"Freezing the rows of a database takes VERA another {freezing:.0%} of its time before, verifying the shard "
        f"{verifying:.0%} after. The slowest round of an entrant took up to {spread:.2f} times its best."
    )
    return Table(f"{CORPORA[name]}: {comparison.files:,} files of {mean:,.0f} bytes on average", columns, rows, note)


def _packing_row(comparison: Comparison, entrant: Entrant, own: Entrant) -> tuple[str, ...]:
    if entrant.missing:
        return (entrant.title, entrant.missing, *[NONE] * 6)
    return (
        entrant.title,
        f"{comparison.files / entrant.seconds:,.0f}",
        f"{own.seconds / entrant.seconds:.2f}",
        f"{comparison.content_bytes / entrant.seconds / 1e6:,.0f}",
        f"{entrant.cpu_seconds / comparison.files * 1e6:,.1f}",
        f"{entrant.stored_bytes / comparison.content_bytes:.1%}",
        f"{entrant.stored_bytes / own.stored_bytes:.2f}",
        f"{entrant.peak_bytes / MIB:,.0f}",
    )


def _reading(name: str, comparison: Comparison) -> Table:
    own = comparison.entrants[VERA].lookups
    assert own is not None
    columns = ("reading", "lookups/s", "of VERA", "cold reads", "cold KB", "cold ms")
    rows = [
        (
            entrant.title,
            f"{found.per_second:,.0f}",
            f"{found.per_second / own.per_second:.2f}",
            *_cold(found.cold_reads, found.cold_bytes),
            f"{found.cold_seconds * 1000:,.1f}",
        )
        for entrant in comparison.entrants.values()
        if (found := entrant.lookups) is not None
    ]
    checked = (f"{own.checked_per_second:,.0f}", f"{own.checked_per_second / own.per_second:.2f}")
    rows[1:1] = [("VERA, SHA-256 checked, too", *checked, NONE, NONE, NONE)]
    return Table(f"{CORPORA[name]}: random reads, warm; opening and one read, cold", columns, rows)


def _growth(growth: Growth) -> list[Table]:
    columns = (
        "files in a shard", "files/s", "CPU us/file", "index B/file", "rest KB", "verified/s", "peak MiB",
        "lookups/s", "cold reads", "cold KB", "cold ms",
    )  # fmt: skip
    rows = []
    for grown in growth.by_number:
        entrant, found = grown.entrant, grown.entrant.lookups
        assert found is not None
        row = (
            f"{grown.files:,}",
            f"{grown.files / entrant.seconds:,.0f}",
            f"{entrant.cpu_seconds / grown.files * 1e6:,.1f}",
            f"{grown.index_bytes / grown.files:,.1f}",
            f"{grown.rest_bytes / 1000:,.1f}",
            f"{grown.files / grown.verify_seconds:,.0f}",
            f"{entrant.peak_bytes / MIB:,.0f}",
            f"{found.per_second:,.0f}",
            *_cold(found.cold_reads, found.cold_bytes),
            f"{found.cold_seconds * 1000:,.1f}",
        )
        rows.append(row)
    return [Table("VERA by number of files (JSON records)", columns, rows), _by_size(growth)]


def _by_size(growth: Growth) -> Table:
    columns = (
        "bytes on average",
        "files",
        "files/s",
        "MB/s",
        "stored",
        "index B/file",
        "rest KB",
        "peak MiB",
        "lookups/s",
    )
    rows = []
    for grown in growth.by_size:
        entrant, found = grown.entrant, grown.entrant.lookups
        assert found is not None
        row = (
            f"{grown.content_bytes / grown.files:,.0f}",
            f"{grown.files:,}",
            f"{grown.files / entrant.seconds:,.0f}",
            f"{grown.content_bytes / entrant.seconds / 1e6:,.0f}",
            f"{entrant.stored_bytes / grown.content_bytes:.1%}",
            f"{grown.index_bytes / grown.files:,.1f}",
            f"{grown.rest_bytes / 1000:,.1f}",
            f"{entrant.peak_bytes / MIB:,.0f}",
            f"{found.per_second:,.0f}",
        )
        rows.append(row)
    return Table("VERA by size of files (JSON records)", columns, rows)


def _s3(s3: OnS3) -> Table:
    packed, single = s3.database, s3.single_files / s3.single_seconds
    rows = [
        ("packed from a database's rows", f"{packed.files_per_second:,.0f} files/s"),
        ("  CPU of VERA and its helpers", f"{packed.cpu_seconds / packed.files * 1e6:.1f} us/file"),
        ("  CPU of the S3 server", f"{packed.server_cpu_seconds / packed.files * 1e6:.1f} us/file"),
        ("  stored, of the content", f"{packed.stored_bytes / packed.content_bytes:.1%}"),
        ("  files per object, all objects counted", f"{packed.files / packed.objects:,.0f}"),
        ("  memory, with helpers", f"{(packed.own_bytes + packed.helper_bytes) / MIB:,.0f} MiB"),
        ("packed from a directory", f"{s3.directory.files_per_second:,.0f} files/s"),
        (f"{s3.single_files:,} files as single S3 objects", f"{single:,.0f} files/s"),
        ("  VERA's speed of that", f"{packed.files_per_second / single:.1f} times"),
        ("requests of a cold read", f"{len(s3.cold_requests)}: {', '.join(s3.cold_requests)}"),
        ("requests of a warm read", f"{len(s3.warm_requests)}: {', '.join(s3.warm_requests)}"),
        ("random reads, one after the other", f"{s3.reads_per_second:,.0f} files/s"),
    ]
    title = f"Packing {packed.files:,} files of {packed.content_bytes / packed.files:,.0f} bytes to the embedded S3"
    return Table(title, ("", "value"), rows, prose=True)


def _encrypting(encrypting: Encrypting) -> Table:
    runs = (encrypting.plain, encrypting.common, encrypting.encrypted)
    row = _rows_of(runs)
    rows = [
        row("files/s", lambda run: f"{run.files_per_second:,.0f}"),
        row("of unencrypted", lambda run: f"{run.files_per_second / encrypting.plain.files_per_second:.2f}"),
        row("CPU of VERA and its helpers, us/file", lambda run: f"{run.cpu_seconds / run.files * 1e6:.1f}"),
        row("of unencrypted", lambda run: f"{run.cpu_seconds / encrypting.plain.cpu_seconds:.2f}"),
        row("CPU of the S3 server, us/file", lambda run: f"{run.server_cpu_seconds / run.files * 1e6:.1f}"),
        row("stored B/file", lambda run: f"{run.stored_bytes / run.files:,.1f}"),
        row("of unencrypted", lambda run: f"{run.stored_bytes / encrypting.plain.stored_bytes:.2f}"),
        row("peak of the packing process, MiB", lambda run: f"{run.own_bytes / MIB:,.0f}"),
        row("with those of its helpers, MiB", lambda run: f"{(run.own_bytes + run.helper_bytes) / MIB:,.0f}"),
    ]
    columns = ("", "unencrypted", "with common dictionaries", "encrypted")
    return Table(f"Packing {encrypting.plain.files:,} files to the embedded S3, encrypted", columns, rows)


def _repacking(repacking: Repacking) -> Table:
    runs = (repacking.plain, repacking.encrypted)

    def row(what: str, of: Callable[[Repacked], str]) -> tuple[str, ...]:
        return (what, *(of(run) for run in runs))

    rows = [
        row("files/s moved", lambda run: f"{run.files_per_second:,.0f}"),
        row("of packing", lambda run: f"{run.files_per_second / run.packed.files_per_second:.2f}"),
        row("CPU of VERA and its helpers, us/file moved", lambda run: f"{run.cpu_seconds / run.files * 1e6:.1f}"),
        row("of packing, us/file", lambda run: f"{run.packed.cpu_seconds / run.packed.files * 1e6:.1f}"),
        row("peak of the process, MiB", lambda run: f"{run.own_bytes / MIB:,.0f}"),
        row("with those of its helpers, MiB", lambda run: f"{(run.own_bytes + run.helper_bytes) / MIB:,.0f}"),
    ]
    title = f"Repacking a shard of {repacking.plain.packed.files:,} files on the embedded S3"
    return Table(title, ("", "unencrypted", "encrypted"), rows)


def _rows_of(runs: Sequence[Packed]) -> Callable[[str, Callable[[Packed], str]], tuple[str, ...]]:
    """Makes rows with a cell for each run."""
    return lambda what, of: (what, *(of(run) for run in runs))


def _memory(memory: Memory) -> Table:
    runs = (memory.few, memory.many)
    columns = ("", *(f"{run.files:,} files" for run in runs))
    row = _rows_of(runs)
    rows = [
        row("bytes on average", lambda run: f"{run.content_bytes / run.files:,.0f}"),
        row("peak of the packing process, MiB", lambda run: f"{run.own_bytes / MIB:,.0f}"),
        row("with those of its helpers, MiB", lambda run: f"{(run.own_bytes + run.helper_bytes) / MIB:,.0f}"),
        row("files/s", lambda run: f"{run.files_per_second:,.0f}"),
        row("files per object", lambda run: f"{run.files / run.objects:,.0f}"),
    ]
    return Table("Memory of packing to S3", columns, rows)


def _erasing(erasing: Erasing) -> Table:
    rows = [
        (f"{erasing.files:,} files of {erasing.slots:,} slots by one request", f"{erasing.seconds:.1f} s"),
        ("  for each slot", f"{erasing.seconds / erasing.slots * 1000:.1f} ms"),
        ("  CPU of VERA for each slot", f"{erasing.cpu_seconds / erasing.slots * 1000:.1f} ms"),
        ("  CPU of the S3 server for each slot", f"{erasing.server_cpu_seconds / erasing.slots * 1000:.1f} ms"),
        (f"one file of a shard of {erasing.single_of:,} by `vera erase`", f"{erasing.single_seconds:.2f} s"),
        ("  until a reader that knew it learns of it", f"{erasing.hidden_seconds:.1f} s more"),
        *([] if erasing.encrypted is None else _destroying(erasing.encrypted)),
    ]
    return Table("Erasing on the embedded S3", ("", "value"), rows, prose=True)


def _destroying(found: Destroying) -> list[tuple[str, str]]:
    return [
        (f"{found.files:,} files of {found.slots:,} slots, encrypted, keys destroyed", f"{found.seconds:.1f} s"),
        ("  for each slot", f"{found.seconds / found.slots * 1000:.1f} ms"),
        ("  CPU of VERA for each slot", f"{found.cpu_seconds / found.slots * 1000:.1f} ms"),
        ("  CPU of the S3 server for each slot", f"{found.server_cpu_seconds / found.slots * 1000:.1f} ms"),
    ]


def _cold(reads: int, read_bytes: int) -> tuple[str, str]:
    return (f"{reads:,}", f"{read_bytes / 1000:,.1f}") if reads >= 0 else (NONE, NONE)
