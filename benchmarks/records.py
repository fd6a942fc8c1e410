"""JSON records of a made-up business, the same for one seed: invoices whose lines name articles and serial numbers.

Calibrated to a corpus of 200,000 records of 2.8 KB on average of which these sizes are known, in percent of the
content; in brackets what 200,000 of these records come to (zstd 1.5.4 and 1.5.7, tar 1.34, zip 3.0):

    tar | zstd -3 -T2                                   21.5  (21.4)
    zip                                                 39.2  (39.1)
    swh-shard, each file compressed with zstd -3        34.5  (33.7)
    SQLite, each row compressed with zstd -3            38.9  (37.7)
    zstd -1 with a 16 KiB dictionary, contents alone    20.2  (20.5)

SQLite's differs most because benchmarks/peers/sqlite.py uses pages of 8 KB; with its usual 4 KB it needs 40.5.

What decides these is how much of a record is structure that all share (keys, words: what a dictionary or a large window
saves) and how much is really random (identifiers, amounts, serial numbers, a checksum: what nothing saves). A uid is a
ULID, as databases that many writers fill make them, and the file's name, so that a tar pays for names as VERA does for
uids; created_at has milliseconds, and files are as old as their records. No two records are equal.
"""

from __future__ import annotations

import random
from datetime import UTC, date, datetime, timedelta
from math import exp, log
from typing import TYPE_CHECKING

from benchmarks.corpus import FILES_PER_DIRECTORY, Item

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = date(2026, 3, 2)
"""All records were created on this day, evenly."""
SIZES = (512, 8000)
"""Bytes of a record: spread evenly by their logarithm, 2.8 KB on average."""
SMALL_SIZES = (512, 640)
"""Bytes of records of which millions fit on a disk."""

_GOODS = (
    "copper pipe", "elbow joint", "ball valve", "radiator", "circulation pump", "thermostat", "pressure gauge",
    "insulation", "expansion vessel", "floor drain", "mixer tap", "shower hose", "flange", "water meter",
    "safety valve", "heat pump",
)  # fmt: skip
_KINDS = ("15 mm", "18 mm", "22 mm", "28 mm", "type 11", "type 22", "DN 15", "DN 20", "DN 25", "DN 32")
_ARTICLES = tuple(f"{goods} {kind}" for goods in _GOODS for kind in _KINDS)
_CITIES = (
    "Aachen", "Bremen", "Chemnitz", "Dresden", "Erfurt", "Freiburg", "Gera", "Hamburg", "Ingolstadt", "Jena", "Kassel",
    "Leipzig", "Mainz", "Nuremberg", "Oldenburg", "Potsdam",
)  # fmt: skip
_STATES = ("open", "paid", "overdue")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = tuple(first + second for first in _CROCKFORD for second in _CROCKFORD)


def records(count: int, *, sizes: tuple[int, int] = SIZES, seed: int = 1) -> Iterator[tuple[Item, bytes]]:
    """Makes `count` records with sizes in bytes between (about) those two."""
    rng = random.Random(seed)
    midnight = datetime(DAY.year, DAY.month, DAY.day, tzinfo=UTC)
    first = int(midnight.timestamp() * 1000)
    for number in range(count):
        millis = int((number + rng.random()) * 86_400_000 / count)
        uid = _ulid(first + millis, rng.getrandbits(80))
        created_at = (midnight + timedelta(milliseconds=millis)).isoformat(timespec="milliseconds")
        content = record(rng, uid, created_at.replace("+00:00", "Z"), size=_size(rng, sizes))
        path = f"{number // FILES_PER_DIRECTORY:05d}/{uid}.json"
        yield Item(uid, path, len(content), (first + millis) * 1000), content


def record(rng: random.Random, uid: str, created_at: str, *, size: int) -> bytes:
    """One record of at least `size` bytes, and at most one line (130 bytes) more."""
    bits = rng.getrandbits
    head = (
        f'{{"id":"{uid}","created_at":"{created_at}","status":"{_STATES[bits(16) % 3]}","currency":"EUR",'
        f'"customer":{{"number":"C{bits(26):08d}","city":"{_CITIES[bits(4)]}","iban":"DE{bits(66):020d}"}},"lines":['
    )
    tail = f'],"tax":"19.00","total":"{bits(24)}.{bits(6):02d}","document":"sha1:{bits(160):040x}"}}\n'
    lines: list[str] = []
    left = size - len(head) - len(tail)
    while left > 0 or not lines:
        value = bits(48)
        line = (
            f'{{"article":"A-{bits(20):07d}","text":"{_ARTICLES[value % 160]}","quantity":{1 + (value >> 20) % 20},'
            f'"unit":"pcs","price":"{(value >> 28) % 1000}.{value >> 42:02d}","serial":"{bits(36):09X}"}}'
        )
        left -= len(line) + 1
        lines.append(line)
    return f"{head}{','.join(lines)}{tail}".encode()


def _size(rng: random.Random, sizes: tuple[int, int]) -> int:
    low, high = sizes
    return int(low * exp(rng.random() * log(high / low)))


def _ulid(millis: int, noise: int) -> str:
    """26 characters of 5 bits: 48 bits of time, 80 of noise."""
    value = millis << 80 | noise
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])
