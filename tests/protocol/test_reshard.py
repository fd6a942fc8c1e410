"""Moving versions between shard files: memory is bounded whatever they hold, and what went wrong on the way is seen."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from vera_core.codec import digest
from vera_core.encoding import Encoder
from vera_core.errors import IntegrityError
from vera_core.format import FileSource, Names, ShardOptions, ShardReader, ShardWriter
from vera_core.model import Origin, Policy
from vera_core.operations import living
from vera_core.operations.inspector import inspect_file
from vera_core.operations.living import Living, Shelf, merged
from vera_core.operations.reshard import Aim, NewShard, prove, reshard

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

OPTIONS = ShardOptions(b"0123456789abcdef", "std")
MIB = 1 << 20


def write_shard(path: Path, files: Mapping[str, bytes], repeats: int = 1) -> Path:
    """A shard of these files, each `repeats` times, as versions of its uid."""
    uids = sorted(files, key=lambda uid: (digest(uid.encode())[:8], uid.encode()))
    with path.open("wb") as file:
        writer = ShardWriter(file, options=OPTIONS)
        encoder = Encoder()
        for begin in range(0, len(uids), 64):
            several = [uid for uid in uids[begin : begin + 64] for _ in range(repeats)]
            batch = encoder.encode([files[uid] for uid in several])
            writer.append_batch(Names(several, range(len(several)), [("", ())] * len(several)), batch)
        writer.finish()
    return path


def shelves_of(stack: ExitStack, paths: Sequence[Path], gone: Mapping[int, Sequence[int]] | None = None) -> list[Shelf]:
    """The shards as those of commits 1, 2, ..."""
    left = {commit: np.array(ordinals, np.uint64) for commit, ordinals in (gone or {}).items()}
    return [
        Shelf(number, ShardReader.open(stack.enter_context(FileSource(path))), number + 1, left)
        for number, path in enumerate(paths)
    ]


def moved(shelves: Sequence[Shelf], spool: Path, rows: int = 1 << 20) -> Iterator[NewShard]:
    return reshard(shelves, Aim(OPTIONS, Policy.BALANCED, rows, 1 << 40, 5000, spool), lambda *_: None)


def peak_of(paths: Sequence[Path], spool: Path) -> float:
    """MiB that moving takes at most."""
    with ExitStack() as stack:
        shelves = shelves_of(stack, paths)
        tracemalloc.start()
        try:
            for new in moved(shelves, spool):
                prove(new, inspect_file)
            return tracemalloc.get_traced_memory()[1] / MIB
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_a_shard(tmp_path: Path) -> None:
    """Not with its bytes, nor with contents that compress well, nor with one that many files share."""
    rng = random.Random(1)
    noise = {f"noise/{number}": rng.randbytes(50_000) for number in range(1200)}
    text = {f"text/{number}": b"%d " % number * 8_000 for number in range(1500)}
    shared = dict.fromkeys((f"shared/{number}" for number in range(120)), rng.randbytes(MIB))
    for name, files in (("noise", noise), ("text", text), ("shared", shared)):
        assert sum(map(len, files.values())) > 45 * MIB
        assert peak_of([write_shard(tmp_path / name, files)], tmp_path) < 32, name


def test_memory_of_a_merge_is_a_group_of_each_shard(tmp_path: Path) -> None:
    paths = [
        write_shard(tmp_path / f"{number}", {f"{number}/{each}": b"%d" % each * 300 for each in range(300)})
        for number in range(40)
    ]
    assert peak_of(paths, tmp_path) < 24


def test_versions_come_by_key_uid_and_origin(tmp_path: Path) -> None:
    """Over the borders of groups and shards, many versions of a uid too."""
    few = {f"uid/{number}": b"%d" % number for number in range(5)}
    many = {f"uid/{number}": b"%d" % number for number in range(700)}
    paths = [write_shard(tmp_path / "a", few, 400), write_shard(tmp_path / "b", many, 2)]
    with ExitStack() as stack:
        shelves = shelves_of(stack, paths)
        found = [
            (key, uid, origin)
            for piece in merged(shelves)
            for key, uid, origin in zip(piece.rows["key"].tolist(), piece.uids, piece.origins(), strict=True)
        ]
    assert len(found) == 5 * 400 + 700 * 2
    assert found == sorted(found)
    assert {origin for _, _, origin in found} == {
        *(Origin(1, ordinal) for ordinal in range(2000)), *(Origin(2, ordinal) for ordinal in range(1400))
    }  # fmt: skip


def test_what_changes_on_the_way_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is lost, doubled or mixed up with another has no place in the census."""
    files = {f"uid/{number}": b"%d" % number * 9 for number in range(200)}
    path = write_shard(tmp_path / "shard", files)

    def census(change: str) -> tuple[int, int]:
        """Of the old shard and of the new one, if the first piece is changed on its way."""
        taken = living.joined

        def joined(parts: Sequence[Living]) -> Living:
            whole = taken(parts)
            if len(whole) < 2:
                return whole
            rows = whole.rows.copy()
            if change == "origin":
                rows["origin_ordinal"][0] += 1000
            elif change == "time":
                rows["created_at"][[0, 1]] = rows["created_at"][[1, 0]] + 1
            elif change == "lost":
                return whole.cut(0, len(whole) - 1)
            elif change == "attributes":
                changed = whole.attributes[0]._replace(media_type="x")
                return replace(whole, attributes=[changed, *whole.attributes[1:]])
            return replace(whole, rows=rows)

        monkeypatch.setattr(living, "joined", joined)
        with ExitStack() as stack:
            [shelf] = shelves_of(stack, [path])
            [new] = moved([shelf], tmp_path)
            monkeypatch.setattr(living, "joined", taken)
            return shelf.census, prove(new, inspect_file)

    before, after = census("nothing")
    assert before == after
    for change in ("origin", "time", "lost", "attributes"):
        before, after = census(change)
        assert before != after, change


