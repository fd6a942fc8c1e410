"""`make demo`: real files from a business database, through Dagster, into locked shards on a real S3 server and back.

Each step says what it does and shows the command that a person would type. The business is sample.py's, the world in
which it happens world.py's, the attack attack.py's; what the steps do is VERA's own operations. All of it is in .demo/,
and no process outlives this one.
"""

from __future__ import annotations

import random
import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from dagster import DagsterInstance, ExecuteInProcessResult

from vera_assets.attack import attack
from vera_assets.build import build_definitions
from vera_assets.partitions import Naming, partition_of
from vera_assets.sample import REPOSITORY, SOURCE, documents
from vera_assets.world import World, end_in_order, new_world
from vera_core.cli.output import describe, say, warn
from vera_core.errors import ErasedError, IntegrityError, VeraError
from vera_core.operations.cost import S3_STANDARD_IA, saved_monthly
from vera_core.operations.opening import open_repository
from vera_core.operations.report import size_text
from vera_core.operations.retrieve import Retriever
from vera_core.settings import Settings
from vera_core.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_assets.sample import Document
    from vera_core.operations.repository import Repository

HOME = Path(".demo")
KEYS_BUCKET = "vera-demo-keys"
COMPARED = 1000
"""Files that are read back one by one and compared with the originals, before and after the attack."""


class Census(NamedTuple):
    """How many objects a repository has, and their bytes."""

    objects: int
    size: int


@dataclass(slots=True)
class Narrator:
    """Says what happens, with the seconds since the beginning."""

    began: float = field(default_factory=time.monotonic)
    step: int = 0

    def title(self, text: str, *explanation: str) -> None:
        """Begins a step: its number, what it does, and why."""
        self.step += 1
        say(f"\n{self.step}. {text}  ({time.monotonic() - self.began:.0f} s)")
        self.lines(*explanation)

    def lines(self, *texts: str) -> None:
        """Lines of a step."""
        for text in texts:
            say(f"   {text}")
        sys.stdout.flush()

    def command(self, world: World, *arguments: str) -> None:
        """Runs a `vera` command, and shows it with what it printed."""
        self.lines(f"$ vera {shlex.join(arguments)}")
        self.lines(*(f"  {line}" for line in world.vera(*arguments).rstrip().splitlines()))


def demo(home: Path = HOME, *, limit: int | None = None) -> None:
    """Runs the whole demonstration below `home`, with all files or the first `limit`.

    Raises:
        VeraError: something did not go as it must.
    """
    tell = Narrator()
    tell.title(
        "A business and a store",
        "A database names every file of this Python installation, with times in three days;",
        "and an S3 server with Object Lock starts on 127.0.0.1. Nothing else is contacted.",
    )
    with new_world(home, limit=limit) as world:
        sample = world.sample
        tell.lines(
            f"{sample.files:,} files, {size_text(sample.content_bytes)}, {sample.first} to {sample.last}; "
            f"all of this is in {world.root}"
        )
        _make_repository(tell, world)
        seconds = _migrate(tell, world)
        repo = open_repository(Settings.load())
        census = _census(repo)
        chosen = _chosen(world)
        tell.title(
            "Files come back one by one",
            "Where a file is follows from its uid and its day: no database of locations is asked.",
        )
        tell.command(world, "stat", chosen[0].uid, "--created-at", chosen[0].created_at.isoformat())
        _compare(tell, repo, chosen)
        tell.title("The archive is proved", "Every byte is read and checked, and the store is asked for every lock.")
        tell.command(world, "verify", "--deep")
        *kept, forgotten = chosen
        _erase(tell, world, repo, forgotten)
        _attack(tell, world, repo, kept)
        _gone(tell, open_repository(Settings.load()), forgotten)
        _summary(tell, world, census, seconds)


