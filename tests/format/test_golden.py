"""Golden shards: what was written once is read for ever, and the same writer writes it again byte by byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fixtures.format import make
from vera_core.encoding import toolchain
from vera_core.format import FileSource, ShardReader

HERE = Path(make.__file__).parent
NAMES = make.NAMES
READABLE = sorted([*NAMES, *make.ENCRYPTED, *make.READ_ONLY])


def test_every_case_has_its_files_and_no_other() -> None:
    assert sorted(path.stem for path in HERE.glob("*.vera")) == READABLE
    assert sorted(path.stem for path in HERE.glob("*.json")) == READABLE


@pytest.mark.parametrize("name", READABLE)
def test_golden_shard_reads_as_described(name: str) -> None:
    data = (HERE / f"{name}.vera").read_bytes()
    expected = json.loads((HERE / f"{name}.json").read_text())
    assert json.loads(json.dumps(make.describe(data))) == expected
    with FileSource(HERE / f"{name}.vera") as source:
        reader = ShardReader.open(source, sealed=True)
        verified = reader.verify()
        assert (verified.size, verified.entries) == (len(data), len(expected["entries"]))
        for entry in reader.entries():
            assert entry in reader.find(entry.uid)
            content = b"".join(reader.read_stream(entry))
            assert len(content) == entry.size
            if not reader.streamed:
                assert reader.read(entry) == content


@pytest.mark.parametrize("name", NAMES)
def test_writing_again(name: str) -> None:
    rebuilt = make.build(name)
    if (HERE / "toolchain.txt").read_text().strip() == toolchain():
        assert rebuilt == (HERE / f"{name}.vera").read_bytes()
    stable = ("uid", "created_at", "size", "sha256", "media_type", "metadata", "origin")
    expected = json.loads((HERE / f"{name}.json").read_text())["entries"]
    found = json.loads(json.dumps(make.describe(rebuilt)))["entries"]
    assert [[entry[key] for key in stable] for entry in found] == [[entry[key] for key in stable] for entry in expected]


@pytest.mark.parametrize("name", make.ENCRYPTED)
def test_sealing_again(name: str) -> None:
    """With the same keys the same bytes; which is why a key tree must serve one build only."""
    rebuilt = make.build(name)
    if (HERE / "toolchain.txt").read_text().strip() == toolchain():
        assert rebuilt == (HERE / f"{name}.vera").read_bytes()
    expected = json.loads((HERE / f"{name}.json").read_text())
    found = json.loads(json.dumps(make.describe(rebuilt)))
    stable = ("uid", "created_at", "size", "sha256", "media_type", "metadata", "origin")
    for side in (expected, found):
        side["opened"] = [[entry[key] for key in stable] for entry in side["opened"]]
    assert found["opened"] == expected["opened"]
    assert [entry["uid"] for entry in found["entries"]] == [entry["uid"] for entry in expected["entries"]]
    assert [entry["sha256"] for entry in found["entries"]] == [entry["sha256"] for entry in expected["entries"]]
