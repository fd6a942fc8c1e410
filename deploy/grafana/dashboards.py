"""Grafana's dashboard of migrations, as code: `python deploy/grafana/dashboards.py` prints vera-migration.json.

A test holds the JSON to what this prints, and every metric in it to those that VERA has.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

WIDTH, HEIGHT = 8, 8
COLUMNS = 3
CHOSEN = '{source=~"$source", tenant=~"$tenant"}'


class Panel(NamedTuple):
    """A panel: what it says, in which unit of Grafana's, by which queries (legend -> expression)."""

    title: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"


def least(metric: str) -> str:
    """The latest knowledge of a gauge that several workers have."""
    return f"min by (source, tenant) ({metric}{CHOSEN})"


def rate(metric: str) -> str:
    """A second's count, over five minutes."""
    return f"sum by (source) (rate({metric}{CHOSEN}[5m]))"


def hourly(metric: str, label: str) -> str:
    """An hour's count, by a label."""
    return f"sum by ({label}) (increase({metric}{CHOSEN}[1h]))"


STEPS = f"histogram_quantile(0.95, sum by (step, le) (rate(vera_step_seconds_bucket{CHOSEN}[30m])))"
WATERMARK = f"max by (source, tenant) (vera_watermark_seconds{CHOSEN}) * 1000"
PANELS = (
    Panel("Behind: oldest due file", "s", {"{{source}}": least("des_pack_lag")}, "stat"),
    Panel("Watermark", "dateTimeAsIso", {"{{source}}": WATERMARK}, "stat"),
    Panel("Windows that failed", "short", {"{{source}}": least("vera_windows_failed")}, "stat"),
    Panel("Files archived a second", "ops", {"{{source}}": rate("vera_files_archived_total")}),
    Panel("Content archived", "Bps", {"{{source}}": rate("vera_content_bytes_total")}),
    Panel("Lag", "s", {"{{source}}": least("des_pack_lag")}),
    Panel("Windows due", "short", {"{{source}}": least("vera_windows_due")}),
    Panel("Seconds of a step, 95th percentile", "s", {"{{step}}": STEPS}),
    Panel("Rejects an hour", "short", {"{{reason}}": hourly("vera_files_rejected_total", "reason")}),
    Panel("Windows an hour", "short", {"{{verdict}}": hourly("vera_windows_total", "verdict")}),
    Panel("Errors an hour", "short", {"{{kind}}": hourly("vera_window_errors_total", "kind")}),
    Panel("Days lost to other workers an hour", "short", {"{{source}}": hourly("vera_leases_lost_total", "source")}),
    Panel(
        "Rows equal to what was archived, an hour", "short", {"{{source}}": hourly("vera_files_equal_total", "source")}
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "title": "VERA: migration",
        "uid": "vera-migration",
        "schemaVersion": 39,
        "tags": ["vera"],
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_variable(name) for name in ("source", "tenant")]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _variable(name: str) -> dict[str, Any]:
    return {
        "name": name, "type": "query", "query": f"label_values(des_pack_lag, {name})", "refresh": 2, "multi": True,
        "includeAll": True, "datasource": {"type": "prometheus"}, "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    place = {"x": number % COLUMNS * WIDTH, "y": number // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT}
    targets = [
        {"refId": chr(ord("A") + at), "expr": expression, "legendFormat": legend, "datasource": {"type": "prometheus"}}
        for at, (legend, expression) in enumerate(panel.queries.items())
    ]
    return {
        "id": number + 1, "title": panel.title, "type": panel.kind, "gridPos": place, "targets": targets,
        "datasource": {"type": "prometheus"}, "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(dashboard(), indent=2))
