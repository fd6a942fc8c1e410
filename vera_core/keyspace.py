"""The names of all objects in a repository's bucket: from words to key and back. Pure; no I/O.

The one module that knows the layout of docs/protocol.md. What the objects hold, and which of them are locked, is not
known here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import TYPE_CHECKING

from vera_core.errors import UsageError
from vera_core.model import Slot, check_name, day_text

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PREFIX_BYTES = 512
"""So that the longest key of ours stays far below S3's 1,024 bytes."""
CHECKPOINTS = "checkpoints"
"""Under audit/, and so no writer's name."""

_NUMBER_DIGITS = 6
_MAX_NUMBER_DIGITS = _NUMBER_DIGITS + 26
_NAME_BYTES = 16
_FULL_DIGEST_BYTES = 32


class KeyKind(StrEnum):
    """What sort of object a key names. UNKNOWN is everything that VERA didn't name."""

    CONFIG = "config"
    SHARD = "shard"
    LOG = "log"
    SIDECAR = "sidecar"
    KEYRING = "keyring"
    TENANT_KEY = "tenant_key"
    MANIFEST = "manifest"
    INVENTORY = "inventory"
    REJECTS = "rejects"
    PROOFS = "proofs"
    REQUEST = "request"
    OPEN_REQUEST = "open_request"
    REQUESTS_WALKED = "requests_walked"
    DISPOSAL = "disposal"
    AUDIT = "audit"
    CHECKPOINT = "checkpoint"
    PROBE = "probe"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ParsedKey:
    """What a key says. Parts that its kind doesn't have are empty, None or 0.

    `index_text` is the slot's index as written (n_bits is not in the key: `slot` takes it from the routing epoch);
    `digest` the 32 hex digits of a shard or keyring; `number` that of a config, log, request, disposal, audit or
    checkpoint record, the revision of a manifest, or the n of an inventory file.
    """

    key: str
    kind: KeyKind
    tenant: str = ""
    day: date | None = None
    index_text: str = ""
    digest: str = ""
    number: int = 0
    source: str = ""
    request: str = ""
    writer: str = ""

    def slot(self, n_bits: int) -> Slot:
        """The slot that the key lies in, if its day has 2 ** `n_bits` slots.

        Raises:
            UsageError: the key lies in no slot, or in none of those.
        """
        if self.day is not None and self.index_text:
            slot = Slot(self.tenant, self.day, int(self.index_text, 16), n_bits)
            if slot.index_text == self.index_text and slot.index < 1 << n_bits:
                return slot
        raise UsageError(f"the key lies in no slot of a day with n_bits {n_bits}", key=self.key)


def number_text(number: int) -> str:
    """A record's number as it stands in keys: six digits, and beyond 999,999 a letter for the digits more.

    999999 is followed by a1000000, 9999999 by b10000000: texts sort as their numbers do, without end in practice, and
    no key written before changes.

    Raises:
        UsageError: not 1 to 10 ** 32 - 1.
    """
    digits = f"{number:0{_NUMBER_DIGITS}d}"
    if number < 1 or len(digits) > _MAX_NUMBER_DIGITS:
        raise UsageError(f"{number} is no number of a record: they count from 1")
    more = len(digits) - _NUMBER_DIGITS
    return chr(ord("a") + more - 1) + digits if more else digits


def parse_number(text: str) -> int:
    """The inverse of `number_text`; 0 for a text that it never gives."""
    digits = text.lstrip("abcdefghijklmnopqrstuvwxyz")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= _MAX_NUMBER_DIGITS):
        return 0
    number = int(digits)
    return number if number and number_text(number) == text else 0


def keyring_of(shard: str) -> str:
    """The key of the keyring that lies beside the shard with that key."""
    return shard.removesuffix(".vera") + ".keys"


