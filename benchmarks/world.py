"""Where S3 is measured: the embedded server, and fresh repositories in one bucket."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psutil

from vera_core.model import LockMode, RetentionClass
from vera_core.operations.initialise import InitOptions, init
from vera_core.operations.repository import Repository, Workplace
from vera_core.source.base import Terms
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import Access, S3Options

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3

BUCKET = "vera-bench"
CLASS = RetentionClass("std", 365)


@dataclass(slots=True)
class World:
    """A started server; `directory` is its and ours, and is removed by whoever made it."""

    directory: Path
    server: EmbeddedS3
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

    def repository(self, n_bits: int = 0) -> str:
        """Makes a fresh repository with 2 ** `n_bits` slots a day and returns its prefix."""
        prefix = f"bench-{next(self._numbers)}"
        options = InitOptions(lock_mode=LockMode.GOVERNANCE, classes=(CLASS,), default_class=CLASS.name, n_bits=n_bits)
        init(self.store(), prefix, options, self.workplace)
        return prefix

    @property
    def workplace(self) -> Workplace:
        """The actor and spool of this process."""
        return Workplace(actor="benchmark", spool=self.directory / "spool")

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
