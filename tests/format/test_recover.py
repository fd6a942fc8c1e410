"""Recovery: what DATA says is enough; what is lost is named, and nothing else is lost; nothing wrong comes back."""

from __future__ import annotations

import hashlib
import io
import random
import tracemalloc
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from vera_core.codec import digest, unpack_block
from vera_core.dictionary import train
from vera_core.encoding import Encoder, Trained
from vera_core.errors import IncompatibleError, UsageError
from vera_core.format import (
    BytesSource,
    Clues,
    Damage,
    Names,
    ShardOptions,
    ShardReader,
    ShardWriter,
    Survey,
    rebuild,
    saved_entries,
    survey,
)
from vera_core.format.groups import AFTER, HEAD_SIZE, MAGIC, GroupBody, encode_group, key_of, parse_group_head
from vera_core.format.layout import FOOTER_SIZE, HEADER_SIZE, Header
from vera_core.model import Codec, Entry, Erasability, Origin

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY = bytes(range(16))
OPTIONS = ShardOptions(REPOSITORY, "standard", group_entries=12)
CLUES = Clues(REPOSITORY, "standard", Erasability.ERASABLE)
NOON = 1_772_625_600_000_000
COMMIT = 7


class File(NamedTuple):
    uid: str
    content: bytes
    media_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    origin: Origin | None = None


def in_order(files: Sequence[File]) -> list[File]:
    return sorted(files, key=lambda file: (digest(file.uid.encode())[:8], file.uid.encode()))


def pack(files: Sequence[File], trained: Trained | None = None, options: ShardOptions = OPTIONS) -> bytes:
    out = io.BytesIO()
    trained = trained or Trained()
    writer = ShardWriter(out, options=options, dictionaries=trained.dictionaries)
    files = in_order(files)
    names = Names(
        [file.uid for file in files],
        [NOON + 1000 * number for number in range(len(files))],
        [(file.media_type, file.metadata) for file in files],
        [file.origin for file in files],
    )
    contents, kinds = [file.content for file in files], [file.media_type for file in files]
    writer.append_batch(names, Encoder(trained=trained).encode(contents, kinds))
    writer.finish()
    return out.getvalue()


def stream(content: bytes, uid: str = "big.csv") -> bytes:
    out = io.BytesIO()
    writer = ShardWriter(out, options=OPTIONS)
    writer.append_stream(uid, NOON, io.BytesIO(content), len(content), media_type="text/csv")
    writer.finish()
    return out.getvalue()


def record(number: int, kind: str = "invoice") -> bytes:
    rng = random.Random(f"{kind}{number}")
    lines = [f'{{"{kind}": "{rng.randbytes(6).hex()}", "amount": {rng.randrange(10**6)}, "paid": false}}'] * 3
    return "\n".join(lines).encode()


def some_files(count: int = 150) -> list[File]:
    """Files of all sorts: some share a content, some are empty or constant, some come from elsewhere."""
    rng = random.Random(count)
    files = []
    for number in range(count):
        content = {
            0: record(number),
            1: rng.randbytes(rng.randrange(400)),
            2: b"shared by many, near and far" * 3,
            3: bytes(number % 5 * 40),
        }[number % 4]
        origin = Origin(3, number) if number % 9 == 0 else None
        files.append(File(f"uid-{number}", content, "a/b" if number % 5 else "", (("n", str(number)),), origin))
    return files


@cache
def trained() -> Trained:
    kinds = {"application/json": "invoice", "text/x-order": "order"}
    made = [train([record(number, kind) for number in range(400)], 3, 2048) for kind in kinds.values()]
    assert all(made)
    return Trained(tuple(one for one in made if one), {media: number for number, media in enumerate(kinds, 1)})


def dictionary_files(count: int = 90) -> list[File]:
    kinds = {"application/json": "invoice", "text/x-order": "order", "image/png": "none"}
    media = list(kinds)
    return [
        File(f"file-{number}", record(number + 1000, kinds[media[number % 3]]), media[number % 3])
        for number in range(count)
    ]


