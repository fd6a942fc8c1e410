"""A separate process that works on an archive until it is killed; run as `python -m tests.protocol.worker`.

It reads lists of jobs from its standard input, one JSON line each, forks a process for every job, and answers with one
line: for each job `done` and what it returned, `killed` if SIGKILL ended it, or `failed` and the error. Only the forked
processes touch the store; forking spares every job the seconds that imports take.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.protocol.erasing import draft
from tests.protocol.law import hold_order, retain_order
from tests.protocol.packing import DAY, MemorySource, opened, pack, some_files
from tests.protocol.repacking import repack
from vera_core.model import parse_time
from vera_core.operations.doctor import execute_doctor, plan_doctor
from vera_core.operations.due import Migration
from vera_core.operations.erasures import run_due, submit
from vera_core.operations.hold import execute_hold
from vera_core.operations.key_census import take_census
from vera_core.operations.key_restore import execute_restore, plan_restore
from vera_core.operations.migrate import advance_watermark, migrate_window
from vera_core.operations.retain import execute_retain
from vera_core.operations.rewrap import execute_rewrap
from vera_core.operations.scrub import execute_scrub
from vera_core.operations.scrub_plan import plan_scrub
from vera_core.operations.walk import all_slots
from vera_core.source.database import connect
from vera_core.source.state import MigrationState
from vera_core.store.faulty import Action, FaultyStore, Rule
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TextIO

    from vera_core.operations.repository import Repository

STATE_POINTS = ("record", "move_watermark", "start_watermark")


class DyingState(MigrationState):
    """A migration state whose process is killed before or after one of its methods."""

    point = ""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        when, _, method = super().__getattribute__("point").partition(" ")
        if name != method:
            return found

        def dying(*args: Any, **options: Any) -> Any:
            if when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            found(*args, **options)
            os.kill(os.getpid(), signal.SIGKILL)

        return dying


def database_url(spool: Path) -> str:
    """The business database of a job: where our schema lies."""
    (spool / "business.db").touch()
    return f"sqlite:///{spool}/business.db"


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Does a job on a store with the job's rules."""
    spool = Path(job["spool"])
    rules = [Rule(Action[rule["action"]], rule["kind"], rule["key"], rule.get("nth", 1)) for rule in job["rules"]]
    repo = opened(FaultyStore(S3Store(job["bucket"]), rules), spool, "worker")
    return VERBS[job["verb"]](repo, job)


def _doctor(repo: Repository, _job: dict[str, Any]) -> dict[str, Any]:
    return {"sealed": execute_doctor(repo, plan_doctor(repo)).sealed}


def _erase(repo: Repository, job: dict[str, Any]) -> dict[str, Any]:
    return {"erased": submit(repo, draft(*job["uids"], request=job["request"])).erased}


def _run_due(repo: Repository, _job: dict[str, Any]) -> dict[str, Any]:
    return {"erased": run_due(repo, "default").erased}


def _repack(repo: Repository, _job: dict[str, Any]) -> dict[str, Any]:
    return {"left_out": repack(repo).left_out}


def _rewrap(repo: Repository, _job: dict[str, Any]) -> dict[str, Any]:
    return {"rewrapped": execute_rewrap(repo, take_census(repo)).rewrapped}


def _restore_keys(repo: Repository, _job: dict[str, Any]) -> dict[str, Any]:
    return {"restored": execute_restore(repo, plan_restore(repo)).restored}


def _scrub(repo: Repository, _job: dict[str, Any]) -> dict[str, Any]:
    return {"shards": execute_scrub(repo, plan_scrub(repo, all_slots(repo), percent=100)).shards}


def _hold(repo: Repository, job: dict[str, Any]) -> dict[str, Any]:
    return {"changed": execute_hold(repo, hold_order(*job["uids"], case=job["case"], release=job["release"])).changed}


def _retain(repo: Repository, job: dict[str, Any]) -> dict[str, Any]:
    return {"changed": execute_retain(repo, retain_order(*job["uids"], until=parse_time(job["until"]))).changed}


def _pack(repo: Repository, job: dict[str, Any]) -> dict[str, Any]:
    report = pack(repo, _source(job))
    return {"rows": report.rows, "archived": report.archived, "manifest": report.manifest}


def _migrate(repo: Repository, job: dict[str, Any]) -> dict[str, Any]:
    source = _source(job)
    state = DyingState(connect(database_url(Path(job["spool"])), writable=True))
    state.create()
    state.point = job.get("point", "")
    migration = Migration(repo=repo, source=source, state=state, begin=DAY)
    window = migrate_window(migration, source.window())
    mark = advance_watermark(migration)
    return {"verdict": window.verdict.value, "after": mark.after}


def _source(job: dict[str, Any]) -> MemorySource:
    return MemorySource(some_files(job["files"]), name=job.get("name", "docs"))


VERBS: dict[str, Callable[[Repository, dict[str, Any]], dict[str, Any]]] = {
    "pack": _pack,
    "migrate": _migrate,
    "doctor": _doctor,
    "erase": _erase,
    "run due": _run_due,
    "repack": _repack,
    "rewrap": _rewrap,
    "restore keys": _restore_keys,
    "scrub": _scrub,
    "hold": _hold,
    "retain": _retain,
}
"""What a job can ask for."""


def serve(lines: TextIO, answers: TextIO) -> None:
    """Answers lists of jobs until there are no more; the jobs of a list run side by side."""
    for line in lines:
        children = [_forked(job) for job in json.loads(line)]
        print(json.dumps([_end(child, reading) for child, reading in children]), file=answers, flush=True)


def _forked(job: dict[str, Any]) -> tuple[int, int]:
    """A new process that does the job, and where its answer can be read."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    try:
        answer = {"end": "done", **run(job)}
    except Exception as error:  # noqa: BLE001 - the parent is told, whatever it is
        answer = {"end": "failed", "error": repr(error)}
    os.write(writing, json.dumps(answer).encode())
    os._exit(0)


def _end(child: int, reading: int) -> dict[str, Any]:
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return {"end": "killed"}
    answer: dict[str, Any] = json.loads(said)
    return answer


class Worker:
    """The worker as tests see it: hands over jobs and waits for their end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.protocol.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
        )  # fmt: skip

    def do(self, **job: Any) -> dict[str, Any]:
        """What became of the job: its `end` (done, killed, failed), and more."""
        return self.do_together([job])[0]

    def do_together(self, jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """What became of the jobs, each in a process of its own at the same time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        whole = [{"verb": "pack", "files": 60, "rules": [], **job} for job in jobs]
        print(json.dumps(whole), file=self._process.stdin, flush=True)
        ends: list[dict[str, Any]] = json.loads(self._process.stdout.readline())
        return ends

    def close(self) -> None:
        """Ends the worker."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def rule(action: Action, kind: str, key: str, nth: int = 1) -> dict[str, Any]:
    """A rule of a job."""
    return {"action": action.name, "kind": kind, "key": key, "nth": nth}


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