def shard_of(keyring: str) -> str:
    """The key of the shard that a keyring lies beside: the inverse of `keyring_of`."""
    return keyring.removesuffix(".keys") + ".vera"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """All keys of the repository under `prefix`.

    Args:
        prefix: the part of the bucket that is ours, with or without slashes at its ends; "" is the whole bucket.

    Raises:
        UsageError: the prefix is longer than 512 bytes, no UTF-8, or has control characters or empty, "." or ".."
            parts; in all methods: a name, number, day, slot or digest that can't stand in a key.
    """

    prefix: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prefix", _check_prefix(self.prefix))

    @property
    def root(self) -> str:
        """The prefix with its trailing slash; "" for the whole bucket."""
        return f"{self.prefix}/" if self.prefix else ""

    @property
    def config_prefix(self) -> str:
        """All records of the config log."""
        return f"{self.root}config/"

    def config(self, number: int) -> str:
        """Record `number` of the config log."""
        return f"{self.config_prefix}{number_text(number)}.json"

    @property
    def tenants_prefix(self) -> str:
        """The tenants are its next path components."""
        return f"{self.root}t/"

    def tenant_prefix(self, tenant: str) -> str:
        """Everything of a tenant."""
        return f"{self.tenants_prefix}{check_name(tenant, 'tenant')}/"

    def day_prefix(self, tenant: str, day: date) -> str:
        """All slots of a tenant's day."""
        return f"{self.tenant_prefix(tenant)}{day_text(day)}/"

    def slot_prefix(self, slot: Slot) -> str:
        """Everything of a slot."""
        if not (0 <= slot.n_bits <= 16 and 0 <= slot.index < 1 << slot.n_bits):
            raise UsageError(f"index {slot.index} with n_bits {slot.n_bits} is no slot", slot=slot)
        return f"{self.day_prefix(slot.tenant, slot.day)}{slot.index_text}/"

    def shard(self, slot: Slot, digest: bytes) -> str:
        """A shard by the SHA-256 of its bytes (all 32, or the 16 that the name keeps)."""
        return f"{self.slot_prefix(slot)}{_digest_text(digest)}.vera"

    def keyring(self, slot: Slot, digest: bytes) -> str:
        """The keyring of the shard with that digest."""
        return f"{self.slot_prefix(slot)}{_digest_text(digest)}.keys"

    def tenant_key(self, tenant: str) -> str:
        """The tenant's key, where the repository is encrypted."""
        return f"{self.tenant_prefix(tenant)}tenant.keys"

    def log_prefix(self, slot: Slot) -> str:
        """All records of a slot's log."""
        return f"{self.slot_prefix(slot)}log/"

    def log(self, slot: Slot, number: int) -> str:
        """Record `number` of a slot's log."""
        return f"{self.log_prefix(slot)}{number_text(number)}.json"

    def sidecar(self, slot: Slot) -> str:
        """The slot's sidecar."""
        return f"{self.slot_prefix(slot)}.vera.meta"

    def all_windows_prefix(self, tenant: str) -> str:
        """The frozen manifests of a tenant; its sources are the next path components."""
        return f"{self.tenant_prefix(tenant)}windows/"

    def windows_prefix(self, tenant: str, source: str) -> str:
        """The frozen manifests of a source; its days are the next path components."""
        return f"{self.all_windows_prefix(tenant)}{check_name(source, 'source')}/"

    def window_prefix(self, tenant: str, source: str, day: date) -> str:
        """The frozen manifests of a source's window, one a revision."""
        return f"{self.windows_prefix(tenant, source)}{day_text(day)}/"

    def manifest(self, tenant: str, source: str, day: date, revision: int) -> str:
        """The frozen manifest of a window's revision."""
        return f"{self.window_prefix(tenant, source, day)}{number_text(revision)}.parquet"

    def inventory_prefix(self, tenant: str) -> str:
        """A tenant's catalogue: a data set for readers of Parquet, partitioned by date."""
        return f"{self.tenant_prefix(tenant)}inventory/"

    def inventory_day_prefix(self, tenant: str, day: date) -> str:
        """A day of a tenant's catalogue."""
        return f"{self.inventory_prefix(tenant)}date={day_text(day)}/"

    def inventory_slot_prefix(self, slot: Slot) -> str:
        """The files of a slot in its tenant's catalogue."""
        return f"{self.inventory_day_prefix(slot.tenant, slot.day)}{slot.index_text}-"

    def inventory(self, tenant: str, day: date, index_text: str, number: int) -> str:
        """File `number` of a slot in its tenant's catalogue."""
        if not re.fullmatch(_INDEX, index_text):
            raise UsageError(f"{index_text!r} is no index of a slot", tenant=tenant, day=day)
        return f"{self.inventory_day_prefix(tenant, day)}{index_text}-{number_text(number)}.parquet"

    def rejects_prefix(self, tenant: str, source: str) -> str:
        """The quarantine lists of a source."""
        return f"{self.tenant_prefix(tenant)}rejects/{check_name(source, 'source')}/"

    def rejects(self, tenant: str, source: str, day: date, revision: int) -> str:
        """The quarantine list of a window's revision."""
        return f"{self.rejects_prefix(tenant, source)}{day_text(day)}/{number_text(revision)}.parquet"

    def proofs(self, tenant: str, day: date) -> str:
        """When the shards of a tenant's day were last proved."""
        return f"{self.tenant_prefix(tenant)}proofs/{day_text(day)}.json"

    def requests_prefix(self, tenant: str) -> str:
        """A tenant's erasure requests; their ids are the next path components."""
        return f"{self.tenant_prefix(tenant)}requests/"

    def request_prefix(self, tenant: str, request: str) -> str:
        """All records of an erasure request."""
        return f"{self.requests_prefix(tenant)}{check_name(request, 'request id')}/"

    def request(self, tenant: str, request: str, number: int) -> str:
        """Record `number` of an erasure request."""
        return f"{self.request_prefix(tenant, request)}{number_text(number)}.json"

    def open_requests_prefix(self, tenant: str) -> str:
        """The index of a tenant's open erasure requests."""
        return f"{self.tenant_prefix(tenant)}requests-open/"

    def open_request(self, tenant: str, request: str) -> str:
        """The entry of an erasure request in that index."""
        return f"{self.open_requests_prefix(tenant)}{check_name(request, 'request id')}"

    def requests_walked(self, tenant: str) -> str:
        """When all erasure requests of a tenant were read for the last time."""
        return f"{self.tenant_prefix(tenant)}requests-walked.json"

    def disposals_prefix(self, tenant: str) -> str:
        """A tenant's requests for disposals; their ids are the next path components."""
        return f"{self.tenant_prefix(tenant)}disposals/"

    def disposal_prefix(self, tenant: str, request: str) -> str:
        """All records of a request for a disposal."""
        return f"{self.disposals_prefix(tenant)}{check_name(request, 'request id')}/"

    def disposal(self, tenant: str, request: str, number: int) -> str:
        """Record `number` of a request for a disposal."""
        return f"{self.disposal_prefix(tenant, request)}{number_text(number)}.json"

    @property
    def audit_prefix(self) -> str:
        """All audit entries and checkpoints; the writers (and "checkpoints") are its next path components."""
        return f"{self.root}audit/"

    def writer_prefix(self, writer: str) -> str:
        """The audit entries of a writer."""
        if check_name(writer, "writer") == CHECKPOINTS:
            raise UsageError(f"{CHECKPOINTS!r} is no valid writer: the name is taken by the audit's checkpoints")
        return f"{self.audit_prefix}{writer}/"

    def audit(self, writer: str, number: int) -> str:
        """Audit entry `number` of a writer."""
        return f"{self.writer_prefix(writer)}{number_text(number)}.json"

    @property
    def checkpoints_prefix(self) -> str:
        """All sealed checkpoints of the audit."""
        return f"{self.audit_prefix}{CHECKPOINTS}/"

    def checkpoint(self, number: int) -> str:
        """Sealed checkpoint `number` of the audit."""
        return f"{self.checkpoints_prefix}{number_text(number)}"

    @property
    def probe_prefix(self) -> str:
        """Where `vera probe` writes its trial objects, and nothing else lies."""
        return f"{self.root}probe/"

    def parse(self, key: str) -> ParsedKey:
        """Reads any key; one that no method here gives is UNKNOWN. Total: raises nothing."""
        if key.startswith(self.root):
            name = key[len(self.root) :]
            for kind, pattern in _PATTERNS.items():
                match = pattern.fullmatch(name)
                if match:
                    return _parsed(key, kind, match.groupdict())
        return ParsedKey(key, KeyKind.UNKNOWN)