@dataclass(frozen=True)
class Case:
    """A shard and what must be found in it."""

    data: bytes
    entries: dict[int, Entry] = field(init=False)
    contents: dict[int, bytes] = field(init=False)
    blocks: list[tuple[int, int, int]] = field(init=False)

    def __post_init__(self) -> None:
        reader = opened(self.data)
        reader.verify()
        entries = {entry.ordinal: entry for entry in reader.entries()}
        object.__setattr__(self, "entries", entries)
        object.__setattr__(
            self, "contents", {number: b"".join(reader.read_stream(entry)) for number, entry in entries.items()}
        )
        directory = reader.directory
        places = [
            (directory.blocks[number], directory.blocks[number] + directory.sizes[number], directory.firsts[number + 1])
            for number in range(len(directory))
        ]
        object.__setattr__(self, "blocks", places)

    def untouched(self, begin: int, end: int) -> set[int]:
        """The ordinals of all entries that no byte from `begin` to `end` belongs to."""
        number, safe = 0, set()
        dictionaries = self.lost_dictionaries(begin, end)
        for block, block_end, after in self.blocks:
            for ordinal in range(number, after):
                entry = self.entries[ordinal]
                own = begin < block_end and block < end
                content = begin < entry.offset + entry.stored_size and entry.offset < end and entry.stored_size > 0
                if not own and not content and not (entry.codec == 1 and entry.parameter in dictionaries):
                    safe.add(ordinal)
            number = after
        return safe

    def lost_dictionaries(self, begin: int, end: int) -> set[int]:
        """The dictionaries of which both copies are touched."""
        reader = opened(self.data)
        at, lost = HEADER_SIZE, set()
        for section in reader.sections:
            if section.tag.startswith(b"DICT"):
                size = 32 + section.raw_size
                block = begin < at + size and at < end
                copy = begin < section.offset + section.size and section.offset < end
                lost |= {section.number} if block and copy else set()
                at += size
        return lost


def opened(data: bytes) -> ShardReader:
    return ShardReader.open(BytesSource(data, key="k.vera"))


@cache
def case(name: str) -> Case:
    match name:
        case "plain":
            return Case(pack(some_files()))
        case "dictionaries":
            return Case(pack(dictionary_files(), trained()))
        case "empty":
            return Case(pack([]))
        case "one":
            return Case(pack([File("one", b"text")]))
        case "streamed":
            return Case(stream(b"".join(record(number) for number in range(200))))
        case "streamed-raw":
            return Case(stream(b"PK\x03\x04" + random.Random(5).randbytes(3000)))
    raise AssertionError(name)


NAMES = ("plain", "dictionaries", "empty", "one", "streamed", "streamed-raw")


class Found(NamedTuple):
    survey: Survey
    damages: list[Damage]
    contents: dict[int, bytes]
    entries: dict[int, Entry]


def found_in(data: bytes, clues: Clues | None = CLUES) -> Found:
    damages: list[Damage] = []
    result = survey(BytesSource(data, key="k"), clues, tell=damages.append)
    entries, contents = {}, {}
    for saved, pieces in saved_entries(result):
        entries[saved.entry.ordinal] = saved.entry
        contents[saved.entry.ordinal] = b"".join(pieces)
    assert len(entries) == result.found.saved
    assert sum(damage.count for damage in damages) == result.found.lost
    return Found(result, damages, contents, entries)


def rebuilt(found: Found, commit: int | None = COMMIT) -> bytes:
    out = io.BytesIO()
    summary = rebuild(found.survey, out, commit=commit)
    assert summary.sha256 == hashlib.sha256(out.getvalue()).digest()
    assert (summary.size, summary.entries) == (len(out.getvalue()), found.survey.found.saved)
    return out.getvalue()


