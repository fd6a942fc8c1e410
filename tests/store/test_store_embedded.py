"""The embedded server: it keeps its data, stays on this machine, says why it can't start, and never outlives us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vera_core.errors import UnavailableError, UsageError
from vera_core.store.embedded import EmbeddedS3, Ports
from vera_core.store.s3 import S3Store


def servers(data_dir: Path) -> list[psutil.Process]:
    """The processes that work in `data_dir`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(data_dir.resolve()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue
    return found


def wait_until_gone(data_dir: Path) -> list[psutil.Process]:
    deadline = time.monotonic() + 10
    while (left := servers(data_dir)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def test_data_outlive_the_server_and_processes_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = EmbeddedS3(tmp_path / "data")
    with server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        store = S3Store("kept")
        store.create_bucket()
        made = store.put("k", b"kept")
        sockets = [path for path in server.ports.sockets() if path.exists()]
        assert sockets
        listening = {
            connection.laddr.ip
            for process in servers(tmp_path / "data")
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert listening == {"127.0.0.1"}
    assert servers(tmp_path / "data") == []
    assert not any(path.exists() for path in sockets)
    with EmbeddedS3(tmp_path / "data") as again:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", again.endpoint)
        assert again.environment["AWS_SECRET_ACCESS_KEY"] == server.environment["AWS_SECRET_ACCESS_KEY"]
        assert S3Store("kept").get("k", version_id=made.version_id).data == b"kept"


PARENT = """
import os, sys
from pathlib import Path
from vera_core.store.embedded import EmbeddedS3
server = EmbeddedS3(Path(sys.argv[1])).start()
print(server.endpoint, *server.ports.sockets(), flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("victim", ["parent", "supervisor"])
def test_a_killed_parent_takes_the_server_along(tmp_path: Path, victim: str) -> None:
    data = tmp_path / "data"
    command = [sys.executable, "-c", PARENT, str(data)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        endpoint, *sockets = parent.stdout.readline().split()
        assert endpoint.startswith("http://127.0.0.1:")
        running = servers(data)
        assert len(running) == 2
        pid = (
            parent.pid
            if victim == "parent"
            else next(process.ppid() for process in running if "weed" in process.name())
        )
        os.kill(pid, signal.SIGKILL)
        assert wait_until_gone(data) == []
        parent.kill()
    for path in sockets:  # which a killed supervisor can't remove
        assert victim == "supervisor" or not Path(path).exists()
        Path(path).unlink(missing_ok=True)


def test_the_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"vera-archive\[embedded\]"):
        EmbeddedS3(tmp_path / "data").start()


def test_a_taken_port_is_an_error_that_shows_the_log(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = Ports.free()
        wanted = Ports(
            taken.getsockname()[1], ports.filer, ports.master, ports.volume,
            ports.s3_grpc, ports.filer_grpc, ports.master_grpc, ports.volume_grpc,
        )  # fmt: skip
        with pytest.raises(UnavailableError, match="address already in use") as caught:
            EmbeddedS3(tmp_path / "data", ports=wanted).start()
    assert caught.value.where["log"] == str(tmp_path / "data" / "server.log")
    assert servers(tmp_path / "data") == []


def test_before_the_start_there_is_no_address(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"start\(\)"):
        _ = EmbeddedS3(tmp_path).endpoint


def test_stopping_twice_is_fine(tmp_path: Path) -> None:
    EmbeddedS3(tmp_path).stop()