def _check_prefix(prefix: str) -> str:
    bare = prefix.removeprefix("/").removesuffix("/")
    try:
        size = len(bare.encode())
    except UnicodeEncodeError:
        raise UsageError(f"the prefix {prefix!a} is not valid UTF-8") from None
    if size > MAX_PREFIX_BYTES:
        raise UsageError(f"the prefix has {size} bytes, allowed are {MAX_PREFIX_BYTES}", prefix=prefix[:80])
    if bare and (not bare.isprintable() or {"", ".", ".."} & set(bare.split("/"))):
        raise UsageError(
            f"{prefix!r} is no valid prefix",
            todo='Use printable characters, and no empty, "." or ".." part between slashes.',
        )
    return bare


def _digest_text(digest: bytes) -> str:
    if len(digest) not in (_NAME_BYTES, _FULL_DIGEST_BYTES):
        raise UsageError(f"a digest of {len(digest)} bytes names no shard, SHA-256 has {_FULL_DIGEST_BYTES}")
    return digest[:_NAME_BYTES].hex()


def _parsed(key: str, kind: KeyKind, parts: Mapping[str, str]) -> ParsedKey:
    number = parse_number(parts["number"]) if "number" in parts else 0
    day = _parse_day(parts["day"]) if "day" in parts else None
    writer = parts.get("writer", "")
    if ("number" in parts and not number) or ("day" in parts and day is None) or writer == CHECKPOINTS:
        return ParsedKey(key, KeyKind.UNKNOWN)
    return ParsedKey(
        key,
        kind,
        tenant=parts.get("tenant", ""),
        day=day,
        index_text=parts.get("index", ""),
        digest=parts.get("digest", ""),
        number=number,
        source=parts.get("source", ""),
        request=parts.get("request", ""),
        writer=writer,
    )


