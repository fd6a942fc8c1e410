"""A bucket's settings as S3 tells them: versioning, Object Lock, default retention, lifecycle. probe.py judges them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from vera_core.errors import NotFoundError
from vera_core.store.base import BucketState, LifecycleRule
from vera_core.store.s3_errors import error_code

if TYPE_CHECKING:
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import DefaultRetentionTypeDef, LifecycleRuleOutputTypeDef

    from vera_core.store.s3_errors import Caller, Place

NO_LOCK = frozenset({"NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError", "InvalidRequest"})
"""How stores say that a version, or a bucket, has no lock."""
NO_HOLD = NO_LOCK | {"NoSuchObjectLegalHold"}
"""AWS knows one code for both; SeaweedFS says which it is."""
_NO_LIFECYCLE = "NoSuchLifecycleConfiguration"
_NOT_OFFERED = frozenset({"NotImplemented", "501", "MethodNotAllowed", "405"})


def read_bucket_state(client: S3Client, call: Caller, place: Place) -> BucketState:
    """The state of the bucket `place.bucket`; all false where there is none."""
    try:
        call(place, lambda: client.head_bucket(Bucket=place.bucket))
    except NotFoundError:
        return BucketState(
            exists=False,
            versioning=False,
            object_lock=False,
            default_retention=None,
            expirations=None,
            transitions=None,
        )
    versioning = call(place, lambda: client.get_bucket_versioning(Bucket=place.bucket))
    object_lock, default_retention = call(place, lambda: _object_lock(client, place.bucket))
    rules = call(place, lambda: _rules(client, place.bucket))
    return BucketState(
        exists=True,
        versioning=versioning.get("Status") == "Enabled",
        object_lock=object_lock,
        default_retention=default_retention,
        expirations=None if rules is None else tuple(_described(rule) for rule in rules if _removes_objects(rule)),
        transitions=None
        if rules is None
        else tuple(_described(rule, moves) for rule in rules if (moves := _storage_classes(rule))),
    )


def _object_lock(client: S3Client, bucket: str) -> tuple[bool, str | None]:
    try:
        reply = client.get_object_lock_configuration(Bucket=bucket)
    except ClientError as error:
        if error_code(error) in NO_LOCK:
            return False, ""
        if error_code(error) in _NOT_OFFERED:
            return False, None
        raise
    configuration = reply.get("ObjectLockConfiguration", {})
    default = configuration.get("Rule", {}).get("DefaultRetention")
    return configuration.get("ObjectLockEnabled") == "Enabled", _retention_text(default) if default else ""


def _retention_text(default: DefaultRetentionTypeDef) -> str:
    period = f"{default['Years']} years" if "Years" in default else f"{default.get('Days', 0)} days"
    return f"{default.get('Mode', 'unknown mode')} for {period}"


def _rules(client: S3Client, bucket: str) -> list[LifecycleRuleOutputTypeDef] | None:
    """The lifecycle rules that are on; None where the store can't say."""
    try:
        reply = client.get_bucket_lifecycle_configuration(Bucket=bucket)
    except ClientError as error:
        if error_code(error) == _NO_LIFECYCLE:
            return []
        if error_code(error) in _NOT_OFFERED:
            return None
        raise
    return [rule for rule in reply.get("Rules", []) if rule.get("Status") == "Enabled"]


def _removes_objects(rule: LifecycleRuleOutputTypeDef) -> bool:
    expiration = rule.get("Expiration", {})
    return "Days" in expiration or "Date" in expiration or "NoncurrentVersionExpiration" in rule


def _storage_classes(rule: LifecycleRuleOutputTypeDef) -> tuple[str, ...]:
    """The storage classes into which a rule moves objects."""
    moves = [*rule.get("Transitions", []), *rule.get("NoncurrentVersionTransitions", [])]
    return tuple(sorted({str(move.get("StorageClass", "unknown")) for move in moves}))


def _described(rule: LifecycleRuleOutputTypeDef, storage_classes: tuple[str, ...] = ()) -> LifecycleRule:
    place = rule.get("Filter", {})
    both = place.get("And", {})
    prefix = both.get("Prefix", "") or place.get("Prefix", "") or rule.get("Prefix", "")
    tags = [*both.get("Tags", []), *([place["Tag"]] if "Tag" in place else [])]
    named = tuple(sorted((tag["Key"], tag["Value"]) for tag in tags))
    return LifecycleRule(rule.get("ID", ""), prefix, named, storage_classes)
