"""Where keyrings and tenant keys lie: beside their shards in the repository's own bucket, and in its registered copies.

What lies there and when it changes is the business of keyrings.py and tenant_keys.py.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from vera_core.errors import NotFoundError, RestrictedError, UnavailableError
from vera_core.keyspace import Keyspace
from vera_core.store.base import MissingObjectError
from vera_core.store.s3 import parse_uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vera_core.operations.repository import Workplace
    from vera_core.slots import ShardRef
    from vera_core.store.base import ObjectStore

_SHARD_PARTS = 5
"""Path components of a shard's key below the repository's prefix: t/<tenant>/<day>/<index>/<name>."""


class KeyPlace(NamedTuple):
    """A bucket and prefix with the keys of a repository, under the same names as in the repository itself."""

    uri: str
    store: ObjectStore
    keys: Keyspace

    def keyring(self, shard: ShardRef) -> str:
        """The key of the shard's keyring here; in the repository's own bucket it lies beside the shard."""
        parts = shard.key.removesuffix(".vera").rsplit("/", _SHARD_PARTS)[-_SHARD_PARTS:]
        return f"{self.keys.root}{'/'.join(parts)}.keys"

    @contextmanager
    def reached(self) -> Iterator[None]:
        """Tells, of an error that the store raises in the block, which place it is and what may be done about it.

        Raises:
            UnavailableError: the place can't be reached, denies access, or its bucket is gone.
            MissingObjectError: what was asked for is not there.
        """
        try:
            yield
        except (UnavailableError, RestrictedError, NotFoundError) as error:
            if isinstance(error, MissingObjectError) or "place" in error.where:
                raise
            raise UnavailableError(
                f"a place that keeps the repository's keys can't be used: {error.what}",
                todo="Make it reachable and run this again. A copy that is gone for good: `vera keys copies remove`.",
                **error.where, place=self.uri,
            ) from error  # fmt: skip


def open_place(workplace: Workplace, uri: str) -> KeyPlace:
    """The place that s3://bucket/prefix names; no request is sent.

    Raises:
        UsageError: it is no such URI.
    """
    bucket, prefix = parse_uri(uri)
    return KeyPlace(uri, workplace.buckets(bucket), Keyspace(prefix))
