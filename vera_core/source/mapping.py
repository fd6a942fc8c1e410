"""How a table or view becomes a source: the settings of a source as plain types (docs/sources.md).

Only shapes and their own consistency; whether the columns exist is seen when the source is opened. No I/O.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import date  # noqa: TC003 - settings are built from these annotations at run time
from enum import StrEnum
from pathlib import Path  # noqa: TC003 - as above
from string import Formatter
from typing import Any, ClassVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from vera_core.errors import UsageError
from vera_core.model import DEFAULT_TENANT, check_name

STRICT: dict[str, Any] = {"extra": "forbid"}
"""Settings refuse keys that they don't know."""


MIN_LEASE, MAX_LEASE = 3, 3600
"""Seconds of a lease: a worker answers three times in that span."""
_TEMPLATE = 'Write it like uid = "{bank}/{number}"; a brace of the text is written twice.'


class SettingError(UsageError, ValueError):
    """A setting is wrong; settings.py adds file and key. A ValueError, as pydantic collects those with their place."""


class TimeType(StrEnum):
    """What a created_at column holds."""

    TIMESTAMPTZ = "timestamptz"
    TIMESTAMP = "timestamp"
    TEXT = "text"
    EPOCH_S = "epoch_s"
    EPOCH_MS = "epoch_ms"
    EPOCH_US = "epoch_us"


class ContentKind(StrEnum):
    """What a content column holds: the bytes themselves, a local path, or an s3:// URI."""

    INLINE = "inline"
    PATH = "path"
    S3 = "s3"


