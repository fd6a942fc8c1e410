"""Erasing on S3: many files of many slots by one request, and one file of a large shard by the command line.

How soon a reader that has just read a file learns that it was erased is measured too: it asks again and again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.business import make_database
from benchmarks.compare import say
from benchmarks.corpus import Corpus
from benchmarks.packing import Kind, pack_s3
from benchmarks.process import call
from benchmarks.records import DAY
from benchmarks.results import Destroying, Erasing
from benchmarks.world import BUCKET, Transit
from vera_core.erasures import Target
from vera_core.errors import ErasedError
from vera_core.model import DEFAULT_TENANT, parse_time
from vera_core.operations.erasures import Draft, submit
from vera_core.operations.repository import Repository
from vera_core.operations.retrieve import Retriever
from vera_core.store.s3 import S3Store
from vera_core.store.s3_connect import Access, S3Options

if TYPE_CHECKING:
    from benchmarks.process import Meter
    from benchmarks.world import World

SLOTS, FILES_OF_EACH = 1000, 10
BITS = 10
"""2 ** 10 slots: 1,000, and some that are left alone."""
LOOK_SECONDS = 0.05
MIDNIGHT = parse_time(DAY.isoformat())
COMMAND = ("erase", "--created-at", DAY.isoformat(), "--request-id", "one", "--reason", "benchmark")


def measure_erasing(world: World, corpus: Corpus, *, bits: int = BITS) -> Erasing:
    """Packs the corpus: into 2 ** `bits` slots, to erase ten files in each of up to 1,000; and into one shard.

    Where the world has a key service the former is done for an encrypted repository, too.
    """
    database = make_database(corpus)
    many = erase_slots(world, corpus, database, bits, encrypt=False)
    packed, large = pack_s3(world, corpus, database=database)
    single, hidden = erase_one(world, corpus, large)
    encrypted = (
        Destroying(**erase_slots(world, corpus, database, bits, encrypt=True)) if world.transit.address else None
    )
    return Erasing(**many, single_of=packed.files, single_seconds=single, hidden_seconds=hidden, encrypted=encrypted)


def erase_slots(world: World, corpus: Corpus, database: Path, bits: int, *, encrypt: bool) -> dict[str, Any]:
    """Packs into 2 ** `bits` slots and erases ten files in each of up to 1,000: the fields of `Destroying`."""
    _, prefix = pack_s3(world, corpus, database=database, n_bits=bits, kind=Kind.ENCRYPTED if encrypt else Kind.PLAIN)
    say("erase: many files of many slots" + (", encrypted" if encrypt else ""))
    before = world.server_seconds()
    place = {"prefix": prefix, "access": asdict(world.access), "spool": world.directory / "spool"}
    run = call(erase_many, {**place, "corpus": corpus.directory, "transit": asdict(world.transit)})
    used = world.server_seconds() - before
    return {**run.outcome, "seconds": run.seconds, "cpu_seconds": run.cpu_seconds, "server_cpu_seconds": used}


def erase_many(
    meter: Meter, *, prefix: str, access: dict[str, str], spool: str, corpus: str, transit: dict[str, str]
) -> dict[str, Any]:
    """Erases, in a measured process; the outcome says how many files of how many slots.

    Raises:
        RuntimeError: some file was not erased, or its key not destroyed.
    """
    store = S3Store(BUCKET, options=S3Options(access=Access(**access)))
    repo = Repository(store, prefix, Transit(**transit).workplace(Path(spool)))
    slots = defaultdict(list)
    for item in Corpus.load(Path(corpus)).items():
        slots[repo.config.routing.slot(DEFAULT_TENANT, item.uid, DAY)].append(item.uid)
    chosen = list(islice(slots.values(), SLOTS))
    targets = tuple(Target(uid, MIDNIGHT) for uids in chosen for uid in uids[:FILES_OF_EACH])
    with meter:
        report = submit(repo, Draft(tenant=DEFAULT_TENANT, id="many", reason="benchmark", targets=targets))
    if report.erased != len(targets) or (repo.config.encryption is not None and report.destroyed != len(targets)):
        raise RuntimeError(f"of {len(targets)} files {report.erased} were erased, and {report.destroyed} destroyed")
    return {"files": report.erased, "slots": len(chosen)}


def erase_one(world: World, corpus: Corpus, prefix: str) -> tuple[float, float]:
    """Erases a file by `vera erase`: seconds that the process takes, and until a reader that knew it learns of it.

    Raises:
        RuntimeError: it failed.
    """
    say("erase: one file of a large shard")
    uid = corpus.sample(1)[0].uid
    reader = Retriever(world.open(prefix))
    reader.get(uid, DAY)
    command = [sys.executable, "-m", "vera_core.cli", *COMMAND, "--repository", f"s3://{BUCKET}/{prefix}", uid]
    began = time.perf_counter()
    done = subprocess.run(command, env={**os.environ, **world.server.environment}, capture_output=True, check=False)
    ended = time.perf_counter()
    if done.returncode:
        raise RuntimeError(f"vera erase ended with {done.returncode}: {done.stderr.decode()}")
    while True:
        try:
            reader.get(uid, DAY)
        except ErasedError:
            return ended - began, time.perf_counter() - ended
        time.sleep(LOOK_SECONDS)
