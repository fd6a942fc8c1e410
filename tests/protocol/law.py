"""Holds and extensions in tests: what is asked for, and what log and store say of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from tests.protocol.erasing import MIDNIGHT
from tests.protocol.packing import DAY, KEYS, opened
from vera_core.erasures import Target
from vera_core.keyspace import KeyKind
from vera_core.operations.hold import HoldOrder
from vera_core.operations.retain import RetainOrder
from vera_core.operations.retrieve import Retriever
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore

LATER = (datetime.now(UTC) + timedelta(days=4000)).replace(microsecond=0)
"""Beyond every class of the archives in tests."""


def hold_order(*uids: str, case: str = "LIT-417", release: bool = False) -> HoldOrder:
    """Of files of the usual day; a release without any is of the whole case."""
    targets = tuple(Target(uid, MIDNIGHT) for uid in uids)
    return HoldOrder(tenant="default", case=case, reason="litigation", targets=targets, release=release)


def retain_order(*uids: str, until: datetime = LATER) -> RetainOrder:
    """Of files of the usual day."""
    targets = tuple(Target(uid, MIDNIGHT) for uid in uids)
    return RetainOrder(tenant="default", reason="an audit", until=until, targets=targets)


def held_uids(store: ObjectStore, spool: Path, case: str = "LIT-417") -> set[str]:
    """What the logs say is held for a case."""
    repo = opened(store, spool)
    states = [repo.slot_log(slot).load() for slot in all_slots(repo)]
    return {uid for state in states for uid in state.holds.get(case, {}).values()}


def held_shards(store: ObjectStore) -> set[str]:
    """VersionIds of the shards that the store holds."""
    return {
        info.version_id
        for info in store.list_versions(KEYS.root)
        if KEYS.parse(info.key).kind is KeyKind.SHARD
        and not info.is_delete_marker
        and store.get_hold(info.key, info.version_id)
    }


def shards_of(store: ObjectStore, spool: Path, *uids: str) -> set[str]:
    """VersionIds of the shards from which readers take the versions of these files."""
    reader = Retriever(opened(store, spool))
    return {report.version_id for uid in uids for report in reader.versions(uid, DAY)}
