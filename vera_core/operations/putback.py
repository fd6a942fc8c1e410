"""Putting a shard back in the place of its damaged self: the very bytes that were archived, stored as another version.

Where the bytes come from (recovery, a replica) does not matter: the slot log says what they must be. Recovering them is
recover.py's business.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, IntegrityError, NotFoundError, UsageError
from vera_core.keyspace import KeyKind
from vera_core.model import format_time
from vera_core.operations.audited import audited
from vera_core.operations.commit import LocalShard, check_committed, roll_forward, seal, upload
from vera_core.operations.inspector import inspect_file
from vera_core.operations.legal_holds import sync_legal_holds
from vera_core.operations.pace import at_pace
from vera_core.operations.repack import is_unsealed_repack
from vera_core.operations.report import Report, figure
from vera_core.operations.supersede import Replacement, supersede
from vera_core.store.base import MissingObjectError

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.model import Slot
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import ShardRef, SlotState


@dataclass(frozen=True, slots=True, kw_only=True)
class PutBackReport(Report):
    """Which version of a shard was replaced by which; `record` is the number of the repack that says so."""

    slot: str
    key: str
    damaged_version: str
    version_id: str
    sha256: str
    locked_until: str
    record: int
    files: int = figure("files in it", "files")
    size: int = figure("its size", "bytes")


def damaged_shard(repo: Repository, key: str) -> tuple[Slot, ShardRef]:
    """The live shard of that key, which must be damaged, or have been put back by somebody who did not live to seal it.

    Raises:
        UsageError: it is no shard's key in this repository.
        NotFoundError: no live shard has it.
        ConflictError: the shard is whole.
    """
    slot = _slot_of(repo, key)
    log = repo.slot_log(slot)
    state = log.load()
    shard = _live(state, key)
    if _is_whole(repo, slot, shard) and not is_unsealed_repack(log, state):
        raise _whole(shard)
    return slot, shard


@at_pace()
def put_back(repo: Repository, key: str, path: Path) -> PutBackReport:
    """Stores the bytes of a local file again as the live shard of that key, which is damaged or gone.

    They must be those that were archived, by the SHA-256 in the slot log. The new version gets the lock that the old
    one was committed to. The damaged version is superseded, and stays until its own lock ends.

    Raises:
        IntegrityError: the file holds other bytes, or a shard that does not verify.
        UsageError, NotFoundError, ConflictError: as `damaged_shard`; or another writer was first.
        IncompatibleError: the repository no longer takes writes from this version.
    """
    began = time.monotonic()
    repo.writable_config()
    slot, shard = damaged_shard(repo, key)
    found = inspect_file(path)
    if found.sha256.hex() != shard.sha256:
        raise IntegrityError(
            f"the file is not the shard that was archived: its SHA-256 is {found.sha256.hex()}, archived was "
            f"{shard.sha256}",
            todo="Only the very same bytes are put back. Pack the saved files again instead (vera recover --files).",
            path=path, key=key,
        )  # fmt: skip
    subject = {"reason": "recovered", "key": key, "version_id": shard.version_id}
    with audited(repo, "repack", subject) as outcome:
        log = repo.slot_log(slot)
        state = roll_forward(repo, log)
        sync_legal_holds(repo, log, state)
        if not _is_whole(repo, slot, _live(state, key)):
            _replace(repo, log, state, (key, LocalShard(path, found.sha256, found.size)))
        fresh = _live(state, key)
        record = state.records[state.named_by[fresh.version_id] - 1]
        if record.body.get("reason") != "recovered":
            raise _whole(fresh)
        outcome |= {"replaced": 1, "shards": [[key, fresh.version_id]]}
    return PutBackReport(
        slot=str(slot), key=key, damaged_version=record.body["replaces"][0]["version_id"],
        version_id=fresh.version_id, sha256=fresh.sha256, locked_until=format_time(fresh.lock.until),
        record=record.number, files=fresh.entries, size=fresh.size, seconds=time.monotonic() - began,
    )  # fmt: skip


def _replace(repo: Repository, log: SlotLog, state: SlotState, stored: tuple[str, LocalShard]) -> None:
    """Stores the bytes of the live shard of a key again, and puts them in its place."""
    sealed = state.head.number
    old = _live(state, stored[0])
    _, version_id = upload(repo, state, stored[1])
    supersede(repo, log, state, Replacement("recovered", [old], [replace(old, version_id=version_id)]))
    seal(repo, log, state, sealed, own=repo.audit.writer)
    sync_legal_holds(repo, log, state)
    log.write_sidecar(state, repo.clock.now())


def _slot_of(repo: Repository, key: str) -> Slot:
    parsed = repo.keys.parse(key)
    if parsed.kind is not KeyKind.SHARD or parsed.day is None:
        raise UsageError(
            "this is no shard's key in the repository",
            todo="Give it as `vera verify` prints it, with the repository's prefix.", key=key, repository=repo.uri,
        )  # fmt: skip
    return parsed.slot(repo.config.routing.n_bits(parsed.day))


def _live(state: SlotState, key: str) -> ShardRef:
    shard = next((shard for shard in state.live() if shard.key == key), None)
    if shard is None:
        raise NotFoundError(
            "no live shard has this key: it was replaced, or never committed",
            todo="See which shards count: vera ls, vera verify.", key=key, slot=state.slot,
        )  # fmt: skip
    return shard


def _whole(shard: ShardRef) -> ConflictError:
    return ConflictError(
        "the shard is whole: nothing is to be put back", todo="See `vera verify --deep`.",
        key=shard.key, version_id=shard.version_id,
    )  # fmt: skip


def _is_whole(repo: Repository, slot: Slot, shard: ShardRef) -> bool:
    try:
        check_committed(repo, slot, shard)
    except (IntegrityError, MissingObjectError):
        return False
    return True
