"""What people ask for and decide about, as locked, chained records of each request: its log in the store.

What a request is about, and what its records mean, is for erasures.py and disposals.py to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

from vera_core.errors import IntegrityError, NotFoundError
from vera_core.store.chain import ChainedLog, Head

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from vera_core.keyspace import Keyspace
    from vera_core.model import Lock
    from vera_core.store.base import ObjectStore
    from vera_core.store.chain import LogOptions, Record


class Request(Protocol):
    """What every request says of itself."""

    @property
    def tenant(self) -> str:
        """Whose it is."""
        ...

    @property
    def id(self) -> str:
        """Its id among the tenant's."""
        ...


R = TypeVar("R", bound=Request)


def same_person(one: str, other: str) -> bool:
    """Whether two actors' names are those of one person: case and spaces around them don't matter."""
    return one.strip().casefold() == other.strip().casefold()


@dataclass(slots=True)
class DecisionLog(ABC, Generic[R]):
    """The log of one request, with the request as of the last `load`, `refresh` or `append`."""

    WHAT: ClassVar[str]
    """What sort of request it is, for errors."""
    LISTED_BY: ClassVar[str]
    """The command that lists them."""

    store: ObjectStore
    keys: Keyspace
    tenant: str
    id: str
    options: LogOptions
    head: Head = field(default_factory=Head)
    request: R | None = None

    @abstractmethod
    def prefix(self) -> str:
        """Where its records lie."""

    @abstractmethod
    def key(self, number: int) -> str:
        """The key of a record."""

    @abstractmethod
    def fold(self, before: R | None, record: Record) -> R:
        """The request after `record`."""

    def load(self) -> R | None:
        """The request from its whole log; None where there is none of that id.

        Raises:
            IntegrityError, IncompatibleError: it can't be trusted: nothing is done by it.
        """
        self.head, self.request = Head(), None
        self._take(self._chain.read())
        return self.request

    def existing(self) -> R:
        """As `load`.

        Raises:
            NotFoundError: there is no request of that id.
        """
        found = self.load()
        if found is None:
            raise NotFoundError(
                f"there is no such {self.WHAT}", todo=f"`{self.LISTED_BY}` lists them.",
                request=self.id, tenant=self.tenant,
            )  # fmt: skip
        return found

    def refresh(self) -> None:
        """Takes what was appended since; one request in the usual case."""
        self._take(self._chain.read_from(self.head))

    def append(self, body: Mapping[str, Any], *, lock: Lock | None, now: datetime) -> None:
        """Appends a record planned on `request`, and applies it.

        Raises:
            LostAppendError: somebody else's record came first: refresh and plan again.
        """
        self._take([self._chain.append(self.head, body, lock=lock, now=now)])

    @property
    def _chain(self) -> ChainedLog:
        return ChainedLog(self.store, self.prefix(), self.key, self.options)

    def _take(self, records: Iterable[Record]) -> None:
        for record in records:
            request = self.fold(self.request, record)
            if (request.tenant, request.id) != (self.tenant, self.id):
                raise IntegrityError(
                    f"the request says that it is {request.id!r} of tenant {request.tenant!r}",
                    todo="Somebody copied its record here; nothing is done by it.", request=self.id,
                )  # fmt: skip
            self.request, self.head = request, Head(record.number, record.digest)