def _make_repository(tell: Narrator, world: World) -> None:
    tell.title(
        "A repository, after the store was tried out",
        "Racing writers, deletions of locked versions, shortened locks: a store that gives way is refused.",
        "Every file gets a key of its own; what wraps the keys is in a file here, in OpenBao or Vault elsewhere.",
    )
    keys = ("--encrypt", "--keys-file", str(world.keys_file))
    tell.command(world, "init", REPOSITORY, "--lock-mode", "GOVERNANCE", "--retain", "7y", *keys)
    S3Store(KEYS_BUCKET).create_bucket()
    tell.lines(
        "A file is erased by destroying its key, so keys can't be locked as files are. A copy of them in another",
        "bucket, which packing and erasing keep up to date, is for the day on which somebody destroys them:",
    )
    tell.command(world, "keys", "copies", "add", f"s3://{KEYS_BUCKET}/archive")
    tell.lines("VERA keeps its watermark in tables of its own in the business database; nobody makes them silently:")
    tell.command(world, "migrate", SOURCE, "--create-schema")


def _migrate(tell: Narrator, world: World) -> float:
    """Runs each day's partition; returns the seconds that all took."""
    tell.title(
        "Dagster archives day after day",
        "Each day is a partition: its rows are frozen in a manifest, packed into shards, and catalogued.",
        "Checks read every byte anew, ask the store for every lock, and compare archive and source.",
    )
    job = build_definitions(settings=Settings.load()).resolve_job_def(Naming(SOURCE).name("archive"))
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    started = time.monotonic()
    with DagsterInstance.get() as instance:
        for day in world.sample.days:
            began = time.monotonic()
            result = job.execute_in_process(
                partition_key=partition_of(day), instance=instance, run_config=quiet, raise_on_error=False
            )
            checks = result.get_asset_check_evaluations()
            if why := _trouble(result):
                raise IntegrityError(why, day=partition_of(day), dagster_home=world.root / "dagster_home")
            tell.lines(f"{partition_of(day)}: {len(checks)} checks passed, {time.monotonic() - began:.1f} s")
    seconds = time.monotonic() - started
    tell.lines("VERA's own records in the business database say how far it is:")
    tell.command(world, "migrate", SOURCE, "--dry-run")
    return seconds


def _trouble(result: ExecuteInProcessResult) -> str:
    """What a run failed of, or which checks did not pass; "" if all is well."""
    found = []
    for event in result.get_step_failure_events():
        error = event.step_failure_data.error
        found.append(f"step {event.step_key} failed: {(error.cause or error).message.strip() if error else ''}")
    found += [f"check {item.check_name} failed" for item in result.get_asset_check_evaluations() if not item.passed]
    return "; ".join(found) or ("" if result.success else "the run failed")


def _chosen(world: World) -> list[Document]:
    """Some files, the same in every run."""
    first, *others = documents(world.root / "business.sqlite")
    choice = random.Random(1)  # noqa: S311 - a choice, not a secret
    return [first, *choice.sample(others, min(COMPARED - 1, len(others)))]


def _compare(tell: Narrator, repo: Repository, chosen: Sequence[Document]) -> None:
    """Reads each file with a new reader that knows nothing, and compares it with the original."""
    began = time.monotonic()
    retriever = Retriever(repo)
    size = 0
    for document in chosen:
        archived = b"".join(retriever.stream(document.uid, document.created_at)[1])
        if archived != document.path.read_bytes():
            raise IntegrityError("the archived file is not the original", uid=document.uid, path=document.path)
        size += len(archived)
    seconds = time.monotonic() - began
    tell.lines(
        f"{len(chosen):,} files ({size_text(size)}) compared with the originals, bit by bit: all equal; "
        f"{1000 * seconds / len(chosen):.1f} ms a file"
    )


