"""The probe's check of legal holds: nothing but `vera hold` needs them, so a store without them can hold an archive."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.errors import RestrictedError, UnsafeStoreError, UsageError
from vera_core.store.promises import Promise, Topic, Verdict, attempt

if TYPE_CHECKING:
    from vera_core.store.promises import Bench


def hold_promises(bench: Bench) -> list[Promise]:
    """Tries to delete a version that is under legal hold and has no lock."""
    meaning = "a version under legal hold can't be deleted, with a lock or without; `vera hold` needs it"
    return [attempt("legal holds", Topic.OTHER, meaning, lambda: _judge(bench))]


def _judge(bench: Bench) -> tuple[Verdict, str]:
    store = bench.store
    stored = store.put(bench.key("held"), b"under legal hold")
    try:
        store.set_hold(stored.key, stored.version_id, held=True)
    except (UnsafeStoreError, UsageError) as error:
        return Verdict.BROKEN, f"the store takes none ({error.where.get('answer', error.what)})"
    try:
        if not store.get_hold(stored.key, stored.version_id):
            return Verdict.BROKEN, "a legal hold was set, none is read"
        try:
            store.delete(stored.key, version_id=stored.version_id, bypass_governance=True)
        except RestrictedError as error:
            evidence = f"refused ({error.where.get('answer', error.what)})"
        else:
            return Verdict.BROKEN, "the version could be deleted"
    finally:
        if any(info.version_id == stored.version_id for info in store.list_versions(stored.key)):
            store.set_hold(stored.key, stored.version_id, held=False)
    store.delete(stored.key, version_id=stored.version_id)
    if any(info.version_id == stored.version_id for info in store.list_versions(stored.key)):
        return Verdict.BROKEN, "a version whose hold was lifted can't be deleted"
    return Verdict.HELD, evidence