def check(name: str, damaged: bytes, begin: int, end: int) -> Found:
    """Recovers what is left after damage from `begin` to `end`: all that is not touched, and nothing that is wrong."""
    truth = case(name)
    found = found_in(damaged)
    assert truth.untouched(begin, end) <= set(found.entries), found.damages
    for ordinal, entry in found.entries.items():
        assert entry == truth.entries[ordinal]
        assert found.contents[ordinal] == truth.contents[ordinal]
    lost = set(truth.entries) - set(found.entries)
    total = found.survey.entries
    assert total in (None, len(truth.entries))
    if total is not None:
        assert found.survey.found.lost == len(lost)
        named = {
            number
            for damage in found.damages
            for number in range(damage.first or 0, (damage.first or 0) + damage.count)
        }
        assert named == lost
    for damage in found.damages:
        if damage.uid:
            assert damage.first is not None
            assert truth.entries[damage.first].uid == damage.uid
    if (
        not lost
        and found.survey.restorable
        and (total is not None or found.survey.found.expected == len(truth.entries))
    ):
        assert rebuilt(found, None) == truth.data
    elif found.entries and not found.survey.found.streamed:
        again = opened(rebuilt(found))
        again.verify()
        for (entry, content), ordinal in zip(again.read_all(), sorted(found.entries), strict=True):
            before = truth.entries[ordinal]
            assert content == truth.contents[ordinal]
            assert (entry.uid, entry.created_at, entry.metadata) == (before.uid, before.created_at, before.metadata)
            if not found.survey.restorable:
                assert entry.origin == (before.origin or Origin(COMMIT, ordinal))
    return found


# ---------------------------------------------------------------------- any damage


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_damaged(name: str) -> None:
    data = case(name).data
    found = check(name, data, 0, 0)
    assert found.damages == []
    assert found.survey.entries == len(found.entries)
    assert rebuilt(found, None) == data


@given(st.sampled_from(NAMES), st.data())
def test_a_damaged_region_loses_what_it_touches(name: str, draw: st.DataObject) -> None:
    data = case(name).data
    begin = draw.draw(st.integers(0, len(data) - 1))
    end = min(len(data), begin + draw.draw(st.one_of(st.integers(1, 100), st.integers(1, 5000))))
    how = draw.draw(st.sampled_from(["zeros", "random", "flip"]))
    fill = {
        "zeros": bytes(end - begin),
        "random": random.Random(begin).randbytes(end - begin),
        "flip": bytes(byte ^ 1 << begin % 8 for byte in data[begin:end]),
    }[how]
    check(name, data[:begin] + fill + data[end:], begin, end)


@given(st.sampled_from(NAMES), st.data())
def test_a_cut_keeps_what_lies_before_it(name: str, draw: st.DataObject) -> None:
    data = case(name).data
    end = draw.draw(st.integers(0, len(data)))
    found = check(name, data[:end], end, len(data) + 1)
    if end < len(data):
        assert found.damages


@pytest.mark.parametrize("name", ["one", "empty"])
def test_every_cut_and_every_flip(name: str) -> None:
    data = case(name).data
    for at in range(len(data)):
        check(name, data[:at], at, len(data) + 1)
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        assert check(name, bytes(flipped), at, at + 1).damages


@given(st.sampled_from(NAMES), st.data())
def test_whatever_is_done_nothing_wrong_comes_back(name: str, draw: st.DataObject) -> None:
    truth = case(name)
    data = bytearray(truth.data)
    for _ in range(draw.draw(st.integers(1, 6))):
        at = draw.draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw.draw(st.integers(0, 300))] = draw.draw(st.binary(max_size=300))
    try:
        found = found_in(bytes(data))
    except IncompatibleError:
        return
    for ordinal, entry in found.entries.items():
        assert entry.uid == truth.entries[ordinal].uid
        assert found.contents[ordinal] == truth.contents[ordinal]


@pytest.mark.parametrize("kept", [0, 1, 100, 200])
def test_trailing_bytes_do_no_harm(kept: int) -> None:
    data = case("dictionaries").data
    found = found_in(data + bytes(kept))
    assert rebuilt(found, None) == data


@pytest.mark.parametrize("size", [0, 1, 300, 100_000])
def test_other_bytes_hold_nothing(size: int) -> None:
    found = found_in(random.Random(size).randbytes(size))
    assert (found.entries, found.survey.entries) == ({}, None)
    assert found.damages


# ---------------------------------------------------------------------- header, footer, dictionaries


def without_tail(data: bytes) -> bytes:
    return data[: opened(data).footer.data_end]


