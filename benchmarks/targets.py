"""What VERA must reach, and whether it did: ratios within one run, so that they hold on other machines, too."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from benchmarks.peers import VERA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.results import Comparison, Encrypting, Erasing, Grown, Lookups, Memory, OnS3, Repacking, Results

MIB = 1 << 20
RANDOM_ACCESS = ("zip", "sqlite-zstd", "swh-zstd")
"""The peers that give random access and compress, as VERA does."""
ENTRIES = 200_000
"""From so many entries on, cold lookups and memory are held to their limits; fewer prove nothing."""
MILLION = 1_000_000
ERASED = 10_000
"""From so many files on, erasing them is held to its limit."""


class Target(NamedTuple):
    """A figure, what it must be, and what it is; `met` follows from the unrounded values, None: a peer was missing."""

    what: str
    must: str
    measured: str
    met: bool | None


def targets(results: Results) -> list[Target]:
    """Every target that the results have figures for."""
    found: list[Target] = []
    rules = {"json": _json, "mixed": _mixed, "blobs": _blobs}
    for name, comparison in results.comparisons.items():
        found += rules[name](comparison)
    if results.growth is not None:
        found += [target for grown in results.growth.by_number for target in _grown(grown)]
    if results.s3 is not None:
        found += _s3(results.s3)
    if results.encrypting is not None:
        found += _encrypting(results.encrypting)
    if results.repacking is not None:
        found += _repacking(results.repacking)
    if results.memory is not None:
        found += _memory(results.memory)
    if results.erasing is not None:
        found += _erasing(results.erasing)
    return found


def _json(comparison: Comparison) -> Iterator[Target]:
    yield _speed(comparison, "json", "tar-zstd", 1.1)
    yield _size(comparison, "json", "tar-zstd", most=1.05)
    for name in RANDOM_ACCESS:
        yield _speed(comparison, "json", name, 1.5)
        yield _size(comparison, "json", name, most=1 / 1.5)
    yield from _lookups(comparison)
    yield _packing_memory(comparison, "json")


def _mixed(comparison: Comparison) -> Iterator[Target]:
    yield _speed(comparison, "mixed", "tar-zstd", 1.0)
    for name in RANDOM_ACCESS:
        yield _size(comparison, "mixed", name, most=1.0)
    yield _packing_memory(comparison, "mixed")


def _blobs(comparison: Comparison) -> Iterator[Target]:
    yield _speed(comparison, "blobs", "tar", 0.8)
    overhead = comparison.entrants[VERA].stored_bytes / comparison.content_bytes - 1
    yield Target("blobs: stored beyond the content", "below 0.5 %", f"{overhead:.2%}", overhead < 0.005)
    yield _packing_memory(comparison, "blobs")


def _speed(comparison: Comparison, corpus: str, peer: str, least: float) -> Target:
    own, other = comparison.entrants[VERA], comparison.entrants[peer]
    ratio = None if other.missing else other.seconds / own.seconds
    return _at_least(f"{corpus}: files/s, of {other.title}", ratio, least)


def _size(comparison: Comparison, corpus: str, peer: str, *, most: float) -> Target:
    own, other = comparison.entrants[VERA], comparison.entrants[peer]
    ratio = None if other.missing else own.stored_bytes / other.stored_bytes
    return _at_most(f"{corpus}: stored bytes, of {other.title}", ratio, most)


def _lookups(comparison: Comparison) -> Iterator[Target]:
    own, raw = comparison.entrants[VERA].lookups, comparison.entrants["swh-raw"]
    assert own is not None
    ratio = None if raw.lookups is None else own.per_second / raw.lookups.per_second
    yield _at_least(f"json: warm lookups/s, of {raw.title}", ratio, 0.75)
    if comparison.files >= ENTRIES and own.cold_reads >= 0:
        yield _cold(f"json: cold lookup among {comparison.files:,} entries", own, 64_000)


def _packing_memory(comparison: Comparison, corpus: str) -> Target:
    return _memory_limit(
        f"{corpus}: memory of packing {comparison.files:,} files", comparison.entrants[VERA].peak_bytes
    )


def _grown(grown: Grown) -> Iterator[Target]:
    found = grown.entrant.lookups
    if grown.files >= MILLION and found is not None:
        yield _memory_limit(f"growth: memory of packing {grown.files:,} files", grown.entrant.peak_bytes)
        if found.cold_reads >= 0:
            yield _cold(f"growth: cold lookup among {grown.files:,} entries", found, 128 << 10)


def _s3(s3: OnS3) -> Iterator[Target]:
    packed = s3.database
    speed, density = packed.files_per_second, packed.files / packed.objects
    yield Target("s3: files/s from a database", "20,000 at least", f"{speed:,.0f}", speed >= 20_000)
    if packed.files >= ENTRIES:
        yield Target("s3: files for each object of any kind", "1,000 at least", f"{density:,.0f}", density >= 1000)
    cold, warm = len(s3.cold_requests), len(s3.warm_requests)
    yield Target("s3: requests of a cold read", "5 at most", f"{cold}: {', '.join(s3.cold_requests)}", cold <= 5)
    yield Target("s3: requests of a warm read", "1", f"{warm}: {', '.join(s3.warm_requests)}", warm == 1)


def _encrypting(encrypting: Encrypting) -> Iterator[Target]:
    common, encrypted = encrypting.common, encrypting.encrypted
    ratio = encrypted.files_per_second / common.files_per_second
    yield _at_least("encrypted: files/s, of unencrypted with the same codecs", ratio, 0.75)
    yield _memory_limit(f"encrypted: memory of packing {encrypted.files:,} files", encrypted.own_bytes)


def _repacking(repacking: Repacking) -> Iterator[Target]:
    for what, run in (("repack", repacking.plain), ("repack encrypted", repacking.encrypted)):
        yield _at_least(f"{what}: files/s, of packing", run.files_per_second / run.packed.files_per_second, 0.5)
        yield _memory_limit(f"{what}: memory of moving {run.files:,} files", run.own_bytes)


def _memory(memory: Memory) -> Iterator[Target]:
    few, many = (run.own_bytes + run.helper_bytes for run in (memory.few, memory.many))
    what = f"memory: {memory.many.files:,} files, with helpers"
    yield Target(what, "below 400 MiB", f"{many / MIB:,.0f} MiB", many < 400 * MIB)
    yield _at_most(f"memory: the same, of what {memory.few.files:,} files take", many / few, 1.1)


def _erasing(erasing: Erasing) -> Iterator[Target]:
    if erasing.files >= ERASED:
        what = f"erase: {erasing.files:,} files of {erasing.slots:,} slots"
        yield Target(what, "below 60 s", f"{erasing.seconds:.1f} s", erasing.seconds < 60)
    keys = erasing.encrypted
    if keys is not None and keys.files >= ERASED:
        what = f"erase: {keys.files:,} files of {keys.slots:,} slots, until their keys are destroyed"
        yield Target(what, "below 60 s", f"{keys.seconds:.1f} s", keys.seconds < 60)
    what = f"erase: one file of a shard of {erasing.single_of:,}, by the command"
    yield Target(what, "below 2 s", f"{erasing.single_seconds:.2f} s", erasing.single_seconds < 2)
    hidden = erasing.hidden_seconds
    yield Target("erase: until a reader that knew the file learns of it", "5 s at most", f"{hidden:.1f} s", hidden <= 5)


def _cold(what: str, found: Lookups, most: int) -> Target:
    met = found.cold_reads <= 3 and found.cold_bytes <= most
    must = f"3 reads of {most:,} bytes at most"
    return Target(what, must, f"{found.cold_reads} reads of {found.cold_bytes:,} bytes", met)


def _memory_limit(what: str, peak: int) -> Target:
    return Target(what, "below 300 MiB", f"{peak / MIB:,.0f} MiB", peak < 300 * MIB)


def _at_least(what: str, ratio: float | None, least: float) -> Target:
    return Target(what, f"{least:.2f} times at least", _times(ratio), None if ratio is None else ratio >= least)


def _at_most(what: str, ratio: float | None, most: float) -> Target:
    return Target(what, f"{most:.2f} times at most", _times(ratio), None if ratio is None else ratio <= most)


def _times(ratio: float | None) -> str:
    return "not measured" if ratio is None else f"{ratio:.3f} times"
