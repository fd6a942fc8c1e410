"""The repository as a Dagster resource: the one thing that steps, checks and sensors share.

Settings decide what it is; Dagster shows it on the code location's resources page. Secrets stay in environment
variables. What is done with it is the operations' business.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster import ConfigurableResource
from dagster_aws.s3 import S3Resource
from pydantic import Field

from vera_core.errors import UsageError
from vera_core.operations.opening import KeyOpener, named_repository, workplace
from vera_core.operations.repository import Repository, Workplace
from vera_core.settings import Settings
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import Access, S3Options

if TYPE_CHECKING:
    from vera_core.settings import KeySettings


class RepositoryResource(ConfigurableResource[Any]):
    """The repository, opened once per process. Unset fields of `s3` are looked up the AWS SDK's own way."""

    uri: str = Field(description="The repository, as s3://bucket/prefix.")
    actor: str = Field(description="Who acts, as the audit trail names it.")
    spool: str = Field(description="A local directory for shards while they are built.")
    freshness_seconds: float = Field(default=5.0, description="How old a slot's state may be for a reader.")
    threads: int = Field(default=2, description="How many threads load files.")
    key_service: dict[str, Any] = Field(
        default_factory=dict,
        description="The key service of an encrypted repository, as [keys] in vera.toml. It holds no secret.",
    )
    s3: S3Resource = Field(default_factory=S3Resource, description="Endpoint, region and credentials of the store.")

    @classmethod
    def named_by(cls, settings: Settings) -> RepositoryResource:
        """The repository that the settings name.

        Raises:
            UsageError: they name none.
        """
        place = workplace(settings)
        return cls(
            uri=named_repository(settings),
            actor=place.actor,
            spool=str(place.spool),
            freshness_seconds=place.freshness_seconds,
            threads=place.threads,
            key_service={} if settings.keys is None else _given(settings.keys),
        )

    def open(self) -> Repository:
        """The repository; the first call of the process opens it.

        Raises:
            NotFoundError: there is none.
            UsageError: the URI or the S3 settings are wrong.
        """
        return _open(self.uri, self.workplace(), s3_options(self.s3))

    def workplace(self) -> Workplace:
        """What the process brings along."""
        keys = Settings.model_validate({"keys": self.key_service or None}).keys
        return Workplace(
            actor=self.actor,
            spool=Path(self.spool),
            freshness_seconds=self.freshness_seconds,
            threads=self.threads,
            key_service=None if keys is None else KeyOpener(keys),
        )


def _given(keys: KeySettings) -> dict[str, Any]:
    """The settings that are not left out, as texts where they are paths."""
    return {name: value if isinstance(value, bool) else str(value) for name, value in asdict(keys).items() if value}


@lru_cache(maxsize=8)
def _open(uri: str, place: Workplace, options: S3Options) -> Repository:
    return Repository.open(uri, replace(place, buckets=partial(S3Store, options=options)))


def s3_options(resource: S3Resource) -> S3Options:
    """What dagster-aws's S3 resource says, as the store takes it.

    Raises:
        UsageError: it asks for unsigned requests or unverified TLS, with which no archive is safe.
    """
    if resource.use_unsigned_session or not resource.use_ssl or resource.verify is False:
        raise UsageError(
            "the S3 resource asks for unsigned requests or for TLS that is not verified",
            todo="Leave use_unsigned_session, use_ssl and verify alone; give a CA bundle as AWS_CA_BUNDLE.",
        )
    access = Access(
        endpoint=resource.endpoint_url or "",
        region=resource.region_name or "",
        profile=resource.profile_name or "",
        key_id=resource.aws_access_key_id or "",
        secret=resource.aws_secret_access_key or "",
        token=resource.aws_session_token or "",
    )
    return S3Options(attempts=resource.max_attempts, access=access)
