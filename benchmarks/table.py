"""The results as a table for people, with units and with what must be reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from benchmarks.corpus import Corpus
    from benchmarks.packing import Packed
    from benchmarks.peers import Peer
    from benchmarks.reading import Reads

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured. `few` and `many`: runs of which memory is compared, None where it was not asked."""

    corpus: Corpus
    packed: Packed
    directory: Packed
    tar: Peer
    single: Peer
    reads: Reads
    few: Packed | None
    many: Packed | None


class Line(NamedTuple):
    """A figure: what it is, its value with unit, and what it must be."""

    what: str
    value: str
    must: str = ""


def table(results: Results) -> str:
    """The table."""
    lines = [*_packing(results), *_peers(results), *_reading(results), *_memory(results)]
    widths = [max(len(line[column]) for line in lines) for column in range(2)]
    return "\n".join(
        f"{line.what:{widths[0]}}  {line.value:>{widths[1]}}  {line.must}".rstrip() if line.value else f"\n{line.what}"
        for line in lines
    )


def _packing(results: Results) -> list[Line]:
    corpus, packed = results.corpus, results.packed
    return [
        Line(f"{corpus.files:,} files of {corpus.content_bytes / corpus.files:,.0f} bytes on average", ""),
        Line("packed from a database's rows", _speed(packed), "must be 20,000 on two cores"),
        Line("  CPU of VERA and its helpers", _cpu(packed.measured.cpu_seconds, packed)),
        Line("  CPU of the S3 server", _cpu(packed.server_seconds, packed)),
        Line("  stored, of the content", f"{packed.measured.stored_bytes / corpus.content_bytes:.1%}"),
        Line("  files per object, all objects counted", f"{packed.files_per_object:,.0f}", "must be 1,000"),
        Line("packed from a directory", _speed(results.directory)),
    ]


def _peers(results: Results) -> list[Line]:
    packed, tar, single = results.packed, results.tar, results.single
    return [
        Line("peers, in the same run", ""),
        Line("tar | zstd -3 to a local file", f"{tar.files_per_second:,.0f} files/s"),
        Line("  VERA's speed of that", f"{packed.files_per_second / tar.files_per_second:.2f} times"),
        Line("  VERA's stored bytes of its", f"{packed.measured.stored_bytes / tar.stored_bytes:.2f} times"),
        Line(f"{single.files:,} files as single S3 objects", f"{single.files_per_second:,.0f} files/s"),
        Line("  VERA's speed of that", f"{packed.files_per_second / single.files_per_second:.1f} times"),
    ]


def _reading(results: Results) -> list[Line]:
    reads = results.reads
    return [
        Line("reading", ""),
        Line("requests of a cold read", str(len(reads.cold)), f"must be 5 at most; {', '.join(reads.cold)}"),
        Line("requests of a warm read", str(len(reads.warm)), f"must be 1; {', '.join(reads.warm)}"),
        Line("random reads, one after the other", f"{reads.files_per_second:,.0f} files/s"),
    ]


def _memory(results: Results) -> list[Line]:
    few, many = results.few, results.many
    if few is None or many is None:
        return []
    size = many.measured.content_bytes / many.measured.files
    return [
        Line(f"peak memory with files of {size:,.0f} bytes on average", ""),
        Line(f"packing {few.measured.files:,} files", _size(few.measured.peak_bytes)),
        Line("  together with its helpers", _size(few.measured.together_bytes)),
        Line(f"packing {many.measured.files:,} files", _size(many.measured.peak_bytes)),
        Line("  together with its helpers", _size(many.measured.together_bytes), "must be below 400 MiB"),
        Line("  of what the fewer take", _times(many.measured.peak_bytes, few.measured.peak_bytes)),
        Line(
            "  of what the fewer take, with helpers",
            _times(many.measured.together_bytes, few.measured.together_bytes),
            "must be 1.10 at most",
        ),
        Line("  its speed", _speed(many)),
        Line("  its files per object", f"{many.files_per_object:,.0f}", "must be 1,000"),
    ]


def _speed(packed: Packed) -> str:
    return f"{packed.files_per_second:,.0f} files/s"


def _cpu(seconds: float, packed: Packed) -> str:
    return f"{seconds / packed.measured.files * 1e6:.1f} us/file"


def _size(count: int) -> str:
    return f"{count / MIB:,.0f} MiB"


def _times(one: float, other: float) -> str:
    return f"{one / other:.2f} times"