def _parse_day(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


_NAME = r"[a-z0-9][a-z0-9_.-]{0,63}"
_INDEX = r"[0-9A-F]{1,4}"
_NUMBER = r"(?P<number>[a-z]?[0-9]{6,32})"
_DAY = r"(?P<day>[0-9]{8})"
_TENANT = rf"t/(?P<tenant>{_NAME})"
_SLOT = rf"{_TENANT}/{_DAY}/(?P<index>{_INDEX})"
_DIGEST = r"(?P<digest>[0-9a-f]{32})"
_PATTERNS: dict[KeyKind, re.Pattern[str]] = {
    kind: re.compile(pattern)
    for kind, pattern in {
        KeyKind.SHARD: rf"{_SLOT}/{_DIGEST}\.vera",
        KeyKind.LOG: rf"{_SLOT}/log/{_NUMBER}\.json",
        KeyKind.SIDECAR: rf"{_SLOT}/\.vera\.meta",
        KeyKind.KEYRING: rf"{_SLOT}/{_DIGEST}\.keys",
        KeyKind.TENANT_KEY: rf"{_TENANT}/tenant\.keys",
        KeyKind.MANIFEST: rf"{_TENANT}/windows/(?P<source>{_NAME})/{_DAY}/{_NUMBER}\.parquet",
        KeyKind.INVENTORY: rf"{_TENANT}/inventory/date={_DAY}/(?P<index>{_INDEX})-{_NUMBER}\.parquet",
        KeyKind.REJECTS: rf"{_TENANT}/rejects/(?P<source>{_NAME})/{_DAY}/{_NUMBER}\.parquet",
        KeyKind.PROOFS: rf"{_TENANT}/proofs/{_DAY}\.json",
        KeyKind.REQUEST: rf"{_TENANT}/requests/(?P<request>{_NAME})/{_NUMBER}\.json",
        KeyKind.OPEN_REQUEST: rf"{_TENANT}/requests-open/(?P<request>{_NAME})",
        KeyKind.REQUESTS_WALKED: rf"{_TENANT}/requests-walked\.json",
        KeyKind.DISPOSAL: rf"{_TENANT}/disposals/(?P<request>{_NAME})/{_NUMBER}\.json",
        KeyKind.AUDIT: rf"audit/(?P<writer>{_NAME})/{_NUMBER}\.json",
        KeyKind.CHECKPOINT: rf"audit/{CHECKPOINTS}/{_NUMBER}",
        KeyKind.CONFIG: rf"config/{_NUMBER}\.json",
        KeyKind.PROBE: r"probe/.+",
    }.items()
}
