"""What storing costs: one dated price table, and the money that packing small files saves per month."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 1 << 30


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
    dated="2025-01-01",
    source="https://aws.amazon.com/s3/pricing/",
    gib_month=0.0125,
    put_thousand=0.01,
    get_thousand=0.001,
    minimum_object=128 << 10,
)
"""The class that an archive of single files would use: it bills every object as at least 128 KiB."""


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
