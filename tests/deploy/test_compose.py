"""deploy/docker-compose.yaml: valid by the schema of Compose files, and as closed as the chart."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "deploy" / "docker-compose.yaml"
TRYING = "s3"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found = yaml.safe_load(FILE.read_text())
    assert isinstance(found, dict)
    return found


def test_it_is_a_compose_file(compose: dict[str, Any]) -> None:
    program = Path(sys.executable).parent / "check-jsonschema"
    command = [str(program), "--builtin-schema", "vendor.compose-spec", str(FILE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for name, service in compose["services"].items():
        assert set(service.get("networks", ())) <= set(compose["networks"]), name
        assert set(service.get("depends_on", ())) <= set(compose["services"]), name
        for volume in service.get("volumes", ()):
            source, _, target = volume.partition(":")
            assert not target or source in compose["volumes"] or source.startswith("$"), name


def test_services_are_closed(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == {"postgres", "code", "daemon", "webserver", "readonly", "worker", TRYING}
    assert [name for name, service in services.items() if "profiles" in service] == [TRYING]
    for name, service in services.items():
        assert not {"privileged", "network_mode", "pid", "ipc", "cap_add", "devices"} & set(service), name
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), "Dagster has no login"
        if name != TRYING:
            assert service["read_only"] is True
            assert service["cap_drop"] == ["ALL"]
        assert "healthcheck" in service or name == "code", "the image's own is the code location's"
    assert compose["networks"]["inside"] == {"internal": True}
    assert services["postgres"]["networks"] == ["inside"]
    assert services["worker"]["networks"] == ["outside"], "no way to Dagster's database"


def test_images_are_pinned_and_no_secret_is_written(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert re.fullmatch(r"\$\{VERA_IMAGE:-vera:0\.1\.0\}|[a-z/]+:\d[\w.-]*", service["image"])
        for name, value in service.get("environment", {}).items():
            if re.search("PASSWORD|URL", name):
                assert "${DAGSTER_POSTGRES_PASSWORD:?" in value


def test_commands_are_those_of_the_chart(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["readonly"]["command"] == [*services["webserver"]["command"], "--read-only"]
    assert "command" not in services["code"], "the image's default"
    assert services["worker"]["stop_grace_period"] == "1h", "it finishes its day"
