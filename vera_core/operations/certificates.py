"""Certificates: what became of the keys of erased files, as a locked record of the erasure's request.

Issued by erasures.py once the keys are destroyed in every place; shown, and proved again, here. Only of encrypted
repositories: elsewhere an erased file's bytes are hidden and still there (docs/protocol.md, "Certificates").
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from vera_core.errors import NotFoundError
from vera_core.model import format_time
from vera_core.operations.deciding import store_decision
from vera_core.operations.erasure_reports import request_log
from vera_core.operations.holdings import tombstones
from vera_core.operations.key_survey import NO_KEYS, Examination, examine
from vera_core.operations.proving import Check, CheckResult
from vera_core.operations.report import Report, figure
from vera_core.operations.slotwise import place_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from vera_core.erasures import Certified, ErasureRequest, RequestLog
    from vera_core.model import Slot
    from vera_core.operations.puncture import Destroyed, SlotDestroyed
    from vera_core.operations.repository import Repository

FORMAT = "vera-erasure-certificate-v1"
FILES_OF_A_PIECE = 5_000
PIECES_OF_ONE = 2_000
"""Slots, or pieces of large ones, that a certificate tells of at most; a request of more gets several."""
FILES_OF_ONE = 10_000
STATEMENT = (
    "Each file was sealed under a key of its own (AES-256-GCM), which followed from the keyring of its shard and from "
    "nothing else that VERA stores. These keyrings were replaced by ones from which the files' keys do not follow, and "
    "every other version of them was deleted, in every place named here; a listing of all versions afterwards, each "
    "opened, showed none that gives a key of them. The sealed bytes stay in their shards until these are deleted. This "
    "says nothing of copies of the keyrings that were made outside these places, of plaintext that was read or kept "
    "elsewhere before, or of the system that the files came from."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateReport(Report):
    """The certificates of a request: `documents` as stored, each with the time, number and SHA-256 of its record.

    `check` is what proving them again has found, where that was asked for.
    """

    tenant: str
    request: str
    documents: tuple[dict[str, Any], ...]
    check: CheckResult | None = None
    files: int = figure("files whose keys are destroyed", "files")
    open: int = figure("files of the request that are not certified", "files")
    keyrings: int = figure("keyrings", "objects")
    versions: int = figure("versions of keyrings examined", "objects")


def certify(repo: Repository, log: RequestLog, slots: Sequence[SlotDestroyed]) -> None:
    """Appends what the request does not know yet of the keys that are destroyed; none, one or several records."""
    assert log.request is not None
    wanted: defaultdict[Slot, list[int]] = defaultdict(list)
    for place in log.request.undestroyed:
        wanted[place_of(repo, log.tenant, log.request.targets[place])[0]].append(place)
    for pieces in _pieces([(item, wanted[item.slot]) for item in slots if wanted[item.slot]]):
        store_decision(repo, log, lambda request, pieces=pieces: _body(repo, request, pieces))  # type: ignore[misc]


def certificates_of(repo: Repository, tenant: str, request_id: str) -> CertificateReport:
    """The certificates of a request, as stored.

    Raises:
        NotFoundError: there is no such request, or none of its files is certified.
    """
    began = time.monotonic()
    repo.refresh_config()
    return replace(_report(_certified(repo, tenant, request_id)), seconds=time.monotonic() - began)


def verify_certificates(repo: Repository, tenant: str, request_id: str) -> CertificateReport:
    """As `certificates_of`, and opens every version of every keyring of the slots concerned, in every place, again.

    Raises:
        NotFoundError: as `certificates_of`.
        UnavailableError: the store, a place that keeps keys or the key service can't be reached: nothing is said then.
        UsageError: the key service is not configured here.
    """
    began = time.monotonic()
    repo.refresh_config()
    request = _certified(repo, tenant, request_id)
    found = Examination(Check(NO_KEYS))
    slots = {place_of(repo, tenant, request.targets[place])[0]: None for place in sorted(request.destroyed)}
    examine(repo, slots, found)
    check = found.check.result()
    return replace(
        _report(request), ok=check.ok, check=check, versions=found.versions, seconds=time.monotonic() - began
    )


def _certified(repo: Repository, tenant: str, request_id: str) -> ErasureRequest:
    request = request_log(repo, tenant, request_id).existing()
    if request.certificates:
        return request
    if repo.config.encryption is None:
        hidden = "" if request.hidden_until is None else f": hidden until {format_time(request.hidden_until)}"
        raise NotFoundError(
            f"there is no certificate, for the repository is not encrypted and erased bytes are still there{hidden}",
            todo="Once their locks have ended, `vera repack` and `vera gc` delete them.",
            request=request_id, tenant=tenant,
        )  # fmt: skip
    raise NotFoundError(
        f"nothing of the request is certified yet: the keys of {len(request.undestroyed):,} files are to be destroyed",
        todo="`vera erasures run` destroys them, or says what keeps it; `vera erasures show` tells of each file.",
        request=request_id, tenant=tenant,
    )  # fmt: skip


def _report(request: ErasureRequest) -> CertificateReport:
    documents = tuple(_document(certified) for certified in request.certificates)
    return CertificateReport(
        tenant=request.tenant, request=request.id, documents=documents, files=len(request.destroyed),
        open=len(request.targets) - len(request.destroyed),
        keyrings=len({item["shard"] for document in documents for item in document["keyrings"]}),
    )  # fmt: skip


def _document(certified: Certified) -> dict[str, Any]:
    return {
        **certified.document,
        "destroyed": format_time(certified.time),
        "signature": certified.signature,
        "record": certified.number,
        "sha256": certified.sha256,
    }


_Piece = tuple["SlotDestroyed", list[int]]
"""A slot, and files of the request in it, by their places."""


def _pieces(slots: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """What one certificate tells of, so that none is larger than a record may be."""
    waiting: list[_Piece] = []
    files = 0
    for slot, places in slots:
        for start in range(0, len(places), FILES_OF_A_PIECE):
            piece = places[start : start + FILES_OF_A_PIECE]
            if waiting and (files + len(piece) > FILES_OF_ONE or len(waiting) == PIECES_OF_ONE):
                yield waiting
                waiting, files = [], 0
            waiting.append((slot, piece))
            files += len(piece)
    if waiting:
        yield waiting


def _body(repo: Repository, request: ErasureRequest, pieces: Sequence[_Piece]) -> dict[str, Any] | None:
    """The record; None where another run has said so meanwhile."""
    files: list[dict[str, Any]] = []
    keyrings: list[dict[str, Any]] = []
    for slot, places in pieces:
        versions = tombstones(slot.state)
        left = {place: place_of(repo, request.tenant, request.targets[place])[1] for place in places}
        left = {place: name for place, name in left.items() if place not in request.destroyed}
        files += [
            {"place": place, "name": name, "slot": str(slot.slot), "versions": sorted(map(list, versions[name]))}
            for place, name in left.items()
        ]
        named = set(left.values())
        keyrings += [_keyring(slot, keyring, named) for keyring in slot.keyrings if not named.isdisjoint(keyring.names)]
    if not files:
        return None
    encryption = repo.config.encryption
    document = {
        "format": FORMAT,
        "repository": repo.config.repository_id,
        "uri": repo.uri,
        "tenant": request.tenant,
        "request": request.id,
        "reason": request.reason,
        "requested_by": request.requester,
        "recorded_by": request.recorder,
        "approved_by": request.approver,
        "received": format_time(request.received),
        "hidden": None if request.last_erased is None else format_time(request.last_erased),
        "kek": None if encryption is None else encryption.kek,
        "places": [place.uri for place in repo.keyrings.places()],
        "files": files,
        "keyrings": keyrings,
        "statement": STATEMENT,
    }
    return {"type": "certificate", "certificate": document, "signature": ""}


def _keyring(slot: SlotDestroyed, keyring: Destroyed, names: set[str]) -> dict[str, Any]:
    return {
        "slot": str(slot.slot),
        "shard": keyring.shard,
        "files": len(names & keyring.names),
        "revision_before": _before(slot, keyring, names),
        "revision": keyring.revision,
    }


def _before(slot: SlotDestroyed, keyring: Destroyed, names: set[str]) -> int:
    """The revision that counted when the first of these files was erased; 0 where the shard came later."""
    revision = 0
    for record in slot.state.records:
        body = record.body
        if record.type == "tombstone" and any(item["uid"] in names for item in body["entries"]):
            return revision
        if record.type == "puncture":
            known = [item["keyring"] for item in body["shards"] if item["sha256"] == keyring.shard]
            revision = max([revision, *known])
        shards = body.get("shards", [body.get("shard")])
        if any(item and item.get("sha256") == keyring.shard for item in shards):
            revision = max(revision, 1)
    return revision
