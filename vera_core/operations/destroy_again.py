"""`vera erasures destroy`: destroys the keys of erased files again, wherever somebody put old keyrings back.

As after the restoration of a backup: nothing is asked for by a request, and none is answered. How keys are destroyed is
puncture.py's business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from vera_core.errors import UsageError
from vera_core.operations.audited import audited
from vera_core.operations.puncture import SLOTS_AT_ONCE, destroy_keys
from vera_core.operations.report import Report, figure
from vera_core.operations.walk import all_slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.errors import VeraError
    from vera_core.operations.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class DestroyReport(Report):
    """What destroying again came to; `purged` is 0 where nothing had come back."""

    tenant: str
    slots: int = figure("slots")
    keyrings: int = figure("keyrings of shards with erased files", "objects")
    purged: int = figure("versions of keyrings deleted", "objects")


def destroy_again(repo: Repository, tenant: str, progress: Callable[[int], None] | None = None) -> DestroyReport:
    """Makes sure that no key of any erased file of a tenant is left; safe to run again. `progress` gets the slots done.

    Raises:
        UsageError: the repository is not encrypted, or its key service is not configured here.
        UnavailableError, IntegrityError, RestrictedError: of a place, a slot or a lock; the others are done.
    """
    began = time.monotonic()
    repo.writable_config()
    if repo.config.encryption is None:
        raise UsageError(
            "the repository is not encrypted: there are no keys to destroy",
            todo="Erased files are hidden; `vera repack` and `vera gc` delete their bytes once the locks have ended.",
            repository=repo.uri,
        )
    count = keyrings = purged = 0
    failed: VeraError | None = None
    slots = all_slots(repo, tenant=tenant)
    with audited(repo, "destroy", {"tenant": tenant}) as outcome:
        while batch := list(islice(slots, SLOTS_AT_ONCE)):
            done, error = destroy_keys(repo, dict.fromkeys(batch))
            failed = failed or error
            count += len(done)
            keyrings += sum(len(item.keyrings) for item in done)
            purged += sum(item.purged for item in done)
            if progress is not None:
                progress(count)
        outcome.update(slots=count, purged=purged)
        if failed is not None:
            raise failed
    return DestroyReport(tenant=tenant, slots=count, keyrings=keyrings, purged=purged, seconds=time.monotonic() - began)