def test_a_shard_that_is_altered_in_the_spool_is_not_proved(tmp_path: Path) -> None:
    files = {f"uid/{number}": b"%d" % number * 90 for number in range(200)}
    with ExitStack() as stack:
        [new] = moved(shelves_of(stack, [write_shard(tmp_path / "shard", files)], {1: [3, 5]}), tmp_path)
    assert new.summary.entries == 198
    data = bytearray(new.local.path.read_bytes())
    data[len(data) // 2] ^= 1
    new.local.path.write_bytes(bytes(data))
    with pytest.raises(IntegrityError):
        prove(new, inspect_file)


def letters(count: int) -> dict[str, bytes]:
    """Files that a dictionary makes much smaller."""
    return {
        f"letter/{number}": b'{"kind": "letter", "language": "en", "salutation": "Dear Sir or Madam", "id": "%s"}'
        % digest(b"%d" % number)[:9].hex().encode()
        for number in range(count)
    }


def test_dictionaries_are_trained_on_the_first_files_whatever_they_are(tmp_path: Path) -> None:
    """Also where the first file is a big one, and where few of those in hand are left for the next shard."""
    first = min((f"big/{number}" for number in range(40_000)), key=lambda uid: digest(uid.encode()))
    path = write_shard(tmp_path / "shard", {first: random.Random(1).randbytes(3 * MIB), **letters(2500)})
    with ExitStack() as stack:
        piece = next(merged(shelves_of(stack, [path])))
        assert piece.uids[0] == first.encode()
        new = list(moved(shelves_of(stack, [path]), tmp_path, rows=len(piece) - 3))
    assert [each.summary.entries for each in new[:2]] == [len(piece) - 3] * 2
    for each in new[:2]:
        with FileSource(each.local.path) as source:
            assert len(ShardReader.open(source).dictionaries()) == 1
