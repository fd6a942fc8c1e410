"""The proof of one shard: one pass over its bytes, in bounded memory, that names what is wrong."""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace

import pytest

from tests.fixtures.format import make
from tests.format.support import OPTIONS, CountingSource, File, Parts, opened, ordered, pack
from vera_core.errors import FormatError
from vera_core.format import SUFFIX, ShardReader, layout

NOISE = random.Random(9).randbytes(1 << 20)


def test_every_byte_is_read_once() -> None:
    """Contents that groups far apart share are not asked for again."""
    files = [File(f"uid-{number}", NOISE[number % 3000 * 300 :][:300]) for number in range(12_000)]
    data, summary = pack(files)
    source = CountingSource(data)
    verified = ShardReader.open(source).verify()
    assert (verified.shared, verified.sha256) == (9_000, summary.sha256)
    assert source.requests[0] == SUFFIX
    assert sum(source.requests[1:]) <= layout.HEADER_SIZE + len(data)
    assert len(source.requests) <= 3 + len(data) // (4 << 20)


def test_memory_does_not_grow_with_the_shard() -> None:
    """Besides 55 bytes for each content, by which it knows what groups share."""
    peaks = []
    for count in (20_000, 120_000):
        data, _ = pack([File(f"{number:0100d}", b"%d" % number) for number in range(count)])
        reader = opened(data)
        tracemalloc.start()
        assert reader.verify().entries == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The scan reads 4 MiB at a time, which the smaller shard does not fill.
    assert peaks[1] - peaks[0] < 100_000 * 60 + (8 << 20)


@pytest.mark.parametrize("trained", [None, make.trained()])
def test_a_wrong_content_is_named(trained: None) -> None:
    """In whatever place of a group, with and without a dictionary; those before and behind it are right."""
    files = ordered(File(f"uid-{number}", make.record(number), media_type="application/json") for number in range(300))
    data, _ = pack(files, trained=trained)
    for row in (0, 150, 299):
        entry = list(opened(data).entries())[row]
        damaged = bytearray(data)
        damaged[entry.offset + entry.stored_size // 2] ^= 1
        with pytest.raises(FormatError, match=f"uid={files[row].uid}") as caught:
            opened(bytes(damaged)).verify()
        assert caught.value.where["entry"] == str(row)
        assert caught.value.where["key"] == "k.vera"


def test_only_the_first_contents_are_shared_by_later_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [File(f"uid-{number}", NOISE[number % 30 * 50 :][:50]) for number in range(90)]
    data, _ = pack(files, replace(OPTIONS, group_entries=10))
    assert opened(data).verify().shared == 60
    monkeypatch.setattr(layout, "MAX_SHARED", 5)
    with pytest.raises(FormatError, match="no other brought"):
        opened(data).verify()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"content_bytes": 1}, "footer's sums"),
        ({"max_key": 2**64 - 1}, "footer's sums"),
        ({"min_created_at": 0}, "footer's sums"),
        ({"max_created_at": 2**57}, "footer's sums"),
    ],
)
def test_the_footer_says_what_the_entries_do(changed: dict[str, int], message: str) -> None:
    parts = Parts.of(pack([File("a", b"1" * 90), File("b", b"2" * 90)])[0])
    data = parts.seal(lambda footer: replace(footer, **changed))  # type: ignore[arg-type]
    assert len(list(opened(data).entries())) == 2
    with pytest.raises(FormatError, match=message):
        opened(data).verify()
