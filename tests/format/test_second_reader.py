"""docs/read_vera.py, written from the specification alone, reads every golden shard as VERA does."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.support import NOON, OPTIONS, File, opened, pack
from vera_core.model import Origin

if TYPE_CHECKING:
    from types import ModuleType

HERE = Path(make.__file__).parent
SCRIPT = Path(__file__).parents[2] / "docs" / "read_vera.py"


@cache
def load() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("read_vera", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def second() -> ModuleType:
    return load()


def test_it_is_short_and_uses_nothing_of_vera() -> None:
    text = SCRIPT.read_text()
    assert len(text.splitlines()) < 250
    assert "vera_core" not in text


@pytest.mark.parametrize("name", [*make.NAMES, *make.READ_ONLY])
def test_it_reads_golden_shards(second: ModuleType, name: str) -> None:
    expected: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
    shard = second.Shard((HERE / f"{name}.vera").read_bytes())
    assert shard.streamed == expected["streamed"]
    assert shard.footer["content"] == expected["content_bytes"]
    assert len(shard.dictionaries) - 1 == len(expected["dictionaries"])
    assert (shard.footer["oldest"], shard.footer["newest"]) == (expected["min_created_at"], expected["max_created_at"])
    entries = shard.entries()
    assert len(entries) == len(expected["entries"])
    for entry, told in zip(entries, expected["entries"], strict=True):
        for field in ("uid", "created_at", "size", "stored_size", "offset", "parameter", "media_type"):
            assert getattr(entry, field) == told[field]
        assert [list(pair) for pair in entry.metadata] == told["metadata"]
        assert (list(entry.origin) if entry.origin else None) == told["origin"]
        assert entry.sha256.hex() == told["sha256"] == hashlib.sha256(shard.read(entry)).hexdigest()
        assert entry in shard.find(entry.uid)
    assert shard.find("no such file") == []


PAIRS = (("json", make.record), ("xml", make.page))
files = st.one_of(
    st.builds(
        lambda number, pair: File(f"{number}.{pair[0]}", pair[1](number), NOON - number, f"application/{pair[0]}"),
        st.integers(0, 30),
        st.sampled_from(PAIRS),
    ),
    st.builds(
        File,
        st.sampled_from(["a", "b", "ü" * 99]),
        st.one_of(st.binary(max_size=9), st.just(b"shared " * 9)),
        st.integers(0, 3).map(lambda number: NOON + number * 1_000_000),
        st.just(""),
        st.sampled_from([(), (("key", "value"),)]),
        st.sampled_from([None, Origin(3, 4)]),
    ),
)


@given(st.lists(files, max_size=20), st.sampled_from([None, 1, 3]), st.booleans())
def test_both_readers_find_the_same(made: list[File], entries: int | None, plain: bool) -> None:
    read_vera = load()
    data, _ = pack(made, replace(OPTIONS, group_entries=entries), trained=None if plain else make.trained())
    shard, reader = read_vera.Shard(data), opened(data)
    own = list(reader.entries())
    found = shard.entries()
    assert [
        (e.uid, e.ordinal, e.created_at, e.size, e.stored_size, e.offset, e.codec, e.parameter, e.crc32, e.sha256)
        for e in found
    ] == [
        (e.uid, e.ordinal, e.created_at, e.size, e.stored_size, e.offset, e.codec, e.parameter, e.crc32, e.sha256)
        for e in own
    ]
    assert [(e.media_type, tuple(e.metadata), e.origin) for e in found] == [
        (e.media_type, e.metadata, e.origin) for e in own
    ]
    assert [shard.read(entry) for entry in found] == [reader.read(entry) for entry in own]
    for uid in {entry.uid for entry in found}:
        assert [entry.ordinal for entry in shard.find(uid)] == [entry.ordinal for entry in reader.find(uid)]


def test_it_refuses_damage(second: ModuleType) -> None:
    data = bytearray((HERE / "shared.vera").read_bytes())
    entry = second.Shard(bytes(data)).find("own-0")[0]
    data[entry.offset] ^= 1
    with pytest.raises(second.BadShardError, match="own-0: damaged"):
        second.Shard(bytes(data)).read(entry)
    with pytest.raises(second.BadShardError):
        second.Shard(bytes(data[:-1]))


def test_it_is_a_command() -> None:
    shard = HERE / "versions.vera"
    listed = subprocess.run([sys.executable, SCRIPT, shard], capture_output=True, text=True, check=True)
    assert len(listed.stdout.splitlines()) == 10
    got = subprocess.run([sys.executable, SCRIPT, HERE / "codecs.vera", "lz4"], capture_output=True, check=True)
    assert got.stdout == make.TEXT * 400
    gone = subprocess.run([sys.executable, SCRIPT, shard, "absent"], capture_output=True, text=True, check=False)
    assert gone.returncode == 1
    assert "absent is not in this shard" in gone.stderr
