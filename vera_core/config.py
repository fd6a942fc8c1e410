"""The config log: what a repository is, and every change to it, as locked, chained records.

Record 1 (`init`) states everything that is fixed for the repository's life; later records add routing epochs or raise
the versions that may read and write. The record's fields are documented in docs/protocol.md, "Config log records".
Settings of a process (spool, actor, sources) are no business of this module: see `settings`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import date
from typing import TYPE_CHECKING, Any, Self

from vera_core.codec import MAX_INLINE
from vera_core.errors import IncompatibleError, IntegrityError, NotFoundError, UsageError, VeraError
from vera_core.format.sealed import MAX_SEALED_CONTENT
from vera_core.model import Erasability, Lock, LockMode, Policy, RetentionClass, check_name
from vera_core.routing import EpochState, Routing, RoutingEpoch, UidScheme
from vera_core.store.chain import ChainedLog, Head, LogOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime, timedelta

    from vera_core.keyspace import Keyspace
    from vera_core.store.base import ObjectStore
    from vera_core.store.chain import Record

PROTOCOL_VERSION = 1
"""What this VERA reads and writes: compared with the repository's min_reader and min_writer."""
MAX_RETENTION_DAYS = 366 * 100
DEFAULT_INLINE_LIMIT = 8 << 20
DEFAULT_SHARD_BYTES = 256 << 20
DEFAULT_PART_ROWS = 1 << 17


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a repository is encrypted: the KEK's name, and the s3:// URIs of registered copies of its keys."""

    kek: str
    copies: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the `init` record."""
        return {"kek": self.kek, "copies": list(self.copies)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; one of `ValueError`, `KeyError`, `TypeError` where it is none."""
        if not isinstance(body["kek"], str) or not all(isinstance(copy, str) for copy in body["copies"]):
            raise TypeError(f"{body!r} is no encryption")
        return cls(body["kek"], tuple(body["copies"]))


@dataclass(frozen=True, slots=True)
class RepositoryConfig:
    """A repository as of config record `revision`.

    `inline_limit`: bytes up to which a file shares a shard with others; `shard_bytes`: stored bytes at which a shard is
    closed; `part_rows`: rows at which it is closed. `locked` is False only where init accepted a store without enforced
    locks. `tells_markers`: whether the store's 404 tells of delete markers. `erasure_approval`: whether erasures and
    disposals need the approval of somebody else than who asked for them; once set, it stays. `encryption` is None where
    files are stored openly.
    """

    repository_id: str
    lock_mode: LockMode
    classes: tuple[RetentionClass, ...]
    default_class: str
    routing: Routing
    compression: Policy = Policy.BALANCED
    inline_limit: int = DEFAULT_INLINE_LIMIT
    shard_bytes: int = DEFAULT_SHARD_BYTES
    part_rows: int = DEFAULT_PART_ROWS
    tells_markers: bool = False
    erasure_approval: bool = False
    encryption: Encryption | None = None
    min_reader: int = PROTOCOL_VERSION
    min_writer: int = PROTOCOL_VERSION
    revision: int = 0

    def __post_init__(self) -> None:
        names = [retention.name for retention in self.classes]
        for retention in self.classes:
            check_name(retention.name, "retention class")
            if not 0 < retention.days <= MAX_RETENTION_DAYS:
                raise UsageError(
                    f"retention class {retention.name!r} keeps files {retention.days} days",
                    todo=f"Allowed are 1 to {MAX_RETENTION_DAYS} days.",
                )
        most = MAX_INLINE if self.encryption is None else MAX_SEALED_CONTENT
        if not 0 < self.inline_limit <= most:
            raise UsageError(f"the inline limit is {self.inline_limit} bytes, allowed are 1 to {most}")
        if len(set(names)) != len(names) or self.default_class not in names:
            raise UsageError("retention classes need distinct names, and the default class must be one of them")

    @property
    def locked(self) -> bool:
        """Whether the store enforces locks."""
        return self.lock_mode is not LockMode.NONE

    @property
    def log_options(self) -> LogOptions:
        """How this repository's chained logs are kept."""
        return LogOptions(locked=self.locked, tells_markers=self.tells_markers)

    @property
    def longest_days(self) -> int:
        """Days of the longest retention class."""
        return max(retention.days for retention in self.classes)

    def retention(self, name: str) -> RetentionClass:
        """The retention class of that name.

        Raises:
            UsageError: there is none.
        """
        for retention in self.classes:
            if retention.name == name:
                return retention
        raise UsageError(
            f"the repository has no retention class {name!r}",
            todo=f"It has: {', '.join(retention.name for retention in self.classes)}.",
        )

    def to_json(self) -> dict[str, Any]:
        """The body of the `init` record (without `type`)."""
        return {
            "repository": self.repository_id,
            "lock_mode": self.lock_mode.value,
            "classes": [
                {"name": item.name, "days": item.days, "erasability": item.erasability.value} for item in self.classes
            ],
            "default_class": self.default_class,
            "n_bits": self.routing.n_bits(date.min),
            "uid_schemes": sorted(scheme.value for scheme in self.routing.schemes),
            "snowflake_epoch_ms": self.routing.snowflake_epoch_ms,
            "compression": self.compression.value,
            "inline_limit": self.inline_limit,
            "shard_bytes": self.shard_bytes,
            "part_rows": self.part_rows,
            "tells_markers": self.tells_markers,
            "erasure_approval": self.erasure_approval,
            "encryption": None if self.encryption is None else self.encryption.to_json(),
            "min_reader": self.min_reader,
            "min_writer": self.min_writer,
        }


