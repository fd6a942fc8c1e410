"""The tag by which a lifecycle rule of the bucket knows superseded shards (docs/protocol.md, "Cold storage").

A collection (gc.py) decides which versions get it. Nothing depends on it: a store without tags keeps all where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from vera_core.errors import UnavailableError, VeraError
from vera_core.operations.report import Finding
from vera_core.store.base import MissingObjectError
from vera_core.store.cold import SUPERSEDED

if TYPE_CHECKING:
    from collections.abc import Callable

    from vera_core.store.base import ObjectStore

T = TypeVar("T")
NAME, VALUE = SUPERSEDED


@dataclass(slots=True)
class ColdTags:
    """The tags of superseded versions. `trouble` is why the store can't be asked: then it is not asked any more."""

    store: ObjectStore
    trouble: VeraError | None = None

    def is_missing(self, key: str, version_id: str) -> bool:
        """Whether the version has not got its tag; False where that can't be known, or it is gone."""
        return self._tried(lambda: self.store.get_tags(key, version_id).get(NAME) != VALUE, otherwise=False)

    def set(self, key: str, version_id: str) -> bool:
        """Adds the tag to what the version has; whether it is there now."""

        def add() -> bool:
            tags = self.store.get_tags(key, version_id)
            self.store.set_tags(key, version_id, {**tags, NAME: VALUE})
            return True

        return self._tried(add, otherwise=False)

    def findings(self) -> list[Finding]:
        """What is to be told of `trouble`."""
        if self.trouble is None:
            return []
        return [
            Finding(
                what=f"superseded shards can't be tagged for cold storage: {self.trouble.what}",
                key=self.trouble.where.get("key", ""),
                todo="`vera probe` tells whether the store takes object tags; it needs s3:GetObjectVersionTagging and "
                "s3:PutObjectVersionTagging. Without, these shards stay in their storage class until they are deleted.",
                severity="warning",
            )
        ]

    def _tried(self, ask: Callable[[], T], *, otherwise: T) -> T:
        if self.trouble is not None:
            return otherwise
        try:
            return ask()
        except UnavailableError:
            raise
        except MissingObjectError:
            return otherwise
        except VeraError as error:
            self.trouble = error
            return otherwise
