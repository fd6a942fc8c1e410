"""Connections to S3: one AWS session, and from it a boto3 client and an obstore that mean the same bucket.

Credentials, endpoint, region, CA bundle, profile and proxies come the AWS SDK's own way (environment, ~/.aws/config,
instance roles); whatever boto3 resolves is handed to obstore, so that the two can't disagree. Requests belong in s3.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from obstore.auth.boto3 import Boto3CredentialProvider
from obstore.store import S3Store as RangeClient

from vera_core.errors import UsageError

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from obstore.store import ClientConfig

_AWS_HOST = re.compile(r"s3([.-][a-z0-9-]+)?\.amazonaws\.com(\.cn)?")
CREDENTIAL_LIFETIME = timedelta(minutes=5)
"""How long obstore keeps credentials before it asks the SDK, which renews them, again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Where S3 is and who asks, for whoever keeps that elsewhere than the AWS SDK looks; "" is the SDK's own way.

    A key id needs its secret; both win over a profile, as they do in the SDK.
    """

    endpoint: str = ""
    region: str = ""
    profile: str = ""
    key_id: str = ""
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class S3Options:
    """How S3 is spoken to.

    `connect_seconds` and `read_seconds` bound one attempt's silence, `attempts` and `retry_seconds` the retries,
    the first of which waits about `backoff_seconds`; `pool_size` is the number of connections kept; of ranges that are
    asked for together, `ranges_in_flight` are under way at once; a multipart upload keeps `parts_in_flight` parts of
    `part_size` bytes in memory. `tells_markers`: a 404 that names no delete marker means there is none; None: true of
    AWS, else not known (`vera probe` tells).
    """

    connect_seconds: float = 5.0
    read_seconds: float = 60.0
    attempts: int = 6
    retry_seconds: float = 60.0
    backoff_seconds: float = 0.1
    pool_size: int = 64
    ranges_in_flight: int = 16
    part_size: int = 16 << 20
    parts_in_flight: int = 4
    tells_markers: bool | None = None
    access: Access = Access()


@dataclass(frozen=True, slots=True)
class Connection:
    """A session's boto3 client, and whether it speaks to AWS itself rather than to another store."""

    session: boto3.Session
    client: S3Client
    is_aws: bool
    ca_bundle: str | None


def connect(options: S3Options) -> Connection:
    """Resolves the settings as the AWS SDK does and makes the client; no request is sent.

    Raises:
        UsageError: the settings are incomplete or wrong (unknown profile, no credentials).
    """
    try:
        core = _session(options.access)
        session = boto3.Session(botocore_session=core)
        if session.get_credentials() is None:
            raise UsageError(
                "no AWS credentials were found",
                todo="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or use an instance role.",
            )
        ca_bundle = core.get_config_variable("ca_bundle")
        endpoint = options.access.endpoint or None
        client = session.client("s3", config=_config(options), endpoint_url=endpoint)
        is_aws = _AWS_HOST.fullmatch(urlsplit(client.meta.endpoint_url).hostname or "") is not None
        chosen: dict[str, str] = getattr(client.meta.config, "s3", None) or {}  # of the profile; absent from the stubs
        if not is_aws and "addressing_style" not in chosen:
            config = _config(options).merge(Config(s3={"addressing_style": "path"}))
            client = session.client("s3", config=config, endpoint_url=endpoint)
        return Connection(session, client, is_aws, ca_bundle)
    except BotoCoreError as error:
        raise UsageError(f"the AWS settings are wrong: {error}", todo="Check AWS_* and ~/.aws/config.") from error


def _session(access: Access) -> botocore.session.Session:
    core = botocore.session.Session(profile=access.profile or None)
    if access.region:
        core.set_config_variable("region", access.region)
    if access.key_id:
        core.set_credentials(access.key_id, access.secret, access.token or None)
    return core


def _config(options: S3Options) -> Config:
    return Config(
        connect_timeout=options.connect_seconds,
        read_timeout=options.read_seconds,
        max_pool_connections=options.pool_size,
        retries={"total_max_attempts": 1},
        user_agent_extra="vera",
    )


def range_client(connection: Connection, bucket: str, region: str, options: S3Options) -> RangeClient:
    """An obstore for range reads: same credentials, endpoint, region, CA bundle; no retries of its own.

    Args:
        connection: what boto3 resolved.
        bucket: the bucket.
        region: the bucket's own region, which on AWS may differ from the session's.
        options: timeouts and pool size.
    """
    virtual = connection.is_aws and "." not in bucket
    endpoint = connection.client.meta.endpoint_url
    if virtual:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        endpoint = f"https://{bucket}.s3.{region}.{domain}"
    client_options: ClientConfig = {
        "allow_http": endpoint.startswith("http://"),
        "connect_timeout": timedelta(seconds=options.connect_seconds),
        "timeout": timedelta(seconds=options.read_seconds),
        "pool_max_idle_per_host": str(options.pool_size),
    }
    if connection.ca_bundle:
        client_options["root_certificate"] = Path(connection.ca_bundle).read_bytes()
    return RangeClient(
        bucket,
        config={"endpoint": endpoint, "region": region, "virtual_hosted_style_request": virtual},
        client_options=client_options,
        retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=options.retry_seconds)},
        credential_provider=Boto3CredentialProvider(connection.session, ttl=CREDENTIAL_LIFETIME),
    )
