"""Walking a repository: which tenants, days and slots the bucket holds, by LIST with delimiter, in key order."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from vera_core.errors import BadTimeError, UsageError
from vera_core.model import Slot, check_name, day_text, parse_day

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date

    from vera_core.operations.repository import Repository


def tenants(repo: Repository) -> Iterator[str]:
    """Names of the tenants that have any object."""
    root = repo.keys.tenants_prefix
    for prefix in repo.store.list_prefixes(root):
        name = prefix[len(root) :].rstrip("/")
        with suppress(UsageError):
            # What somebody else put there under a name that no tenant has is none of ours.
            yield check_name(name, "tenant")


def days(repo: Repository, tenant: str, *, first: date | None = None, last: date | None = None) -> Iterator[date]:
    """Days with slots of a tenant, from `first` to `last` (both included)."""
    root = repo.keys.tenant_prefix(tenant)
    for prefix in repo.store.list_prefixes(root):
        text = prefix[len(root) :].rstrip("/")
        try:
            day = parse_day(text)
        except BadTimeError:
            continue
        if day_text(day) == text and (first is None or first <= day) and (last is None or day <= last):
            yield day


def slots(repo: Repository, tenant: str, day: date) -> Iterator[Slot]:
    """Slots of a day under its active routing epoch that have any object."""
    root = repo.keys.day_prefix(tenant, day)
    n_bits = repo.config.routing.n_bits(day)
    for prefix in repo.store.list_prefixes(root):
        try:
            slot = Slot(tenant, day, int(prefix[len(root) :].rstrip("/"), 16), n_bits)
        except ValueError:
            continue
        if 0 <= slot.index < 1 << n_bits and repo.keys.slot_prefix(slot) == prefix:
            yield slot


def all_slots(
    repo: Repository, *, tenant: str | None = None, first: date | None = None, last: date | None = None
) -> Iterator[Slot]:
    """Slots of one tenant, or of all, with days from `first` to `last`."""
    for name in [tenant] if tenant is not None else tenants(repo):
        for day in days(repo, name, first=first, last=last):
            yield from slots(repo, name, day)
