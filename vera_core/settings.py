"""The settings of a process: `vera.toml`, then `VERA_*` variables, then what the caller gives; the later wins.

docs/sources.md lists them all. What is fixed for a repository's life is no setting but stands in its config log. No
secret is a setting: a database URL with a password, or a token, is taken from where a setting says.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
import tempfile
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveInt, ValidationError

from vera_core.errors import UsageError
from vera_core.model import DEFAULT_TENANT, check_name
from vera_core.source.mapping import STRICT, ErasureTable, SettingError, SourceSettings

if TYPE_CHECKING:
    from collections.abc import Container, Mapping, Sequence

    from pydantic_core import ErrorDetails

DEFAULT_FILE = "vera.toml"
FILE_VARIABLE = "VERA_SETTINGS"
"""Names the settings file where no option does."""
PREFIX = "VERA_"
DELIMITER = "__"
"""Between the keys of nested tables in a variable's name."""
_SHOWN = 5
_WORDS = {
    "unexpected_keyword_argument": "there is no such setting",
    "extra_forbidden": "there is no such setting",
    "missing": "the setting is missing",
    "missing_argument": "the setting is missing",
}


def _who() -> str:
    """The account and machine that run this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # An account without a name, as containers have.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


class KeyServiceName(StrEnum):
    """Who keeps the key encryption key: OpenBao or Vault, or a file on this machine."""

    TRANSIT = "transit"
    LOCAL = "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """The key service of an encrypted repository (docs/encryption.md).

    Of `transit`: `address`, `key`, `mount`, `namespace`, `authority` and `plain_http` are those of
    `keys.transit.TransitOptions`; the token is in the environment variable `token_env` or in the file `token_file`,
    else in BAO_TOKEN or VAULT_TOKEN. Of `local`: `file`, the key file.

    Raises:
        SettingError: settings that contradict each other.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    service: KeyServiceName
    address: str = ""
    key: str = ""
    mount: str = "transit"
    namespace: str = ""
    authority: Path | None = None
    plain_http: bool = False
    token_env: str = ""
    token_file: Path | None = None
    file: Path | None = None

    def __post_init__(self) -> None:
        for path in (self.authority, self.token_file, self.file):
            if path is not None and not path.is_absolute():
                raise SettingError(f"{path} is not absolute", todo="Write the whole path.")
        if self.service is KeyServiceName.LOCAL:
            if self.file is None or self.address or self.key:
                raise SettingError("a local key service needs its file, and no address or key", todo="Give file.")
        elif not (self.address and self.key) or self.file is not None:
            raise SettingError(
                "a transit key service needs the server's address and its key's name, and no file",
                todo='For example: address = "https://openbao.example:8200", key = "vera".',
            )
        if self.token_env and self.token_file is not None:
            raise SettingError("both token_env and token_file are given", todo="Keep one of them.")


