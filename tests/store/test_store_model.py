"""MemoryStore and a real S3 server, given the same calls, answer the same: the model is what it says it is.

Left out is what SeaweedFS does unlike S3, and what the archive never asks for: a key that is also the folder of another
one counts as present there, the deletion of a version that is gone can lose the mark of the latest one, and an emptied
folder is listed for a while.
"""

from __future__ import annotations

import os
import uuid
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from vera_core.errors import VeraError
from vera_core.model import Lock, LockMode
from vera_core.store.base import ABSENT, Condition
from vera_core.store.memory import MemoryStore
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.store.base import ObjectStore

KEYS = st.sampled_from(["a/b", "a/c/.vera.meta", "a/d", "t"])
CONTENTS = st.sampled_from([b"", b"x", b"0123456789", b"y" * 5000])
LOCKS = st.sampled_from([None, (LockMode.GOVERNANCE, 1), (LockMode.GOVERNANCE, 2), (LockMode.COMPLIANCE, 1)])
PLACES = st.integers(0, 5)


class TwoStores(RuleBasedStateMachine):
    """The same calls to both; versions are named by the order in which they were made."""

    @initialize()
    def begin(self) -> None:
        self.pair: tuple[ObjectStore, ObjectStore] = (MemoryStore(), S3Store(f"model-{uuid.uuid4().hex}"))
        self.pair[1].create_bucket()
        self.made: list[tuple[str, str, str, str]] = []  # key, VersionId in each store, ETag
        self.start = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)

    def both(self, call: Callable[[ObjectStore, int], object]) -> list[object]:
        """What each store answers: a value, or the kind of error."""
        answers: list[object] = []
        for side, store in enumerate(self.pair):
            try:
                answers.append(call(store, side))
            except VeraError as error:
                answers.append(type(error).__name__)
        return answers

    def version(self, place: int) -> tuple[str, str, str, str]:
        """A version made before, or one that never was."""
        return self.made[-1 - place] if place < len(self.made) else ("a/b", "0" * 32, "0" * 32, "")

    def there(self, place: int) -> tuple[str, str, str, str] | None:
        """A version that still is there."""
        ids = {info.version_id for info in self.pair[0].list_versions("")}
        left = [item for item in self.made if item[1] in ids]
        return left[-1 - place] if place < len(left) else None

    def lock(self, wanted: tuple[LockMode, int] | None) -> Lock | None:
        return None if wanted is None else Lock(wanted[0], self.start + timedelta(hours=wanted[1]))

    @rule(
        key=KEYS, data=CONTENTS, held=LOCKS, condition=st.sampled_from(["", "absent", "current", "stale"]), place=PLACES
    )
    def put(self, key: str, data: bytes, held: tuple[LockMode, int] | None, condition: str, place: int) -> None:
        current = next((item for item in reversed(self.made) if item[0] == key), None)
        etag = current[3] if current and condition == "current" else self.version(place)[3] or '"00"'
        wanted = {"": None, "absent": ABSENT}.get(condition, Condition(etag))
        answers = self.both(lambda store, _: store.put(key, data, condition=wanted, lock=self.lock(held)))
        one, two = answers
        if isinstance(one, str) or isinstance(two, str):
            # S3 may answer 404 or 412 where If-Match meets no object.
            assert one == two or {one, two} == {"PreconditionError", "MissingObjectError"}
        else:
            assert one.etag == two.etag  # type: ignore[attr-defined]
            self.made.append((key, one.version_id, two.version_id, one.etag))  # type: ignore[attr-defined]

    @rule(key=KEYS)
    def delete(self, key: str) -> None:
        one, two = self.both(lambda store, _: store.delete(key))
        assert one == two

    @rule(place=PLACES, bypass=st.booleans())
    def delete_version(self, place: int, bypass: bool) -> None:
        if version := self.there(place):
            one, two = self.both(
                lambda store, side: store.delete(version[0], version_id=version[1 + side], bypass_governance=bypass)
            )
            assert one == two

    @rule(place=PLACES, bypass=st.booleans())
    def delete_batch(self, place: int, bypass: bool) -> None:
        versions = [item for item in (self.there(place), self.there(place + 1)) if item is not None]
        one, two = self.both(
            lambda store, side: len(
                store.delete_batch([(item[0], item[1 + side]) for item in versions], bypass_governance=bypass)
            )
        )
        assert one == two

    @rule(place=PLACES, wanted=LOCKS, bypass=st.booleans())
    def set_lock(self, place: int, wanted: tuple[LockMode, int] | None, bypass: bool) -> None:
        version, lock = self.version(place), self.lock(wanted)
        if lock is not None:
            one, two = self.both(
                lambda store, side: store.set_lock(version[0], version[1 + side], lock, bypass_governance=bypass)
            )
            assert one == two

    @rule(place=PLACES, held=st.booleans())
    def set_hold(self, place: int, held: bool) -> None:
        version = self.version(place)
        one, two = self.both(lambda store, side: store.set_hold(version[0], version[1 + side], held=held))
        assert one == two

    @rule(place=PLACES, start=st.integers(0, 12), length=st.integers(1, 12))
    def read_version(self, place: int, start: int, length: int) -> None:
        version = self.version(place)
        reads: list[Callable[[ObjectStore, int], object]] = [
            lambda store, side: store.get(version[0], version_id=version[1 + side]).data,
            lambda store, side: store.get_range(version[0], start, length, version_id=version[1 + side]),
            lambda store, side: store.get_suffix(version[0], length, version_id=version[1 + side]),
            lambda store, side: store.get_lock(version[0], version[1 + side]),
            lambda store, side: store.get_hold(version[0], version[1 + side]),
        ]
        for read in reads:
            one, two = self.both(read)
            assert one == two

    @rule(key=KEYS)
    def read_current(self, key: str) -> None:
        one, two = self.both(lambda store, _: (store.get(key).data, store.head(key).size, store.head(key).etag))
        assert one == two

    @invariant()
    def listings_agree(self) -> None:
        if not hasattr(self, "pair"):
            return
        names = [{item[1 + side]: number for number, item in enumerate(self.made)} for side in (0, 1)]
        one, two = self.both(
            lambda store, side: [
                (info.key, names[side].get(info.version_id), info.size, info.is_latest, info.is_delete_marker)
                for info in store.list_versions("")
            ]
        )
        assert one == two
        one, two = self.both(lambda store, _: [(info.key, info.size) for info in store.list_objects("")])
        assert one == two
        for prefix in ("", "a/"):
            model, server = (list(store.list_prefixes(prefix)) for store in self.pair)
            assert model == [found for found in server if any(self.pair[0].list_versions(found))]


@pytest.mark.usefixtures("embedded_s3")
def test_the_model_answers_as_a_server() -> None:
    run_state_machine_as_test(
        TwoStores,
        settings=settings(
            max_examples=20,
            stateful_step_count=15,
            derandomize=os.environ.get("HYPOTHESIS_PROFILE") != "fuzz",
            suppress_health_check=list(HealthCheck),
        ),
    )
