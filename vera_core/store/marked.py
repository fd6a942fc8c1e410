"""Objects that are derived, replaced, and yet marked as written by somebody with the right to lock.

Such objects can be rebuilt, so nothing keeps them. But whoever may only PUT and DELETE must not pass a forged one off
as ours: each version is stored with a lock of one minute, and one that was never locked is not believed. What the
objects mean belongs to the callers.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from itertools import dropwhile
from typing import TYPE_CHECKING

from vera_core.errors import RestrictedError
from vera_core.model import Lock, LockMode

if TYPE_CHECKING:
    from datetime import datetime

    from vera_core.store.base import Blob, Condition, ObjectStore

MARK = timedelta(minutes=1)
"""Long enough to mark a version as a writer's own; it counts for good, so that the lock may end."""


def is_marked(store: ObjectStore, blob: Blob) -> bool:
    """Whether that version was ever locked."""
    return blob.lock is not None or store.get_lock(blob.key, blob.version_id) is not None


def put_marked(store: ObjectStore, key: str, data: bytes, *, condition: Condition, marked_at: datetime | None) -> None:
    """Stores JSON by compare-and-swap with a mark, and removes the versions that it replaces as far as they let it.

    `marked_at` is the store's time; None stores without a mark, for a repository without locks.

    Raises:
        PreconditionError: `condition` does not hold.
    """
    lock = None if marked_at is None else Lock(LockMode.GOVERNANCE, marked_at + MARK)
    stored = store.put(key, data, condition=condition, lock=lock, content_type="application/json")
    _remove_older(store, key, stored.version_id)


def _remove_older(store: ObjectStore, key: str, newest: str) -> None:
    """Kept ones would be one more object for every change."""
    infos = [info for info in store.list_versions(key) if info.key == key]
    for info in dropwhile(lambda info: info.version_id != newest, infos):
        if info.version_id == newest:
            continue
        with suppress(RestrictedError):
            # Locked for some more seconds: goes with the next one.
            store.delete(key, version_id=info.version_id)
