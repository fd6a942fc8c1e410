"""Keyed manifests: what they show, and that whoever adopts one has the rows of whoever froze it."""

from __future__ import annotations

import hmac
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.source.test_manifest import ROWS, START, WINDOW, bits, frozen, raw
from vera_core.errors import IntegrityError
from vera_core.keys.envelope import Header, Kind
from vera_core.keys.naming import PLAIN, KeyedNaming
from vera_core.keys.tenant import TenantKey
from vera_core.routing import DAY_MICROS, uid_key
from vera_core.source import adoption, blocks, sorting
from vera_core.source import rows as row_types
from vera_core.source.adoption import adopt, look_up
from vera_core.source.manifest import Freezing, Manifest, freeze
from vera_core.source.revisions import identities_of, new_rows
from vera_core.source.rows import KEYED_PLACE, RawRow, batched, metadata_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vera_core.source.rows import Row

KEYED = KeyedNaming(TenantKey.fresh(b"r" * 16, "default"))
FEW = st.sampled_from(["a", "b", "c/1", "d"])
MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
# Rows that share uids, times and more: several of one uid, equal ones, and the same one in another class.
CROWDED = st.lists(
    st.builds(
        RawRow,
        uid=FEW,
        created_at=st.sampled_from([START, START + 5, START + DAY_MICROS - 1]),
        retention_class=st.sampled_from(["standard", "long"]),
        place=st.sampled_from(["", "row:1", "row:2"]),
        size=st.sampled_from([None, 3]),
        late=st.sampled_from(["", "7"]),
        reject=st.sampled_from(["", "", "", "bad-uid"]),
        media_type=st.sampled_from(["", "text/plain"]),
        metadata=st.sampled_from(["", '{"a":"b"}']),
        detail=st.just(""),
    ),
    max_size=25,
)
SOME = CROWDED | st.lists(ROWS, max_size=25)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which a handful of rows are spilled, merged and cut into blocks."""
    for module, name, size in [
        (sorting, "RUN_ROWS", 4), (sorting, "FAN_IN", 2), (sorting, "CHUNK_ROWS", 2), (row_types, "BATCH_ROWS", 3),
        (blocks, "BLOCK_ROWS", 4), (adoption, "FEW_ROWS", 6),
    ]:  # fmt: skip
        monkeypatch.setattr(module, name, size)


class Place:
    """Where one example freezes and adopts."""

    def __init__(self, scratch: Path, n_bits: int = 3) -> None:
        self.scratch = scratch
        self.by = Freezing(bits(n_bits), scratch, KEYED)

    def path(self) -> Path:
        return self.scratch / f"{len(list(self.scratch.iterdir()))}-{id(self)}.parquet"

    def freeze(self, rows: Iterable[RawRow], revision: int = 1) -> tuple[Manifest, Manifest]:
        """What goes into the bucket, and the rows that whoever froze it has."""
        path = self.path()
        held = freeze(batched(rows), path, window=replace(WINDOW, revision=revision), by=self.by)
        return Manifest.open(path), held

    def adopt(self, rows: Iterable[RawRow], stored: Manifest) -> Manifest:
        adopted = adopt(batched(rows), stored, self.path(), by=self.by)
        assert (adopted.digest, adopted.segments) == (stored.digest, stored.segments)
        assert (adopted.row_count, adopted.reject_count) == (stored.row_count, stored.reject_count)
        assert not adopted.keyed
        return adopted


def every(manifest: Manifest) -> list[Row]:
    return list(manifest.rows(0, manifest.row_count))


def known(row: RawRow) -> tuple[object, ...]:
    """What makes a row of the source the same one."""
    return (row.uid, row.created_at, row.size, row.place, row.late, row.reject, row.retention_class)


@MANY
@given(rows=SOME, n_bits=st.sampled_from([0, 2]), data=st.data())
def test_whoever_adopts_has_the_rows_of_whoever_froze(
    tmp_path: Path, rows: list[RawRow], n_bits: int, data: st.DataObject
) -> None:
    place = Place(tmp_path, n_bits)
    stored, held = place.freeze(rows)
    assert stored.digest == held.digest
    assert not held.keyed
    assert stored.keyed
    adopted = place.adopt(data.draw(st.permutations(rows)), stored)
    assert every(adopted) == every(held)
    assert list(adopted.rejects()) == list(held.rejects())
    assert not list(tmp_path.glob("run-*"))


@MANY
@given(rows=SOME, n_bits=st.sampled_from([0, 2]))
def test_the_rows_are_those_of_an_unencrypted_manifest(tmp_path: Path, rows: list[RawRow], n_bits: int) -> None:
    """The same slots, classes and rows; within a slot and class sorted by name, and within a name as ever."""
    _, held = Place(tmp_path, n_bits).freeze(rows)
    plain = frozen(tmp_path, rows, bits(n_bits))
    assert [(s.slot, s.retention_class, s.first, s.end) for s in held.segments] == [
        (s.slot, s.retention_class, s.first, s.end) for s in plain.segments
    ]
    assert sorted(map(raw, every(held)), key=repr) == sorted(map(raw, every(plain)), key=repr)
    for segment in held.segments:
        found = list(held.rows(segment.first, segment.end))
        keys = [(KEYED.key(row.name), row.name) for row in found]
        assert keys == sorted(keys)
        assert [row.key for row in found] == [key for key, _ in keys]
        for uid in {row.uid for row in found}:
            ours = [raw(row) for row in found if row.uid == uid]
            assert ours == [raw(row) for row in plain.rows(segment.first, segment.end) if row.uid == uid]


def same_places(rows: list[Row]) -> list[tuple[object, ...]]:
    return [(row.slot, row.retention_class, row.key, row.name) for row in rows]


def test_a_row_that_changed_is_adopted_as_it_is_now(tmp_path: Path) -> None:
    """Its neighbours of the same uid stay where they are; the same uid in another class is another row."""
    rows = [RawRow("a", START + n, "standard", "row:1", late=str(n)) for n in range(3)]
    place = Place(tmp_path)
    stored, _ = place.freeze([*rows, RawRow("b", START, "standard"), RawRow("c", START, "standard")])
    changed = rows[1]._replace(created_at=START + 50, late="9")
    now = [rows[0], rows[2], changed, RawRow("b", START, "long"), RawRow("c", START, "standard", reject="bad-uid")]
    adopted = every(place.adopt(now, stored))
    assert [raw(row) for row in adopted if row.uid == "a"] == [rows[0], changed, rows[2]]
    assert [row.reject for row in adopted if row.uid != "a"] == ["gone", "gone"]


@MANY
@given(before=SOME, after=SOME, data=st.data())
def test_rows_that_are_gone_or_changed_or_new(
    tmp_path: Path, before: list[RawRow], after: list[RawRow], data: st.DataObject
) -> None:
    place = Place(tmp_path)
    stored, held = place.freeze(before)
    kept = data.draw(st.lists(st.sampled_from(before), unique_by=id) if before else st.just([]))
    now = [*kept, *after]
    adopted = every(place.adopt(data.draw(st.permutations(now)), stored))
    assert same_places(adopted) == same_places(every(held))
    there = Counter(map(known, now))
    same = Counter[tuple[object, ...]]()
    for row, was in zip(adopted, every(held), strict=True):
        if known(raw(row)) == known(raw(was)):
            same[known(raw(row))] += 1
    assert same == there & Counter(known(raw(was)) for was in every(held)), "what is still there is in its place"
    there.subtract(same)
    left = Counter((facts[0], facts[-1]) for facts in there.elements() if not facts[-2])
    for row, was in zip(adopted, every(held), strict=True):
        facts = known(raw(was))
        if known(raw(row)) == facts:
            continue
        if row.reject:
            assert (row.uid, row.reject) == (was.name, was.reject or "gone")
            assert row.place.startswith(KEYED_PLACE)
            assert was.reject or not left[was.uid, was.retention_class]
        else:
            assert row.uid == was.uid
            there[known(raw(row))] -= 1
            left[was.uid, was.retention_class] -= 1
    assert min(there.values(), default=0) >= 0, "no row stands in two places"


@MANY
@given(rows=SOME)
def test_what_is_stored_tells_slots_classes_names_and_reasons_only(tmp_path: Path, rows: list[RawRow]) -> None:
    stored, held = Place(tmp_path).freeze(rows)
    for row, shown in zip(every(held), every(stored), strict=True):
        assert shown == row._replace(
            uid=row.name, created_at=START, place=shown.place, size=None, media_type="", metadata=(), late="", detail=""
        )
        assert row.name == KEYED.names([row.uid])[0]
        (identity,) = KEYED.identities(facts_of([raw(row)]))
        assert shown.place == KEYED_PLACE + identity.hex()


def facts_of(rows: Iterable[RawRow]) -> Iterator[tuple[object, ...]]:
    return (facts for batch in batched(rows) for facts in batch.facts())


def test_the_bytes_that_are_stored_hold_nothing_of_a_row(tmp_path: Path) -> None:
    rows = [
        RawRow(
            f"patient-Ottokar-{n}", START + 8_123_456_789 + n, "standard", f"file:/clinic/wing-7/{n}", 777_000_111 + n,
            "application/x-telling", metadata_text((("diagnosis", f"gout-{n}"),)), f"change-{n}",
            "missing-file" if n % 5 == 0 else "", f"no such file: Ottokar-{n}",
        )
        for n in range(40)
    ]  # fmt: skip
    place = Place(tmp_path)
    stored, held = place.freeze(rows)
    data = stored.path.read_bytes()
    table = pq.read_table(stored.path)
    columns = [value for name in table.column_names for value in table.column(name).to_pylist()]
    text = data + repr([columns, pq.read_metadata(stored.path).metadata]).encode()
    for telling in [b"Ottokar", b"clinic", b"telling", b"gout", b"diagnosis", b"change-", b"no such"]:
        assert telling not in text
    for row in every(held):
        for number in (row.created_at, row.size or 0, uid_key(row.uid)):
            assert number.to_bytes(8, "little") not in data
            assert str(number).encode() not in text
    assert stored.path.stat().st_mode & 0o777 == held.path.stat().st_mode & 0o777


def test_the_identity_is_what_the_documentation_says() -> None:
    secret = bytes(range(32))
    naming = KeyedNaming(TenantKey(Header(Kind.TENANT, b"r" * 16, "default"), secret))
    extracted = hmac.digest(bytes(32), secret, "sha256")
    subkey = hmac.digest(extracted, b"vera-tenant-row-v1" + b"\1", "sha256")
    facts = '["a/\\"Ü\\"",1772323200000000,null,"file:/srv/a\\n","7",""]'.encode()
    rows = [RawRow('a/"Ü"', 1772323200000000, "long", "file:/srv/a\n", None, late="7")]
    assert naming.identities(facts_of(rows)) == [hmac.digest(subkey, facts, "sha256")[:16]]


def test_the_stored_bytes_are_the_same_for_the_same_rows(tmp_path: Path) -> None:
    rows = [RawRow(f"u{n}", START + n, "standard", f"row:{n}") for n in range(20)]
    place = Place(tmp_path)
    digests = {place.freeze(order)[0].digest for order in (rows, rows[::-1])}
    assert len(digests) == 1
    other = Freezing(place.by.routing, tmp_path, KeyedNaming(TenantKey.fresh(b"r" * 16, "default")))
    path = place.path()
    freeze(batched(rows), path, window=WINDOW, by=other)
    assert Manifest.open(path).digest not in digests, "another tenant's key shows other names"


def test_a_damaged_stored_manifest_is_not_adopted(tmp_path: Path) -> None:
    rows = [RawRow(f"u{n}", START + n, "standard", f"row:{n}") for n in range(20)]
    place = Place(tmp_path)
    stored, _ = place.freeze(rows)
    wrong = replace(stored, blocks=("00" * 32, *stored.blocks[1:]))
    with pytest.raises(IntegrityError, match="block 0"):
        place.adopt(rows, wrong)


@MANY
@given(rows=SOME, data=st.data())
def test_later_revisions_have_the_same_rows_either_way(tmp_path: Path, rows: list[RawRow], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(rows)))
    again = set(data.draw(st.lists(st.sampled_from(rows))) if rows else [])
    place = Place(tmp_path)
    stored, _ = place.freeze(rows[:cut])
    plain = frozen(tmp_path, rows[:cut])
    found = []
    for manifest, naming in ((stored, KEYED), (plain, PLAIN)):
        unread = {identity for row in again for identity in naming.identities(facts_of([row]))}
        batches = new_rows(batched(rows), [manifest], naming, again=unread)
        found.append([row for batch in batches for row in batch.rows()])
    assert found[0] == found[1]
    identities = identities_of(every(stored), stored, KEYED)
    assert sorted(identities) == sorted(KEYED.identities(facts_of(rows[:cut])))


MEASURE = """
import resource, sys
from datetime import date
from pathlib import Path
import pandas
from vera_core.keys.naming import KeyedNaming
from vera_core.keys.tenant import TenantKey
from vera_core.routing import Routing
from vera_core.source.adoption import adopt
from vera_core.source.base import Window
from vera_core.source.manifest import Freezing, Manifest, freeze
from vera_core.source.rows import RawRow, batched
window = Window("s", "default", date(2026, 3, 1))
def rows(count):
    for n in range(count):
        uid = f"{n * 2654435761 % 2**64:016x}-{n:08d}-abcdef"
        yield RawRow(uid, window.first_micros + n * 43_000, "standard", f"file:/srv/{uid}", n)
