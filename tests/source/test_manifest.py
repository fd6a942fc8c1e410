"""Manifests: sorted, cut, digested and read back the same, whatever order rows came in; damage is always an error."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
import sys
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vera_core.errors import IncompatibleError, IntegrityError, UnavailableError, UsageError
from vera_core.keys.naming import PLAIN
from vera_core.model import Slot
from vera_core.routing import DAY_MICROS, Routing, RoutingEpoch, UidScheme, uid_key
from vera_core.source import blocks, sorting
from vera_core.source import rows as row_types
from vera_core.source.base import Window
from vera_core.source.blocks import BLOCK_ROWS
from vera_core.source.manifest import Freezing, Manifest, freeze
from vera_core.source.revisions import new_rows
from vera_core.source.rows import RawRow, RejectReason, Row, batched, metadata_text, metadata_texts, parse_metadata

if TYPE_CHECKING:
    from collections.abc import Iterable

DAY = date(2026, 3, 1)
WINDOW = Window("documents", "default", DAY)
START = WINDOW.first_micros
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)

ROWS = st.builds(
    RawRow,
    uid=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=4),
    created_at=st.integers(START, START + DAY_MICROS - 1),
    retention_class=st.sampled_from(["standard", "long", "a"]),
    place=TEXTS,
    size=st.none() | st.integers(0, 2**40),
    media_type=st.sampled_from(["", "text/plain"]),
    metadata=st.lists(st.tuples(TEXTS, TEXTS), max_size=2, unique_by=lambda pair: pair[0])
    .map(tuple)
    .map(metadata_text),
    late=TEXTS,
    reject=st.sampled_from(["", "", "", "bad-uid", "missing-file"]),
    detail=TEXTS,
)


def frozen(scratch: Path, rows: Iterable[RawRow], routing: Routing | None = None, window: Window = WINDOW) -> Manifest:
    path = scratch / f"{len(list(scratch.iterdir()))}-{random.random()}.parquet"
    return freeze(batched(rows), path, window=window, by=Freezing(routing or Routing(), scratch))


def bits(number: int) -> Routing:
    return Routing(epochs=(RoutingEpoch(date.min, number),))


def expected_order(rows: list[RawRow], routing: Routing) -> list[RawRow]:
    """The order of docs/sources.md, told in the plainest way."""

    def place(row: RawRow) -> tuple[Any, ...]:
        rest = (row.uid, row.created_at, row.late, row.place, -1 if row.size is None else row.size, row.media_type,
                row.metadata, row.reject, row.detail)  # fmt: skip
        if row.reject:
            return (1, date.max, 0, row.retention_class, 0, *rest)
        slot = routing.slot_of("default", row.uid, row.created_at)
        return (0, slot.day, slot.index, row.retention_class, uid_key(row.uid), *rest)

    return sorted(rows, key=place)


def raw(row: Row) -> RawRow:
    return RawRow(
        row.uid, row.created_at, row.retention_class, row.place, row.size, row.media_type, metadata_text(row.metadata),
        row.late,        row.reject, row.detail,
    )  # fmt: skip


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=40), n_bits=st.sampled_from([0, 1, 5, 16]), data=st.data())
def test_rows_come_back_sorted_however_they_were_merged(
    tmp_path: Path, rows: list[RawRow], n_bits: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # Small enough that runs are spilled, merged in levels, and refilled.
        patch.setattr(sorting, "RUN_ROWS", data.draw(st.integers(1, 9)))
        patch.setattr(sorting, "FAN_IN", data.draw(st.integers(2, 4)))
        patch.setattr(sorting, "CHUNK_ROWS", data.draw(st.integers(1, 3)))
        patch.setattr(row_types, "BATCH_ROWS", data.draw(st.integers(1, 4)))
        patch.setattr(blocks, "BLOCK_ROWS", data.draw(st.integers(1, 20)))
        routing = bits(n_bits)
        made = frozen(tmp_path, rows, routing)
        read = list(made.rows(0, made.row_count))
        assert list(map(raw, read)) == expected_order(rows, routing)
        kept = [row for row in read if not row.reject]
        assert [row.slot for row in kept] == [routing.slot_of("default", row.uid, row.created_at) for row in kept]
        assert [row.key for row in kept] == [uid_key(row.uid) for row in kept]
        assert list(made.rejects()) == [row for row in read if row.reject]
        assert [row for s in made.segments for row in made.rows(s.first, s.end)] == kept
        for segment in made.segments:
            found = {(row.slot, row.retention_class) for row in made.rows(segment.first, segment.end)}
            assert found == {(segment.slot, segment.retention_class)}
        assert len({(s.slot, s.retention_class) for s in made.segments}) == len(made.segments)
        first = data.draw(st.integers(0, made.row_count))
        end = data.draw(st.integers(first, made.row_count))
        assert list(made.rows(first, end)) == read[first:end]
        made.verify_digest()
        again = Manifest.open(made.path)
        assert again == made
        # Another order of arrival and other runs give the same manifest.
        patch.setattr(sorting, "RUN_ROWS", 1000)
        assert frozen(tmp_path, data.draw(st.permutations(rows)), routing).digest == made.digest
    assert not list(tmp_path.glob("run-*"))


def digest_from_the_documentation(manifest: Manifest) -> str:
    """The digest computed from rows alone, as docs/sources.md says, without Arrow or Parquet."""
    rows = list(manifest.rows(0, manifest.row_count))
    blocks = []
    for start in range(0, len(rows), BLOCK_ROWS):
        block = rows[start : start + BLOCK_ROWS]
        parts = [struct.pack("<I", len(block))]

        def numbers(layout: str, values: list[int], parts: list[bytes] = parts) -> None:
            parts.append(struct.pack(f"<{len(values)}{layout}", *values))

        def texts(values: list[str], parts: list[bytes] = parts) -> None:
            encoded = [value.encode() for value in values]
            parts.append(struct.pack(f"<{len(values)}I", *map(len, encoded)) + b"".join(encoded))

        numbers("i", [(row.slot.day - date(1970, 1, 1)).days if row.slot else 0 for row in block])
        numbers("I", [row.slot.index if row.slot else 0 for row in block])
        numbers("B", [row.slot.n_bits if row.slot else 0 for row in block])
        texts([row.retention_class for row in block])
        numbers("Q", [row.key for row in block])
        texts([row.uid for row in block])
        numbers("q", [row.created_at for row in block])
        texts([row.late for row in block])
        texts([row.place for row in block])
        numbers("q", [-1 if row.size is None else row.size for row in block])
        texts([row.media_type for row in block])
        texts(
            [
                json.dumps(dict(row.metadata), ensure_ascii=False, separators=(",", ":")) if row.metadata else ""
                for row in block
            ]
        )
        texts([row.reject for row in block])
        texts([row.detail for row in block])
        blocks.append(hashlib.sha256(b"".join(parts)).hexdigest())
    header = {
        "version": 1, "source": manifest.window.source, "tenant": manifest.window.tenant,
        "day": f"{manifest.window.day:%Y%m%d}", "revision": manifest.window.revision, "rows": manifest.row_count,
        "rejects": manifest.reject_count,
        "segments": [
            [f"{s.slot.day:%Y%m%d}", s.slot.index, s.slot.n_bits, s.retention_class, s.first, s.end]
            for s in manifest.segments
        ],
        "blocks": blocks,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def some_rows(count: int) -> list[RawRow]:
    return [
        RawRow(
            f"uid/{n:05}/ü", START + n * 1000, "long" if n % 7 == 0 else "standard", f"file:/srv/{n}", n or None,
            "text/plain", metadata_text((("Zweig", f'"{n % 5}"\n'),)) if n % 3 else "", str(n),
            "gone" if n % 11 == 0 else "",
        )
        for n in range(count)
    ]  # fmt: skip


def test_the_digest_is_what_the_documentation_says(tmp_path: Path) -> None:
    made = frozen(tmp_path, some_rows(BLOCK_ROWS + 100), bits(3))
    assert made.digest == digest_from_the_documentation(made)
    # Fixed for good: manifests that are locked today must verify in decades.
    small = frozen(tmp_path, some_rows(20), bits(1))
    assert small.digest == "90c416f6aadca13080ad9de5c0514e14822f6b2c450cefce1493e699816749ec"


def test_the_digest_names_its_window(tmp_path: Path) -> None:
    rows = some_rows(3)
    windows = [WINDOW, replace(WINDOW, source="other"), replace(WINDOW, tenant="other"), replace(WINDOW, revision=2)]
    assert len({frozen(tmp_path, rows, window=window).digest for window in windows}) == 4


def test_an_empty_window(tmp_path: Path) -> None:
    made = frozen(tmp_path, [])
    assert (made.row_count, made.reject_count, made.segments, made.blocks) == (0, 0, (), ())
    assert list(made.rows(0, 0)) == list(made.rejects()) == []
    made.verify_digest()
    assert Manifest.open(made.path) == made


def test_people_can_read_it(tmp_path: Path) -> None:
    table = pq.read_table(frozen(tmp_path, some_rows(20), bits(1)).path).to_pandas()
    line = table[table["uid"] == "uid/00001/ü"].iloc[0]
    assert str(line["created_at"]) == "2026-03-01 00:00:00.001000+00:00"
    assert (line["slot_day"], line["metadata"]) == (DAY, '{"Zweig":"\\"1\\"\\n"}')
    assert table[table["reject"] != ""]["slot_day"].isna().all()


def test_a_uid_with_its_own_time_is_routed_by_it(tmp_path: Path) -> None:
    def uuid7(micros: int) -> str:
        text = f"{micros // 1000:012x}"
        return f"{text[:8]}-{text[8:]}-7abc-8def-0123456789ab"

    routing = Routing(epochs=(RoutingEpoch(date.min, 2),), schemes=frozenset({UidScheme.UUID7}))
    yesterday, far, too_far = (uuid7(START - minutes * 60_000_000) for minutes in (1, 1440, 1442))
    rows = [RawRow(uid, START + 1_000_000, "standard") for uid in (yesterday, far, too_far, "plain")]
    made = frozen(tmp_path, rows, routing)
    found = {row.uid: row for row in made.rows(0, 4)}
    assert found[too_far].reject == RejectReason.TIME_DISAGREES.value == "uid-time-differs"
    assert "2026-02-27T23:58:00Z" in found[too_far].detail
    for uid in (yesterday, "plain"):
        assert found[uid].slot == routing.slot_of("default", uid, START + 1_000_000)
    slot = found[yesterday].slot
    assert isinstance(slot, Slot)
    assert slot.day == DAY - timedelta(days=1)


def test_an_epoch_between_two_slot_days(tmp_path: Path) -> None:
    uid = "019caa0e-3a60-7abc-8def-0123456789ab"
    routing = Routing(epochs=(RoutingEpoch(date.min, 0), RoutingEpoch(DAY, 4)), schemes=frozenset({UidScheme.UUID7}))
    rows = [RawRow(uid, START, "standard"), *(RawRow(f"plain{n}", START, "standard") for n in range(50))]
    made = frozen(tmp_path, rows, routing)
    for row in made.rows(0, 51):
        assert row.slot == routing.slot_of("default", row.uid, row.created_at)


def test_a_source_that_gives_rows_of_another_day_is_stopped(tmp_path: Path) -> None:
    for micros in (START - 1, START + DAY_MICROS):
        with pytest.raises(UsageError, match="outside the window"):
            frozen(tmp_path, [RawRow("u", micros, "standard")])
    assert not list(tmp_path.glob("run-*"))


def test_a_spool_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "RUN_ROWS", 5)
    by = Freezing(Routing(), tmp_path / "nowhere")
    with pytest.raises(UnavailableError, match="can't be written"):
        freeze(batched(some_rows(9000)), tmp_path / "m.parquet", window=WINDOW, by=by)


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    made = frozen(tmp_path, some_rows(5))
    for first, end in ((-1, 2), (3, 2), (0, 6)):
        with pytest.raises(UsageError, match="rows 0 to 5"):
            list(made.rows(first, end))


def test_no_flipped_byte_goes_unnoticed(tmp_path: Path) -> None:
    made = frozen(tmp_path, some_rows(300), bits(1))
    data = made.path.read_bytes()
    rows = list(made.rows(0, made.row_count))
    chance = random.Random(7)
    damaged = tmp_path / "damaged.parquet"
    harmless = 0
    for at in [*range(0, len(data), 7), *range(len(data) - 600, len(data))]:
        damaged.write_bytes(data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1 :])
        try:
            again = Manifest.open(damaged)
            assert replace(again, path=made.path) == made, at
            assert list(again.rows(0, again.row_count)) == rows, at
        except IntegrityError:
            continue
        # Statistics and names of the writer, which nothing here reads.
        harmless += 1
    assert harmless < len(data) / 7 / 4


@pytest.mark.parametrize("cut", [0, 1, 100, -8, -1])
def test_cut_off_files_are_damaged(tmp_path: Path, cut: int) -> None:
    made = frozen(tmp_path, some_rows(10))
    (tmp_path / "cut").write_bytes(made.path.read_bytes()[:cut])
    with pytest.raises(IntegrityError, match="damaged"):
        Manifest.open(tmp_path / "cut")


def test_another_parquet_file_is_no_manifest(tmp_path: Path) -> None:
    made = frozen(tmp_path, some_rows(10))
    table = pq.read_table(made.path)
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "plain")
    with pytest.raises(IntegrityError, match="damaged"):
        Manifest.open(tmp_path / "plain")


def rewritten(made: Manifest, path: Path, **changes: Any) -> Path:
    """The manifest with another header, and the digest that fits it."""
    table = pq.read_table(made.path)
    header = json.loads(pq.read_metadata(made.path).metadata[b"vera.manifest"]) | changes
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({b"vera.manifest": text, b"vera.digest": digest})
    return path


def test_a_newer_manifest_is_refused_by_name(tmp_path: Path) -> None:
    made = frozen(tmp_path, some_rows(10))
    with pytest.raises(IncompatibleError, match="format version 2"):
        Manifest.open(rewritten(made, tmp_path / "x", version=2))


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 11}, {"rejects": 2}, {"segments": []}, {"segments": [["20260301", 0, 0, "standard", 0, 5]]},
        {"blocks": []}, {"day": "never"}, {"source": "../x"}, {"revision": 0}, {"segments": 5}, {"rows": None},
    ],
)  # fmt: skip
def test_headers_that_contradict_themselves_are_damage(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = frozen(tmp_path, some_rows(10))
    with pytest.raises(IntegrityError, match="damaged"):
        Manifest.open(rewritten(made, tmp_path / "x", **changes))


@given(
    rows=st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS)),
    names=st.lists(TEXTS, min_size=2, max_size=2, unique=True),
)
def test_metadata_by_the_column_are_those_by_the_row(
    rows: list[tuple[str | None, str | None]], names: list[str]
) -> None:
    pairs = [tuple((name, text) for name, text in zip(names, row, strict=True) if text is not None) for row in rows]
    columns = list(zip(*rows, strict=True)) or [(), ()]
    assert metadata_texts(names, columns) == list(map(metadata_text, pairs))
    assert list(map(parse_metadata, map(metadata_text, pairs))) == pairs


def fresh(rows: Iterable[RawRow], earlier: list[Manifest], again: Iterable[RawRow] = ()) -> list[RawRow]:
    identities = {identity for batch in batched(again) for identity in PLAIN.identities(batch.facts())}
    return [row for batch in new_rows(batched(rows), earlier, PLAIN, again=identities) for row in batch.rows()]


def test_new_rows_are_those_that_do_not_stand_yet(tmp_path: Path) -> None:
    rows = some_rows(300)
    first = frozen(tmp_path, rows[:100])
    second = frozen(tmp_path, rows[100:200], window=replace(WINDOW, revision=2))
    assert fresh(rows, [first, second]) == [row for row in rows[:200] if row.reject] + rows[200:]
    assert fresh(rows, []) == rows
    # A row whose content could not be read is tried again, and so is one that was rejected and is not any more.
    unread = rows[5]
    assert fresh(rows[1:11], [first], [unread]) == [unread]
    assert fresh([rows[11]._replace(reject="")], [first]) == [rows[11]._replace(reject="")]
    row = rows[1]
    for changed in (
        row._replace(uid="other"), row._replace(created_at=row.created_at + 1), row._replace(size=None),
        row._replace(place="elsewhere"), row._replace(late="later"), row._replace(reject="gone"),
    ):  # fmt: skip
        assert fresh([row, changed], [first]) == [changed]
    for same in (row._replace(media_type="x"), row._replace(detail="x"), row._replace(retention_class="x")):
        assert fresh([same], [first]) == []


MEASURE = """
import resource, sys
from pathlib import Path
from datetime import date
import pandas
from vera_core.source.base import Window
from vera_core.source.manifest import Freezing, freeze
from vera_core.source.rows import RawRow, batched
from vera_core.routing import Routing, RoutingEpoch
window = Window("s", "default", date(2026, 3, 1))
def rows(count):
    for n in range(count):
        uid = f"{n * 2654435761 % 2**64:016x}-{n:08d}-abcdef"
        yield RawRow(uid, window.first_micros + n * 43_000 % 86_400_000_000, "standard", f"file:/srv/{uid}", n)
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
routing = Routing(epochs=(RoutingEpoch(date.min, 2),))
scratch = Path(sys.argv[1])
by = Freezing(routing, scratch)
freeze(batched(rows(20_000)), scratch / "warm", window=window, by=by)
before = peak()
made = freeze(batched(rows(int(sys.argv[2]))), scratch / "m", window=window, by=by)
frozen = peak()
assert sum(1 for _ in made.rows(0, made.row_count)) == int(sys.argv[2])
print(before, frozen, peak())
"""


def peaks(scratch: Path, rows: int) -> tuple[int, int, int]:
    """Peak MiB of a process of its own: warmed up, after freezing, after reading back."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(scratch), str(rows)],
        capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    before, frozen_, read = map(int, done.stdout.split())
    return before, frozen_, read


def test_300_000_rows_are_frozen_in_bounded_memory(tmp_path: Path) -> None:
    before, after, read = peaks(tmp_path, 300_000)
    assert after - before < 60, (before, after, read)
    assert read - after < 20, (before, after, read)


@pytest.mark.soak
def test_2_000_000_rows_take_hardly_more_memory_than_200_000(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    _, few, _ = peaks(tmp_path / "few", 200_000)
    _, many, _ = peaks(tmp_path, 2_000_000)
    assert many < few + 30, (few, many)
