"""Recovery: what DATA says is enough; what is lost is named; nothing wrong comes back."""

from __future__ import annotations

import hashlib
import io
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.support import NOON, OPTIONS, REFUSALS, File, Parts, opened, pack
from vera_core.codec import encode
from vera_core.errors import IncompatibleError, UsageError
from vera_core.format import BytesSource, ShardWriter
from vera_core.format.groups import MAGIC, parse_group_head
from vera_core.format.recover import Rebuilt, Salvage, rebuild
from vera_core.model import Origin

HERE = Path(make.__file__).parent
GOLDEN = {path.stem: path.read_bytes() for path in sorted(HERE.glob("*.vera"))}
ORDINARY = [name for name in GOLDEN if "streamed" not in name]
FILES = [File(f"uid-{number}", b"content %d " % (number // 2 * 2) * 9) for number in range(1300)]
DATA, SUMMARY = pack(FILES)


def rebuilt(data: bytes, commit: int | None = 7) -> tuple[Rebuilt, bytes]:
    out = io.BytesIO()
    return rebuild(BytesSource(data, key="k"), out, options=OPTIONS, commit=commit), out.getvalue()


def contents(data: bytes) -> dict[str, bytes]:
    return {entry.uid: content for entry, content in opened(data).read_all()}


@pytest.mark.parametrize("name", [name for name in ORDINARY if name not in ("pages", "metadata")])
@pytest.mark.parametrize("tail", ["lost", "zeroed", "whole"])
def test_without_its_end_a_shard_is_rebuilt_byte_by_byte(name: str, tail: str) -> None:
    data = GOLDEN[name]
    end = opened(data).footer.data_end
    damaged = data[:end] + {"lost": b"", "zeroed": bytes(len(data) - end), "whole": data[end:]}[tail]
    result, again = rebuilt(damaged)
    assert again == data
    assert result.summary.sha256 == hashlib.sha256(data).digest()
    assert [loss for loss in result.losses if loss.count] == []


def test_options_come_from_the_header() -> None:
    data = GOLDEN["metadata"]
    out = io.BytesIO()
    rebuild(BytesSource(data[: opened(data).footer.data_end]), out)
    assert out.getvalue() == data


def test_a_lost_header_needs_options() -> None:
    damaged = bytes(256) + DATA[256:]
    with pytest.raises(UsageError, match="header is lost"):
        rebuild(BytesSource(damaged), io.BytesIO())
    result, again = rebuilt(damaged)
    assert again == DATA
    assert result.losses[0].length == 256


def test_a_lost_content_is_named_and_takes_its_sharers_with_it() -> None:
    [entry] = opened(DATA).find("uid-600")
    damaged = bytearray(DATA)
    damaged[entry.offset + 3] ^= 1
    with pytest.raises(UsageError, match="need an origin"):
        rebuilt(bytes(damaged), commit=None)
    result, again = rebuilt(bytes(damaged))
    assert {(loss.uid, loss.first) for loss in result.losses} == {("uid-600", 600), ("uid-601", 601)}
    assert contents(again) == {file.uid: file.content for file in FILES if file.uid not in ("uid-600", "uid-601")}
    reader = opened(again)
    assert reader.find("uid-1")[0].origin is None
    assert reader.find("uid-602")[0].origin == Origin(7, 602)
    reader.verify()


def test_a_lost_group_is_counted_and_the_next_one_found() -> None:
    second = DATA.index(MAGIC, 300)
    for at in (second, second + 20, second + 70):
        damaged = bytearray(DATA)
        damaged[at] ^= 1
        result, again = rebuilt(bytes(damaged))
        assert sum(loss.count for loss in result.losses) == 512
        assert contents(again) == {file.uid: file.content for file in FILES[:512] + FILES[1024:]}


def test_a_cut_inside_a_group_keeps_what_is_before() -> None:
    entry = opened(DATA).find("uid-900")[0]
    result, again = rebuilt(DATA[: entry.offset])
    assert list(contents(again)) == [file.uid for file in FILES[:900]]
    assert {loss.uid for loss in result.losses if loss.uid} == {file.uid for file in FILES[900:1024]}


def test_blocks_inside_contents_are_not_believed() -> None:
    """A file that is itself a shard, at whatever place, is content."""
    files = [File("inner", DATA), File("inner again", DATA[256:]), File("after", b"text")]
    data, _ = pack(files)
    _, again = rebuilt(data[: opened(data).footer.data_end])
    assert again == data


def test_an_encrypted_shard_is_refused_by_name() -> None:
    parts = Parts.of(GOLDEN["one"])
    parts.header = parts.header[:16] + b"\x01" + parts.header[17:]
    with pytest.raises(IncompatibleError, match="encryption"):
        Salvage(BytesSource(parts.seal()))


@pytest.mark.parametrize("name", ["streamed", "streamed-raw", "streamed-empty"])
def test_a_streamed_file_is_saved(name: str) -> None:
    data = GOLDEN[name]
    damaged = data[: opened(data).footer.data_end]
    salvage = Salvage(BytesSource(damaged))
    [entry] = salvage.entries()
    [told] = opened(data).entries()
    assert entry == told
    assert hashlib.sha256(b"".join(salvage.content(entry))).digest() == told.sha256
    with pytest.raises(UsageError, match="streamed shard"):
        rebuild(BytesSource(damaged), io.BytesIO())


@given(st.data())
def test_whatever_is_damaged_nothing_wrong_comes_back(draw: st.DataObject) -> None:
    data = bytearray(GOLDEN["shared"])
    truth = contents(bytes(data))
    for _ in range(draw.draw(st.integers(1, 5))):
        at = draw.draw(st.integers(0, len(data) - 1))
        data[at : at + draw.draw(st.integers(0, 3))] = draw.draw(st.binary(max_size=3))
        if not data:
            break
    try:
        _, again = rebuilt(bytes(data))
    except REFUSALS:
        return
    found = contents(again)
    assert found.items() <= truth.items()


def test_random_bytes_hold_nothing() -> None:
    result, again = rebuilt(random.Random(1).randbytes(100_000))
    assert result.summary.entries == 0
    assert sum(loss.length for loss in result.losses) == 100_000
    assert opened(again).entry_count == 0
    result, _ = rebuilt(b"")
    assert result.summary.entries == 0


def test_groups_state_their_own_place() -> None:
    made = ShardWriter(io.BytesIO(), options=OPTIONS)
    made.append("uid", NOON, encode(b"text"))
    made.finish()
    with pytest.raises(REFUSALS, match="impossible values"):
        parse_group_head(DATA[256:320], 257)