class OnRejects(StrEnum):
    """Whether the watermark may pass a day with rejected rows."""

    STOP = "stop"
    ADVANCE = "advance"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeColumn:
    """The created_at column. `zone`: the IANA zone of times that name none themselves.

    Raises:
        SettingError: the zone is unknown, missing, or given for times that have their own.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    column: str
    type: TimeType
    zone: str = ""

    def __post_init__(self) -> None:
        if self.type is TimeType.TIMESTAMP and not self.zone:
            raise SettingError("created_at has no zone", todo='Times without a zone need one: zone = "Europe/Berlin".')
        if self.zone and self.type not in {TimeType.TIMESTAMP, TimeType.TEXT}:
            raise SettingError(f"created_at of type {self.type} takes no zone", todo="Remove zone.")
        if self.zone:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError):
                raise SettingError(f"{self.zone!r} is no known time zone", todo="Use an IANA name.") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentColumn:
    """The content column. `roots`: directories that paths must lie in; `buckets`: buckets that URIs may name.

    Raises:
        SettingError: paths without roots, URIs without buckets, or a root that is not absolute.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    column: str
    kind: ContentKind
    roots: tuple[Path, ...] = ()
    buckets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind is ContentKind.PATH) != bool(self.roots):
            raise SettingError(
                "content of kind path needs roots, other kinds take none",
                todo='Name the directories that files may be read from: roots = ["/srv/files"].',
            )
        if (self.kind is ContentKind.S3) != bool(self.buckets):
            raise SettingError(
                "content of kind s3 needs buckets, other kinds take none",
                todo='Name the buckets that may be read: buckets = ["scans"].',
            )
        for root in self.roots:
            if not root.is_absolute():
                raise SettingError(f"the root {str(root)!r} is not absolute", todo="Give the whole path.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """A fact of every row: one `value` for all, or a `column`, its values translated by `map` where that is given.

    Raises:
        SettingError: both value and column, or a map without a column.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    value: str = ""
    column: str = ""
    map: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if bool(self.value) and bool(self.column):
            raise SettingError("both value and column are given", todo="Keep one of them.")
        if self.map and not self.column:
            raise SettingError("a map needs the column whose values it translates", todo="Add column.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LateColumn:
    """The column that grows with every insert and change, by which late rows are found without a full scan.

    `settle_seconds`: how long after a value was seen a transaction with a smaller one may still commit.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    column: str
    settle_seconds: int = 900

    def __post_init__(self) -> None:
        if self.settle_seconds < 0:
            raise SettingError("settle_seconds is negative", todo="900 is a good value if unsure.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErasureTable:
    """A table or view that names files to erase, a row each; rows with the same `id` are one request.

    `id` and `uid` name columns; `created_at` is needed where uids carry no trusted time. URL and tenant are as in
    `SourceSettings`.

    Raises:
        SettingError: settings that contradict each other.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    table: str
    id: str
    uid: str
    reason: Given
    requested_by: Given
    requested_at: TimeColumn
    created_at: TimeColumn | None = None
    url: str = field(default="", repr=False)
    url_env: str = ""
    schema_name: str = ""
    tenant: Given = field(default_factory=lambda: Given(value=DEFAULT_TENANT))

    def __post_init__(self) -> None:
        _check_url(self.url, self.url_env)
        tenants_of(self.tenant)
        for what, given in (("reason", self.reason), ("requested_by", self.requested_by)):
            if given.map or not (given.value or given.column):
                raise SettingError(f"{what} needs a value or a column, and takes no map", todo="Give one of the two.")

    def database_url(self) -> str:
        """The URL to connect with. Secret: never print it.

        Raises:
            UsageError: the environment variable is not set.
        """
        return _resolved(self.url, self.url_env)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """A table or view as a source.

    `uid` names a column, or is a template over columns: "{bank}/{number}". `url` must hold no password; `url_env` names
    an environment variable with the whole URL instead. `primary_key`, `size` and `late` name columns; `metadata` maps
    the archived name to its column. `begin`: the first day to migrate (the first row's if None); `lag_days`: how many
    of the last days are left alone, today's included; `lease_seconds`: how long a worker that does not answer keeps its
    day.

    Raises:
        SettingError: settings that contradict each other.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    table: str
    uid: str
    created_at: TimeColumn
    content: ContentColumn
    url: str = field(default="", repr=False)
    url_env: str = ""
    schema_name: str = ""
    primary_key: str = ""
    size: str = ""
    media_type: Given = field(default_factory=Given)
    metadata: dict[str, str] = field(default_factory=dict)
    tenant: Given = field(default_factory=lambda: Given(value=DEFAULT_TENANT))
    retention_class: Given = field(default_factory=Given)
    late: LateColumn | None = None
    state_schema: str = "vera"
    begin: date | None = None
    lag_days: int = 1
    lease_seconds: int = 60
    on_rejects: OnRejects = OnRejects.STOP

    def __post_init__(self) -> None:
        _check_url(self.url, self.url_env)
        tenants_of(self.tenant)
        template_parts(self.uid)
        if self.media_type.map:
            raise SettingError("media_type takes no map", todo="Give a value or a column.")
        if self.lag_days < 1:
            raise SettingError(f"lag_days is {self.lag_days}", todo="1 leaves only the day alone that is not over yet.")
        if not MIN_LEASE <= self.lease_seconds <= MAX_LEASE:
            raise SettingError(
                f"lease_seconds is {self.lease_seconds}", todo=f"Allowed are {MIN_LEASE} to {MAX_LEASE}."
            )

    @property
    def uid_parts(self) -> tuple[tuple[str, str], ...]:
        """What a uid is made of: (literal text, column behind it) in order; "" where none follows."""
        return template_parts(self.uid)

    @property
    def uid_columns(self) -> tuple[str, ...]:
        """The columns that a uid is made of, each once."""
        return tuple(dict.fromkeys(column for _, column in self.uid_parts if column))

    @property
    def tenants(self) -> tuple[str, ...]:
        """The declared tenants, in the order of the settings; the first one reports rows that belong to none."""
        return tenants_of(self.tenant)

    def database_url(self) -> str:
        """The URL to connect with. Secret: never print it.

        Raises:
            UsageError: the environment variable is not set.
        """
        return _resolved(self.url, self.url_env)


def template_parts(uid: str) -> tuple[tuple[str, str], ...]:
    """A uid setting as (literal text, column) pairs: a column's name alone, or a template with columns in braces.

    Raises:
        SettingError: a template that can't be read, or with anything but names in its braces.
    """
    if "{" not in uid and "}" not in uid:
        return (("", uid),)
    try:
        parts = list(Formatter().parse(uid))
    except ValueError as error:
        raise SettingError(f"the uid template can't be read: {error}", todo=_TEMPLATE) from None
    named = [name for _, name, _, _ in parts if name is not None]
    if not all(named) or not named or any(spec or how for _, _, spec, how in parts) or set("".join(named)) & set(".[]"):
        raise SettingError("the uid template has something else than columns in its braces", todo=_TEMPLATE)
    return tuple((text, name or "") for text, name, _, _ in parts)


def tenants_of(tenant: Given) -> tuple[str, ...]:
    """The tenants that a setting declares, in its order.

    Raises:
        SettingError: a column without a map, or a name that is none.
    """
    if tenant.column and not tenant.map:
        raise SettingError(
            "a tenant column needs a map that declares its tenants",
            todo='For example: tenant = { column = "bank", map = { "0017" = "bank-one" } }.',
        )
    names = tuple(dict.fromkeys(tenant.map.values())) if tenant.column else (tenant.value or DEFAULT_TENANT,)
    for name in names:
        try:
            check_name(name, "tenant")
        except UsageError as error:
            raise SettingError(error.what, todo=error.todo) from error
    return names


def _check_url(url: str, url_env: str) -> None:
    if bool(url) == bool(url_env):
        raise SettingError(
            "not exactly one of url and url_env is given",
            todo='Name the environment variable that holds the database URL: url_env = "INVOICES_URL".',
        )
    if has_password(url):
        raise SettingError(
            "url holds a password", todo="Put the URL into an environment variable and name that as url_env."
        )


def _resolved(url: str, url_env: str) -> str:
    if not url_env:
        return url
    found = os.environ.get(url_env, "")
    if not found:
        raise UsageError(
            f"the environment variable {url_env} is not set",
            todo=f"Set {url_env} to the database URL, for example postgresql://user:password@host/name.",
        )
    return found


def has_password(url: str) -> bool:
    """Whether a database URL seems to hold a password, as part of the authority or as a query parameter."""
    authority = url.partition("://")[2].partition("/")[0]
    user = authority.rpartition("@")[0]
    return ":" in user or "password=" in url.casefold() or "passwd=" in url.casefold()
