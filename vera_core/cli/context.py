"""What a command works on: the settings as file, environment and options give them, and the bucket that a URI names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vera_core.settings import Settings
from vera_core.store.s3 import S3Store, parse_uri

if TYPE_CHECKING:
    from pathlib import Path


def load_settings(file: Path | None = None, *, repository: str | None = None, tenant: str | None = None) -> Settings:
    """The settings, with what the options of a command say; an option that is None says nothing.

    Raises:
        UsageError: naming what is wrong, and where.
    """
    return Settings.load(file, repository=repository, tenant=tenant)


def connect(uri: str) -> tuple[S3Store, str]:
    """The bucket of s3://bucket/prefix, and the prefix.

    Raises:
        UsageError: it is no such URI.
    """
    bucket, prefix = parse_uri(uri)
    return S3Store(bucket), prefix