def _erase(tell: Narrator, world: World, repo: Repository, document: Document) -> None:
    tell.title(
        "A person asks to be forgotten",
        "The file is out of sight at once, for every reader and for good. Its bytes lie in a locked object that nobody",
        "can change, among thousands of others: they stay there, but their key is destroyed, and nobody can open them.",
    )
    when = ("--created-at", document.created_at.isoformat())
    tell.command(
        world, "erase", document.uid, *when, "--request-id", "art17-2026-1", "--reason", "GDPR Art. 17(1)(b)"
    )  # fmt: skip
    _gone(tell, repo, document)
    tell.lines("What was destroyed, and where; --verify looks at every version of every keyring again:")
    tell.command(world, "erasures", "certificate", "art17-2026-1", "--verify")


def _gone(tell: Narrator, repo: Repository, document: Document) -> None:
    """Asks a new reader for an erased file."""
    try:
        Retriever(repo).get(document.uid, document.created_at)
    except ErasedError as error:
        tell.lines(f"A new reader, asked for {document.uid}: {error.what}")
    else:
        raise IntegrityError("an erased file can be read", uid=document.uid)


def _attack(tell: Narrator, world: World, repo: Repository, chosen: Sequence[Document]) -> None:
    tell.title(
        "An attack with full rights on the bucket",
        "Every object is overwritten by a plain PUT, then deleted; then each version's deletion is tried.",
        "Object Lock lets the first two pass: they make new versions and hide the old ones from readers by name.",
        "Keyrings are not locked: each version of them is deleted.",
    )
    done = attack(repo)
    tell.lines(
        f"{done.overwritten:,} objects overwritten, {done.deleted:,} deleted; "
        f"of {done.versions:,} versions that count {done.refused:,} refused to go, {done.removed:,} went",
        f"{done.keyrings:,} keyrings went, without which nothing can be read. They come back from their copy, but none",
        "that could open what was erased:",
    )
    tell.command(world, "keys", "restore")
    _compare(tell, open_repository(Settings.load()), chosen)
    tell.lines("The doctor clears away what the attacker left over the records:")
    tell.command(world, "doctor")
    tell.command(world, "verify")


def _census(repo: Repository) -> Census:
    """Every version of every object of the repository, whatever its kind, config and audit included."""
    sizes = [info.size for info in repo.store.list_versions(repo.keys.root)]
    return Census(len(sizes), sum(sizes))


def _summary(tell: Narrator, world: World, census: Census, seconds: float) -> None:
    sample = world.sample
    saved = saved_monthly(
        S3_STANDARD_IA,
        files=sample.files,
        content_bytes=sample.content_bytes,
        objects=census.objects,
        stored_bytes=census.size,
    )
    tell.title("What it came to")
    pairs = [
        ("files", f"{sample.files:,}, {size_text(sample.content_bytes)}"),
        ("in the bucket", f"{census.objects:,} objects of every kind, {size_text(census.size)}"),
        ("files per object", f"{sample.files / census.objects:,.0f}, counting all; it grows with the files a day"),
        ("compression", f"{sample.content_bytes / census.size:.1f} bytes of content in a stored byte"),
        ("speed", f"{sample.files / seconds:,.0f} files/s, {size_text(sample.content_bytes / seconds)}/s"),
        ("", "from the database to the verified archive, Dagster included; `make bench` measures packing alone"),
        ("saved", f"${saved:,.2f} a month against one object a file ({S3_STANDARD_IA.name}, {S3_STANDARD_IA.dated})"),
    ]
    for name, value in pairs:
        tell.lines(f"{name:<17} {value}")
    say("\nWhere to go next")
    say(f"   make dev                  the same with the Dagster UI; this demo's data stays in {world.root}")
    say("   docs/getting-started.md   your own bucket, your own database")
    say("   docs/cli.md               every command")


def main(arguments: Sequence[str]) -> int:
    """Runs it in the directory that is named, or in .demo; returns the exit code."""
    end_in_order()
    try:
        demo(Path(*arguments) if arguments else HOME)
    except KeyboardInterrupt:
        warn("interrupted; every process of the demo has ended")
        return 130
    except VeraError as error:
        warn(describe(error.to_json()))
        return error.kind.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
