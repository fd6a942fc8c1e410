"""The one tree of errors: what happened, where, and what to do next.

Every error that VERA raises on purpose is a `VeraError`. Its `kind` alone decides the exit code of the command line and
the HTTP status of the service (docs/exit-codes.md), so two surfaces can't disagree. Whatever else escapes is a bug.
"""

from __future__ import annotations

from enum import Enum


class Kind(Enum):
    """What sort of failure it is: (exit code, HTTP status)."""

    USAGE = (2, 400)
    NOT_FOUND = (3, 404)
    ERASED = (4, 410)
    RESTRICTED = (5, 423)
    INTEGRITY = (6, 502)
    CONFLICT = (7, 409)
    UNSAFE_STORE = (8, 501)
    UNAVAILABLE = (9, 503)
    REJECTS = (10, 422)
    INCOMPATIBLE = (11, 505)

    @property
    def exit_code(self) -> int:
        """Process exit code, 2..11 (0 is success, 1 a bug in VERA, 130 an interrupt)."""
        return self.value[0]

    @property
    def http_status(self) -> int:
        """HTTP status code of the same failure."""
        return self.value[1]


class VeraError(Exception):
    """An error that a person can act on.

    Args:
        what: one sentence that states what is wrong, without a full stop.
        todo: the next step for the person who reads it, as a sentence; empty only where there is none.
        where: names of the things concerned (bucket, key, version_id, uid, entry, slot, source, ...); None values are
            dropped.
    """

    kind: Kind = Kind.USAGE

    def __init__(self, what: str, *, todo: str = "", **where: object) -> None:
        self.what = what
        self.todo = todo
        self.where = {name: str(value) for name, value in where.items() if value is not None}
        super().__init__(what)

    def __str__(self) -> str:
        place = ", ".join(f"{name}={value}" for name, value in self.where.items())
        text = f"{self.what} ({place})" if place else self.what
        return f"{text}. {self.todo}" if self.todo else text

    def to_json(self) -> dict[str, object]:
        """The error as one JSON object: kind, what, where, todo."""
        return {"kind": self.kind.name.lower(), "what": self.what, "where": self.where, "todo": self.todo}


class UsageError(VeraError):
    """The call or the settings are wrong; nothing was done."""


class BadUidError(UsageError):
    """The uid is not 1 to 512 bytes of UTF-8 without control characters."""


class BadTimeError(UsageError):
    """The time is naive, out of range or disagrees with the uid's own time."""


class NotFoundError(VeraError):
    """No such repository, object, slot, file or version."""

    kind = Kind.NOT_FOUND


class ErasedError(VeraError):
    """The file was erased; its bytes are not served."""

    kind = Kind.ERASED


class RestrictedError(VeraError):
    """A lock, hold or policy forbids it."""

    kind = Kind.RESTRICTED


class IntegrityError(VeraError):
    """Bytes do not verify: what was read is not what was archived."""

    kind = Kind.INTEGRITY


class FormatError(IntegrityError):
    """The bytes are no valid `.vera` shard. The only error that leaves the format reader on hostile bytes."""


class ConflictError(VeraError):
    """Somebody else won a race that this call can't resolve by itself, or a fencing token is stale."""

    kind = Kind.CONFLICT


class PreconditionError(ConflictError):
    """A conditional PUT (If-None-Match, If-Match) was refused by the store."""


class UnsafeStoreError(VeraError):
    """The store does not keep a promise that VERA needs."""

    kind = Kind.UNSAFE_STORE


class UnavailableError(VeraError):
    """Store, database or key service can't be reached or refuses for now; the data is not known to be at fault."""

    kind = Kind.UNAVAILABLE


class RejectsError(VeraError):
    """Rows were rejected and the policy says stop."""

    kind = Kind.REJECTS


class IncompatibleError(VeraError):
    """Written by a newer VERA, or with a feature that this one refuses by name."""

    kind = Kind.INCOMPATIBLE
