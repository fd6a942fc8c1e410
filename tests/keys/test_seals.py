"""A built shard is proved file by file: what is wrong with a sealed file is found, also where every sum is right."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.format.support import NOON, Parts
from tests.keys.test_shards import PAGES, REPOSITORY, TENANT, Built, File, build, files, reseal, some_files
from vera_core.codec import NO_DICTIONARIES
from vera_core.errors import ErasedError, FormatError, IntegrityError
from vera_core.format.sealed import HEAD
from vera_core.keys.mac import hmac_sha256
from vera_core.keys.sealing import FileSealer
from vera_core.keys.seals import Seals
from vera_core.keys.tree import KeyTree
from vera_core.operations.inspector import inspect_file

if TYPE_CHECKING:
    from pathlib import Path


def seals_of(built: Built) -> Seals:
    return Seals.of(TENANT, built.keyring)


@given(st.lists(files, max_size=12), st.sampled_from([None, PAGES]))
def test_what_was_sealed_is_proved(made: list[File], trained: None) -> None:
    built = build(made, trained=trained)
    seals = Seals.unpack(seals_of(built).pack())
    assert seals == seals_of(built)
    assert built.reader().verify(seals) == built.reader().verify()


def test_digests_are_those_of_the_contents() -> None:
    built = build(some_files(40))
    reader = built.reader()
    entries = list(reader.read_all())
    uids, sealed = [entry.uid.encode() for entry, _ in entries], [data for _, data in entries]
    seals = seals_of(built)
    for first in (0, 3):
        for end in (first, first + 1, 40):
            found = seals.digests(first, uids[first:end], sealed[first:end], reader.dictionaries())
            assert found == b"".join(TENANT.keyed_digest(file.content) for file in built.files[first:end])


def test_contents_that_are_large_when_decoded_are_decoded_few_at_a_time() -> None:
    built = build([File(f"zeros-{number}", bytes(3 << 20)) for number in range(9)])
    assert built.reader().verify(seals_of(built)).entries == 9


def test_memory_does_not_grow_with_the_shard() -> None:
    """Building or proving a sealed shard: as for others, a batch, a group and 4 MiB of the scan at a time."""
    few, many = ([File(f"{number:0100d}", b"%d" % number * 40) for number in range(count)] for count in (3000, 18_000))
    proving = []
    for made in (few, many):
        built = build(made, step=512)
        seals = seals_of(built)
        tracemalloc.start()
        assert built.reader().verify(seals).entries == len(made)
        proving.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The scan reads 4 MiB at a time, which the smaller shard does not fill; 60 bytes a file are the list of contents.
    assert proving[1] - proving[0] < 15_000 * 60 + (8 << 20)


@given(st.data())
def test_a_bit_that_flips_before_the_sums_are_made_is_found(data: st.DataObject) -> None:
    """As where memory fails between sealing and writing: CRC32 and SHA-256 are those of the wrong bytes."""
    built = build(some_files(30))
    parts = Parts.of(built.data)
    block = parts.groups[data.draw(st.integers(0, len(parts.groups) - 1))]
    at = data.draw(st.integers(0, len(block.contents) - 1))
    row = int((block.columns["stored_size"].cumsum() <= at).sum())
    changed = bytearray(block.contents)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    block.contents = bytes(changed)
    reseal(block)
    reader = built.reader(parts.seal())
    reader.verify()
    with pytest.raises(IntegrityError, match=rf"does not open.*ordinal={block.head['first'] + row}\b"):
        reader.verify(seals_of(built))


def test_a_wrong_keyed_digest_is_found(tmp_path: Path) -> None:
    """As where memory fails before sealing: what was sealed opens, and is not what was read from the source."""
    built = build(some_files(30))
    parts = Parts.of(built.data)
    parts.groups[2].proofs = bytes(32) + parts.groups[2].proofs[32:]
    path = tmp_path / "wrong.vera"
    path.write_bytes(parts.seal())
    inspect_file(path)
    with pytest.raises(FormatError, match="do not match their keyed digests"):
        inspect_file(path, seals_of(built))


def test_a_file_under_the_name_of_another_is_found() -> None:
    built = build([File("one", b"the same"), File("two", b"the same")])
    [one, two] = built.reader().read_all()
    with pytest.raises(FormatError, match="the name of another"):
        seals_of(built).digests(0, [two[0].uid.encode(), one[0].uid.encode()], [one[1], two[1]], NO_DICTIONARIES)


def test_a_punctured_key_proves_nothing() -> None:
    built = build(some_files(30))
    with pytest.raises(ErasedError):
        built.reader().verify(Seals.of(TENANT, built.keyring.puncture([7])))


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ((0, 1, 9, 0, 1, 0), b"ux"),
        ((0, 1 << 25, 0, 0, 1, 0), b"ux"),
        ((1 << 60, 1, 0, 0, 1, 0), b"ux"),
        ((0, 1, 0, 0, 9, 0), b"ux"),
        ((0, 1, 0, 0, 1, 9), b"ux"),
        ((0, 1, 0, 0, 1, 1), b"u\xffx"),
        ((0, 2, 0, 0, 1, 0), b"ux"),
        ((0, 9, 1, 1, 1, 0), b"ux"),
        ((0, 9, 3, 0, 1, 0), b"ux"),
    ],
)
def test_nonsense_that_was_sealed_with_the_right_keys_is_found(head: tuple[int, ...], rest: bytes) -> None:
    tree, files_of = KeyTree.fresh(8), FileSealer(REPOSITORY, bytes(16))
    good = HEAD.pack(NOON, 1, 0, 0, 1, 0) + b"ux"
    seals = Seals.of(TENANT, build([]).keyring)
    seals = Seals(seals.uid_key, seals.content_key, REPOSITORY, bytes(16), tree)
    name = TENANT.keyed_uid("u").encode()
    for place in (0, 2):
        plaintexts = [good, good, good]
        plaintexts[place] = HEAD.pack(*head) + rest
        sealed = files_of.seal_many(3, tree.run(3, 6), plaintexts)
        with pytest.raises(FormatError):
            seals.digests(3, [name] * 3, sealed, NO_DICTIONARIES)
    assert len(seals.digests(3, [name] * 3, files_of.seal_many(3, tree.run(3, 6), [good] * 3), NO_DICTIONARIES)) == 96


@pytest.mark.parametrize("uid", [b"\n", b"\xff", b""])
def test_a_uid_that_can_t_be_is_found(uid: bytes) -> None:
    tree, files_of = KeyTree.fresh(8), FileSealer(REPOSITORY, bytes(16))
    seals = Seals.of(TENANT, build([]).keyring)
    seals = Seals(seals.uid_key, seals.content_key, REPOSITORY, bytes(16), tree)
    plaintext = HEAD.pack(NOON, 1, 0, 0, len(uid), 0) + uid + b"x"
    name = hmac_sha256(seals.uid_key, uid)[:16].hex().encode()
    with pytest.raises(FormatError, match="uid that can't be"):
        seals.digests(0, [name], files_of.seal_many(0, tree.run(0, 1), [plaintext]), NO_DICTIONARIES)


@given(st.integers(1, 9), st.data())
def test_runs_of_leaves_are_the_leaves(depth: int, data: st.DataObject) -> None:
    tree = KeyTree.of_root(depth, bytes(range(32)))
    holes = data.draw(st.sets(st.integers(0, (1 << depth) - 1), max_size=4))
    tree = tree.puncture(holes)
    first = data.draw(st.integers(0, 1 << depth))
    end = data.draw(st.integers(first, 1 << depth))
    if holes & set(range(first, end)):
        with pytest.raises(ErasedError):
            tree.run(first, end)
    else:
        assert tree.run(first, end) == list(tree.leaves(range(first, end)))
