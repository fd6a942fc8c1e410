"""Fixtures of the Dagster tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from dagster import DagsterInstance

from tests.dagster.world import World, make_world

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vera_core.store.embedded import EmbeddedS3
    from vera_core.store.s3 import S3Store


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's VERA_* variables nor a vera.toml in the current directory."""
    for name in [name for name in os.environ if name.startswith(("VERA_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def world(tmp_path: Path, embedded_s3: EmbeddedS3, s3_store: S3Store) -> World:
    """A fresh business and repository."""
    return make_world(tmp_path, embedded_s3, s3_store)


@pytest.fixture
def instance() -> Iterator[DagsterInstance]:
    """A fresh Dagster instance in memory."""
    with DagsterInstance.ephemeral() as fresh:
        yield fresh
