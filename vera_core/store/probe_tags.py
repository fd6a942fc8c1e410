"""The probe's check of object tags: only cold storage for superseded shards needs them; an archive can do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.errors import UnsafeStoreError, UsageError
from vera_core.model import LockMode
from vera_core.store.cold import SUPERSEDED
from vera_core.store.promises import Promise, Topic, Verdict, attempt

if TYPE_CHECKING:
    from vera_core.store.base import Stored
    from vera_core.store.promises import Bench

DATA = b"superseded"


def tag_promises(bench: Bench) -> list[Promise]:
    """Tags a locked version that has a successor."""
    meaning = "a locked version can be tagged, it alone and as it is; lifecycle rules for superseded shards need it"
    return [attempt("object tags", Topic.OTHER, meaning, lambda: _judge(bench))]


def _judge(bench: Bench) -> tuple[Verdict, str]:
    store = bench.store
    stored = _locked(bench)
    newer = store.put(stored.key, b"a newer version")
    lock = store.get_lock(stored.key, stored.version_id)
    try:
        store.set_tags(stored.key, stored.version_id, dict([SUPERSEDED]))
        tags = store.get_tags(stored.key, stored.version_id)
    except (UnsafeStoreError, UsageError) as error:
        return Verdict.BROKEN, f"the store takes none ({error.where.get('answer', error.what)})"
    if tags != dict([SUPERSEDED]):
        return Verdict.BROKEN, f"a tag was set, {tags or 'none'} is read"
    if store.get_tags(newer.key, newer.version_id):
        return Verdict.BROKEN, "another version of the key has the tag too"
    if store.get_lock(stored.key, stored.version_id) != lock:
        return Verdict.BROKEN, "the lock is another than before"
    if store.get(stored.key, version_id=stored.version_id).data != DATA:
        return Verdict.BROKEN, "the version's bytes have changed"
    return Verdict.HELD, "one version has the tag, and is as it was"


def _locked(bench: Bench) -> Stored:
    """A version under a short lock, or without one where the bucket has no Object Lock."""
    key = bench.key("tagged")
    try:
        return bench.store.put(key, DATA, lock=bench.lock(LockMode.GOVERNANCE))
    except UsageError:
        return bench.store.put(key, DATA)
