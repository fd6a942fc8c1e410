"""Recovering a damaged shard: what can be saved of it, and writing that to a shard that verifies.

Nothing is changed in the repository. An encrypted shard is recovered without its keys, with its files as they are
sealed. Saved files are opened and written out by extract.py.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vera_core.errors import FormatError, UsageError
from vera_core.format import Damage, FileSource, ShardReader, Survey, check_rebuild, rebuild, survey
from vera_core.operations.pace import at_pace
from vera_core.operations.report import Report, figure

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.errors import VeraError
    from vera_core.operations.damaged import Damaged
    from vera_core.operations.putback import PutBackReport

DAMAGES_SHOWN = 1000


class Outcome(StrEnum):
    """What a recovery came to."""

    IDENTICAL = "identical"
    """All entries are saved, in a shard that is bit for bit the one that was archived."""
    COMPLETE = "complete"
    """All entries are saved; whether the shard is the archived one is not known, for nothing tells its digest."""
    ALTERED = "altered"
    """All entries are saved, but the shard's digest is another than that of the one that was archived."""
    PARTIAL = "partial"
    """Entries are lost, or nothing tells how many there were."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport(Report):
    """What can be saved of a shard, what is damaged, and what was written.

    `damages` are the first 1,000. `entries` says how many entries there were, at least; exactly, if `end_known`.
    `sha256` is that of the shard that is made ("" if none can be, for the reason in `obstacle`), `archived_sha256` that
    of the archived one, or its first 32 digits, or "". `put_back` is what became of it in the repository, if it was.
    """

    shard: str
    version_id: str
    outcome: Outcome
    sha256: str
    archived_sha256: str
    obstacle: str
    damages: tuple[Damage, ...]
    entries: int
    end_known: bool
    output: str = ""
    files: str = ""
    put_back: PutBackReport | None = None
    size: int = figure("read", "bytes")
    damaged: int = figure("damaged places")
    saved: int = figure("files saved", "files")
    lost: int = figure("files lost", "files")
    searched: int = figure("saved from groups that were searched for", "files")
    erased: int = figure("erased, not written", "files")
    unopened: int = figure("that do not open, not written", "files")
    content_bytes: int = figure("their size", "bytes")


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What a recovery will do: the survey it goes by, and the report so far.

    `obstacle` is why no shard can be made yet.
    """

    damaged: Damaged
    survey: Survey
    report: RecoveryReport
    obstacle: VeraError | None


@dataclass(slots=True)
class Damages:
    """Gathers damages: the first ones, and how many there are."""

    tell: Callable[[Damage], None] | None
    first: list[Damage] = field(default_factory=list)
    count: int = 0

    def take(self, damage: Damage) -> None:
        """The next one."""
        self.count += 1
        if len(self.first) < DAMAGES_SHOWN:
            self.first.append(damage)
        if self.tell is not None:
            self.tell(damage)


class _Nowhere:
    """A sink for a shard of which only the digest is wanted."""

    def write(self, _: bytes | memoryview, /) -> None:
        """Drops it."""


@at_pace()
def plan_recovery(
    damaged: Damaged,
    *,
    tell: Callable[[Damage], None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RecoveryPlan:
    """Reads the whole shard and says what can be saved; `tell` gets every damage, `progress` bytes done and in all.

    Raises:
        FormatError: nothing of a shard is left.
        IncompatibleError: it is of a version or with a feature that this VERA does not read.
        UnavailableError: it can't be read.
    """
    began = time.monotonic()
    damages = Damages(tell)
    total = damaged.source.read_suffix(1)[1]
    passed = None if progress is None else lambda position: progress(min(position, total), total)
    known = damaged.known
    result = survey(damaged.source, known.clues, tell=damages.take, progress=passed, sealed=True)
    sha256 = ""
    obstacle: VeraError | None = None
    try:
        check_rebuild(result, known.commit)
    except (FormatError, UsageError) as error:
        obstacle = error
    if result.restorable and obstacle is None:
        sha256 = rebuild(result, _Nowhere(), progress=passed).sha256.hex()
    outcome = _outcome(result, sha256, known.sha256)
    found = result.found
    if not found.saved and not found.end_known and outcome is not Outcome.IDENTICAL:
        raise FormatError(
            "nothing can be saved: no group of entries is left",
            todo="Check that it is a shard; restore it from a replica of the bucket, or pack its window again.",
            **damaged.source.where,
        )
    report = RecoveryReport(
        ok=outcome in {Outcome.IDENTICAL, Outcome.COMPLETE}, seconds=time.monotonic() - began, shard=damaged.name,
        version_id=known.version_id or "", outcome=outcome, sha256=sha256, archived_sha256=known.sha256,
        obstacle="" if obstacle is None else str(obstacle), damages=tuple(damages.first), damaged=damages.count,
        size=total, entries=found.expected if result.entries is None else result.entries, end_known=found.end_known,
        saved=found.saved, lost=found.lost, searched=found.searched, content_bytes=found.content_bytes,
    )  # fmt: skip
    return RecoveryPlan(damaged, result, report, obstacle)


def _outcome(result: Survey, sha256: str, archived: str) -> Outcome:
    if sha256 and archived and sha256.startswith(archived):
        return Outcome.IDENTICAL
    if result.found.lost or result.entries is None:
        return Outcome.PARTIAL
    is_other = bool(sha256) or not result.restorable
    return Outcome.ALTERED if archived and is_other else Outcome.COMPLETE


@at_pace()
def execute_recovery(
    plan: RecoveryPlan, file: IO[bytes], *, progress: Callable[[int, int], None] | None = None
) -> RecoveryReport:
    """Writes the shard to `file`, a new local file, and verifies it with a new reader.

    Raises:
        UsageError: the header is lost or the commit's number needed, and nobody gave it.
        FormatError: no entry is left to make a shard of, or what was written does not verify.
        UnavailableError: the shard can't be read any more.
    """
    began = time.monotonic()
    total = plan.report.size
    passed = None if progress is None else lambda position: progress(min(position, total), total)
    summary = rebuild(plan.survey, file, commit=plan.damaged.known.commit, progress=passed)
    file.flush()
    with FileSource(Path(file.name)) as source:
        verified = ShardReader.open(source, sealed=True).verify()
    if (verified.sha256, verified.entries) != (summary.sha256, plan.report.saved):
        raise FormatError(
            "what was written is not what was read", todo="Check this machine's memory and disk.", path=file.name
        )
    seconds = plan.report.seconds + time.monotonic() - began
    return replace(plan.report, sha256=summary.sha256.hex(), seconds=seconds)
