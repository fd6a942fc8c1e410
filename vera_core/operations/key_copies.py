"""Registered copies of a repository's keys: other buckets in which every keyring and tenant key lies, too.

The config log says which there are. Packing stores keyrings in all of them and erasing punctures and purges them in
all; filling and mending them is key_restore.py's business.
"""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vera_core.errors import (
    ConflictError,
    NotFoundError,
    PreconditionError,
    RestrictedError,
    UnavailableError,
    UnsafeStoreError,
    UsageError,
)
from vera_core.model import parse_time
from vera_core.operations.audited import audited
from vera_core.operations.key_objects import key_objects, tenants_in
from vera_core.operations.key_places import open_place
from vera_core.operations.report import Finding, Report, figure
from vera_core.store.base import ABSENT, Condition

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from vera_core.operations.key_places import KeyPlace
    from vera_core.operations.repository import Repository


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLine:
    """A registered copy: where it is, and who registered it when."""

    place: str
    actor: str
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiesReport(Report):
    """The registered copies. `findings` are keys in a copy that was given up, which nothing erases any more."""

    repository: str
    copies: tuple[CopyLine, ...]
    findings: tuple[Finding, ...] = ()
    removed: int = figure("keys deleted in the copy", "objects")


def list_copies(repo: Repository) -> CopiesReport:
    """The registered copies.

    Raises:
        UsageError: the repository is not encrypted.
    """
    began = time.monotonic()
    repo.refresh_config()
    lines: dict[str, CopyLine] = {}
    for record in repo.config_log.records:
        if record.type == "keys":
            line = CopyLine(place="", actor=str(record.body["actor"]), since=parse_time(record.body["time"]))
            lines = {uri: lines.get(uri) or replace(line, place=uri) for uri in record.body["copies"]}
    copies = repo.encryption().copies
    return CopiesReport(
        repository=repo.uri, copies=tuple(lines[uri] for uri in copies if uri in lines),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def add_copy(repo: Repository, uri: str) -> CopiesReport:
    """Registers a copy. What is stored from now on is stored there too; `key_restore` brings what is there already.

    Raises:
        UsageError: the repository is not encrypted, or that is no place for a copy.
        NotFoundError: there is no such bucket.
        ConflictError: it is registered already.
        UnsafeStoreError: the bucket does not keep what a copy needs.
        UnavailableError: it can't be reached.
    """
    uri = uri.rstrip("/")
    repo.writable_config()
    copies = repo.encryption().copies
    if uri in copies:
        raise ConflictError("the copy is registered already", todo="`vera keys restore` fills it.", place=uri)
    place = open_place(repo.workplace, uri)
    _check_apart(repo.key_places(), place)
    _check_bucket(repo, place)
    with audited(repo, "add-copy", {"place": uri}):
        repo.change_config(_record(repo, [*copies, uri]))
    return list_copies(repo)


def remove_copy(repo: Repository, uri: str) -> CopiesReport:
    """Gives a copy up, and deletes the keys that lie there: erasures do not reach them any more.

    What can't be deleted, since it is locked or the place can't be reached, is a finding.

    Raises:
        UsageError: the repository is not encrypted.
        NotFoundError: there is no such copy.
    """
    uri = uri.rstrip("/")
    repo.writable_config()
    copies = repo.encryption().copies
    if uri not in copies:
        raise NotFoundError("there is no such copy", todo="`vera keys copies` lists them.", place=uri)
    with audited(repo, "remove-copy", {"place": uri}) as outcome:
        repo.change_config(_record(repo, [copy for copy in copies if copy != uri]))
        removed, findings = _cleared(open_place(repo.workplace, uri))
        outcome.update(removed=removed, left=len(findings))
    return replace(list_copies(repo), ok=not findings, removed=removed, findings=tuple(findings))


def _record(repo: Repository, copies: Sequence[str]) -> dict[str, object]:
    return {"type": "keys", "copies": copies, "actor": repo.workplace.actor}


def _check_apart(places: Sequence[KeyPlace], place: KeyPlace) -> None:
    for other in places:
        mine, theirs = place.keys.root, other.keys.root
        if other.store.bucket == place.store.bucket and (mine.startswith(theirs) or theirs.startswith(mine)):
            raise UsageError(
                "the copy would lie in the repository or in another copy, or they in it",
                todo="Use a bucket of its own, best in another region or at another provider.",
                place=place.uri, other=other.uri,
            )  # fmt: skip


def _check_bucket(repo: Repository, place: KeyPlace) -> None:
    """Makes sure that the bucket can keep keys as the repository's own does: versions, locks, conditional PUTs."""
    with place.reached():
        state = place.store.bucket_state()
    if not state.exists:
        raise NotFoundError("there is no such bucket", todo="Make it, with Object Lock.", place=place.uri)
    with place.reached():
        expiring = [rule for rule in state.expirations or () if _concerns(rule.prefix, place.keys.root)]
        wrong = [
            what
            for what, bad in (
                ("it has no versioning", not state.versioning),
                ("it has no Object Lock", repo.config.locked and not state.object_lock),
                ("it has a default retention, which would lock keyrings", bool(state.default_retention)),
                ("a lifecycle rule expires what lies there", bool(expiring)),
                ("its conditional PUT is none", not _swaps(place)),
            )
            if bad
        ]
    if wrong:
        raise UnsafeStoreError(
            f"the bucket can't keep a copy of the keys: {'; '.join(wrong)}",
            todo="Use a bucket as `vera probe` wants it.", place=place.uri,
        )  # fmt: skip


def _concerns(prefix: str, root: str) -> bool:
    return prefix.startswith(root) or root.startswith(prefix)


def _swaps(place: KeyPlace) -> bool:
    """Whether a PUT that expects something else is refused there; what is tried with is deleted again."""
    key = f"{place.keys.root}probe/keys-{secrets.token_hex(8)}"
    refused = 0
    stored = place.store.put(key, b"1", condition=ABSENT)
    for condition in (ABSENT, Condition('"0123456789abcdef0123456789abcdef"')):
        with suppress(PreconditionError):
            place.store.put(key, b"2", condition=condition)
            continue
        refused += 1
    with suppress(PreconditionError):
        place.store.put(key, b"3", condition=Condition(stored.etag))
        refused += 1
    for info in list(place.store.list_versions(key)):
        place.store.delete(info.key, version_id=info.version_id)
    return refused == 3


def _cleared(place: KeyPlace) -> tuple[int, list[Finding]]:
    """Deletes every version of every key in a place; how many, and what is left."""
    removed = 0
    findings: list[Finding] = []
    todo = "Delete it when its lock has ended, or the bucket: it opens what is erased from now on, for who has the KEK."
    try:
        for tenant in list(tenants_in(place)):
            for item in key_objects(place, tenant):
                for info in item.versions:
                    try:
                        place.store.delete(info.key, version_id=info.version_id)
                        removed += 1
                    except RestrictedError as error:
                        what = f"a key stays in the copy that was given up: {error.what}"
                        left = Finding(
                            what=what, key=info.key, version_id=info.version_id, todo=todo, severity="warning"
                        )
                        findings.append(left)
    except UnavailableError as error:
        findings.append(Finding(what=f"the keys in the copy are still there: {error.what}", key=place.uri, todo=todo))
    return removed, findings
