"""Reports as Dagster metadata: numbers that the UI plots, small tables, and the `vera` command that shows more.

The numbers are `operations.report.figures`, the same that the command line prints. No number is computed here.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from dagster import MetadataValue, TableRecord, TableSchema

from vera_core.operations.report import as_json, figures

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vera_core.operations.report import Report

TABLE_ROWS = 50
"""Rows of a table that are kept in an event: enough to see what is there; the `vera` command shows all."""
COUNTED = frozenset({"", "files", "objects", "ratio"})
"""Units that a label says already."""

Metadata = dict[str, MetadataValue[Any]]


def numbers(report: Report) -> Metadata:
    """Every figure of a report under its label and unit, as the int or float that the UI plots."""
    return {_title(item.label, item.unit): _number(item.value) for item in figures(report)}


def numbers_of(kind: type[Report], values: Mapping[str, Any]) -> Metadata:
    """The figures of a report that was kept as JSON; of what it does not hold, none."""
    return {
        _title(item.metadata["label"], item.metadata["unit"]): _number(values[item.name])
        for item in dataclasses.fields(kind)
        if "label" in item.metadata and item.name in values
    }


def table(rows: Iterable[object], *, limit: int = TABLE_ROWS) -> MetadataValue[Any]:
    """The first `limit` of some flat dataclasses (or mappings) as a table; what is no number or text is written out."""
    records: list[TableRecord] = []
    for row in rows:
        if len(records) == limit:
            break
        records.append(TableRecord({name: _cell(value) for name, value in _columns(row).items()}))
    # Of no rows Dagster can't tell the columns.
    return MetadataValue.table(records, schema=None if records else TableSchema([]))


def command(*words: str) -> MetadataValue[Any]:
    """The `vera` command that shows more, as a person would type it."""
    return MetadataValue.text(" ".join(("vera", *words)))


def _title(label: str, unit: str) -> str:
    return label if unit in COUNTED else f"{label} ({unit})"


def _number(value: float) -> MetadataValue[Any]:
    return MetadataValue.int(value) if isinstance(value, int) else MetadataValue.float(value)


def _columns(row: object) -> Mapping[str, object]:
    if dataclasses.is_dataclass(row):
        return {item.name: getattr(row, item.name) for item in dataclasses.fields(row)}
    assert isinstance(row, dict)
    return row


def _cell(value: object) -> str | int | float | bool | None:
    plain = as_json(value)  # a StrEnum is a str that Dagster can't store
    return plain if plain is None or isinstance(plain, str | int | float | bool) else str(plain)
