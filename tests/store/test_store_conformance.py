"""Every implementation of `ObjectStore` against the one conformance suite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.store.conformance import StoreConformance
from vera_core.store.faulty import FaultyStore
from vera_core.store.memory import MemoryStore

if TYPE_CHECKING:
    from vera_core.store.base import ObjectStore
    from vera_core.store.s3 import S3Store


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return MemoryStore()


class TestS3Store(StoreConformance):
    @pytest.fixture
    def store(self, s3_store: S3Store) -> ObjectStore:
        return s3_store


class TestFaultyStoreWithoutRules(StoreConformance):
    @pytest.fixture
    def store(self) -> ObjectStore:
        return FaultyStore(MemoryStore())
