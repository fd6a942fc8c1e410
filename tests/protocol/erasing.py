"""Erasing in tests: archives to erase from, requests, and the readers that must not find anything any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.protocol.packing import DAY, opened
from vera_core.erasures import Target
from vera_core.errors import ErasedError
from vera_core.model import parse_time
from vera_core.operations.erasures import Draft
from vera_core.operations.retrieve import Retriever

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from vera_core.store.base import ObjectStore

UID = "doc/00007.json"
MIDNIGHT = parse_time(DAY.isoformat())


def draft(*uids: str, request: str = "r-1", reason: str = "GDPR Art. 17(1)(b)", tenant: str = "default") -> Draft:
    """A request for files of the usual day."""
    return Draft(tenant=tenant, id=request, reason=reason, targets=tuple(Target(uid, MIDNIGHT) for uid in uids))


def assert_erased(store: ObjectStore, spool: Path, *uids: str) -> None:
    """No new reader finds any of them, and every version is told to be erased."""
    reader = Retriever(opened(store, spool))
    for uid in uids or (UID,):
        for read in (reader.get, reader.stat, reader.stream):
            with pytest.raises(ErasedError, match="erased"):
                read(uid, DAY)
        assert all(report.erased for report in reader.versions(uid, DAY))
    assert not set(uids) & {report.uid for report in reader.list_day(DAY)}


def assert_readable(store: ObjectStore, spool: Path, contents: Iterable[tuple[str, bytes]]) -> None:
    """A new reader gives these files bit for bit."""
    reader = Retriever(opened(store, spool))
    for uid, content in contents:
        assert reader.get(uid, DAY) == content
