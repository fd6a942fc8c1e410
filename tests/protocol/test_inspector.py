"""Verifying shards in a process of its own says what verifying them here says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psutil
import pytest

from vera_core.encoding import encode
from vera_core.errors import FormatError
from vera_core.format import ShardOptions, ShardWriter
from vera_core.operations.child import OWN_PROCESS_ROWS, ChildProcess
from vera_core.operations.inspector import ask, inspect_file, inspector
from vera_core.routing import uid_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "süß\nname.vera"
    with path.open("wb") as file:
        writer = ShardWriter(file, options=ShardOptions(bytes(16), "std"))
        for number, uid in enumerate(sorted((f"doc-{number}" for number in range(300)), key=uid_key)):
            writer.append(uid, number, encode(b"content %d " % number * 20))
        writer.finish()
    return path


def children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


@pytest.fixture
def process() -> Iterator[ChildProcess]:
    started = ChildProcess("vera_core.operations.inspector")
    yield started
    started.end()
    started.close()


def test_the_process_finds_what_is_found_here(process: ChildProcess, shard: Path) -> None:
    assert ask(process, shard) == inspect_file(shard)
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    damaged = shard.with_name("damaged.vera")
    damaged.write_bytes(data)
    with pytest.raises(FormatError) as here:
        inspect_file(damaged)
    with pytest.raises(FormatError) as there:
        ask(process, damaged)
    assert there.value.to_json() == here.value.to_json()
    assert ask(process, shard) == inspect_file(shard), "it goes on after a finding"


def test_a_process_is_started_only_for_many_rows_and_ends_with_its_use(shard: Path) -> None:
    before = children()
    with inspector(OWN_PROCESS_ROWS - 1) as inspect:
        assert children() == before
        assert inspect(shard).entries == 300
    with inspector(OWN_PROCESS_ROWS) as inspect:
        assert len(children() - before) == 1
        assert inspect(shard).entries == 300
    assert children() == before
