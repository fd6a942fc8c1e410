"""What the chart's pods run, started here: code location and auditors' page, with their instances and probes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from dagster._grpc.client import DagsterGrpcClient

from tests.deploy.charts import RELEASE, rendered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


READY_SECONDS = 120
LAUNCH = """mutation { launchRun(executionParams: {mode: "default", runConfigData: {}, selector: {
    repositoryLocationName: "vera", repositoryName: "__repository__", pipelineName: "nothing"}}) { __typename } }"""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def started(part: str, environment: dict[str, str], changes: dict[str, str]) -> Iterator[None]:
    """A pod's command, in this environment; `changes` are for its words that only fit a pod."""
    container = rendered("celery").pods[part].container
    first, *rest = [changes.get(word, word) for word in container["args"]]
    program = Path(sys.executable).parent / first
    process = subprocess.Popen([program, *rest], env=os.environ | environment, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def wait_for(ask: Callable[[], bool]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not ask():
        assert time.monotonic() < deadline, "it did not get ready"
        time.sleep(0.5)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=10) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def asked(port: int, query: str) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        return json.load(reply)


@pytest.mark.usefixtures("embedded_s3")
def test_probes_are_answered_and_auditors_launch_nothing(tmp_path: Path, postgres_url: str) -> None:
    maps = rendered("celery").of("ConfigMap")
    code, page = free_port(), free_port()
    homes = {"code": tmp_path / "instance", "readonly": tmp_path / "instance-readonly"}
    for home in homes.values():
        home.mkdir()
        for name, text in maps[f"{RELEASE}-vera-{home.name}"]["data"].items():
            (home / name).write_text(text.replace("port: 4000", f"port: {code}"))
        home.chmod(0o500)
    (tmp_path / "vera.toml").write_text(maps[f"{RELEASE}-vera-settings"]["data"]["vera.toml"])
    common = {
        "DAGSTER_POSTGRES_URL": postgres_url,
        "DAGSTER_LOGS_BUCKET": "dagster-logs",
        "DAGSTER_LOCAL_DIR": str(tmp_path / "local"),
        "VERA_CODE_SERVER_HOST": "127.0.0.1",
        "VERA_SETTINGS": str(tmp_path / "vera.toml"),
    }
    pods = rendered("celery").pods
    with started("code", common | {"DAGSTER_HOME": str(homes["code"])}, {"4000": str(code)}):
        server = DagsterGrpcClient(host="127.0.0.1", port=code)
        wait_for(lambda: bool(server.health_check_query() == "SERVING"))  # type: ignore[no-untyped-call]
        workspace = {"3000": str(page), "/opt/dagster/workspace.yaml": str(homes["readonly"] / "workspace.yaml")}
        with started("readonly", common | {"DAGSTER_HOME": str(homes["readonly"])}, workspace):
            probe = pods["readonly"].container["readinessProbe"]["httpGet"]
            wait_for(lambda: answers(f"http://127.0.0.1:{page}{probe['path']}"))
            location = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus } } } }"
            [entry] = asked(page, location)["data"]["workspaceOrError"]["locationEntries"]
            assert entry == {"name": "vera", "loadStatus": "LOADED"}
            shown = asked(page, "{ instance { info } }")["data"]["instance"]["info"]
            assert "PostgresRunStorage" in shown
            assert asked(page, LAUNCH)["data"]["launchRun"]["__typename"] == "UnauthorizedError"
