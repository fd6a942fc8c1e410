"""Entrants against each other on one corpus: same files, warm caches, in turns, best of some rounds."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks.jobs import look_up, open_cold, pack
from benchmarks.peers import PEERS, VERA, peer
from benchmarks.process import call
from benchmarks.results import Comparison, Entrant, Lookups
from benchmarks.stages import freeze, verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from benchmarks.corpus import Corpus
    from benchmarks.process import Measured

ENOUGH_SECONDS = 15.0
"""Whoever has taken so long in all does not run again."""
READS, READ_SECONDS = 20_000, 1.0
LOOKUP_ROUNDS = 2


def compare(corpus: Corpus, *, rounds: int) -> Comparison:
    """Measures all that this machine has; archives lie beside the corpus, and are removed."""
    able = [name for name in PEERS if not peer(name).missing()]
    frozen = call(freeze, {"corpus": corpus.directory})
    runs = _pack_in_turns(corpus, able, rounds)
    found = _look_up_in_turns(corpus, able)
    verified = call(verify, {"target": _target(corpus, VERA)})
    for name in able:
        _target(corpus, name).unlink()
    entrants = {name: Entrant(title=peer(name).title, missing=peer(name).missing()) for name in PEERS}
    entrants |= {name: entrant(name, runs[name], found.get(name)) for name in able}
    return Comparison(
        files=corpus.files,
        content_bytes=corpus.content_bytes,
        entrants=entrants,
        freeze_seconds=frozen.seconds,
        verify_seconds=verified.seconds,
    )


def reads_per_second(where: Mapping[str, object], *, digests: bool = False) -> float:
    """The speed of warm random reads of what lies there; `digests` as for `Peer.open_warm`."""
    run = call(look_up, {**where, "reads": READS, "seconds": READ_SECONDS, "digests": digests})
    return float(run.outcome["count"]) / run.seconds


def lookups(where: Mapping[str, object], per_second: float) -> Lookups:
    """That speed, and what a cold open costs."""
    cold = call(open_cold, where)
    return Lookups(per_second=per_second, cold_reads=cold.reads, cold_bytes=cold.read_bytes, cold_seconds=cold.seconds)


def entrant(name: str, runs: Sequence[Measured], found: Lookups | None) -> Entrant:
    """What an entrant's runs came to, of which the first was watched."""
    best, watched = min(runs, key=lambda run: run.seconds), runs[0]
    return Entrant(
        title=peer(name).title,
        seconds=best.seconds,
        slowest_seconds=max(run.seconds for run in runs),
        cpu_seconds=min(run.cpu_seconds for run in runs),
        peak_bytes=watched.helper_bytes + (0 if peer(name).outside else watched.own_bytes),
        stored_bytes=best.outcome["size"],
        lookups=found,
    )


def say(what: str) -> None:
    """Tells who waits what goes on."""
    print(what, file=sys.stderr, flush=True)


def _pack_in_turns(corpus: Corpus, names: Sequence[str], rounds: int) -> dict[str, list[Measured]]:
    """The first round is watched; it also fills the caches."""
    runs: dict[str, list[Measured]] = {name: [] for name in names}
    for turn in range(rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            if sum(run.seconds for run in runs[name]) < ENOUGH_SECONDS:
                say(f"{corpus.name}: {name} packs {corpus.files:,} files, round {turn + 1}")
                _target(corpus, name).unlink(missing_ok=True)
                runs[name].append(call(pack, _where(corpus, name), watch=turn == 0))
    return runs


def _look_up_in_turns(corpus: Corpus, names: Sequence[str]) -> dict[str, Lookups]:
    readable = [name for name in names if peer(name).reads]
    ways = [(VERA, True), *((name, False) for name in readable)]
    speeds = dict.fromkeys(ways, 0.0)
    for turn in range(LOOKUP_ROUNDS):
        for name, digests in ways if turn % 2 == 0 else reversed(ways):
            say(f"{corpus.name}: {name} reads in random order, round {turn + 1}")
            speed = reads_per_second(_where(corpus, name), digests=digests)
            speeds[name, digests] = max(speeds[name, digests], speed)
    found = {name: lookups(_where(corpus, name), speeds[name, False]) for name in readable}
    return {**found, VERA: replace(found[VERA], checked_per_second=speeds[VERA, True])}


def _where(corpus: Corpus, name: str) -> dict[str, object]:
    return {"peer": name, "corpus": corpus.directory, "target": _target(corpus, name)}


def _target(corpus: Corpus, name: str) -> Path:
    return corpus.directory / f"{name}.archive"