scratch, count = Path(sys.argv[1]), int(sys.argv[2])
by = Freezing(Routing(), scratch, KeyedNaming(TenantKey.fresh(b"r" * 16, "default")))
def adopted(name, count, more):
    held = freeze(batched(rows(count)), scratch / name, window=window, by=by)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    found = adopt(batched(rows(count + more)), Manifest.open(scratch / name), scratch / f"{name}-rows", by=by)
    assert found.blocks == held.blocks
    return before
adopted("warm", 20_000, 0)
before = adopted("m", count, count // 2)
print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_200_000_rows_are_adopted_out_of_300_000_in_bounded_memory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path), "200000"],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    before, after = map(int, done.stdout.split())
    assert after - before < 60, (before, after)


def test_rows_are_looked_up_by_what_is_stored_of_them(tmp_path: Path) -> None:
    rows = [
        RawRow(f"u{n}", START + n, "standard", f"row:{n}", reject="" if n % 3 else "bad-uid", detail=f"d{n}")
        for n in range(20)
    ]
    place = Place(tmp_path)
    stored, _ = place.freeze(rows)
    rejected = {row.place for row in stored.rejects()}
    found = look_up(batched(rows[:10]), WINDOW, rejected, by=place.by)
    assert sorted(found.values()) == [(f"u{n}", f"d{n}") for n in (0, 3, 6, 9)]
    assert found.keys() <= rejected
