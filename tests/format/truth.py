"""The golden shards, what is true of them, and whether a changed one still tells the truth."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.support import REFUSALS, exercise, opened

HERE = Path(make.__file__).parent
GOLDEN = {path.stem: path.read_bytes() for path in sorted(HERE.glob("*.vera"))}
SMALL = [name for name, data in GOLDEN.items() if len(data) < 9_000]
GROUPED = [name for name in SMALL if name != "empty"]
UIDS = ("invoices/2026/4711.json", "copy-1", "often", "contract.pdf", "big.csv", "uid-1", "text/plain-3", "absent")
TRUTH = {name: list(opened(data).entries()) for name, data in GOLDEN.items()}
NUMBERS = st.one_of(
    st.integers(0, 70_000), st.integers(0, 2**64 - 1), st.sampled_from([2**31, 2**32 - 1, 2**62, 2**63])
)


def survives(name: str, data: bytes) -> bool:
    """Whether the changed shard `data` was read whole; fails unless everything it then said was right."""
    if not holds(data):
        return False
    assert list(opened(data).entries()) == TRUTH[name]
    return True


def holds(data: bytes) -> bool:
    """Whether a shard was read and verified; fails unless what it said then agrees with the specification.

    For shards that were changed and sealed again: they may tell another story, but only a possible one.
    """
    try:
        exercise(data, UIDS)
    except REFUSALS:
        return False
    reader = opened(data)
    entries = list(reader.entries())
    footer = reader.footer
    order = [(_key(entry.uid, encrypted=reader.encrypted), entry.uid.encode()) for entry in entries]
    assert order == sorted(order)
    assert [entry.key.to_bytes(8, "big") for entry in entries] == [key for key, _ in order]
    assert [entry.ordinal for entry in entries] == list(range(footer.entries))
    assert footer.content_bytes == sum(entry.size for entry in entries)
    places: dict[int, tuple[object, ...]] = {}
    for entry in entries:
        content = b"".join(reader.read_stream(entry))
        stored = data[entry.offset : entry.offset + entry.stored_size]
        assert len(content) == entry.size
        assert reader.encrypted or hashlib.sha256(content).digest() == entry.sha256
        assert zlib.crc32(stored) == entry.crc32
        if entry.stored_size:
            same = (entry.stored_size, entry.size, entry.codec, entry.parameter, entry.crc32, entry.sha256)
            assert places.setdefault(entry.offset, same) == same
    ends = [footer.data_start]
    for offset in sorted(places):
        assert offset >= ends[-1], "stored ranges are the same or don't overlap"
        ends.append(offset + int(str(places[offset][0])))
    assert ends[-1] <= footer.data_end
    return True


def _key(uid: str, *, encrypted: bool) -> bytes:
    return bytes.fromhex(uid[:16]) if encrypted else hashlib.sha256(uid.encode()).digest()[:8]
