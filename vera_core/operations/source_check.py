"""`vera source check`: a look at a source before its migration. Reads the business database, and a sample of contents.

What is found is said with the statement or setting that mends it; nothing is changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.encoding import Encoder
from vera_core.operations.epoch_plan import ProposedEpoch, propose_epochs
from vera_core.operations.report import Finding, Report, figure
from vera_core.routing import DAY_MICROS, Routing, UidScheme
from vera_core.source.examination import DayRows, Duplicate, Index, Role, Sample, sample
from vera_core.source.mapping import ContentKind
from vera_core.training import train_dictionaries

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import date

    from vera_core.config import RepositoryConfig
    from vera_core.source.examination import Examination
    from vera_core.source.sql import SqlSource

SAMPLED_DAYS = 16
SAMPLED_ROWS = 64
"""Rows of each sampled day."""
SAMPLED_BYTES = 64 << 20
ENTRY_BYTES = 45
"""What a shard adds to each content for index, name and sums (docs/performance.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCheckReport(Report):
    """What a source holds, what VERA's queries need of it, and what a migration should set up before it begins.

    `days`: (day, rows, declared bytes, estimated stored bytes) each, empty where only a quick look was asked for.
    """

    source: str
    tenant: str
    database: str
    table: str
    columns: tuple[Role, ...]
    indexes: tuple[Index, ...]
    index: str = ""
    index_statement: str = ""
    days: tuple[tuple[date, int, int, int], ...] = ()
    epochs: tuple[ProposedEpoch, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()
    unreadable: tuple[tuple[str, int, str], ...] = ()
    findings: tuple[Finding, ...] = ()
    rows: int = figure("rows", "files")
    day_count: int = figure("days")
    busiest: int = figure("on the busiest day", "files")
    content_bytes: int = figure("content, estimated", "bytes")
    stored_bytes: int = figure("stored, estimated", "bytes")
    mean_size: float = figure("mean content", "bytes")
    median_size: int = figure("median content", "bytes")
    largest_size: int = figure("largest content of the sample", "bytes")
    compression: float = figure("content per stored byte", "ratio")
    sampled: int = figure("files looked at", "files")
    untimed: int = figure("rows without a time", "files")
    nameless: int = figure("rows without a uid", "files")
    empty: int = figure("rows without a content", "files")
    repeated: int = figure("uids of several rows")


def check_source(
    config: RepositoryConfig,
    source: SqlSource,
    *,
    quick: bool = False,
    tell: Callable[[str], None] = lambda _: None,
) -> SourceCheckReport:
    """Examines a source; `quick` leaves out what reads the whole table. `tell` hears what is being asked.

    Raises:
        UnavailableError: the database can't be reached.
        UsageError: it refuses a statement.
    """
    began = time.monotonic()
    exam = source.examination
    tell("columns and indexes")
    roles, indexes = exam.roles(), exam.indexes()
    days: dict[date, DayRows] = {}
    missing: dict[str, int] = {}
    repeated: tuple[int, list[Duplicate]] = (0, [])
    if not quick:
        tell("rows of each day")
        days = exam.days()
        tell("rows with nothing in a column")
        missing = exam.missing()
        tell("uids of several rows")
        repeated = exam.duplicates()
    tell("a sample of contents")
    looked = sample(source, _sampled_days(source, days), each=SAMPLED_ROWS, most_bytes=SAMPLED_BYTES)
    size = _Sizes.of(config, looked)
    estimated = {day: _estimate(found, size) for day, found in days.items()}
    paging = exam.paging_columns()
    index = next((item.name for item in indexes if item.columns[:1] == paging[:1]), "")
    findings = [
        *_index_findings(exam, indexes, index),
        *_row_findings(missing, repeated[0]),
        *_sample_findings(config, exam, looked),
    ]
    rows = sum(found.rows for found in days.values())
    return SourceCheckReport(
        ok=not any(finding.severity == "error" for finding in findings),
        source=source.name, tenant=source.tenant, database=exam.engine.dialect.name,
        table=exam.queries.settings.table, columns=tuple(roles), indexes=tuple(indexes), index=index,
        index_statement="" if index else exam.index_statement(paging),
        days=tuple((day, found.rows, found.declared, estimated[day][1]) for day, found in days.items()),
        epochs=tuple(propose_epochs({day: stored for day, (_, stored) in estimated.items()})),
        duplicates=tuple(repeated[1]),
        unreadable=tuple((reason, count, example) for reason, (count, example) in sorted(looked.unreadable.items())),
        findings=tuple(findings), rows=rows, day_count=len(days),
        busiest=max((found.rows for found in days.values()), default=0),
        content_bytes=sum(content for content, _ in estimated.values()),
        stored_bytes=sum(stored for _, stored in estimated.values()),
        mean_size=size.mean, median_size=size.median, largest_size=size.largest, compression=size.ratio,
        sampled=len(looked.rows), untimed=missing.get("created_at", 0), nameless=missing.get("uid", 0),
        empty=missing.get("content", 0), repeated=repeated[0], seconds=time.monotonic() - began,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a sample says of all contents: sizes in bytes, and how much smaller they become."""

    mean: float
    median: int
    largest: int
    ratio: float

    @classmethod
    def of(cls, config: RepositoryConfig, looked: Sample) -> _Sizes:
        """The sample, packed as the repository would; nothing is known without one."""
        sizes = sorted(map(len, looked.contents))
        if not sizes:
            return cls(0.0, 0, 0, 1.0)
        common = config.encryption is not None
        trained = train_dictionaries(
            looked.contents, looked.media_types, policy=config.compression, files=config.part_rows, common=common
        )
        encoded = Encoder(config.compression, trained).encode(looked.contents, looked.media_types)
        stored = int(encoded.facts["stored_size"].sum()) + ENTRY_BYTES * len(sizes)
        return cls(sum(sizes) / len(sizes), sizes[len(sizes) // 2], sizes[-1], sum(sizes) / stored)


def _sampled_days(source: SqlSource, days: Mapping[date, DayRows]) -> Sequence[date]:
    """Days spread over all; the first and the last where only those are known."""
    if days:
        known = list(days)
        return known[:: max(1, len(known) // SAMPLED_DAYS)][:SAMPLED_DAYS]
    bounds = source.bounds()
    return [] if bounds is None else sorted({bounds.first.date(), bounds.last.date()})


def _estimate(found: DayRows, size: _Sizes) -> tuple[int, int]:
    """(content, stored) bytes of a day: as declared, else by the mean of the sample."""
    content = found.declared or round(found.rows * size.mean)
    return content, round(content / size.ratio)


def _index_findings(exam: Examination, indexes: Sequence[Index], index: str) -> list[Finding]:
    found = []
    if not index:
        found.append(
            Finding(
                what="no index begins with created_at: every page of a window sorts the whole table",
                todo=f"Have this run: {exam.index_statement(exam.paging_columns())}", severity="warning",
            )
        )  # fmt: skip
    late = exam.queries.settings.late
    if late is None:
        found.append(
            Finding(
                what="no late column: rows that come or change after their day was frozen are not found",
                todo="Name a column that grows with every insert and change: late = { column = ... }.",
                severity="warning",
            )
        )
    elif not any(item.columns[:1] == (late.column,) for item in indexes):
        statement = exam.index_statement([late.column], "vera_by_change")
        found.append(
            Finding(
                what="no index begins with the late column: each look for late rows reads the whole table",
                todo=f"Have this run: {statement}", severity="warning",
            )
        )  # fmt: skip
    if exam.queries.settings.content.kind is ContentKind.INLINE and not exam.queries.key:
        found.append(
            Finding(
                what="the table has no primary key of one column: contents are found by uid and time",
                todo="Name a column that tells rows apart: primary_key = ...", severity="warning",
            )
        )  # fmt: skip
    return found


_MISSING = {
    "created_at": ("rows have no time, or none of year 1 to 9999: no day has them, nothing archives them", "error"),
    "uid": ("rows have no uid: they are rejected", "error"),
    "content": ("rows have no content: they are rejected", "error"),
    "late": ("rows have no late value: their changes are not found", "warning"),
}


def _row_findings(missing: Mapping[str, int], repeated: int) -> list[Finding]:
    found = [
        Finding(what=f"{count:,} {_MISSING[name][0]}", severity=_MISSING[name][1], todo="Mend them in the source.")
        for name, count in missing.items()
        if count
    ]
    if repeated:
        found.append(
            Finding(
                what=f"{repeated:,} uids have several rows: they become versions of one file where they are of one "
                "slot, and files of their own where they are of different days",
                todo="If they are meant to be different files, make the uid of more columns.", severity="warning",
            )
        )  # fmt: skip
    return found


def _sample_findings(config: RepositoryConfig, exam: Examination, looked: Sample) -> list[Finding]:
    found = [
        Finding(
            what=f"{count:,} of {len(looked.rows):,} rows of the sample would be rejected: {reason}: {example}",
            todo="docs/sources.md says what each reason means.",
        )
        for reason, (count, example) in sorted(looked.unreadable.items())
    ]
    scheme = _carried_scheme(config, looked)
    if scheme is not None:
        found.append(
            Finding(
                what=f"all uids of the sample are {scheme.value}s that carry their row's time, and the repository does "
                "not trust them: readers must name created_at",
                todo=f"A repository made with --trust-uids {scheme.value} finds them by the uid alone.",
                severity="warning",
            )
        )
    settings = exam.queries.settings
    if settings.content.kind is not ContentKind.INLINE and not settings.size:
        found.append(
            Finding(
                what="no size column: sizes are known only once a file is read",
                todo="Name the column with the size, if there is one: a file of another size is then rejected.",
                severity="warning",
            )
        )
    return found


def _carried_scheme(config: RepositoryConfig, looked: Sample) -> UidScheme | None:
    """The scheme of uids with a time of their own that all rows of the sample follow, if the repository trusts none."""
    for scheme in (UidScheme.UUID7, UidScheme.ULID):
        routing = Routing(schemes=frozenset({scheme}))
        own = [routing.uid_micros(row.uid) for row in looked.rows]
        fits = (
            micros is not None and abs(micros - row.created_at) <= DAY_MICROS
            for micros, row in zip(own, looked.rows, strict=True)
        )
        if own and scheme not in config.routing.schemes and all(fits):
            return scheme
    return None
