"""Encrypted shards without keys: what is refused by name, what verifies, what shows, and what can be recovered."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.fixtures.format import make
from tests.format.support import NOON, Parts, opened
from tests.format.test_second_reader import load
from tests.format.truth import GOLDEN
from vera_core.encoding import EncodedBatch, Encoder, Trained, encode
from vera_core.errors import FormatError, IncompatibleError, UsageError
from vera_core.format import (
    BytesSource,
    Clues,
    Damage,
    Encryption,
    Header,
    Lookup,
    Names,
    ShardOptions,
    ShardReader,
    ShardWriter,
    Survey,
    rebuild,
    saved_entries,
    survey,
)
from vera_core.format.layout import FOOTER_SIZE, HEADER_SIZE, SEALED
from vera_core.format.sealed import HEAD, MAX_SEALED_CONTENT, MIN_SEALED, SEALING, keyed_key
from vera_core.keys.sealing import OVERHEAD
from vera_core.model import Erasability, Origin

if TYPE_CHECKING:
    from collections.abc import Callable

SHARD = GOLDEN["encrypted"]
SCHEME = Encryption(make.KEYRING_ID, 1, 1, 8)
OPTIONS = ShardOptions(make.REPOSITORY, "standard", encryption=SCHEME)
CLUES = Clues(make.REPOSITORY, "standard", Erasability.ERASABLE, SCHEME)
UIDS = ["%032x" % (number << 64) for number in range(1, 20)]


@cache
def contents() -> dict[int, bytes]:
    """The sealed files of the shard by ordinal."""
    return {entry.ordinal: content for entry, content in opened(SHARD).read_all()}


def sealed_files(count: int, size: int = 100) -> tuple[Names, EncodedBatch]:
    """What may be sealed files, for all that a writer can see; all with one digest."""
    batch = EncodedBatch.of([encode(make.noise(size, number)) for number in range(count)])
    batch.facts["digest"] = 7
    return Names(UIDS[:count], [0] * count, [("", ())] * count), batch


def found_in(data: bytes, clues: Clues | None = None) -> tuple[Survey, list[Damage]]:
    damages: list[Damage] = []
    return survey(BytesSource(data), clues, tell=damages.append, sealed=True), damages


# ---------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", make.ENCRYPTED)
def test_who_does_not_ask_for_sealed_files_gets_none(name: str) -> None:
    ways: tuple[Callable[[BytesSource], object], ...] = (
        ShardReader.open,
        Lookup.open,
        lambda source: survey(source, tell=print),
    )
    for way in ways:
        with pytest.raises(IncompatibleError, match=r"is encrypted, .* without its keys \(.*key=k.vera"):
            way(BytesSource(GOLDEN[name], key="k.vera"))
    read_vera = load()
    with pytest.raises(read_vera.BadShardError, match="encrypted"):
        read_vera.Shard(GOLDEN[name])


def test_asking_for_sealed_files_changes_nothing_of_other_shards() -> None:
    reader = ShardReader.open(BytesSource(GOLDEN["one"]), sealed=True)
    assert not reader.encrypted
    assert reader.get("invoices/2026/4711.json") == make.TEXT


def test_files_are_found_by_keyed_uids() -> None:
    reader = opened(SHARD)
    assert reader.encrypted
    for uid in ("often", "one byte", "x" * 512):
        keyed = make.TENANT.keyed_uid(uid)
        found = reader.find(keyed)
        assert len(found) == (5 if uid == "often" else 1)
        assert {entry.key for entry in found} == {int(keyed[:16], 16)}
        assert reader.get(keyed) == reader.read(found[-1]) == contents()[found[-1].ordinal]
        with pytest.raises(UsageError, match=r"found by keyed uids .*tenant key"):
            reader.find(uid)
        with pytest.raises(UsageError, match="found by keyed uids"):
            reader.get(uid)
    assert reader.find("0" * 32) == []
    assert reader.get("f" * 32) is None
    for wrong in ("A" * 32, "a" * 31, "a" * 33, "", "\udc80" * 32, "٣" * 16):
        with pytest.raises(UsageError):
            reader.find(wrong)


def test_whatever_says_something_of_a_file_is_sealed() -> None:
    """Neither contents nor names, types, metadata or times stand in shard or blocks; equal files differ."""
    reader = opened(SHARD)
    entries = list(reader.entries())
    shown = b"".join(group.body.uid_strings.data + group.body.attribute_strings.data for group in reader.groups())
    for row in make.encrypted():
        for said in (row.uid.encode(), row.media_type.encode(), row.content[:12]):
            assert len(said.strip(b"\0")) < 3 or said not in SHARD + shown
    assert {(entry.created_at, entry.codec, entry.parameter) for entry in entries} == {(0, 0, 0)}
    assert {(entry.media_type, entry.metadata) for entry in entries} == {("", ())}
    assert all(entry.size == entry.stored_size >= MIN_SEALED for entry in entries)
    assert (reader.footer.min_created_at, reader.footer.max_created_at) == (0, 0)
    assert len(set(contents().values())) == len(entries)
    assert len({entry.sha256 for entry in entries}) == len(entries) - 2, "the same contents have one keyed digest"
    assert not {entry.sha256 for entry in entries} & {hashlib.sha256(row.content).digest() for row in make.encrypted()}


@pytest.mark.parametrize("name", make.ENCRYPTED)
def test_every_changed_byte_is_found_without_keys(name: str) -> None:
    data = GOLDEN[name]
    for at in range(0, len(data), max(23, len(data) // 1000)):
        damaged = data[:at] + bytes((data[at] ^ 0x10,)) + data[at + 1 :]
        with pytest.raises((FormatError, IncompatibleError)):
            opened(damaged).verify()


def test_a_damaged_file_is_named() -> None:
    entry = opened(SHARD).find(make.TENANT.keyed_uid("raw"))[0]
    damaged = bytearray(SHARD)
    damaged[entry.offset + 5] ^= 1
    reader = opened(bytes(damaged))
    for way in (reader.verify, lambda: list(reader.read_all()), lambda: reader.read(entry)):
        with pytest.raises(FormatError, match=rf"CRC32 \(.*uid={entry.uid}, entry={entry.ordinal}"):
            way()
    with pytest.raises(FormatError, match="checksums"):
        list(reader.read_stream(entry))


def test_more_entries_than_keys_are_refused() -> None:
    parts = Parts.of(SHARD)
    header = bytearray(parts.header)
    header[137] = 5
    parts.header = bytes(header)
    with pytest.raises(FormatError, match="more entries than its key tree has keys"):
        opened(parts.seal())


# ---------------------------------------------------------------------- writing


def writer(options: ShardOptions = OPTIONS, trained: Trained | None = None) -> ShardWriter:
    return ShardWriter(io.BytesIO(), options=options, dictionaries=(trained or Trained()).dictionaries)


def test_equal_digests_share_nothing() -> None:
    """Of the 19 files all have one digest: they are stored all the same, and none in the place of another."""
    out = io.BytesIO()
    made = ShardWriter(out, options=replace(OPTIONS, group_entries=4))
    names, batch = sealed_files(19)
    made.append_batch(names, batch, first=0)
    made.finish()
    reader = opened(out.getvalue())
    assert reader.verify().shared == 0
    assert [content for _, content in reader.read_all()] == [item.stored for item in batch]


def test_the_writer_takes_sealed_files_only() -> None:
    made = writer()
    names, batch = sealed_files(3)
    wrong_names = (
        names._replace(uids=["a", "b", "c"]),
        names._replace(uids=[uid.replace("0", "A") for uid in names.uids]),
        names._replace(created_at=[0, 0, NOON]),
        names._replace(attributes=[("", ()), ("text/plain", ()), ("", ())]),
        names._replace(attributes=[("", (("a", "b"),))] * 3),
    )
    for wrong in wrong_names:
        with pytest.raises(UsageError, match="sealed files under keyed uids only"):
            made.append_batch(wrong, batch)
        with pytest.raises(UsageError, match="sealed files under keyed uids only"):
            made.append_batch(wrong._replace(keys=[1, 2, 3]), batch)
    for content in (make.TEXT * 9, bytes(100), make.noise(MIN_SEALED - 1), b""):
        with pytest.raises(UsageError, match="sealed files under keyed uids only"):
            made.append_batch(names, EncodedBatch.of([encode(content)] * 3))
    with pytest.raises(UsageError, match=r"in the order of .* the keyed uid"):
        made.append_batch(names._replace(uids=names.uids[::-1]), batch)
    with pytest.raises(UsageError, match="from 5 on came where 0 is next"):
        made.append_batch(names, batch, first=5)
    with pytest.raises(UsageError, match="streamed to an encrypted shard only if it is sealed"):
        made.append_stream(UIDS[0], 0, io.BytesIO(b"x"), 1)
    assert made.append_batch(names, batch, first=0) == 0
    assert made.finish().entries == 3


def test_there_is_a_key_for_each_entry() -> None:
    made = writer(replace(OPTIONS, encryption=replace(SCHEME, depth=2)))
    made.append_batch(*sealed_files(3))
    names, batch = sealed_files(5)
    with pytest.raises(UsageError, match="full with 3 entries"):
        made.append_batch(names._replace(uids=UIDS[5:10]), batch)
    names, batch = sealed_files(1)
    made.append_batch(names._replace(uids=UIDS[5:6]), batch)
    assert made.finish().entries == 4


def test_impossible_options_are_refused() -> None:
    for wrong in (
        replace(SCHEME, depth=0),
        replace(SCHEME, depth=33),
        replace(SCHEME, cipher=2),
        replace(SCHEME, uid_key=2),
        replace(SCHEME, keyring_id=b"short"),
    ):
        with pytest.raises(UsageError, match="can be encrypted like this"):
            replace(OPTIONS, encryption=wrong)
    with pytest.raises(UsageError, match="what many files have in common"):
        writer(trained=make.trained())


def test_an_empty_encrypted_shard() -> None:
    out = io.BytesIO()
    assert ShardWriter(out, options=OPTIONS).finish().entries == 0
    reader = opened(out.getvalue())
    assert reader.encrypted
    assert reader.header().encryption == SCHEME
    assert (reader.verify().entries, list(reader.read_all()), reader.find("0" * 32)) == (0, [], [])


def test_an_unencrypted_shard_of_equal_files_still_shares() -> None:
    out = io.BytesIO()
    made = ShardWriter(out, options=replace(OPTIONS, encryption=None))
    made.append_batch(Names(["a"] * 3, [NOON] * 3, [("", ())] * 3), Encoder().encode([make.noise(100)] * 3))
    made.finish()
    assert opened(out.getvalue()).verify().shared == 2


def test_numbers_of_the_specification() -> None:
    assert (SEALING, HEAD.size, MIN_SEALED, MAX_SEALED_CONTENT) == (OVERHEAD, 18, 47, 16_772_434)
    assert keyed_key(b"00000000000000ff" + b"1" * 16) == 255


# ---------------------------------------------------------------------- recovering


def test_nothing_is_damaged() -> None:
    found, damages = found_in(SHARD)
    assert damages == []
    saved = {item.entry.ordinal: b"".join(pieces) for item, pieces in saved_entries(found)}
    assert saved == contents()
    out = io.BytesIO()
    rebuild(found, out)
    assert out.getvalue() == SHARD


@pytest.mark.parametrize("name", make.ENCRYPTED)
def test_without_its_end_it_is_restored_byte_by_byte(name: str) -> None:
    data = GOLDEN[name]
    cut = opened(data).footer.data_end
    for left in (data[:cut], data[:-FOOTER_SIZE], data[:cut] + bytes(len(data) - cut)):
        found, damages = found_in(left)
        assert damages
        out = io.BytesIO()
        rebuild(found, out)
        assert out.getvalue() == data


@pytest.mark.parametrize("at", [0, 16, 40, 60, 120, 133, 136, 137, 250, 254])
def test_a_damaged_header_is_restored_with_the_keyrings_clues(at: int) -> None:
    damaged = SHARD[:at] + bytes((SHARD[at] ^ 0xFF,)) + SHARD[at + 1 :]
    found, damages = found_in(damaged, CLUES)
    assert any("it is restored" in damage.what for damage in damages)
    out = io.BytesIO()
    rebuild(found, out)
    assert out.getvalue() == SHARD


def test_with_header_and_footer_lost_the_clues_tell_that_it_is_encrypted() -> None:
    left = bytes(HEADER_SIZE) + SHARD[HEADER_SIZE:-FOOTER_SIZE]
    found, _ = found_in(left, CLUES)
    assert {item.entry.ordinal: b"".join(pieces) for item, pieces in saved_entries(found)} == contents()
    out = io.BytesIO()
    rebuild(found, out)
    assert out.getvalue() == SHARD
    wrong, _ = found_in(left, replace(CLUES, encryption=None))
    assert wrong.found.saved == 0


def test_damaged_checksums_of_a_group_are_made_anew() -> None:
    group = next(opened(SHARD).groups())
    at = group.digests_at + 32 * len(group) + 1
    damaged = SHARD[:at] + bytes((SHARD[at] ^ 0xFF,)) + SHARD[at + 1 :]
    found, damages = found_in(damaged)
    assert ["made anew" in damage.what for damage in damages] == [True]
    out = io.BytesIO()
    rebuild(found, out)
    assert out.getvalue() == SHARD


def test_with_entries_lost_the_others_are_saved_as_they_are_sealed() -> None:
    lost = opened(SHARD).find(make.TENANT.keyed_uid("raw"))[0]
    damaged = bytearray(SHARD)
    damaged[lost.offset + 5] ^= 1
    found, damages = found_in(bytes(damaged))
    assert [(damage.first, damage.uid) for damage in damages] == [(lost.ordinal, lost.uid)]
    assert found.found.lost == 1
    saved = {item.entry.ordinal: b"".join(pieces) for item, pieces in saved_entries(found)}
    assert saved == {ordinal: content for ordinal, content in contents().items() if ordinal != lost.ordinal}
    with pytest.raises(UsageError, match=r"can't be moved without its keys.*as they are sealed"):
        rebuild(found, io.BytesIO(), commit=7)


def test_origins_are_kept_and_flags_said() -> None:
    assert Header.parse(SHARD[:HEADER_SIZE]).incompat == SEALED
    reader = opened(SHARD)
    origins = [entry.origin for entry in reader.find(make.TENANT.keyed_uid("often"))]
    assert origins == [None, *(Origin(number + 1, number) for number in range(1, 5))]
    assert int(np.sum([group.column("place").sum() for group in reader.groups()])) == 0
