"""Packing one segment: the rows of a manifest that go to one slot and retention class, part after part, in order.

The slot log says which rows are accounted for; a packer always goes on from the first that is not, so packers that race
or resume end in the same place. While a part is uploaded and committed the next one is built.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from vera_core.encoding import toolchain
from vera_core.errors import ErasedError, IntegrityError
from vera_core.format import ShardOptions
from vera_core.model import Lock, day_text
from vera_core.operations.build import BuildLimits, build_part, verify_built
from vera_core.operations.commit import Finished, check_committed, class_lock, roll_forward, seal, upload
from vera_core.operations.freeze import with_rows
from vera_core.operations.holdings import holdings
from vera_core.operations.judge import Judge
from vera_core.operations.legal_holds import sync_legal_holds
from vera_core.operations.storing import store_shard
from vera_core.operations.supersede import OutrunError, Replacement, supersede
from vera_core.store.base import MissingObjectError
from vera_core.store.chain import LostAppendError

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.operations.build import BuiltPart
    from vera_core.operations.freeze import FrozenManifest
    from vera_core.operations.inspector import Inspect
    from vera_core.operations.loader import Load
    from vera_core.operations.repository import Repository
    from vera_core.slotlog import SlotLog
    from vera_core.slots import Part, ShardRef, SlotState
    from vera_core.source.base import Source
    from vera_core.source.manifest import Manifest, Segment

Progress = Callable[[int, int, int], None]
"""Called with (files accounted for, files in all, content bytes archived by this call)."""


@dataclass(slots=True)
class PackJob:
    """One call of `pack_window` on one frozen manifest, and what it has done so far."""

    repo: Repository
    source: Source
    frozen: FrozenManifest
    scratch: Path
    load: Load
    inspect: Inspect
    progress: Progress | None = None
    accounted: int = 0
    packed_now: int = 0
    content_now: int = 0

    def rows(self) -> Manifest:
        """The rows of the manifest. A window that is accounted for needs none, so they may be asked of the source now.

        Raises:
            UnavailableError: the source can't be reached.
        """
        self.frozen = with_rows(self.repo, self.source, self.frozen, self.scratch)
        return self.frozen.manifest

    def advance(self, rows: int, *, archived: int = 0, content: int = 0) -> None:
        """Counts rows as accounted for and tells the listener."""
        self.accounted += rows
        self.packed_now += archived
        self.content_now += content
        if self.progress is not None:
            self.progress(self.accounted, self.frozen.manifest.row_count, self.content_now)


@dataclass(slots=True)
class _SegmentPacker:
    """The slot log of a segment and its state while the segment is packed."""

    job: PackJob
    segment: Segment
    log: SlotLog
    state: SlotState
    sealed: int
    """The number of the record up to which everything is sealed."""

    def parts(self) -> list[Part]:
        """The parts of this segment that commits account for, in row order."""
        covered = self.state.covered(self.job.frozen.digest)
        return [part for part in covered if self.segment.first <= part.first < self.segment.end]

    def gap(self) -> tuple[int, int]:
        """The first rows that nothing accounts for, as a range; empty at the segment's end where everything is."""
        first = self.segment.first
        for part in self.parts():
            if part.first > first:
                return first, part.first
            first = part.end
        return first, self.segment.end

    def seal(self) -> None:
        """Seals what is not sealed yet, whoever committed it."""
        seal(self.job.repo, self.log, self.state, self.sealed, own=self.job.repo.audit.writer)
        self.sealed = self.state.head.number

    def build(self, first: int, end: int, judge: Judge) -> BuiltPart:
        """Rows [first, end), or as many from the first on as one part holds, as a finished shard in the spool.

        What lies behind `end` decides about dictionaries too, so that a part repaired is the same as the part packed.
        """
        planned = self._part_end(first)
        config = self.job.repo.config
        retention = config.retention(self.segment.retention_class)
        options = ShardOptions(
            repository_id=bytes.fromhex(config.repository_id),
            retention_class=retention.name,
            erasability=retention.erasability,
        )
        tenant = self.job.repo.naming(self.segment.slot.tenant).tenant_key
        limits = BuildLimits(config.shard_bytes, config.compression, tenant)
        rows = (first, min(end, planned))
        with closing(self.job.load(self.job.rows().batches(first, planned), planned - first)) as feed:
            return build_part(feed, rows, options=options, limits=limits, spool=self.job.scratch, judge=judge)

    def _part_end(self, first: int) -> int:
        """Where a part that begins with row `first` ends by its number of rows: never between two rows of one uid."""
        most = first + self.job.repo.config.part_rows
        if most >= self.segment.end:
            return self.segment.end
        rows = self.job.rows().rows(most - 1, self.segment.end)
        name = next(rows).name
        return most + sum(1 for _ in takewhile(lambda row: row.name == name, rows))

    def pack(self) -> None:
        """Builds and commits part after part, until all rows are accounted for or the plan is out of date."""
        judge = Judge(self.job.repo, self.state)
        pending: Future[bool] | None = None
        first, end = self.gap()
        with ThreadPoolExecutor(1, thread_name_prefix="vera-commit") as committer:
            while first < end:
                try:
                    built = self.build(first, end, judge)
                except ErasedError:
                    # Rows are compared with versions of before; one of these was erased since, and its key destroyed.
                    if (pending is not None and not pending.result()) or self.log.refresh(self.state):
                        return
                    raise
                if pending is not None and not pending.result():
                    built.discard()
                    return
                pending = committer.submit(self.commit, built)
                first = built.end
            if pending is not None:
                pending.result()

    def commit(self, built: BuiltPart) -> bool:
        """Verifies, uploads, commits and seals a built part; False where the log moved so that it needs a new plan."""
        repo = self.job.repo
        try:
            verify_built(built, self.job.inspect)
            finished = self._finished(built)
            try:
                place = None if finished is None else self._store(finished)
            except OutrunError:
                return False
            while True:
                shard = None if finished is None or place is None else self._reference(finished, place)
                now = repo.clock.now()
                until = repo.record_until(now if shard is None else shard.lock.until)
                lock = Lock(repo.config.lock_mode, until) if repo.config.locked else None
                seen = self.state.head.number
                try:
                    record = self.log.append(self.state, self._commit_body(built, shard), lock=lock, now=now)
                except LostAppendError:
                    self.log.refresh(self.state)
                    if self._plan_holds(seen, built):
                        continue
                    return False
                break
            if record.number in self.state.strays:
                return False
            self.seal()
        finally:
            built.discard()
        content = 0 if built.summary is None else built.summary.content_bytes
        self.job.advance(built.end - built.first, archived=built.archived, content=content)
        return True

    def _finished(self, built: BuiltPart) -> Finished | None:
        if built.local is None or built.summary is None:
            return None
        keyring = None if built.sealer is None else built.sealer.keyring(built.local.sha256)
        return Finished(built.local, built.summary, built.keys, keyring)

    def _store(self, finished: Finished) -> tuple[str, str]:
        return store_shard(self.job.repo, self.log, self.state, finished, self.segment.retention_class)

    def check_or_repair(self, part: Part) -> None:
        """Makes sure that a committed part's shard verifies; a damaged one is built again and answered by a repack.

        Raises:
            IntegrityError: it is damaged and the source does not give the same bytes any more, or it is encrypted: then
                no build does; or its keyring can't be used.
        """
        # What stands for the part now: its own shard, or the same bytes stored again. What a repack of another sort put
        # in its place was verified by whoever did that.
        for shard in self.state.shards.get(part.number, ()):
            try:
                check_committed(self.job.repo, self.segment.slot, shard)
            except (IntegrityError, MissingObjectError) as damage:
                self._repair(part, shard, damage)
                return
            if shard.keyring:
                self.job.repo.keyrings.fetch(shard)

    def _repair(self, part: Part, shard: ShardRef, damage: Exception) -> None:
        repo = self.job.repo
        if shard.keyring:
            # Another build has other keys, and nothing would tell whether it holds what was archived.
            key = shard.key.removeprefix(repo.keys.root)
            raise IntegrityError(
                "a committed shard is damaged, and no build of an encrypted shard gives the same bytes again",
                todo=f"Put back a replica of it: vera recover REPLICA --put-back --key {key}",
                bucket=repo.store.bucket, key=shard.key, version_id=shard.version_id,
                rows=f"{part.first}..{part.end}",
            ) from damage  # fmt: skip
        built = self.build(part.first, part.end, self._judge_before(part))
        try:
            if built.local is None or built.local.sha256.hex() != shard.sha256:
                raise IntegrityError(
                    "a committed shard is damaged and the source does not give its bytes again",
                    todo="Restore it from a replica of the bucket. It was packed with: "
                    + str(self.state.records[part.number - 1].body.get("toolchain")),
                    bucket=repo.store.bucket, key=shard.key, version_id=shard.version_id,
                    rows=f"{part.first}..{part.end}",
                ) from damage  # fmt: skip
            verify_built(built, self.job.inspect)
            _, version_id = upload(repo, self.state, built.local)
            again = Replacement("damaged", [shard], [replace(shard, version_id=version_id)])
            try:
                supersede(repo, self.log, self.state, again)
            except OutrunError:
                # Whoever was first may have repaired it; the next look decides.
                self.check_or_repair(part)
                return
            self.seal()
            sync_legal_holds(repo, self.log, self.state)
        finally:
            built.discard()

    def _judge_before(self, part: Part) -> Judge:
        """A judge by what the slot held before a part was committed, wherever repacks have moved that since."""
        past = self.log.before(self.state, part.number)
        commits = holdings(self.state).commits
        past.shards = {}
        for shard in self.state.live():
            if min(commits.get(shard.version_id, ()), default=part.number) < part.number:
                past.shards.setdefault(shard.number, []).append(shard)
        return Judge(self.job.repo, past, before=part.number)

    def _plan_holds(self, seen: int, built: BuiltPart) -> bool:
        """Whether the records after `seen` leave a built part as it is: commits of other rows of the same manifest."""
        digest = self.job.frozen.digest
        return all(
            record.type == "commit"
            and record.body["manifest"] == digest
            and (record.body["part"][1] <= built.first or built.end <= record.body["part"][0])
            for record in self.state.records[seen:]
        )

    def _reference(self, finished: Finished, place: tuple[str, str]) -> ShardRef:
        return finished.stored_at(
            place,
            number=self.state.head.number + 1,
            retention_class=self.segment.retention_class,
            lock=class_lock(self.job.repo, self.segment.retention_class),
        )

    def _commit_body(self, built: BuiltPart, shard: ShardRef | None) -> dict[str, Any]:
        window = self.job.frozen.window
        return {
            "type": "commit",
            "source": window.source,
            "window": day_text(window.day),
            "revision": window.revision,
            "lane": "",
            "manifest": self.job.frozen.digest,
            "part": [built.first, built.end],
            "rows": {"archived": built.archived, "equal": built.equal, "rejected": built.rejected},
            "rejects": built.rejects,
            "toolchain": toolchain(),
            "config": self.job.repo.config.revision,
            "n_bits": self.segment.slot.n_bits,
            "shard": None if shard is None else shard.to_json(),
            "writer": self.job.repo.audit.writer,
        }


def pack_segment(job: PackJob, segment: Segment) -> tuple[SlotState, list[Part]]:
    """Accounts for all rows of a segment; returns the slot's state and the parts that do.

    Raises:
        UnavailableError, IntegrityError: as `pack_window`.
    """
    log = job.repo.slot_log(segment.slot)
    state = roll_forward(job.repo, log)
    began = job.accounted
    packer = _SegmentPacker(job, segment, log, state, sealed=state.head.number)
    for part in packer.parts():
        packer.check_or_repair(part)
        job.advance(part.end - part.first)
    while packer.gap()[0] < segment.end:
        packer.pack()
        log.refresh(state)
    # Racers may have committed and died before they sealed; the sidecar says of all that it holds that it is sealed.
    packer.seal()
    log.write_sidecar(state, job.repo.clock.now())
    # Rows that racers accounted for meanwhile count as done too.
    job.advance(began + segment.end - segment.first - job.accounted)
    return state, packer.parts()
