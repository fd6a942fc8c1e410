"""`vera init`: probes the store, refuses what would not keep its promises, and writes config record 1.

Of an encrypted repository the key service is tried out first, and the default tenant gets its key.
"""

from __future__ import annotations

import secrets
import time
import uuid
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING

from vera_core.config import DEFAULT_INLINE_LIMIT, ConfigLog, Encryption, RepositoryConfig
from vera_core.errors import ConflictError, IntegrityError, NotFoundError, RestrictedError, UnsafeStoreError, UsageError
from vera_core.keys.service import good
from vera_core.keyspace import Keyspace
from vera_core.model import DEFAULT_TENANT, LockMode, Policy, RetentionClass
from vera_core.operations.report import Report, figure
from vera_core.operations.repository import LOCK_SLACK, Repository, Workplace, audit_trail
from vera_core.routing import Routing, RoutingEpoch, UidScheme
from vera_core.store.chain import LostAppendError
from vera_core.store.clock import StoreClock
from vera_core.store.probe import Promise, Topic, Verdict, probe

if TYPE_CHECKING:
    from vera_core.keys.service import KeyService
    from vera_core.store.base import ObjectStore

TRIAL_BYTES = 64
"""As long as what is wrapped of every keyring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitOptions:
    """What a repository shall be. The two `accept` flags are the only way past the two refusals that have one.

    `encrypt`: files are encrypted, with keys that the workplace's key service wraps.
    """

    lock_mode: LockMode
    classes: tuple[RetentionClass, ...]
    default_class: str
    n_bits: int = 0
    uid_schemes: frozenset[UidScheme] = frozenset()
    snowflake_epoch_ms: int = 0
    compression: Policy = Policy.BALANCED
    inline_limit: int = DEFAULT_INLINE_LIMIT
    erasure_approval: bool = False
    encrypt: bool = False
    accept_unlocked: bool = False
    accept_unerasable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class InitReport(Report):
    """The repository that was made (or, as a plan, would be), and which promises the store keeps.

    `kek` names the key encryption key, "" where files are not encrypted.
    """

    repository: str
    repository_id: str
    created_bucket: bool
    lock_mode: str
    classes: tuple[RetentionClass, ...]
    default_class: str
    kek: str = ""
    tells_markers: bool = False
    erasure_approval: bool = False
    promises: tuple[Promise, ...] = field(default=())
    n_bits: int = figure("routing bits")
    revision: int = figure("config revision")


def plan_init(store: ObjectStore, prefix: str, options: InitOptions, workplace: Workplace) -> InitReport:
    """What `init` would make; looks at the bucket, tries the key service out, and changes nothing.

    Raises:
        RestrictedError: COMPLIANCE without encryption, not accepted.
        ConflictError: there is a repository already.
        UsageError: the options contradict each other, or no key service is configured.
        VeraError: the key service's.
    """
    keys = Keyspace(prefix)
    _check_erasable(options)
    config = _config(options, _key_service(workplace) if options.encrypt else None)
    exists = store.bucket_state().exists
    if exists:
        _check_absent(store, keys)
    return _report(store, keys, config, created_bucket=not exists)


def init(store: ObjectStore, prefix: str, options: InitOptions, workplace: Workplace) -> InitReport:
    """Makes the repository; creates the bucket with Object Lock where there is none.

    Raises:
        UnsafeStoreError: the store does not keep a promise that VERA can't do without.
        RestrictedError, ConflictError, UsageError, VeraError: as `plan_init`.
    """
    began = time.monotonic()
    planned = plan_init(store, prefix, options, workplace)
    keys = Keyspace(prefix)
    if planned.created_bucket:
        store.create_bucket()
    probed = probe(store, prefix=keys.prefix)
    _check_promises(store, probed.promises, options)
    service = _key_service(workplace) if options.encrypt else None
    config = replace(_config(options, service), tells_markers=probed.tells_markers)
    if not probed.enforced_locks:
        config = replace(config, lock_mode=LockMode.NONE)
    clock = StoreClock(store)
    now = clock.now()
    log = ConfigLog(store, keys)
    body = {"type": "init", **config.to_json()}
    trail = audit_trail(store, keys, clock, config=config, workplace=workplace)
    intent = trail.intent("init", {"repository": config.repository_id})
    try:
        made = log.append(body, now=now, until=now + LOCK_SLACK)
    except LostAppendError as error:
        trail.outcome(intent, "lost", {})
        raise ConflictError(
            "somebody else made a repository here at the same moment",
            todo="Look at it with `vera doctor`; make another one under another prefix.",
            bucket=store.bucket, prefix=prefix,
        ) from error  # fmt: skip
    trail.outcome(intent, "done", {"revision": made.revision})
    Repository(store, prefix, workplace).naming(DEFAULT_TENANT, make=True)
    report = _report(store, keys, made, created_bucket=planned.created_bucket)
    return replace(report, promises=probed.promises, seconds=time.monotonic() - began)


def _key_service(workplace: Workplace) -> KeyService:
    """The key service, once it has wrapped and unwrapped something: what it can't do now, it can't for the archive."""
    if workplace.key_service is None:
        raise UsageError(
            "encrypted files need a key service, and none is configured",
            todo="Describe one under [keys] in vera.toml, or try it out with --keys-file (docs/encryption.md).",
        )
    service = workplace.key_service()
    trial = secrets.token_bytes(TRIAL_BYTES)
    if good(service.unwrap(good(service.rewrap(service.wrap([trial]))))) != [trial]:
        raise IntegrityError("the key service does not give back what it wrapped", kek=service.kek)
    return service


def _config(options: InitOptions, service: KeyService | None) -> RepositoryConfig:
    return RepositoryConfig(
        repository_id=uuid.uuid4().hex,
        lock_mode=options.lock_mode,
        classes=options.classes,
        default_class=options.default_class,
        routing=Routing(
            epochs=(RoutingEpoch(date.min, options.n_bits),),
            schemes=options.uid_schemes,
            snowflake_epoch_ms=options.snowflake_epoch_ms,
        ),
        compression=options.compression,
        inline_limit=options.inline_limit,
        erasure_approval=options.erasure_approval,
        encryption=None if service is None else Encryption(service.kek),
    )


def _check_erasable(options: InitOptions) -> None:
    if options.lock_mode is LockMode.COMPLIANCE and not (options.encrypt or options.accept_unerasable):
        raise RestrictedError(
            "a COMPLIANCE lock without encryption makes files that nobody can erase before the lock ends, "
            "not even where GDPR Art. 17 obliges you to",
            todo="Use --encrypt, with which a file is erased by destroying its key (docs/encryption.md). Else use "
            "--lock-mode GOVERNANCE, or say --accept-unerasable if no personal data is archived.",
        )


def _check_absent(store: ObjectStore, keys: Keyspace) -> None:
    try:
        config = ConfigLog(store, keys).load()
    except NotFoundError:
        return
    raise ConflictError(
        f"there is a repository already (id {config.repository_id})",
        todo="Use it, or choose another prefix.",
        bucket=store.bucket, prefix=keys.root or "(none)",
    )  # fmt: skip


def _check_promises(store: ObjectStore, promises: tuple[Promise, ...], options: InitOptions) -> None:
    for promise in promises:
        accepted = promise.topic is Topic.LOCKS and options.accept_unlocked
        # "Can't say" is as good as no: nobody's files hang on a guess.
        if promise.required and promise.verdict is not Verdict.HELD and not accepted:
            raise UnsafeStoreError(
                f"the store does not keep a promise that the archive rests on: {promise.name} is "
                f"{promise.verdict.value}: {promise.evidence}",
                todo=_WAYS_OUT[promise.topic],
                bucket=store.bucket,
            )


_WAYS_OUT: dict[Topic, str] = {
    Topic.CONDITIONS: "Use a store with atomic conditional PUT; there is no way around it.",
    Topic.LOCKS: "Use a store that enforces Object Lock. With --accept-unlocked anybody may delete files.",
    Topic.CONTENT: "Use another store: this one may give or keep other bytes than were sent.",
    Topic.HYGIENE: "Change the bucket's settings as `vera probe` says, or use another bucket.",
    Topic.OTHER: "Look at `vera probe`.",
}


def _report(store: ObjectStore, keys: Keyspace, config: RepositoryConfig, *, created_bucket: bool) -> InitReport:
    return InitReport(
        repository=f"s3://{store.bucket}/{keys.root}".rstrip("/"),
        repository_id=config.repository_id,
        created_bucket=created_bucket,
        lock_mode=config.lock_mode.value,
        classes=config.classes,
        default_class=config.default_class,
        kek="" if config.encryption is None else config.encryption.kek,
        tells_markers=config.tells_markers,
        erasure_approval=config.erasure_approval,
        n_bits=config.routing.n_bits(date.min),
        revision=config.revision,
    )
