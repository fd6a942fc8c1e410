"""Every peer keeps what it is given: a format that loses something would be fast and small."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from benchmarks.business import make_database
from benchmarks.corpus import Item, lay_out
from benchmarks.local import freeze_local
from benchmarks.peers import PEERS, peer
from benchmarks.records import records

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.corpus import Corpus


ODD = 6


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Records, and files that are empty, equal, large or have a space in their name."""
    odd = [b"", b"", b"same", b"same", bytes(3 << 20), b"x" * 70_000]
    assert len(odd) == ODD
    files = [
        *records(1500),
        *((Item(f"odd/a {number}", f"odd/a {number}", len(data), 10**15), data) for number, data in enumerate(odd)),
    ]
    corpus = lay_out("test", tmp_path_factory.mktemp("corpus") / "it", files)
    make_database(corpus)
    freeze_local(corpus)
    return corpus


def peers(*, reading: bool) -> list[str]:
    """Names of peers that this machine has, by whether single files are read."""
    return [name for name in PEERS if not peer(name).missing() and peer(name).reads is reading]


@pytest.mark.parametrize("name", peers(reading=True))
def test_files_are_read_back(name: str, corpus: Corpus, tmp_path: Path) -> None:
    it, target = peer(name), tmp_path / "it.archive"
    it.pack(corpus, target)
    items = list(corpus.items())
    for opened in (it.open(target), it.open_warm(target, digests=True), it.open_warm(target, digests=False)):
        with opened as read:
            for item in items[:-ODD:13] + items[-ODD:]:
                assert read(it.key(corpus, item)) == corpus.content(item)


@pytest.mark.parametrize("name", [name for name in peers(reading=False) if name.startswith("tar")])
def test_a_tar_holds_every_file(name: str, corpus: Corpus, tmp_path: Path) -> None:
    target = tmp_path / "it.archive"
    peer(name).pack(corpus, target)
    (tmp_path / "out").mkdir()
    unpack = ["tar", "-C", str(tmp_path / "out"), "-xf", str(target)]
    subprocess.run([*unpack, "--zstd"] if "zstd" in name else unpack, check=True)
    for item in corpus.items():
        assert (tmp_path / "out" / item.path).read_bytes() == corpus.content(item)


def test_what_this_machine_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert peer("tar-zstd").missing() == "tar and zstd not installed"
    assert peer("vera").missing() == ""
