"""The `Source` protocol: what packing asks of a business system, and the types that go with it.

Implementations: sql.py (any table or view), directory.py (a directory or a list of files). How their settings look is
mapping.py's business; freezing what they give is manifest.py's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, TypeAlias, runtime_checkable

from vera_core.errors import UsageError
from vera_core.model import check_name
from vera_core.routing import DAY_MICROS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from vera_core.source.rows import RawBatch, Reject, Row, RowBatch

EPOCH_DAY = date(1970, 1, 1)


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """The rows of a source and tenant created in [day, day + 1) UTC; revision 1 is the first freeze of them.

    Raises:
        UsageError: source or tenant is no valid name, or the revision is below 1.
    """

    source: str
    tenant: str
    day: date
    revision: int = 1

    def __post_init__(self) -> None:
        check_name(self.source, "source")
        check_name(self.tenant, "tenant")
        if self.revision < 1:
            raise UsageError(f"the window's revision is {self.revision}", todo="Revisions count from 1.")

    @property
    def first_micros(self) -> int:
        """The first microsecond since 1970 UTC that belongs to the window."""
        return (self.day - EPOCH_DAY).days * DAY_MICROS

    @property
    def end_micros(self) -> int:
        """The first microsecond after the window."""
        return self.first_micros + DAY_MICROS


@dataclass(frozen=True, slots=True)
class Terms:
    """What a repository asks of its sources.

    `classes`: the retention classes it has; `default_class`: the one of rows that name none; `inline_limit`: bytes
    above which a content is streamed instead of held in memory.
    """

    classes: frozenset[str]
    default_class: str
    inline_limit: int


@dataclass(frozen=True, slots=True)
class BigContent:
    """A content above the inline limit: its size in bytes, and how to read it from its beginning."""

    size: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Why a row's content can't be had: a `RejectReason`, and what exactly went wrong."""

    reason: str
    detail: str


Fetched: TypeAlias = "bytes | BigContent | Unreadable"


class Bounds(NamedTuple):
    """`created_at` of the first and the last row, in UTC."""

    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class LateRows:
    """Rows that appeared or changed after a mark: how many per UTC day, and the mark to ask with next time."""

    days: Mapping[date, int] = field(default_factory=dict)
    mark: str = ""


class Source(Protocol):
    """The rows of one tenant in a business system. Safe to share between threads; never writes anything.

    Every method raises `UnavailableError` when the system can't be reached.
    """

    @property
    def name(self) -> str:
        """The source's name, a part of object keys."""
        ...

    @property
    def tenant(self) -> str:
        """The tenant whose rows these are."""
        ...

    @property
    def blind_spots(self) -> tuple[str, ...]:
        """What this source can't detect, in words for the person who relies on it; empty if nothing."""
        ...

    def batches(self, window: Window) -> Iterator[RawBatch]:
        """Every row of the window, in any order, in batches of bounded size (some thousand rows, none of them empty).

        Rows that can't be archived carry a reason. A source that finds its rows one by one uses `rows.batched`.
        """
        ...

    def fetch(self, rows: Sequence[Row]) -> Iterator[Fetched]:
        """The contents of `rows`, one for each, in their order; at most 16 MiB or one content in memory at a time."""
        ...

    def bounds(self) -> Bounds | None:
        """The first and last `created_at`; None without rows."""
        ...

    def untimed(self, limit: int) -> Iterator[Reject]:
        """At most `limit` rows that belong to no window, because their time is null or none."""
        ...

    def late(self, mark: str, *, before: date) -> LateRows:
        """Which days before `before` have rows that appeared or changed after `mark`, without a full scan.

        An empty mark finds nothing and gives the mark to begin with. The mark is opaque; store it as it is.
        """
        ...


@dataclass(frozen=True, slots=True)
class LocalContents:
    """How any process of this machine reads the contents of rows: from files in `roots`, by their paths.

    `inline_limit`: bytes above which a content is streamed; `paths_of`: "" for a row whose content is no such file.
    """

    roots: tuple[Path, ...]
    inline_limit: int
    paths_of: Callable[[RowBatch], list[str]]


@runtime_checkable
class LocalSource(Protocol):
    """What a `Source` is besides, if its contents may be local files."""

    @property
    def local(self) -> LocalContents | None:
        """How to read them; None if they are somewhere else."""
        ...


def day_of(micros: int) -> date:
    """The UTC day of microseconds since 1970."""
    return EPOCH_DAY + timedelta(days=micros // DAY_MICROS)


def moment_of(day: date) -> datetime:
    """The first moment of a UTC day."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
