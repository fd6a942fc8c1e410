"""Opening what the settings name: the repository and its key service. Sources are opened in sources.py."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from vera_core.errors import RestrictedError, UsageError
from vera_core.keys.local import LocalKeys
from vera_core.operations.repository import Repository, Workplace
from vera_core.settings import KeyServiceName

if TYPE_CHECKING:
    from vera_core.keys.service import KeyService
    from vera_core.settings import KeySettings, Settings

TOKEN_VARIABLES = ("BAO_TOKEN", "VAULT_TOKEN")
"""Where a token is looked for, in this order, if no setting says where it is."""


@dataclass(frozen=True, slots=True)
class KeyOpener:
    """Opens the key service that settings describe. Equal for equal settings."""

    settings: KeySettings

    def __call__(self) -> KeyService:
        """The key service; no request is sent to it.

        Raises:
            UsageError: the settings are wrong.
            VeraError: as `LocalKeys`.
        """
        settings = self.settings
        if settings.service is KeyServiceName.LOCAL:
            assert settings.file is not None
            return LocalKeys(settings.file)
        # The client of the server is a fifth of what a command costs to start: only for who asks the server.
        transit = import_module("vera_core.keys.transit")
        options = transit.TransitOptions(
            address=settings.address,
            key=settings.key,
            mount=settings.mount,
            namespace=settings.namespace,
            authority=settings.authority,
            plain_http=settings.plain_http,
        )
        service: KeyService = transit.TransitKeys(options, token=self.token)
        return service

    def token(self) -> str:
        """The token of the key service, as it is now. Secret: never print it.

        Raises:
            RestrictedError: there is none.
        """
        settings = self.settings
        if settings.token_file is not None:
            try:
                return settings.token_file.read_text("ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise RestrictedError(
                    "the file with the key service's token can't be read",
                    todo="Let the agent that renews it write it there, readable for this process.",
                    file=settings.token_file,
                ) from error
        names = (settings.token_env,) if settings.token_env else TOKEN_VARIABLES
        token = next((os.environ[name] for name in names if os.environ.get(name)), "")
        if not token:
            raise RestrictedError(
                "there is no token for the key service",
                todo=f"Set {' or '.join(names)}, or name a file as token_file under [keys] (docs/encryption.md).",
            )
        return token


def workplace(settings: Settings) -> Workplace:
    """What the settings say of this process."""
    return Workplace(
        actor=settings.actor,
        spool=settings.spool,
        freshness_seconds=settings.freshness_seconds,
        threads=settings.workers,
        key_service=None if settings.keys is None else KeyOpener(settings.keys),
    )


def named_repository(settings: Settings) -> str:
    """The repository's URI.

    Raises:
        UsageError: the settings name none.
    """
    if not settings.repository:
        raise UsageError(
            "no repository is named",
            todo="Use --repository s3://bucket/prefix, set VERA_REPOSITORY, or write repository = ... into vera.toml.",
        )
    return settings.repository


def open_repository(settings: Settings) -> Repository:
    """The repository that the settings name.

    Raises:
        UsageError: they name none.
        NotFoundError: there is none.
    """
    return Repository.open(named_repository(settings), workplace(settings))
