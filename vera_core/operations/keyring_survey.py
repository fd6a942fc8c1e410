"""The keyrings of a tenant's day: how many, how many punctured, by which KEK version wrapped, and whether in order.

Changes nothing. What one look finds is keyring_proof.py's business, whether erased files' keys are gone
erasure_proof.py's.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import IncompatibleError, IntegrityError
from vera_core.model import day_text
from vera_core.operations.holdings import disposed_shards
from vera_core.operations.keyring_proof import look_at_keyring
from vera_core.operations.proving import Check, CheckResult, finding_of
from vera_core.operations.report import Report, figure
from vera_core.operations.slotwise import each_slot
from vera_core.operations.walk import slots
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from datetime import date

    from vera_core.model import Slot
    from vera_core.operations.keyring_proof import KeyringLook
    from vera_core.operations.report import Finding
    from vera_core.operations.repository import Repository
    from vera_core.slots import ShardRef

KEYRINGS = "keyrings"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyringsReport(Report):
    """The keyrings of a day's live and superseded shards. `kek_oldest` is 0 where there are none."""

    tenant: str
    day: str
    check: CheckResult
    keyrings: int = figure("keyrings", "objects")
    punctured: int = figure("of them punctured", "objects")
    revision: int = figure("highest revision of a keyring")
    places: int = figure("places that keep keyrings")
    kek_oldest: int = figure("oldest version of the KEK in use")
    kek_current: int = figure("current version of the KEK")
    behind: int = figure("keyrings wrapped by an older version", "objects")
    failures: int = figure("findings")


class _Seen(NamedTuple):
    """The looks at a slot's keyrings; `trouble` is why there are none."""

    looks: list[KeyringLook]
    trouble: list[Finding]


def survey_keyrings(repo: Repository, tenant: str, day: date) -> KeyringsReport:
    """Looks at the keyring of every shard of a day, in every place: a call of the key service for each.

    Raises:
        UnavailableError: the store, a place or the key service can't be reached; nothing is said about the day then.
        UsageError: the key service is not configured, or the repository is not encrypted.
    """
    began = time.monotonic()
    repo.refresh_config()
    current = repo.key_service().current()
    seen, failed = each_slot(dict.fromkeys(slots(repo, tenant, day), repo), _look)
    if failed is not None:
        raise failed
    looks = [look for item in seen for look in item.looks]
    check = Check(KEYRINGS)
    for item in seen:
        check.take(0, item.trouble)
    for look in looks:
        check.take(1, look.findings)
    result = check.result()
    oldest = [min(look.kek_versions) for look in looks if look.kek_versions]
    return KeyringsReport(
        ok=result.ok, tenant=tenant, day=day_text(day), check=result, keyrings=len(looks),
        punctured=sum(look.revision > 1 for look in looks), revision=max((look.revision for look in looks), default=0),
        places=len(repo.keyrings.places()), kek_oldest=min(oldest, default=0), kek_current=current,
        behind=sum(version < current for version in oldest), failures=result.failed, seconds=time.monotonic() - began,
    )  # fmt: skip


def _look(slot: Slot, repo: Repository) -> list[_Seen]:
    try:
        state = repo.slot_log(slot).load()
    except (IntegrityError, IncompatibleError) as error:
        return [_Seen([], [finding_of(error)])]
    # A superseded shard goes one day, and its keyring with it; what was disposed of has lost its keyring already.
    disposed = disposed_shards(state)
    kept = (shard for shard in state.superseded if shard not in disposed and _is_there(repo, shard))
    shards = [*state.live(), *kept]
    return [_Seen([look_at_keyring(repo, shard) for shard in shards if shard.keyring], [])]


def _is_there(repo: Repository, shard: ShardRef) -> bool:
    try:
        repo.store.head(shard.key, version_id=shard.version_id)
    except MissingObjectError:
        return False
    return True
