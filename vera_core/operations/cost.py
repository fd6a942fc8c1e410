"""What storing costs: dated price tables, what an archive takes in objects, requests and time, and the money it saves.

Estimates from counts and sizes, before anything is archived; what is archived is counted by inventory.py.
"""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from vera_core.config import DEFAULT_PART_ROWS, DEFAULT_SHARD_BYTES
from vera_core.errors import UsageError
from vera_core.operations.report import Report, figure

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
AWS = "https://aws.amazon.com/s3/pricing/"
DATED = "2025-01-01"
SMALL_OBJECT = 2 << 10
"""About the bytes of a record, sidecar or audit entry."""
READ_CHUNK = 8 << 20
"""Bytes of a shard that verifying asks for at a time."""


@dataclass(frozen=True, slots=True)
class PriceTable:
    """Prices in USD of a storage service on a day.

    `gib_month`: a GiB stored for a month; `put_thousand` and `get_thousand`: 1,000 requests; `minimum_object`: bytes
    that an object is billed for at least; `overhead_object`: bytes billed on top of each object.
    """

    name: str
    dated: str
    source: str
    gib_month: float
    put_thousand: float
    get_thousand: float
    minimum_object: int = 0
    overhead_object: int = 0


S3_STANDARD_IA = PriceTable(
    name="AWS S3 Standard-IA, us-east-1",
    dated=DATED,
    source=AWS,
    gib_month=0.0125,
    put_thousand=0.01,
    get_thousand=0.001,
    minimum_object=128 << 10,
)
"""The class that an archive of single files would use: it bills every object as at least 128 KiB."""

PRICES = (
    PriceTable("AWS S3 Standard, us-east-1", DATED, AWS, 0.023, 0.005, 0.0004),
    S3_STANDARD_IA,
    PriceTable("AWS S3 Glacier Instant Retrieval, us-east-1", DATED, AWS, 0.004, 0.02, 0.01, minimum_object=128 << 10),
    PriceTable("AWS S3 Glacier Flexible Retrieval, us-east-1", DATED, AWS, 0.0036, 0.03, 0.0004, 0, 40 << 10),
    PriceTable("AWS S3 Glacier Deep Archive, us-east-1", DATED, AWS, 0.00099, 0.05, 0.0004, 0, 40 << 10),
)
"""The first 50 TB of each class. Glacier's overhead of 40 KiB is billed here at the class's own price, a little low."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is to be archived, and by whom.

    `days`: over how many days the files are spread; `slots`: of a day; `compression`: content per stored byte; `speed`:
    files a second of one worker.

    Raises:
        UsageError: a number is not positive.
    """

    files: int
    content_bytes: int
    compression: float = 2.5
    days: int = 1
    slots: int = 1
    workers: int = 1
    speed: float = 20_000.0
    shard_bytes: int = DEFAULT_SHARD_BYTES
    part_rows: int = DEFAULT_PART_ROWS
    encrypted: bool = False

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name != "encrypted" and value <= 0 and not (item.name in {"files", "content_bytes"} and value == 0):
                raise UsageError(f"{item.name} is {value}", todo="Give a number above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostLine:
    """By one price table, in USD: storing it for a month and writing it once, as single objects and packed."""

    name: str
    dated: str
    source: str
    monthly_before: float
    monthly_after: float
    saved_monthly: float
    writing_before: float
    writing_after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport(Report):
    """The estimate: objects of every kind, requests, duration, and the money by price table."""

    lines: tuple[CostLine, ...]
    files: int = figure("files", "files")
    content_bytes: int = figure("content", "bytes")
    stored_bytes: int = figure("stored", "bytes")
    shards: int = figure("shards", "objects")
    objects: int = figure("objects of every kind", "objects")
    files_per_object: float = figure("files per object", "ratio")
    puts: int = figure("PUT requests")
    gets: int = figure("GET requests, verifying included")
    duration: float = figure("archiving takes", "seconds")


def estimate(work: Workload, prices: tuple[PriceTable, ...] = PRICES) -> CostReport:
    """What archiving a workload takes, and what storing it costs as single objects and as shards.

    A day's slot has at least a shard, its record and a sidecar; a day a manifest, audit entries and, for each slot, a
    file of the catalogue.
    """
    stored = round(work.content_bytes / work.compression)
    used = min(work.days * work.slots, work.files)
    each = math.ceil(max(stored / work.shard_bytes, work.files / work.part_rows) / used) if work.files else 0
    shards = used * max(1, each) if work.files else 0
    keyrings = shards if work.encrypted else 0
    objects = 2 * shards + keyrings + 2 * used + (7 * work.days if work.files else 0)
    gets = shards * (4 + math.ceil(stored / max(1, shards) / READ_CHUNK)) + 4 * used
    return CostReport(
        lines=tuple(_line(table, work, stored=stored, shards=shards, small=objects - shards) for table in prices),
        files=work.files, content_bytes=work.content_bytes, stored_bytes=stored, shards=shards, objects=objects,
        files_per_object=work.files / objects if objects else 0.0, puts=objects + shards, gets=gets,
        duration=work.files / (work.speed * work.workers),
    )  # fmt: skip


def read_prices(path: Path) -> tuple[PriceTable, ...]:
    """The price tables in a TOML file: a list `prices`, with the fields of `PriceTable`.

    Raises:
        UsageError: there is no such file, or it is none.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8"))["prices"]
        found = tuple(PriceTable(**table) for table in tables)
        for table in found:
            _check_prices(table)
    except OSError as error:
        raise UsageError(f"the price tables can't be read: {error.strerror}", path=path) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"the file holds no price tables: {error}",
            todo="Each is a [[prices]] with name, dated, source, gib_month, put_thousand, get_thousand and, where they "
            "apply, minimum_object and overhead_object.",
            path=path,
        ) from None
    return found


def monthly(table: PriceTable, *, objects: int, stored_bytes: int) -> float:
    """USD a month for storing `objects` objects of `stored_bytes` in all, taking them as equally large."""
    if not objects:
        return 0.0
    mean = max(stored_bytes / objects, table.minimum_object) + table.overhead_object
    return mean * objects / GIB * table.gib_month


def saved_monthly(table: PriceTable, *, files: int, content_bytes: int, objects: int, stored_bytes: int) -> float:
    """USD a month that `objects` shards and their records save over the same files as one object each."""
    before = monthly(table, objects=files, stored_bytes=content_bytes)
    return before - monthly(table, objects=objects, stored_bytes=stored_bytes)


def _line(table: PriceTable, work: Workload, *, stored: int, shards: int, small: int) -> CostLine:
    before = monthly(table, objects=work.files, stored_bytes=work.content_bytes)
    # Apart from each other: a class that bills small objects as larger ones does so with each.
    after = monthly(table, objects=shards, stored_bytes=stored)
    after += monthly(table, objects=small, stored_bytes=small * SMALL_OBJECT)
    return CostLine(
        name=table.name, dated=table.dated, source=table.source, monthly_before=before, monthly_after=after,
        saved_monthly=before - after, writing_before=work.files / 1000 * table.put_thousand,
        writing_after=(shards + small) / 1000 * table.put_thousand,
    )  # fmt: skip


def _check_prices(table: PriceTable) -> None:
    for item in fields(table):
        value: Any = getattr(table, item.name)
        number = item.name in {"gib_month", "put_thousand", "get_thousand", "minimum_object", "overhead_object"}
        if number != isinstance(value, int | float) or isinstance(value, bool) or (number and value < 0):
            raise ValueError(f"{item.name} is {value!r}")
