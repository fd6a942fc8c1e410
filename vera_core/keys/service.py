"""What VERA asks of whoever keeps the key encryption key (KEK): wrap, unwrap and rewrap data keys, many at once.

A service sees payloads of a few dozen random-looking bytes and nothing of what they are for; envelope.py binds them to
their place. Services: transit.py (OpenBao, Vault) and local.py (a file). Every failure is a VeraError; none ends in
plaintext or in an item that is silently left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from vera_core.errors import VeraError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

T = TypeVar("T")

Outcome: TypeAlias = "T | VeraError"
"""The result for one item of a batch, or why there is none."""


class KeyService(Protocol):
    """One KEK, in several versions. Safe to share between threads.

    Methods raise for what concerns the whole service:
        UnavailableError: it can't be reached, is sealed, or answers that it can't for now.
        RestrictedError: it denies this identity the action.
        NotFoundError: it has no such key.
        UsageError: the settings are wrong.
    """

    @property
    def kek(self) -> str:
        """The KEK's name, as envelopes carry it: `transit:<mount>/<key>` or `local:<id>`."""

    def current(self) -> int:
        """The version that `wrap` and `rewrap` use now, asked of the service; 1 is the first."""

    def made(self) -> datetime:
        """When the current version was made, in UTC."""

    def version(self, wrapped: bytes) -> int:
        """The version that a wrapped payload needs. Reads the bytes only.

        Raises:
            IntegrityError: nothing that this kind of service wrapped.
        """

    def wrap(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Wraps payloads of at most 128 bytes under the current version, all or none."""

    def unwrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        """The payloads, one outcome for each item in order.

        An item's error is an IntegrityError (altered, or wrapped by another key) or a RestrictedError (its version is
        no longer allowed).
        """

    def rewrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        """The same payloads under the current version; outcomes as of `unwrap`."""

    def rotate(self) -> int:
        """Makes a new version of the KEK, which wraps from now on; returns its number. Not idempotent."""


def good(outcomes: Iterable[Outcome[T]]) -> list[T]:
    """The results, where every item must have one.

    Raises:
        VeraError: the first item's that has none.
    """
    results = []
    for outcome in outcomes:
        if isinstance(outcome, VeraError):
            raise outcome
        results.append(outcome)
    return results
