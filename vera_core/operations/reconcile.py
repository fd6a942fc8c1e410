"""Reconciling source and archive: every row of a part against what its shard holds, by count, name and digest.

The source is read again and hashed; the archive's side comes from the shard's own index, which the integrity check
proves against the bytes. In an encrypted repository names and digests are keyed, on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from vera_core.encoding import facts_of
from vera_core.errors import VeraError
from vera_core.operations.holdings import tombstones
from vera_core.operations.load import Loaded, load_with, stream_digest
from vera_core.operations.lookup import ShardReaders, versions_of
from vera_core.operations.report import Finding
from vera_core.source.base import BigContent, Unreadable

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from vera_core.keys.naming import Naming
    from vera_core.model import Entry
    from vera_core.operations.freeze import FrozenManifest
    from vera_core.operations.holdings import Holdings
    from vera_core.operations.repository import Repository
    from vera_core.slots import Part, SlotState
    from vera_core.source.base import Source

COLUMNS = ["name", "digest"]


@dataclass(slots=True)
class Accounts:
    """How far a segment's rows are accounted for without a gap."""

    next_row: int

    def take(self, part: Part) -> Iterator[Finding]:
        """Adds the next part in row order; yields what does not add up in its own counts."""
        if part.first != self.next_row:
            yield Finding(what=f"rows {self.next_row} to {part.first} of the manifest are not accounted for")
        self.next_row = part.end
        rows = part.end - part.first
        if part.archived + part.equal + part.rejected != rows:
            yield Finding(
                what=f"record {part.number} accounts for {part.archived} archived + {part.equal} equal + "
                f"{part.rejected} rejected of {rows} rows"
            )
        held = 0 if part.shard is None else part.shard.entries
        if held != part.archived:
            yield Finding(what=f"record {part.number} says {part.archived} rows archived, its shard holds {held}")

    def close(self, end: int) -> Iterator[Finding]:
        """What is missing at the segment's end."""
        if self.next_row != end:
            yield Finding(
                what=f"rows {self.next_row} to {end} of the manifest are not accounted for",
                todo="Pack the window again.",
            )


@dataclass(frozen=True, slots=True)
class Archived:
    """The archive's side of a part: its slot's state, what lies where, and the part's entries in live shards."""

    state: SlotState
    lies: Holdings
    part: Part
    entries: Iterable[Entry]

    def left_behind(self) -> set[str]:
        """Names of which erased versions lie in no live shard any more, so that rows can't be compared with them."""
        return {name for name, origins in tombstones(self.state).items() if origins & self.lies.left_out}


def reconcile_part(repo: Repository, source: Source, frozen: FrozenManifest, side: Archived) -> Iterator[Finding]:
    """Compares a part's rows, read again from the source, with what is archived of them.

    Of a part whose retention has ended, and which was disposed of, nothing is left to compare.

    Raises:
        UnavailableError: the source can't be reached.
    """
    part = side.part
    if part.number in side.lies.disposed:
        return
    rejected = {number for ranges in part.rejects.values() for first, end in ranges for number in range(first, end)}
    batches = frozen.manifest.batches(part.first, part.end)
    naming = repo.naming(frozen.window.tenant)
    loaded = load_with(
        source, batches, lambda contents, _: facts_of(contents, naming.digest), threads=repo.workplace.threads
    )
    unread: list[tuple[str, Finding]] = []
    now = pd.DataFrame(_source_side(loaded, rejected, naming, unread), columns=[*COLUMNS, "uid", "size"])
    yield from (finding for _, finding in unread)
    kept = pd.DataFrame(((entry.uid, entry.sha256) for entry in side.entries), columns=COLUMNS)
    erased = sum(origin.commit == part.number for origin in side.lies.left_out)
    if len(kept) + erased != part.archived:
        yield Finding(
            what=f"record {part.number} archived {part.archived} files; {len(kept)} are there, and {erased} were left "
            "behind by repacks",
        )
    left_behind = side.left_behind()
    joined: Any = now.drop_duplicates().merge(kept.drop_duplicates(), how="outer", on=COLUMNS, indicator=True)
    readers = ShardReaders(repo)
    for line in joined[joined["_merge"] == "left_only"].itertuples(index=False):
        name, digest = str(line.name), bytes(line.digest)
        if name in left_behind or _stands_elsewhere(readers, side, (name, naming.key(name)), digest):
            continue
        yield Finding(
            what=f"not archived: the source gives {int(line.size)} bytes with digest {digest.hex()}",
            uid=str(line.uid),
            todo="If the file changed after it was archived, the next revision archives the change.",
        )
    not_compared = {name for name, _ in unread}
    for line in joined[joined["_merge"] == "right_only"].itertuples(index=False):
        if str(line.name) not in not_compared:
            yield Finding(
                what=f"not in the source: archived is a content with digest {bytes(line.digest).hex()}",
                uid=str(line.name),
                todo="Nothing is lost: compare both versions of the file.",
            )


def _stands_elsewhere(readers: ShardReaders, side: Archived, name: tuple[str, int], digest: bytes) -> bool:
    """Whether some version of the name (with its key) in the slot has that content: what `equal` rows claim.

    Or may have had it: where the slot has none any more, it can have been disposed of.
    """
    versions = versions_of(readers, side.state, *name)
    if not versions and side.lies.disposed:
        return True
    return any(version.entry.sha256 == digest for version in versions)


def _source_side(
    loaded: Iterable[Loaded], rejected: Container[int], naming: Naming, unread: list[tuple[str, Finding]]
) -> Iterator[tuple[str, bytes, str, int]]:
    """(name, digest, uid, size) of every row that is not rejected; what can't be read goes to `unread`."""
    for batch in loaded:
        facts, rows = batch.encoded.facts, batch.rows
        digests = facts["digest"].tobytes()
        for place, (uid, name, size) in enumerate(zip(rows.uids, rows.names, facts["size"].tolist(), strict=True)):
            if rows.first + place in rejected:
                continue
            match batch.special.get(place):
                case Unreadable() as why:
                    what = f"the source does not give the file any more: {why.reason}: {why.detail}"
                    todo = "What was archived stays; it can't be compared."
                    unread.append((name, Finding(what=what, uid=uid, todo=todo)))
                case BigContent() as big:
                    try:
                        yield name, stream_digest(big, naming.hasher()), uid, big.size
                    except (OSError, VeraError) as error:
                        what = f"the source does not give the file any more: {error}"
                        unread.append((name, Finding(what=what, uid=uid)))
                case None:
                    yield name, digests[32 * place : 32 * place + 32], uid, size
