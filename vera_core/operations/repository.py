"""An open repository: the handle that every operation gets. It holds no state that a crash could lose."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vera_core.audit.trail import AuditPolicy, AuditTrail
from vera_core.config import PROTOCOL_VERSION, ConfigLog, RepositoryConfig
from vera_core.errors import IncompatibleError, RestrictedError, UnavailableError, UsageError
from vera_core.keys.naming import PLAIN, KeyedNaming
from vera_core.keyspace import Keyspace
from vera_core.model import Lock
from vera_core.operations.key_places import KeyPlace, open_place
from vera_core.operations.keyrings import Keyrings
from vera_core.operations.tenant_keys import TenantKeys
from vera_core.slotlog import SlotLog
from vera_core.store.chain import LostAppendError
from vera_core.store.clock import StoreClock
from vera_core.store.s3 import S3Store, parse_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from datetime import date, datetime

    from vera_core.config import Encryption
    from vera_core.keys.naming import Naming
    from vera_core.keys.service import KeyService
    from vera_core.model import Slot
    from vera_core.store.base import ObjectStore

LOCK_SLACK = timedelta(days=366)
"""By how much config, audit and log records are locked longer than anything needs them, so that extending is rare."""
SHORT_LOCK = timedelta(days=1)
"""The lock under which a shard is uploaded, until its commit record extends it: what garbage costs at most in time."""
PENDING_WAIT_SECONDS = 60.0
SCRATCH_PREFIX = "vera-"


@dataclass(frozen=True, slots=True)
class Workplace:
    """What a process brings along.

    `actor` is who the audit trail names, `spool` a local directory for shards being built; a reader takes what it knows
    of a slot as current for `freshness_seconds`; `threads` load and encode files; `key_service` opens the one that
    wraps the keys of an encrypted repository; `buckets` opens a bucket by its name.
    """

    actor: str
    spool: Path
    freshness_seconds: float = 5.0
    threads: int = 2
    key_service: Callable[[], KeyService] | None = None
    buckets: Callable[[str], ObjectStore] = S3Store


class Repository:
    """A repository in `store` under `prefix`. Safe to share between threads.

    Raises:
        NotFoundError: there is none.
        IncompatibleError: it needs a newer VERA.
    """

    def __init__(self, store: ObjectStore, prefix: str, workplace: Workplace) -> None:
        self.store = store
        self.keys = Keyspace(prefix)
        self.workplace = workplace
        self.clock = StoreClock(store)
        self._guard = threading.Lock()
        self._config_log = ConfigLog(store, self.keys)
        self._config_log.load()
        self._audit: AuditTrail | None = None
        self._service: KeyService | None = None
        self._namings: dict[str, Naming] = {}
        self._places: dict[str, KeyPlace] = {}
        self._tenant_locks: dict[str, datetime] = {}
        self._keyrings = Keyrings(self.key_places, bytes.fromhex(self.config.repository_id), self.key_service)

    @classmethod
    def open(cls, uri: str, workplace: Workplace) -> Repository:
        """Opens s3://bucket/prefix with the AWS SDK's own credentials and endpoint."""
        bucket, prefix = parse_uri(uri)
        return cls(workplace.buckets(bucket), prefix, workplace)

    @property
    def uri(self) -> str:
        """s3://bucket/prefix."""
        return f"s3://{self.store.bucket}/{self.keys.root}".rstrip("/")

    @property
    def config(self) -> RepositoryConfig:
        """The config as last read."""
        config = self._config_log.config
        assert config is not None
        return config

    def refresh_config(self) -> RepositoryConfig:
        """Reads config records appended since; one request in the usual case."""
        with self._guard:
            return self._config_log.refresh()

    def writable_config(self) -> RepositoryConfig:
        """The fresh config for a writer.

        Raises:
            IncompatibleError: the repository no longer takes writes from this version (the `min_writer` fence).
        """
        config = self.refresh_config()
        if config.min_writer > PROTOCOL_VERSION:
            raise IncompatibleError(
                f"the repository takes writes only from VERAs that know protocol version {config.min_writer}; this one "
                f"knows {PROTOCOL_VERSION}",
                todo="Use a newer VERA.", repository=self.uri,
            )  # fmt: skip
        return config

    def settled_config(self, days: set[date]) -> RepositoryConfig:
        """The fresh config once no pending epoch concerns any of `days`: what a packer plans by.

        Raises:
            UnavailableError: an epoch stayed pending for a minute: whoever was setting it died.
        """
        deadline = time.monotonic() + PENDING_WAIT_SECONDS
        while True:
            config = self.writable_config()
            pending = {config.routing.pending(day) for day in days} - {None}
            if not pending:
                return config
            if time.monotonic() > deadline:
                epoch = next(iter(pending))
                assert epoch is not None
                raise UnavailableError(
                    f"the routing epoch from {epoch.from_day} with {epoch.n_bits} bits stays pending",
                    todo=f"Run `vera epoch {epoch.from_day} {epoch.n_bits}` again to settle it, then try again.",
                    repository=self.uri,
                )
            time.sleep(0.5)

    def change_config(self, body: Mapping[str, Any]) -> RepositoryConfig:
        """Appends a record to the config log, as planned on the config as last read; returns the config after it.

        Raises:
            RestrictedError: somebody else was first.
        """
        now = self.clock.now()
        try:
            return self._config_log.append(body, now=now, until=self.record_until(now))
        except LostAppendError as error:
            self.refresh_config()
            raise RestrictedError(
                "somebody else changed the repository's config at the same moment",
                todo="Run the command again.", repository=self.uri,
            ) from error  # fmt: skip

    @property
    def config_log(self) -> ConfigLog:
        """The config log itself, for the few operations that append to it."""
        return self._config_log

    def keep_config_locked(self, until: datetime) -> None:
        """Keeps the config records locked at least until `until`."""
        with self._guard:
            self._config_log.extend_locks(until, slack=LOCK_SLACK)

    def keep_tenant_key_locked(self, tenant: str, until: datetime) -> None:
        """Keeps the key of a tenant of an encrypted repository locked at least until `until`, in every place."""
        if self.config.encryption is None or not self.config.locked:
            return
        with self._guard:
            known = self._tenant_locks.get(tenant)
        if known is None or known < until:
            end = self.tenant_keys.keep_locked(tenant, Lock(self.config.lock_mode, until), slack=LOCK_SLACK)
            with self._guard:
                self._tenant_locks[tenant] = end

    @property
    def audit(self) -> AuditTrail:
        """This process's audit trail; its first entry makes it."""
        with self._guard:
            if self._audit is None:
                self._audit = audit_trail(
                    self.store, self.keys, self.clock, config=self.config, workplace=self.workplace
                )
            return self._audit

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory in the spool that is gone afterwards; what killed processes left there is removed first.

        Raises:
            UnavailableError: the spool can't be written.
        """
        spool = self.workplace.spool
        try:
            spool.mkdir(parents=True, exist_ok=True)
            _sweep(spool)
            # Made under another name, so that no sweeper sees it before it is locked.
            hidden = Path(tempfile.mkdtemp(dir=spool, prefix=".new-"))
            handle = os.open(hidden / ".alive", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_SH)
            directory = hidden.rename(spool / f"{SCRATCH_PREFIX}{hidden.name.removeprefix('.new-')}")
        except OSError as error:
            raise UnavailableError(
                f"the spool can't be written: {error}", todo="Name another directory as `spool`.", path=spool
            ) from error
        try:
            yield directory
        finally:
            os.close(handle)
            shutil.rmtree(directory, ignore_errors=True)

    def encryption(self) -> Encryption:
        """How the repository is encrypted.

        Raises:
            UsageError: it is not.
        """
        if self.config.encryption is None:
            raise UsageError(
                "the repository is not encrypted: it has no keys",
                todo="That is fixed by `vera init`: make an encrypted repository, and migrate into it.",
                repository=self.uri,
            )
        return self.config.encryption

    def key_service(self) -> KeyService:
        """The service that wraps this repository's keys.

        Raises:
            UsageError: none is configured, or another than the repository's; or it is not encrypted.
        """
        encryption = self.encryption()
        with self._guard:
            if self._service is None and self.workplace.key_service is not None:
                self._service = self.workplace.key_service()
            service = self._service
        if service is None or service.kek != encryption.kek:
            raise UsageError(
                "the repository's keys are wrapped by a key service that is not configured here",
                todo="Describe it under [keys] in vera.toml (docs/encryption.md).",
                repository=self.uri, kek=encryption.kek,
                configured=None if service is None else service.kek,
            )  # fmt: skip
        return service

    def key_places(self) -> tuple[KeyPlace, ...]:
        """Where the repository's keyrings and tenant keys lie: its own bucket first, then its registered copies."""
        copies = () if self.config.encryption is None else self.config.encryption.copies
        for uri in copies:
            if uri not in self._places:
                self._places[uri] = open_place(self.workplace, uri)
        return KeyPlace(self.uri, self.store, self.keys), *(self._places[uri] for uri in copies)

    def naming(self, tenant: str, *, make: bool = False) -> Naming:
        """What the archive calls a tenant's files; `make` gives a new tenant its key.

        Raises:
            NotFoundError: the repository is encrypted, and the tenant has no key: nothing of it was ever archived.
            UsageError, VeraError: the key service's.
        """
        if self.config.encryption is None:
            return PLAIN
        found = self._namings.get(tenant)
        if found is None:
            keys = self.tenant_keys
            opened = keys.make(tenant, self.tenant_key_lock()) if make else keys.open(tenant)
            found = self._namings[tenant] = KeyedNaming(opened)
        return found

    @property
    def tenant_keys(self) -> TenantKeys:
        """The tenant keys of an encrypted repository."""
        repository_id = bytes.fromhex(self.config.repository_id)
        return TenantKeys(self.key_places(), self.key_service, repository_id, self.config.locked)

    @property
    def keyrings(self) -> Keyrings:
        """The keyrings of an encrypted repository's shards."""
        return self._keyrings

    def tenant_key_lock(self) -> Lock | None:
        """The lock of a tenant key that is stored now: for the longest class, and the slack."""
        longest = self.clock.now() + timedelta(days=self.config.longest_days)
        return Lock(self.config.lock_mode, self.record_until(longest)) if self.config.locked else None

    def slot_log(self, slot: Slot) -> SlotLog:
        """The log of one slot."""
        return SlotLog(self.store, self.keys, slot, self.config.log_options)

    def record_until(self, needed: datetime) -> datetime:
        """Until when a record that must outlive `needed` is locked."""
        return max(needed, self.clock.now()) + LOCK_SLACK


def audit_trail(
    store: ObjectStore, keys: Keyspace, clock: StoreClock, *, config: RepositoryConfig, workplace: Workplace
) -> AuditTrail:
    """A new writer's audit trail, locked for the longest retention class and the slack."""
    days = config.longest_days + LOCK_SLACK.days
    policy = AuditPolicy(workplace.actor, config.lock_mode, days)
    return AuditTrail(store, keys, clock, policy=policy, options=config.log_options)


def _sweep(spool: Path) -> None:
    """Removes scratch directories whose owner is gone: nobody holds the lock on their `.alive` file."""
    for directory in spool.glob(f"{SCRATCH_PREFIX}*"):
        try:
            handle = os.open(directory / ".alive", os.O_RDWR | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            # Being made or removed right now, or not ours.
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            os.close(handle)