def with_bytes(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tail", ["lost", "zeroed"])
def test_without_its_end_a_shard_is_restored_byte_by_byte(name: str, tail: str) -> None:
    data = case(name).data
    front = without_tail(data)
    found = found_in(front + (bytes(len(data) - len(front)) if tail == "zeroed" else b""), None)
    assert rebuilt(found, None) == data
    assert found.survey.entries is None, "nothing tells that no group followed"
    assert not found.survey.found.end_known
    assert any("more groups" in damage.what for damage in found.damages)


def test_a_lost_footer_leaves_the_sections_as_witnesses() -> None:
    data = case("dictionaries").data
    found = found_in(data[:-FOOTER_SIZE] + bytes(FOOTER_SIZE))
    assert found.survey.entries == len(found.entries)
    assert rebuilt(found, None) == data


@pytest.mark.parametrize("name", ["plain", "dictionaries", "streamed"])
@pytest.mark.parametrize("at", [0, 20, 33, 50, 60, 200, 253])
def test_one_byte_of_the_header(name: str, at: int) -> None:
    """The footer's copy of the checksum proves the header that it and the rest of it make; no clue is needed."""
    data = case(name).data
    damaged = with_bytes(data, at, bytes([data[at] ^ 1]))
    if at != 60:
        assert rebuilt(found_in(damaged, None), None) == data
    without_footer = with_bytes(damaged, len(data) - 100, b"damage")
    if at in {0, 20, 50, 200}:
        assert rebuilt(found_in(without_footer, None), None) == data, "its own checksum proves it"
    else:
        with pytest.raises(UsageError, match="header is lost"):
            rebuild(found_in(without_footer, None).survey, io.BytesIO())
    assert rebuilt(found_in(without_footer), None) == data, "but the clues make it"


def test_a_lost_header_is_made_of_clues_and_proved_by_the_footer() -> None:
    data = pack(some_files(), options=ShardOptions(REPOSITORY, "ledger", Erasability.REGULATED))
    damaged = bytes(HEADER_SIZE) + data[HEADER_SIZE:]
    with pytest.raises(UsageError, match="header is lost"):
        rebuild(found_in(damaged, None).survey, io.BytesIO())
    with pytest.raises(UsageError, match="another checksum"):
        rebuild(found_in(damaged, Clues(retention_class="standard")).survey, io.BytesIO())
    found = found_in(damaged, Clues(retention_class="ledger"))
    assert rebuilt(found, None) == data
    assert any("restored" in damage.what for damage in found.damages)


def test_header_and_footer_of_different_shards() -> None:
    data = case("plain").data
    other = ShardOptions(bytes(16), "standard").repository_id
    strange = Header(other, "standard", Erasability.ERASABLE).pack()
    found = found_in(strange + data[HEADER_SIZE:])
    assert any("different shards" in damage.what for damage in found.damages)
    assert opened(rebuilt(found, None)).header().repository_id == other
    assert found.contents == case("plain").contents


def dictionary_places(data: bytes) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Begin and end of each dictionary at the beginning of DATA, and of each one's section."""
    sections = [section for section in opened(data).sections if section.tag.startswith(b"DICT")]
    at, blocks = HEADER_SIZE, []
    for section in sections:
        blocks.append((at, at + 32 + section.raw_size))
        at += 32 + section.raw_size
    return blocks, [(section.offset, section.offset + section.size) for section in sections]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("offset", [0, 9, 20, 31, 700])
@pytest.mark.parametrize("footer", [True, False])
def test_either_copy_of_a_dictionary_is_enough(number: int, offset: int, *, footer: bool) -> None:
    data = case("dictionaries").data
    for places in dictionary_places(data):
        begin, end = places[number - 1]
        at = min(begin + offset, end - 1)
        damaged = with_bytes(data, at, bytes([data[at] ^ 0x10]))
        found = found_in(damaged if footer else with_bytes(damaged, len(data) - 50, b"damage"))
        assert rebuilt(found, None) == data
        assert found.contents == case("dictionaries").contents
        assert any("dictionary" in damage.what or "DICT" in damage.what for damage in found.damages) or not footer


@pytest.mark.parametrize("numbers", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("footer", [True, False])
def test_with_both_copies_lost_only_its_entries_are(numbers: tuple[int, ...], *, footer: bool) -> None:
    truth = case("dictionaries")
    damaged = truth.data if footer else with_bytes(truth.data, len(truth.data) - 50, b"damage")
    for places in dictionary_places(truth.data):
        for number in numbers:
            begin, end = places[number - 1]
            damaged = with_bytes(damaged, begin, bytes(end - begin))
    found = found_in(damaged)
    uses = {ordinal for ordinal, entry in truth.entries.items() if entry.codec in (1, 4) and entry.parameter in numbers}
    assert set(found.entries) == set(truth.entries) - uses
    assert 0 < len(uses) < len(truth.entries)
    assert {damage.what for damage in found.damages if damage.uid} == {
        f"dictionary {number} is lost" for number in numbers
    }
    with pytest.raises(UsageError, match="entries are lost"):
        rebuild(found.survey, io.BytesIO())
    again = opened(rebuilt(found))
    again.verify()
    assert {entry.uid: content for entry, content in again.read_all()} == {
        truth.entries[ordinal].uid: truth.contents[ordinal] for ordinal in found.entries
    }
    assert len(again.dictionaries()) == 2 - len(numbers)


def test_an_encrypted_shard_is_refused_by_name() -> None:
    """Unless who asks takes sealed files; what is saved of those then: test_sealed.py."""
    data = (Path(make.__file__).parent / "encrypted.vera").read_bytes()
    for left in (data, data[:-300], bytes(HEADER_SIZE) + data[HEADER_SIZE:]):
        with pytest.raises(IncompatibleError, match="is encrypted"):
            survey(BytesSource(left), tell=lambda _: None)


# ---------------------------------------------------------------------- groups


def test_a_lost_content_is_named_and_takes_its_sharers_with_it() -> None:
    truth = case("plain")
    shared = [entry for entry in truth.entries.values() if truth.contents[entry.ordinal].startswith(b"shared by many")]
    assert len({entry.offset for entry in shared}) == 1
    assert len({bisect_group(truth, entry.ordinal) for entry in shared}) > 5, "in many groups"
    found = found_in(with_bytes(truth.data, shared[0].offset + 3, b"\xff"))
    assert {(damage.first, damage.uid) for damage in found.damages} == {(entry.ordinal, entry.uid) for entry in shared}
    assert all(
        (damage.position, damage.length) == (shared[0].offset, shared[0].stored_size) for damage in found.damages
    )
    assert set(found.entries) == set(truth.entries) - {entry.ordinal for entry in shared}


def bisect_group(truth: Case, ordinal: int) -> int:
    return next(number for number, (_, _, after) in enumerate(truth.blocks) if ordinal < after)


@pytest.mark.parametrize("footer", [True, False])
@pytest.mark.parametrize("offset", [0, 9, 20, 33, 63])
def test_a_group_without_its_head_is_counted_and_the_next_ones_found(offset: int, *, footer: bool) -> None:
    truth = case("plain")
    block, _, after = truth.blocks[3]
    damaged = with_bytes(truth.data, block + offset, bytes([truth.data[block + offset] ^ 1]))
    if not footer:
        damaged = with_bytes(damaged, len(damaged) - 50, b"damage")
    found = found_in(damaged)
    first = truth.blocks[2][2]
    assert set(found.entries) == set(truth.entries) - set(range(first, after))
    [damage] = [damage for damage in found.damages if damage.count]
    assert (damage.first, damage.count) == (first, after - first)
    assert found.survey.found.searched == (0 if footer else len(truth.entries) - after), "without a directory only"
    again = opened(rebuilt(found))
    again.verify()
    assert [entry.origin for entry in again.entries()] == [
        truth.entries[ordinal].origin or Origin(COMMIT, ordinal) for ordinal in sorted(found.entries)
    ]


def test_several_lost_groups_and_no_end() -> None:
    truth = case("plain")
    damaged = bytearray(without_tail(truth.data))
    lost: set[int] = set()
    for number in (0, 4, 5, 9):
        damaged[truth.blocks[number][0] + 12] ^= 1
        lost |= set(range(truth.blocks[number - 1][2] if number else 0, truth.blocks[number][2]))
    found = found_in(bytes(damaged))
    assert set(found.entries) == set(truth.entries) - lost
    assert found.survey.found.lost == len(lost)


@pytest.mark.parametrize("damage", ["one byte", "all"])
def test_checksums_of_contents_are_made_anew(damage: str) -> None:
    """The block's own checksum proves that they, and the contents, are the same again."""
    truth = case("dictionaries")
    block, end, _ = truth.blocks[2]
    head = parse_group_head(truth.data[block : block + HEAD_SIZE], block)
    begin = block + HEAD_SIZE + head.stored_size
    damaged = with_bytes(truth.data, begin, b"?" if damage == "one byte" else bytes(end - begin))
    found = found_in(damaged)
    assert found.contents == truth.contents
    assert [(one.position, one.length, one.count) for one in found.damages] == [(begin, end - begin, 0)]
    assert rebuilt(found, None) == truth.data
    content = truth.entries[head.first + 1]
    found = found_in(with_bytes(damaged, content.offset, b"??????"))
    assert found.survey.found.lost == head.count, "but not where contents are damaged as well: nothing proves either"


# ---------------------------------------------------------------------- contents that look like groups


FORGED = b"PK\x03\x04 forged content"


@dataclass(frozen=True)
class Lie:
    """What an imitation of a group says; None: what is right where it stands. `keys`: where its uids' keys must lie."""

    first: int | None = None
    size: int | None = None
    flags: int = 0
    keys: tuple[str, ...] = ("fitting",)


LIES = [
    Lie(),
    Lie(first=(1 << 24) - 1),
    Lie(keys=("last",)),
    Lie(keys=("first",)),
    Lie(keys=("fitting", "last")),
    Lie(size=10_000),
    Lie(size=20 << 20, first=60),
    Lie(first=0, flags=AFTER),
]


def imitation(position: int, first: int, uids: Sequence[str], lie: Lie) -> bytes:
    """A whole group, for a content that will lie at `position`."""
    donor = opened(pack([File(uid, FORGED) for uid in uids]))
    block = donor.fetch(donor.directory.blocks[0], donor.directory.sizes[0])
    head = parse_group_head(block[:HEAD_SIZE], HEADER_SIZE)
    columns = unpack_block(block[HEAD_SIZE : HEAD_SIZE + head.stored_size], head.raw_size)
    proofs = block[HEAD_SIZE + head.stored_size :]
    body = GroupBody(len(uids), head.first_key, columns, sum(len(uid.encode()) for uid in uids), proofs)
    size = position - HEADER_SIZE if lie.flags else lie.size or head.content_size
    return encode_group(position, first if lie.first is None else lie.first, size, body, flags=lie.flags) + FORGED


@dataclass(frozen=True)
class Trap:
    """A shard with a raw content that holds imitations of groups at their right places."""

    data: bytes
    number: int


def uid_between(begin: int, end: int, begins_with: str) -> str:
    return next(uid for uid in (f"{begins_with}-{n}" for n in range(10**7)) if begin <= key_of(uid.encode()) < end)


@cache
def trap(lie: Lie) -> Trap:
    """A shard whose fifth group brings a content that is full of imitations."""
    noise = random.Random(3).randbytes
    files = in_order([File(f"uid-{number}", noise(200)) for number in range(96)])
    holder = files[50].uid
    rest = [file for file in files if file.uid != holder]

    def shard(content: bytes) -> tuple[bytes, Entry]:
        data = pack([*rest, File(holder, content)])
        return data, opened(data).find(holder)[0]

    first, entry = shard(noise(4000))
    directory = opened(first).directory
    places = {
        "fitting": (directory.first_keys[4], directory.first_keys[5]),
        "last": (directory.first_keys[7], 1 << 64),
        "first": (0, directory.first_keys[1]),
    }
    made = b"PK\x03\x04" + noise(100)  # stored as it is
    for step in range(4):
        uids = [uid_between(*places[place], f"forged-{step}") for place in lie.keys]
        made += imitation(entry.offset + len(made), 48 + step * len(uids), uids, lie)
    data, placed = shard(made + noise(4000 - len(made)))
    assert (placed.offset, placed.codec) == (entry.offset, Codec.RAW)
    assert data.count(MAGIC) == 8 + 4
    return Trap(data, 4)


@pytest.mark.parametrize("lie", LIES)
def test_imitations_are_contents_where_their_group_is_whole(lie: Lie) -> None:
    made = trap(lie)
    truth = Case(made.data)
    for damaged in (made.data, without_tail(made.data), with_bytes(made.data, 100, b"damage")):
        found = found_in(damaged)
        assert found.contents == truth.contents
        assert rebuilt(found, None) == made.data


@pytest.mark.parametrize("lie", LIES)
def test_imitations_in_a_lost_group_are_not_believed_against_the_directory(lie: Lie) -> None:
    made = trap(lie)
    truth = Case(made.data)
    block, _, after = truth.blocks[made.number]
    found = found_in(with_bytes(made.data, block + 5, b"damage"))
    assert set(found.entries) == set(truth.entries) - set(range(after - 12, after))
    assert found.survey.found.searched == 0


@pytest.mark.parametrize("lie", LIES)
def test_imitations_in_a_lost_group_hide_no_other_group(lie: Lie) -> None:
    """Without directory nothing tells them from groups, but what follows is found, and the report says how."""
    made = trap(lie)
    truth = Case(made.data)
    block, _, after = truth.blocks[made.number]
    found = found_in(with_bytes(without_tail(made.data), block + 5, b"damage"))
    real = {ordinal: content for ordinal, content in found.contents.items() if content in truth.contents.values()}
    assert set(real) == set(truth.entries) - set(range(after - 12, after))
    assert all(truth.contents[ordinal] == content for ordinal, content in real.items())
    forged = set(found.entries) - set(real)
    assert forged <= set(range(after - 12, after))
    assert bool(forged) == (lie in {Lie(), Lie(keys=("fitting", "last"))}), (
        "what can't be told from a group is believed"
    )
    assert found.survey.found.searched == len(truth.entries) - after + len(forged)


def test_a_shard_in_a_shard() -> None:
    inner = case("plain").data
    data = pack([File("inner", inner), File("inner again", inner[HEADER_SIZE:]), File("after", b"text")])
    assert rebuilt(found_in(without_tail(data)), None) == data


def test_an_imitation_in_a_streamed_file() -> None:
    content = b"PK\x03\x04" + bytes(100)
    for _ in range(3):
        content += imitation(HEADER_SIZE + len(content), 0, ["forged"], Lie(flags=AFTER)) + bytes(50)
    data = stream(content)
    for damaged in (data, without_tail(data), with_bytes(without_tail(data), 0, b"damage")):
        found = found_in(damaged)
        assert list(found.contents.values()) == [content]
        assert rebuilt(found, None) == data


# ---------------------------------------------------------------------- memory


def test_memory_is_that_of_a_group() -> None:
    noise = random.Random(9).randbytes
    out = io.BytesIO()
    writer = ShardWriter(out, options=ShardOptions(REPOSITORY, "standard"))
    content = noise(60_000)
    for file in in_order([File(f"uid-{number}", b"") for number in range(1200)]):
        writer.append_batch(Names([file.uid], [NOON], [("", ())]), Encoder().encode([file.uid.encode() + content]))
    writer.finish()
    data = bytearray(out.getvalue())
    assert len(data) > 70_000_000
    end = opened(bytes(data)).footer.data_end
    data[end:] = bytes(len(data) - end)
    data[len(data) // 2] ^= 1
    source = BytesSource(bytes(data))
    del out, writer

    class Nothing:
        def write(self, data: bytes | memoryview, /) -> None: ...

    tracemalloc.start()
    damages: list[Damage] = []
    result = survey(source, CLUES, tell=damages.append)
    rebuild(result, Nothing(), commit=1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert result.found.lost == 1
    assert peak < 40 << 20, peak
