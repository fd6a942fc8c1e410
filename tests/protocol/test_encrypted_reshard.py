"""Moving sealed files between shard files: memory is bounded, and nothing that went wrong on the way is proved."""

from __future__ import annotations

import random
import tracemalloc
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from vera_core.encoding import Encoder
from vera_core.errors import VeraError
from vera_core.format import FileSource, Names, ShardOptions, ShardReader, ShardWriter
from vera_core.keys.shards import ShardOpener, ShardSealer
from vera_core.keys.tenant import TenantKey
from vera_core.model import Policy
from vera_core.operations.inspector import inspect_file
from vera_core.operations.living import Shelf
from vera_core.operations.reshard import Aim, NewShard, prove, reshard
from vera_core.operations.unsealing import unsealing

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from vera_core.operations.living import Living

REPOSITORY = b"0123456789abcdef"
TENANT = TenantKey.fresh(REPOSITORY, "default")
OPTIONS = ShardOptions(REPOSITORY, "std")
MIB = 1 << 20


def write_sealed(path: Path, files: Mapping[str, bytes]) -> ShardOpener:
    """An encrypted shard of these files, and what opens it."""
    sealer = ShardSealer.fresh(TENANT, len(files))
    encoder = Encoder(digest_with=TENANT.keyed_digest)
    names = sorted((TENANT.keyed_uid(uid), uid) for uid in files)
    with path.open("wb") as file:
        writer = ShardWriter(file, options=ShardOptions(REPOSITORY, "std", encryption=sealer.encryption))
        for begin in range(0, len(names), 16):
            several = names[begin : begin + 16]
            batch = encoder.encode([files[uid] for _, uid in several])
            facts = Names([uid for _, uid in several], range(len(several)), [("", ())] * len(several))
            writer.append_batch(*sealer.seal(writer.entries, facts, [name for name, _ in several], batch))
        summary = writer.finish()
    return ShardOpener(ShardReader.open(FileSource(path), sealed=True), TENANT, sealer.keyring(summary.sha256))


def moved(openers: Sequence[ShardOpener], spool: Path) -> tuple[list[Shelf], Iterator[NewShard]]:
    shelves = [
        Shelf(number, opener.reader, number + 1, {}, unsealing(lambda opener=opener: opener))  # type: ignore[misc]
        for number, opener in enumerate(openers)
    ]
    aim = Aim(OPTIONS, Policy.BALANCED, 1 << 20, 1 << 40, 5000, spool, TENANT)
    return shelves, reshard(shelves, aim, lambda *_: None)


def test_memory_does_not_grow_with_a_shard(tmp_path: Path) -> None:
    """Not with its bytes, nor with contents that compress well, which nobody sees before they are opened."""
    rng = random.Random(1)
    noise = {f"noise/{number}": rng.randbytes(50_000) for number in range(1200)}
    text = {f"text/{number}": b"%d " % number * 8_000 for number in range(1500)}
    large = {f"large/{number}": b"%d " % number * 500_000 for number in range(40)}
    for name, files in (("noise", noise), ("text", text), ("large", large)):
        assert sum(map(len, files.values())) > 45 * MIB
        opener = write_sealed(tmp_path / name, files)
        tracemalloc.start()
        try:
            shelves, coming = moved([opener], tmp_path)
            census = sum(prove(new, inspect_file) for new in coming)
            assert tracemalloc.get_traced_memory()[1] / MIB < 40, name
        finally:
            tracemalloc.stop()
        assert census % (1 << 64) == shelves[0].census


def test_what_changes_on_the_way_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times, attributes and uids are sealed: what is altered after it was opened is found in the new shard."""
    files = {f"uid/{number}": b"%d" % number * 9 for number in range(200)}
    opener = write_sealed(tmp_path / "shard", files)
    open_shelf = Shelf.open

    def census(change: str) -> tuple[int, int]:
        def altered(shelf: Shelf, living: Living, *, for_good: bool) -> tuple[Living, list[bytes]]:
            opened, stored = open_shelf(shelf, living, for_good=for_good)
            rows, attributes = opened.rows, opened.attributes
            if change == "time":
                rows["created_at"][0] += 1
            elif change == "attributes":
                attributes[0] = attributes[0]._replace(media_type="x")
            elif change == "uid":
                opened.uids[0], opened.uids[1] = opened.uids[1], opened.uids[0]
            elif change == "content":
                stored[0] = stored[1]
                rows[["size", "stored_size", "codec"]][0] = rows[["size", "stored_size", "codec"]][1]
            return opened, stored

        monkeypatch.setattr(Shelf, "open", altered)
        [shelf], coming = moved([opener], tmp_path)
        [new] = coming
        monkeypatch.setattr(Shelf, "open", open_shelf)
        return shelf.census, prove(new, inspect_file)

    before, after = census("nothing")
    assert before == after
    for change in ("time", "attributes"):
        before, after = census(change)
        assert before != after, change
    for change in ("uid", "content"):
        with pytest.raises(VeraError):
            census(change)


def test_several_shards_become_one(tmp_path: Path) -> None:
    openers = [
        write_sealed(tmp_path / f"{number}", {f"{number}/{each}": b"%d" % each * 300 for each in range(300)})
        for number in range(5)
    ]
    shelves, coming = moved(openers, tmp_path)
    [new] = coming
    assert prove(new, inspect_file) == sum(shelf.census for shelf in shelves) % (1 << 64)
    with ExitStack() as stack:
        source = stack.enter_context(FileSource(new.local.path))
        keyring = new.keyring
        assert keyring is not None
        found = ShardOpener(ShardReader.open(source, sealed=True), TENANT, keyring)
        contents = {entry.uid: content for entry, content in found.read_all()}
    assert contents == {f"{number}/{each}": b"%d" % each * 300 for number in range(5) for each in range(300)}
