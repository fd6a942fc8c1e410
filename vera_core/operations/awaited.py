"""Files that are frozen and not packed yet: an erasure that comes between must keep them out.

Looked for only where an erasure does not find a file: by the frozen manifests of its day and the days beside it (a uid
that carries its time may stand in their windows), in what no commit accounts for yet.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING

from vera_core.errors import UsageError
from vera_core.model import check_name
from vera_core.source.base import Window

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from vera_core.model import Slot
    from vera_core.operations.freeze import FrozenManifest
    from vera_core.operations.repository import Repository
    from vera_core.source.manifest import Segment

AROUND = (timedelta(-1), timedelta(0), timedelta(1))


def awaited(repo: Repository, tenant: str, wanted: Mapping[Slot, Collection[str]]) -> dict[Slot, set[str]]:
    """Which of these names stand in rows that are to be packed into their slot; downloads the days' manifests.

    Raises:
        IntegrityError: a locked manifest, or a slot's log, can't be read.
    """
    found: defaultdict[Slot, set[str]] = defaultdict(set)
    days = sorted({slot.day + more for slot in wanted for more in AROUND})
    for source in _sources(repo, tenant):
        for day in days:
            _search(repo, Window(source, tenant, day), wanted, found)
    return dict(found)


def _search(
    repo: Repository, window: Window, wanted: Mapping[Slot, Collection[str]], found: dict[Slot, set[str]]
) -> None:
    # What reads tables takes longer to load than most erasures take: only for who does not find a file.
    freeze = import_module("vera_core.operations.freeze")
    with repo.scratch() as scratch:
        manifests: Sequence[FrozenManifest] = freeze.frozen_manifests(repo, window, scratch)
        for frozen in manifests:
            for segment in frozen.manifest.segments:
                names = wanted.get(segment.slot, ())
                for first, end in _gaps(repo, frozen, segment) if names else ():
                    rows = frozen.manifest.rows(first, end)
                    found[segment.slot].update(row.name for row in rows if row.name in names)


def _gaps(repo: Repository, frozen: FrozenManifest, segment: Segment) -> Iterator[tuple[int, int]]:
    """The rows of a segment that no commit accounts for."""
    first = segment.first
    for part in repo.slot_log(segment.slot).load().covered(frozen.digest):
        if segment.first <= part.first < segment.end:
            if part.first > first:
                yield first, part.first
            first = part.end
    if first < segment.end:
        yield first, segment.end


def _sources(repo: Repository, tenant: str) -> Iterator[str]:
    root = repo.keys.all_windows_prefix(tenant)
    for prefix in repo.store.list_prefixes(root):
        name = prefix.removeprefix(root).rstrip("/")
        try:
            yield check_name(name, "source")
        except UsageError:
            continue  # what somebody else put there is none of ours
