"""Listings of S3, page by page, each page fetched when the one before is used up, each with its own retries."""

from __future__ import annotations

import re
from datetime import UTC
from functools import partial
from typing import TYPE_CHECKING, Any

from vera_core.errors import IntegrityError
from vera_core.store.base import VersionInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import DeleteMarkerEntryTypeDef, ListObjectVersionsOutputTypeDef, ObjectVersionTypeDef

    from vera_core.store.s3_errors import Caller, Place

_ORDER = "VeraOrder"
_ELEMENT = re.compile(rb"<(Version|DeleteMarker)[\s>]")
"""Opening tags of the two kinds; in keys `<` is escaped, so nothing else can match."""


def object_pages(
    client: S3Client, call: Caller, place: Place, start_after: str, *, trusted: bool
) -> Iterator[VersionInfo]:
    """Current objects under `place.key` after the key `start_after`, in key order.

    Only a `trusted` store skips keys itself: others (SeaweedFS, measured) compare path by path and skip too much.
    """
    arguments: dict[str, Any] = {"StartAfter": start_after} if start_after and trusted else {}
    while True:
        reply = call(place, partial(client.list_objects_v2, Bucket=place.bucket, Prefix=place.key, **arguments))
        for item in reply.get("Contents", []):
            if item["Key"].encode() > start_after.encode():
                yield VersionInfo(item["Key"], "", item["Size"], item["LastModified"].astimezone(UTC), item["ETag"])
        if not reply["IsTruncated"]:
            return
        arguments = {"ContinuationToken": reply["NextContinuationToken"]}


def prefix_pages(client: S3Client, call: Caller, place: Place) -> Iterator[str]:
    """The next components under `place.key` with any version or marker below, with their trailing slash."""
    arguments: dict[str, Any] = {"Delimiter": "/"}
    while True:
        reply = call(place, partial(client.list_object_versions, Bucket=place.bucket, Prefix=place.key, **arguments))
        yield from (item["Prefix"] for item in reply.get("CommonPrefixes", []))
        if not reply["IsTruncated"]:
            return
        arguments = {"Delimiter": "/", **_next_page(reply)}


def version_pages(client: S3Client, call: Caller, place: Place) -> Iterator[VersionInfo]:
    """Versions and delete markers under `place.key`, in key order, newest first within a key."""
    arguments: dict[str, Any] = {}
    while True:
        reply = call(place, partial(client.list_object_versions, Bucket=place.bucket, Prefix=place.key, **arguments))
        yield from _in_order(reply, place)
        if not reply["IsTruncated"]:
            return
        arguments = _next_page(reply)


def _next_page(reply: ListObjectVersionsOutputTypeDef) -> dict[str, str]:
    """Where a version listing goes on."""
    page = {"KeyMarker": reply["NextKeyMarker"]}
    if reply.get("NextVersionIdMarker"):
        page["VersionIdMarker"] = reply["NextVersionIdMarker"]
    return page


def watch_version_order(client: S3Client) -> None:
    """Makes `client` keep the order of a version listing, which boto3 loses: it splits versions from delete markers."""
    client.meta.events.register("before-parse.s3.ListObjectVersions", _keep_order)


def _keep_order(response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object) -> None:
    customized_response_dict[_ORDER] = _ELEMENT.findall(response_dict["body"])


def _in_order(reply: ListObjectVersionsOutputTypeDef, place: Place) -> Iterator[VersionInfo]:
    versions, markers = reply.get("Versions", []), reply.get("DeleteMarkers", [])
    kinds: list[bytes] = dict(reply)[_ORDER]  # type: ignore[assignment] # set by _keep_order
    if (kinds.count(b"Version"), kinds.count(b"DeleteMarker")) != (len(versions), len(markers)):
        raise IntegrityError(
            "the store's version listing can't be read",
            todo="Run `vera probe` on the store and report it.",
            bucket=place.bucket,
            key=place.key,
        )
    next_version, next_marker = iter(versions), iter(markers)
    for kind in kinds:
        yield _version(next(next_version)) if kind == b"Version" else _marker(next(next_marker))


def _version(item: ObjectVersionTypeDef) -> VersionInfo:
    return VersionInfo(
        item["Key"],
        item["VersionId"],
        item["Size"],
        item["LastModified"].astimezone(UTC),
        item["ETag"],
        is_latest=item["IsLatest"],
    )


def _marker(item: DeleteMarkerEntryTypeDef) -> VersionInfo:
    return VersionInfo(
        item["Key"],
        item["VersionId"],
        0,
        item["LastModified"].astimezone(UTC),
        is_latest=item["IsLatest"],
        is_delete_marker=True,
    )