def _apply_init(_before: RepositoryConfig | None, body: Mapping[str, Any]) -> RepositoryConfig:
    return RepositoryConfig(
        repository_id=str(body["repository"]),
        lock_mode=LockMode(body["lock_mode"]),
        classes=tuple(
            RetentionClass(str(item["name"]), int(item["days"]), Erasability(item["erasability"]))
            for item in body["classes"]
        ),
        default_class=str(body["default_class"]),
        routing=Routing(
            epochs=(RoutingEpoch(date.min, int(body["n_bits"])),),
            schemes=frozenset(UidScheme(name) for name in body["uid_schemes"]),
            snowflake_epoch_ms=int(body["snowflake_epoch_ms"]),
        ),
        compression=Policy(body["compression"]),
        inline_limit=int(body["inline_limit"]),
        shard_bytes=int(body["shard_bytes"]),
        part_rows=int(body["part_rows"]),
        tells_markers=bool(body["tells_markers"]),
        erasure_approval=bool(body["erasure_approval"]),
        encryption=None if body["encryption"] is None else Encryption.from_json(body["encryption"]),
        min_reader=int(body["min_reader"]),
        min_writer=int(body["min_writer"]),
    )


def _apply_epoch(before: RepositoryConfig | None, body: Mapping[str, Any]) -> RepositoryConfig:
    assert before is not None
    epoch = RoutingEpoch(date.fromisoformat(body["from_day"]), int(body["n_bits"]), EpochState.PENDING)
    return replace(before, routing=replace(before.routing, epochs=(*before.routing.epochs, epoch)))


def _settle(state: EpochState) -> Callable[[RepositoryConfig | None, Mapping[str, Any]], RepositoryConfig]:
    def apply(before: RepositoryConfig | None, body: Mapping[str, Any]) -> RepositoryConfig:
        assert before is not None
        day = date.fromisoformat(body["from_day"])
        epochs = tuple(
            epoch._replace(state=state) if (epoch.from_day, epoch.state) == (day, EpochState.PENDING) else epoch
            for epoch in before.routing.epochs
        )
        return replace(before, routing=replace(before.routing, epochs=epochs))

    return apply


def _apply_require(before: RepositoryConfig | None, body: Mapping[str, Any]) -> RepositoryConfig:
    assert before is not None
    return replace(before, min_reader=int(body["min_reader"]), min_writer=int(body["min_writer"]))


def _apply_approval(before: RepositoryConfig | None, body: Mapping[str, Any]) -> RepositoryConfig:
    assert before is not None
    if not isinstance(body["actor"], str):
        raise TypeError("the record does not say who")
    return replace(before, erasure_approval=True)


def _apply_keys(before: RepositoryConfig | None, body: Mapping[str, Any]) -> RepositoryConfig:
    assert before is not None
    if before.encryption is None or not isinstance(body["actor"], str):
        raise TypeError("a repository without keys has no copies of them, or the record does not say who")
    return replace(before, encryption=Encryption.from_json({"kek": before.encryption.kek, "copies": body["copies"]}))


