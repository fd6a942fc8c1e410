"""What watches migrations: metrics over HTTP, alert rules by promtool, the dashboard, and the page that lists them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY
from tests.protocol.test_leasing import END, source_of_days
from tests.protocol.test_verdicts import make
from vera_core.cli.migrating import serve_metrics
from vera_core.errors import UsageError
from vera_core.operations import metrics
from vera_core.operations.due import due_windows
from vera_core.operations.migrate import migrate

if TYPE_CHECKING:
    from vera_core.store.memory import MemoryStore

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    own = ROOT / ".tools" / "promtool"
    found = str(own) if own.exists() else shutil.which("promtool")
    assert found, "promtool is not there: run scripts/promtool"
    return subprocess.run([found, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)


def known() -> set[str]:
    """The names under which Prometheus has VERA's metrics."""
    names: set[str] = set()
    for family in metrics.REGISTRY.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
        names.update(family.name + suffix for suffix in suffixes)
    return names


def named(text: str) -> set[str]:
    return set(re.findall(r"\b(?:vera_[a-z_]+|des_pack_lag)\b", text))


def test_the_rules_do_what_their_tests_say() -> None:
    checked = promtool("check", "rules", "vera.rules.yaml")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    tested = promtool("test", "rules", "vera.rules.test.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    rules = (PROMETHEUS / "vera.rules.yaml").read_text()
    alerts = set(re.findall(r"alert: (\w+)", rules))
    tests = (PROMETHEUS / "vera.rules.test.yaml").read_text()
    assert alerts == set(re.findall(r"alertname: (\w+)", tests)), "each alert has a test"
    assert named(rules) <= known()
    assert "> 1800" in rules, "half an hour"


def test_the_dashboard_is_what_its_code_makes() -> None:
    made = subprocess.run(
        [sys.executable, GRAFANA / "dashboards.py"], capture_output=True, text=True, check=True
    ).stdout
    assert made == (GRAFANA / "vera-migration.json").read_text()
    panels = json.loads(made)["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert named(made) <= known()
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def test_the_page_lists_every_metric() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", page, re.MULTILINE))
    assert listed == {re.sub(r"_(bucket|count|sum)$", "", name) for name in known()}


def test_a_worker_serves_what_it_did(memory_store: MemoryStore, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        place = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(UsageError, match="can't be served"):
            serve_metrics(place)
    serve_metrics(place)
    migration = make(memory_store, tmp_path, source_of_days())
    before = scraped(place)
    migrate(migration, due_windows(migration, end=END))
    after = scraped(place)
    label = '{source="docs",tenant="default"}'

    def grew(name: str) -> float:
        return after.get(name, 0.0) - before.get(name, 0.0)

    assert grew(f"vera_files_archived_total{label}") == 120
    assert grew('vera_windows_total{source="docs",tenant="default",verdict="verified"}') == 6
    assert grew('vera_step_seconds_count{source="docs",step="pack",tenant="default"}') == 6
    assert after[f"vera_watermark_seconds{label}"] == (END - DAY.replace(1970, 1, 1)).days * 86_400
    lag = after[f"des_pack_lag{label}"]
    now = migration.repo.clock.now()
    assert lag == pytest.approx((now.date() - END).days * 86_400 - 86_400, abs=90_000), "the next day is due, too"
    assert scraped(place)[f"des_pack_lag{label}"] > lag, "it grows by itself"
    assert after[f"vera_windows_failed{label}"] == 0


@pytest.mark.parametrize("place", ["9464", "localhost", "localhost:http", "localhost:0", "localhost:70000", ":9464"])
def test_a_place_that_is_none(place: str) -> None:
    with pytest.raises(UsageError, match="no HOST:PORT"):
        serve_metrics(place)


def scraped(place: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{place}/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if line[:1] != "#")}
