"""What a run measured, as it is written to JSON and read back. How it is shown: tables.py; what it must be: targets.py.

Seconds are of the best of all rounds, bytes of memory of the first round, which is watched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookups:
    """Random reads a second with warm caches; then what opening and reading one file cost: reads, bytes, seconds.

    `checked_per_second` is with a digest of each content checked, too, where that was left out before, else 0. Reads
    are system calls; -1 where the system does not count them.
    """

    per_second: float
    cold_reads: int
    cold_bytes: int
    cold_seconds: float
    checked_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrant:
    """What a peer came to on a corpus; `missing` says why it did not run, and then everything else is 0."""

    title: str
    missing: str = ""
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    stored_bytes: int = 0
    lookups: Lookups | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All entrants on one corpus, by name.

    `freeze_seconds` and `verify_seconds` are what VERA needs before packing, to freeze the rows of a database as a
    manifest, and after it, to verify what it built; both with one core.
    """

    files: int
    content_bytes: int
    entrants: dict[str, Entrant]
    freeze_seconds: float
    verify_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Grown:
    """VERA on one number and size of files.

    Of the stored bytes, `index_bytes` are the index, which lies between the contents, and `rest_bytes` are the header,
    dictionaries, directory and footer.
    """

    files: int
    content_bytes: int
    index_bytes: int
    rest_bytes: int
    entrant: Entrant
    verify_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """How cost grows with the number of files, and with their size."""

    by_number: list[Grown]
    by_size: list[Grown]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """A run of `vera pack` to S3: verified, uploaded, committed. `objects` counts those of every kind."""

    files: int
    content_bytes: int
    stored_bytes: int
    objects: int
    seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    own_bytes: int
    helper_bytes: int

    @property
    def files_per_second(self) -> float:
        """The speed."""
        return self.files / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class OnS3:
    """Packing to the embedded S3 and reading from it; requests by kind."""

    database: Packed
    directory: Packed
    single_files: int
    single_seconds: float
    cold_requests: list[str]
    warm_requests: list[str]
    reads_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Encrypting:
    """Packing to S3: openly, openly with the dictionaries that an encrypted shard would have, and encrypted."""

    plain: Packed
    common: Packed
    encrypted: Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Repacked:
    """A shard that was packed to S3, of which `left_out` files were erased, and the others (`files`) repacked."""

    packed: Packed
    files: int
    left_out: int
    seconds: float
    cpu_seconds: float
    own_bytes: int
    helper_bytes: int

    @property
    def files_per_second(self) -> float:
        """The speed of what moves."""
        return self.files / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Repacking:
    """Repacking, unencrypted and encrypted."""

    plain: Repacked
    encrypted: Repacked


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Packing few and many small files to S3."""

    few: Packed
    many: Packed


@dataclass(frozen=True, slots=True, kw_only=True)
class Destroying:
    """Erasing files of many slots of an encrypted repository by one request, until their keys are destroyed."""

    files: int
    slots: int
    seconds: float
    cpu_seconds: float
    server_cpu_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasing:
    """Erasing files of many slots by one request; then one file of a shard of `single_of` by the command line.

    `hidden_seconds` is how long after the command's end a reader that had read the file learned of it; `encrypted`
    tells of the same request in an encrypted repository.
    """

    files: int
    slots: int
    seconds: float
    cpu_seconds: float
    server_cpu_seconds: float
    single_of: int
    single_seconds: float
    hidden_seconds: float
    encrypted: Destroying | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where and when it ran. `load` is the load average before it began: above 0.2 or so the figures are disturbed."""

    when: str
    cores: int
    processor: str
    system: str
    load: float
    versions: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """Everything that was measured; None where it was not asked for."""

    machine: Machine
    comparisons: dict[str, Comparison]
    growth: Growth | None = None
    s3: OnS3 | None = None
    memory: Memory | None = None
    erasing: Erasing | None = None
    encrypting: Encrypting | None = None
    repacking: Repacking | None = None


_RESULTS = TypeAdapter(Results)


def save(results: Results, path: Path) -> None:
    """Writes JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_RESULTS.dump_json(results, indent=2) + b"\n")


def load(path: Path) -> Results:
    """Reads what `save` wrote.

    Raises:
        pydantic.ValidationError: it is something else.
    """
    return _RESULTS.validate_json(path.read_bytes())
