"""Where S3 is measured: the embedded server, fresh repositories in one bucket, and the keys of encrypted ones."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from vera_core.keys.transit import TransitKeys, TransitOptions
from vera_core.model import LockMode, RetentionClass
from vera_core.operations.initialise import InitOptions, init
from vera_core.operations.repository import Repository, Workplace
from vera_core.source.base import Terms
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import Access, S3Options

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.keys.service import KeyService
    from vera_core.store.embedded import EmbeddedS3

BUCKET = "vera-bench"
CLASS = RetentionClass("std", 365)


@dataclass(frozen=True, slots=True)
class Transit:
    """A transit key of an OpenBao, as processes are told of it; without an address there is none."""

    address: str = ""
    key: str = ""
    token: str = ""

    def workplace(self, spool: Path) -> Workplace:
        """The actor and spool of a process, and the key service if there is one."""
        return Workplace("benchmark", spool, key_service=self._open if self.address else None)

    def _open(self) -> KeyService:
        return TransitKeys(TransitOptions(address=self.address, key=self.key), token=lambda: self.token)


@dataclass(slots=True)
class World:
    """A started server; `directory` is its and ours, and is removed by whoever made it.

    `transit` wraps the keys of encrypted repositories.
    """

    directory: Path
    server: EmbeddedS3
    transit: Transit = Transit()
    _numbers: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def store(self) -> S3Store:
        """A client of the server."""
        return S3Store(BUCKET, options=S3Options(access=self.access))

    @property
    def access(self) -> Access:
        """How the server is reached."""
        variables = self.server.environment
        return Access(
            endpoint=variables["AWS_ENDPOINT_URL_S3"],
            region=variables["AWS_REGION"],
            key_id=variables["AWS_ACCESS_KEY_ID"],
            secret=variables["AWS_SECRET_ACCESS_KEY"],
        )

    def repository(self, n_bits: int = 0, *, encrypt: bool = False) -> str:
        """Makes a fresh repository with 2 ** `n_bits` slots a day and returns its prefix."""
        prefix = f"bench-{next(self._numbers)}"
        options = InitOptions(
            lock_mode=LockMode.GOVERNANCE, classes=(CLASS,), default_class=CLASS.name, n_bits=n_bits, encrypt=encrypt
        )
        init(self.store(), prefix, options, self.workplace)
        return prefix

    @property
    def workplace(self) -> Workplace:
        """Those of this process."""
        return self.transit.workplace(self.directory / "spool")

    def open(self, prefix: str) -> Repository:
        """A new handle of a repository."""
        return Repository(self.store(), prefix, self.workplace)

    def server_seconds(self) -> float:
        """CPU seconds that the server has used so far."""
        times = [
            child.cpu_times()
            for child in psutil.Process().children(recursive=True)
            if child.is_running() and child.name() == "weed"
        ]
        return float(sum(time.user + time.system for time in times))


def terms(repo: Repository) -> Terms:
    """What the repository asks of sources."""
    config = repo.config
    return Terms(frozenset(item.name for item in config.classes), config.default_class, config.inline_limit)
