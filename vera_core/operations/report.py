"""Reports: what an operation returns. Text, JSON, HTTP and Dagster metadata are renderings of one Report.

A Report is a frozen dataclass; `figure` gives each number that a person may compare its label and unit, so that every
rendering shows the same words and numbers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Any, NamedTuple

from vera_core.model import Slot, day_text, format_time


class Figure(NamedTuple):
    """One labelled number. Units: files, bytes, seconds, files/s, bytes/s, objects, ratio, USD, USD/month, or none."""

    name: str
    label: str
    unit: str
    value: int | float


def figure(label: str, unit: str = "", *, default: float = 0) -> Any:
    """A dataclass field that holds a number worth showing and plotting."""
    return field(default=default, metadata={"label": label, "unit": unit})


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong, or foreign: what, where, and what to do. `severity` is `error` or `warning`."""

    what: str
    key: str = ""
    version_id: str = ""
    uid: str = ""
    todo: str = ""
    severity: str = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What every report says: whether it went well, and how long it took (seconds)."""

    ok: bool = True
    seconds: float = figure("time", "seconds")


def figures(report: Report) -> list[Figure]:
    """The labelled numbers of a report, in the order of its fields."""
    return [
        Figure(item.name, item.metadata["label"], item.metadata["unit"], getattr(report, item.name))
        for item in dataclasses.fields(report)
        if "label" in item.metadata
    ]


def as_json(value: Any) -> Any:
    """A report (or any value inside one) as what `json.dumps` takes: times as ISO 8601 Z, days as YYYYMMDD."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type | Slot):
        return {item.name: as_json(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(name): as_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_json(item) for item in value]
    for kind, render in _RENDERERS:
        if isinstance(value, kind):
            return render(value)
    return value


_RENDERERS: tuple[tuple[type, Any], ...] = (
    (Slot, str),
    (datetime, format_time),
    (date, day_text),
    (timedelta, timedelta.total_seconds),
    (Enum, lambda value: value.value),
    (bytes, bytes.hex),
)


def size_text(count: float) -> str:
    """Bytes for people: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    raise AssertionError
