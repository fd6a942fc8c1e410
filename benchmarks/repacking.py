"""Repacking on S3: of the files of a shard three of ten are erased, and the others move to a new one.

Against packing in the same run: files moved a second of files packed a second. Encrypted, every file that moves is
opened, sealed anew, and opened once more to be proved.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.business import make_database
from benchmarks.compare import say
from benchmarks.packing import Kind, pack_s3
from benchmarks.process import call
from benchmarks.records import DAY
from benchmarks.results import Repacked, Repacking
from benchmarks.world import BUCKET, Transit
from vera_core.erasures import Target
from vera_core.model import DEFAULT_TENANT, parse_time
from vera_core.operations.erasures import Draft, submit
from vera_core.operations.repack import execute_repack, plan_repack
from vera_core.operations.repository import Repository
from vera_core.operations.walk import all_slots
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import Access, S3Options

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus
    from benchmarks.process import Meter
    from benchmarks.world import World

OF_EACH, ERASED = 10, 3
"""Of so many files so many are erased: the ratio from which on `vera repack` finds it worth while."""
AT_ONCE = 10_000
"""Files that one request erases."""
MIDNIGHT = parse_time(DAY.isoformat())


def measure_repacking(world: World, corpus: Corpus) -> Repacking:
    """Packs the corpus, erases and repacks, unencrypted and encrypted."""
    database = make_database(corpus)
    plain, encrypted = (repack_one(world, corpus, database, kind) for kind in (Kind.PLAIN, Kind.ENCRYPTED))
    return Repacking(plain=plain, encrypted=encrypted)


def repack_one(world: World, corpus: Corpus, database: Path, kind: Kind) -> Repacked:
    """Packs the corpus in one way, and repacks it in a measured process.

    Raises:
        RuntimeError: some file was not erased, or not moved.
    """
    packed, prefix = pack_s3(world, corpus, database=database, kind=kind)
    say("repack: erasing")
    erased = _erase(world.open(prefix), corpus)
    say("repack: moving the others")
    place = {"prefix": prefix, "access": asdict(world.access), "spool": str(world.directory / "spool")}
    run = call(repack_all, {**place, "transit": asdict(world.transit)}, watch=True)
    if run.outcome != {"files": packed.files - erased, "left_out": erased}:
        raise RuntimeError(f"of {packed.files} files {erased} were erased: {run.outcome}")
    return Repacked(
        packed=packed,
        **run.outcome,
        seconds=run.seconds,
        cpu_seconds=run.cpu_seconds,
        own_bytes=run.own_bytes,
        helper_bytes=run.helper_bytes,
    )


def repack_all(
    meter: Meter, *, prefix: str, access: dict[str, str], spool: str, transit: dict[str, str]
) -> dict[str, Any]:
    """Repacks a repository, in a measured process; the outcome says how many files moved, and how many did not."""
    store = S3Store(BUCKET, options=S3Options(access=Access(**access)))
    repo = Repository(store, prefix, Transit(**transit).workplace(Path(spool)))
    with meter:
        report = execute_repack(repo, plan_repack(repo, all_slots(repo)))
    if not report.ok:
        raise RuntimeError(f"not everything was repacked: {report.findings}")
    return {"files": report.files, "left_out": report.left_out}


def _erase(repo: Repository, corpus: Corpus) -> int:
    uids = [item.uid for number, item in enumerate(corpus.items()) if number % OF_EACH < ERASED]
    for number, begin in enumerate(range(0, len(uids), AT_ONCE)):
        targets = tuple(Target(uid, MIDNIGHT) for uid in uids[begin : begin + AT_ONCE])
        draft = Draft(tenant=DEFAULT_TENANT, id=f"many-{number}", reason="benchmark", targets=targets)
        report = submit(repo, draft)
        if report.erased != len(targets):
            raise RuntimeError(f"{len(targets) - report.erased} files were not erased")
    return len(uids)