_HANDLERS: dict[str, Callable[[RepositoryConfig | None, Mapping[str, Any]], RepositoryConfig]] = {
    "init": _apply_init,
    "epoch": _apply_epoch,
    "activate": _settle(EpochState.ACTIVE),
    "withdraw": _settle(EpochState.WITHDRAWN),
    "require": _apply_require,
    "approval": _apply_approval,
    "keys": _apply_keys,
}


def fold(before: RepositoryConfig | None, record: Record) -> RepositoryConfig:
    """The config after `record`.

    Raises:
        IncompatibleError: an unknown record type, or the repository needs a newer reader.
        IntegrityError: the record can't be understood.
    """
    handler = _HANDLERS.get(record.type)
    if handler is None or (before is None) != (record.type == "init"):
        raise IncompatibleError(
            f"config record {record.number} is of type {record.type!r}, which this VERA does not expect there",
            todo="Use a newer VERA.",
        )
    # Before anything else of the record, which a newer VERA may have written with values that this one does not know.
    needed = record.body.get("min_reader", PROTOCOL_VERSION)
    if isinstance(needed, int) and needed > PROTOCOL_VERSION:
        raise IncompatibleError(
            f"the repository needs a VERA that knows protocol version {needed}; this one knows {PROTOCOL_VERSION}",
            todo="Use a newer VERA.",
        )
    try:
        return replace(handler(before, record.body), revision=record.number)
    except IncompatibleError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, VeraError) as error:
        raise IntegrityError(
            f"config record {record.number} can't be understood: {error!r}",
            todo="Nothing is read from the repository. Compare the record with a replica of the bucket.",
            version_id=record.version_id,
        ) from error


@dataclass(slots=True)
class ConfigLog:
    """The config log of the repository under `keys`, with the config as of the last `load` or `refresh`."""

    store: ObjectStore
    keys: Keyspace
    head: Head = field(default_factory=Head)
    records: tuple[Record, ...] = ()
    config: RepositoryConfig | None = None

    def load(self) -> RepositoryConfig:
        """Reads the whole config log.

        Raises:
            NotFoundError: there is no repository here.
            IntegrityError, IncompatibleError: it can't be trusted, or needs a newer VERA.
        """
        records = self._chain(LogOptions()).read() or self._unlocked()
        if not records:
            raise NotFoundError(
                "there is no VERA repository here",
                todo="Check --repository, or make one with `vera init`.",
                bucket=self.store.bucket, prefix=self.keys.root or "(none)",
            )  # fmt: skip
        self.config, self.head, self.records = None, Head(), ()
        return self._take(records)

    def refresh(self) -> RepositoryConfig:
        """Reads what was appended since; one request in the usual case."""
        if self.config is None:
            return self.load()
        return self._take(self._chain(self.config.log_options).read_from(self.head))

    def append(self, body: Mapping[str, Any], *, now: datetime, until: datetime) -> RepositoryConfig:
        """Appends a record, locked until `until`, and returns the config after it.

        Raises:
            LostAppendError: somebody else changed the config first: refresh and plan again.
        """
        mode = LockMode(body["lock_mode"]) if self.config is None else self.config.lock_mode
        lock = None if mode is LockMode.NONE else Lock(mode, until)
        options = LogOptions(locked=lock is not None) if self.config is None else self.config.log_options
        return self._take([self._chain(options).append(self.head, body, lock=lock, now=now)])

    def extend_locks(self, until: datetime, *, slack: timedelta) -> None:
        """Keeps the config records locked at least until `until`; what must be extended is by `slack` more."""
        if self.config is not None:
            chain = self._chain(self.config.log_options)
            self.records = tuple(chain.extend_locks(self.records, until, slack=slack))

    def _chain(self, options: LogOptions) -> ChainedLog:
        return ChainedLog(self.store, self.keys.config_prefix, self.keys.config, options)

    def _take(self, records: list[Record]) -> RepositoryConfig:
        config = self.config
        for record in records:
            config = self.config = fold(config, record)
            self.head = Head(record.number, record.digest)
            self.records = (*self.records, record)
        assert config is not None
        return config

    def _unlocked(self) -> list[Record]:
        """The records of a repository that says of itself that its store enforces no locks."""
        try:
            blob = self.store.get(self.keys.config(1))
            body = json.loads(blob.data)
        except (NotFoundError, ValueError):
            return []
        if not isinstance(body, dict) or body.get("lock_mode") != LockMode.NONE:
            return []
        return self._chain(LogOptions(locked=False)).read()
