"""A pytest plugin of `make fuzz`: tests in random order, and none begins after the time is over."""

from __future__ import annotations

import os
import random
import time

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffles the tests, in all workers alike."""
    random.Random(os.environ["FUZZ_SEED"]).shuffle(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what would begin too late."""
    if time.time() > float(os.environ["FUZZ_END"]):
        pytest.skip("no time is left")