class Settings(BaseModel):
    """What a process works with; make it with `load`.

    `repository`: s3://bucket/prefix; `actor`: who the audit trail names; `tenant`: the one that commands mean;
    `spool`: a directory for shards being built; `freshness_seconds`: how old a slot's state may be for a reader;
    `workers`: threads that load and encode files; `erasure_hours`: how soon files must be out of sight after their
    erasure was asked for; `erasure_table`: where requests are that `vera erasures import` takes; `keys`: what wraps the
    keys of an encrypted repository.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, validate_default=True)

    repository: str = ""
    actor: str = Field(default_factory=_who, min_length=1, max_length=256)
    tenant: str = DEFAULT_TENANT
    spool: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()) / "vera-spool")
    freshness_seconds: NonNegativeFloat = 5.0
    workers: PositiveInt = 2
    erasure_hours: int = Field(default=48, ge=1, le=672)
    erasure_table: ErasureTable | None = None
    keys: KeySettings | None = None
    sources: dict[str, SourceSettings] = Field(default_factory=dict)

    @classmethod
    def load(cls, path: Path | None = None, **overrides: Any) -> Self:
        """Reads the settings. An override that is None counts as not given.

        Args:
            path: the settings file; else the one that VERA_SETTINGS names, else ./vera.toml if there is one.
            overrides: settings by name, as the options of a command give them.

        Raises:
            UsageError: naming file or variable, key and what to do.
        """
        file, content = _read(path)
        environment = _environment(cls.model_fields)
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            settings = cls(**_merged(_merged(content, environment), given))
        except ValidationError as error:
            raise _explained(error.errors(include_url=False, include_input=False), file, environment) from None
        for what, names in (("tenant", [settings.tenant]), ("source", list(settings.sources))):
            for name in names:
                check_name(name, what)
        if settings.spool.is_absolute():
            return settings
        base = file.resolve().parent if file is not None and "spool" in content else Path.cwd()
        return settings.model_copy(update={"spool": base / settings.spool})

    def source(self, name: str) -> SourceSettings:
        """The settings of a source.

        Raises:
            UsageError: there is none of that name.
        """
        if name not in self.sources:
            known = ", ".join(sorted(self.sources)) or "none"
            raise UsageError(
                f"there is no source {name!r} in the settings",
                todo=f"There is: {known}. docs/sources.md shows how to add one.",
            )
        return self.sources[name]

    def erasures_from(self) -> ErasureTable:
        """The table with erasure requests.

        Raises:
            UsageError: there is none in the settings.
        """
        if self.erasure_table is None:
            raise UsageError(
                "there is no erasure_table in the settings", todo="docs/sources.md shows how to describe one."
            )
        return self.erasure_table


def _read(path: Path | None) -> tuple[Path | None, dict[str, Any]]:
    """The settings file and what is in it; none and nothing where there is no ./vera.toml."""
    named = path or (Path(os.environ[FILE_VARIABLE]) if os.environ.get(FILE_VARIABLE) else None)
    file = named or Path(DEFAULT_FILE)
    try:
        return file, tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if named is None:
            return None, {}
        raise UsageError(
            "there is no such settings file", todo="Check --settings or VERA_SETTINGS.", file=file
        ) from None
    except OSError as error:
        raise UsageError(f"the settings file can't be read: {error.strerror}", file=file) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the settings file is no TOML: {error}", todo="Correct it.", file=file) from None


def _environment(fields: Container[str]) -> dict[str, Any]:
    """What `VERA_*` variables say, as tables; one that names none of the settings `fields` is not for us."""
    found: dict[str, Any] = {}
    for name in sorted(os.environ):
        keys = name.lower().removeprefix(PREFIX.lower()).split(DELIMITER)
        if name.upper().startswith(PREFIX) and keys[0] in fields:
            value = _value(os.environ[name])
            for key in reversed(keys):
                value = {key: value}
            found = _merged(found, value)
    return found


def _value(text: str) -> Any:
    """A variable's value: a list or a table where it is one in JSON, else the text; the model makes a number of it."""
    try:
        return json.loads(text) if text.startswith(("[", "{")) else text
    except ValueError:
        return text


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Both, table by table; where both have a key, `high` counts."""
    both = dict(low)
    for key, value in high.items():
        mine = both.get(key)
        both[key] = _merged(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return both


def _explained(errors: Sequence[ErrorDetails], file: Path | None, environment: Mapping[str, Any]) -> UsageError:
    """The errors of a validation as one of ours; the first with its place, the next ones below it."""
    explained = [_explain(error, file, environment) for error in errors[:_SHOWN]]
    first = explained[0]
    for other in explained[1:]:
        first.todo += f"\nAlso: {other}"
    if len(errors) > _SHOWN:
        first.todo += f"\nAnd {len(errors) - _SHOWN} more."
    return first


def _explain(error: ErrorDetails, file: Path | None, environment: Mapping[str, Any]) -> UsageError:
    keys = [str(part) for part in error["loc"]]
    cause = error.get("ctx", {}).get("error")
    if isinstance(cause, SettingError):
        what, todo = cause.what, cause.todo
    else:
        what, todo = _WORDS.get(error["type"], error["msg"]), "Correct it; docs/sources.md lists all settings."
    if _holds(environment, keys):
        return UsageError(what, todo=todo, variable=PREFIX + DELIMITER.join(keys).upper())
    return UsageError(what, todo=todo, file=file, key=".".join(keys))


def _holds(tree: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether the environment gives the value at `keys`."""
    value: Any = tree
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            return False
        value = value[key]
    return True
