"""What people ask for and decide about, as locked, chained records of each request: its log in the store.

What a request is about, and what its records mean, is for erasures.py and disposals.py to say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from vera_core.errors import IncompatibleError, IntegrityError, NotFoundError
from vera_core.slots import MALFORMED
from vera_core.store.chain import ChainedLog, Head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import datetime

    from vera_core.keyspace import Keyspace
    from vera_core.model import Lock
    from vera_core.store.base import ObjectStore
    from vera_core.store.chain import LogOptions, Record


def same_person(one: str, other: str) -> bool:
    """Whether two actors' names are those of one person: case and spaces around them don't matter."""
    return one.strip().casefold() == other.strip().casefold()


@dataclass(frozen=True, slots=True)
class Request:
    """What every request says of itself as of its last record.

    `approver` and `decliner` are "" as long as nobody was.
    """

    tenant: str
    id: str
    reason: str
    requester: str
    approver: str = field(default="", kw_only=True)
    decliner: str = field(default="", kw_only=True)

    def is_party(self, who: str) -> bool:
        """Whether `who` asked for it, and so can't approve it; case and spaces don't matter."""
        return same_person(who, self.requester)


R = TypeVar("R", bound=Request)


def apply_approve(before: R | None, record: Record) -> R:
    """The request after an `approve` record, which counts for nothing if it is of a party, or comes too late."""
    assert before is not None
    who = record.body["actor"]
    if before.is_party(who) or before.decliner or before.approver:
        return before
    return replace(before, approver=who)


def apply_decline(before: R | None, record: Record) -> R:
    """The request after a `decline` record.

    Raises:
        TypeError: it does not say who and why.
    """
    assert before is not None
    reason, who = record.body["reason"], record.body["actor"]
    if not isinstance(reason, str) or not isinstance(who, str):
        raise TypeError("a decline says who and why")
    return replace(before, decliner=before.decliner or who)


def checked_place(place: Any, among: Sequence[object], what: str) -> int:
    """The place, as a record says it, of one of the request's `what`.

    Raises:
        ValueError: there is none at it.
    """
    if not isinstance(place, int) or not 0 <= place < len(among):
        raise ValueError(f"{place!r} is none of the request's {what}")
    return place


@dataclass(frozen=True, slots=True)
class Folding(Generic[R]):
    """What each type of record does to a request, and what is said of a record that can't be understood.

    `of` is what it is a record of, `unexpected` what is said of its type, `todo` the next step where it is damaged.
    """

    handlers: Mapping[str, Callable[[R | None, Record], R]]
    of: str
    unexpected: str
    todo: str

    def __call__(self, before: R | None, record: Record) -> R:
        """The request after `record`.

        Raises:
            IncompatibleError: an unknown record type.
            IntegrityError: the record can't be understood.
        """
        handler = self.handlers.get(record.type)
        if handler is None or (before is None) != (record.type == "request"):
            raise IncompatibleError(
                f"record {record.number} of {self.of} is of type {record.type!r}, {self.unexpected}",
                todo="Use a newer VERA.",
            )
        try:
            return handler(before, record)
        except MALFORMED as error:
            raise IntegrityError(
                f"record {record.number} of {self.of} can't be understood: {error!r}",
                todo=self.todo, version_id=record.version_id,
            ) from error  # fmt: skip


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
        """The request after `record`: see `Folding`."""

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
