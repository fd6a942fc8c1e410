"""A local key file for each test that asks, and one OpenBao for the session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.openbao import OpenBao
from vera_core.keys.local import LocalKeys

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def local(tmp_path: Path) -> LocalKeys:
    return LocalKeys.create(tmp_path / "kek.json")


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """One server for the whole session (each xdist worker has its own), unsealed, with a transit engine."""
    with OpenBao(tmp_path_factory.mktemp("openbao")) as server:
        yield server
