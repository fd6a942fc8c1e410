"""Encrypted shards with keys: what was sealed comes back, and nothing else under any other key, place or name."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from tests.fixtures.format import make
from tests.format.support import NOON, Block, Parts, opened
from tests.keys import second
from vera_core.codec import Dictionaries, Stored, crc32, decode
from vera_core.dictionary import train_common
from vera_core.encoding import Encoder, Trained
from vera_core.errors import BadUidError, ErasedError, FormatError, IntegrityError, UsageError
from vera_core.format import BytesSource, Names, ShardOptions, ShardReader, ShardWriter
from vera_core.format.sealed import HEAD, MAX_SEALED_CONTENT, parse_inside
from vera_core.keys.envelope import Header, Kind
from vera_core.keys.keyring import Keyring, Wanted, open_keyrings, seal_keyrings
from vera_core.keys.sealing import FileSealer
from vera_core.keys.service import good
from vera_core.keys.shards import ShardOpener, ShardSealer
from vera_core.keys.tenant import TenantKey
from vera_core.keys.tree import KeyTree
from vera_core.model import Codec, Origin, Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.keys.local import LocalKeys
    from vera_core.model import Entry

HERE = Path(make.__file__).parent
REPOSITORY = make.REPOSITORY
TENANT = make.TENANT


class File(NamedTuple):
    uid: str
    content: bytes
    created_at: int = NOON
    media_type: str = ""
    metadata: tuple[tuple[str, str], ...] = ()
    origin: Origin | None = None


class Built(NamedTuple):
    """A shard in memory, its keyring as built, and its files by ordinal."""

    data: bytes
    keyring: Keyring
    files: list[File]

    def reader(self, data: bytes | None = None) -> ShardReader:
        return ShardReader.open(BytesSource(data or self.data, key="k.vera"), sealed=True)

    def opener(
        self, *, data: bytes | None = None, keyring: Keyring | None = None, tenant: TenantKey = TENANT
    ) -> ShardOpener:
        return ShardOpener(self.reader(data), tenant, keyring or self.keyring)


def build(
    files: Sequence[File], *, step: int = 7, trained: Trained | None = None, policy: Policy = Policy.BALANCED
) -> Built:
    """A shard of files, sealed in batches of `step`."""
    trained = trained or Trained()
    rows = sorted(files, key=lambda file: TENANT.keyed_uid(file.uid))
    sealer = ShardSealer.fresh(TENANT, len(rows))
    out = io.BytesIO()
    options = ShardOptions(REPOSITORY, "standard", group_entries=5, encryption=sealer.encryption)
    writer = ShardWriter(out, options=options, dictionaries=trained.dictionaries)
    encoder = Encoder(policy, trained, digest_with=TENANT.keyed_digest)
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        batch = encoder.encode([file.content for file in part], [file.media_type for file in part])
        keyed = [TENANT.keyed_uid(file.uid) for file in part]
        assert writer.append_batch(*sealer.seal(first, names_of(part), keyed, batch), first=first) == first
    summary = writer.finish()
    return Built(out.getvalue(), sealer.keyring(summary.sha256), rows)


def names_of(files: Sequence[File]) -> Names:
    return Names(
        [file.uid for file in files],
        [file.created_at for file in files],
        [(file.media_type, file.metadata) for file in files],
        [file.origin for file in files],
    )


def told(entry: Entry, content: bytes) -> File:
    """What an opened entry says."""
    assert entry.size == len(content)
    return File(entry.uid, content, entry.created_at, entry.media_type, entry.metadata, entry.origin)


def some_files(count: int = 30) -> list[File]:
    source = random.Random(count)
    return [
        File(
            f"uid-{number % 25}", source.randbytes(number % 9 * 20), NOON + number, "text/plain", (("n", str(number)),)
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def built() -> Built:
    return build(some_files())


# ---------------------------------------------------------------------- there and back

uids = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)
files = st.builds(
    File,
    st.one_of(st.sampled_from(["a", "b", "ü" * 256, "a/../b"]), uids),
    st.one_of(
        st.binary(max_size=200),
        st.sampled_from([b"", b"x", bytes(3000), make.TEXT * 20, make.TEXT * 2000, b"\x1f\x8b" + make.TEXT]),
        st.integers(0, 40).map(make.page),
    ),
    st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999),
    st.sampled_from(["", "text/plain", "application/xml", "m" * 127]),
    st.dictionaries(st.text(min_size=1, max_size=9), st.text(max_size=9), max_size=3).map(
        lambda some: tuple(some.items())
    ),
    st.one_of(st.none(), st.builds(Origin, st.integers(1, 2**32 - 1), st.integers(0, 2**32 - 1))),
)
PAGES = Trained((train_common([make.page(number) for number in range(200)], 2048) or b"",), {"application/xml": 1})


@given(st.lists(files, max_size=20), st.integers(1, 20), st.sampled_from([None, PAGES]), st.sampled_from(Policy))
def test_what_was_sealed_comes_back(made: list[File], step: int, trained: Trained | None, policy: Policy) -> None:
    shard = build(made, step=step, trained=trained, policy=policy)
    opener = shard.opener()
    assert opener.reader.verify().entries == len(made)
    assert [told(*pair) for pair in opener.read_all()] == shard.files
    assert [entry.ordinal for entry, _ in opener.read_all()] == list(range(len(made)))
    latest = {file.uid: file for file in shard.files}
    for uid, file in latest.items():
        assert opener.get(uid) == file.content
        found = [told(*opener.read(entry)) for entry in opener.find(uid)]
        assert found == [other for other in shard.files if other.uid == uid]
    assert opener.get("absent" * 9) is None
    wanted = list(opener.reader.entries())[::3]
    assert [told(*pair) for pair in opener.read_many(wanted)] == shard.files[::3]


def test_a_golden_shard_opens_with_another_implementation() -> None:
    """docs/keys-v1.md and the table of the plaintext in docs/format-v1.md are all that it takes."""
    for name in make.ENCRYPTED:
        data = (HERE / f"{name}.vera").read_bytes()
        expected: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text())
        if expected["streamed"]:
            continue  # test_streams.py
        root, secret = (bytes.fromhex(expected["secrets"][key]) for key in ("root", "tenant"))
        uid_key, content_key = (second.subkey(secret, f"vera-tenant-{use}-v1") for use in ("uid", "content"))
        depth, keyring_id = expected["encryption"]["depth"], bytes.fromhex(expected["encryption"]["keyring_id"])
        dictionaries = Dictionaries(opened(data).section_bytes(each) for each in opened(data).sections if each.number)
        assert (data[116:132], data[132:138]) == (keyring_id, bytes((1, 0, 0, 0, 1, depth)))
        for ordinal, (shown, inside) in enumerate(zip(expected["entries"], expected["opened"], strict=True)):
            stored = data[shown["offset"] : shown["offset"] + shown["stored_size"]]
            encryption, nonces = second.derive(second.leaf(root, depth, ordinal), "vera-file-keys-v1")
            bound = bytes.fromhex(expected["repository_id"]) + keyring_id + struct.pack("<Q", ordinal)
            plaintext = AESGCM(encryption).decrypt(stored[:12], stored[12:], bound)
            assert hmac.new(nonces, plaintext, hashlib.sha256).digest()[:12] == stored[:12]
            created_at, size, codec, parameter, uid_size, attributes = struct.unpack_from("<qIBBHH", plaintext)
            uid, rest = plaintext[18 : 18 + uid_size], plaintext[18 + uid_size :]
            assert (created_at, size, parameter) == tuple(inside[key] for key in ("created_at", "size", "parameter"))
            assert uid.decode() == inside["uid"]
            assert hmac.new(uid_key, uid, hashlib.sha256).hexdigest()[:32] == shown["uid"]
            media_type = rest[1 : 1 + rest[0]].decode() if attributes else ""
            assert media_type == inside["media_type"]
            content = decode(Stored(Codec(codec), rest[attributes:], size, parameter), dictionaries)
            assert hashlib.sha256(content).hexdigest() == inside["sha256"]
            assert hmac.new(content_key, content, hashlib.sha256).hexdigest() == shown["sha256"]


def test_a_keyring_that_was_stored_opens_its_shard(built: Built, local: LocalKeys) -> None:
    [stored] = seal_keyrings(local, [built.keyring])
    wanted = Wanted(REPOSITORY, "default", hashlib.sha256(built.data).digest())
    [keyring] = good(open_keyrings(local, [(wanted, stored)]))
    assert [told(*pair) for pair in built.opener(keyring=keyring).read_all()] == built.files


def test_every_build_has_keys_of_its_own(built: Built) -> None:
    again = build(some_files())
    assert again.keyring.header.keyring_id != built.keyring.header.keyring_id
    assert again.keyring.tree != built.keyring.tree
    pairs = zip(built.reader().read_all(), again.reader().read_all(), strict=True)
    assert all(one != other for (_, one), (_, other) in pairs)


def test_largest_contents() -> None:
    content = make.noise(1000) * (MAX_SEALED_CONTENT // 1000 + 1)
    file = File("u" * 512, b"PK\x03\x04" + content[: MAX_SEALED_CONTENT - 4], NOON, "m" * 127, (("k", "v" * 4091),))
    shard = build([file])
    assert shard.opener().get(file.uid) == file.content
    with pytest.raises(UsageError, match="can't be stored inline"):
        build([file._replace(content=file.content + b"x")])


def test_constants_of_many_megabytes_open_one_by_one() -> None:
    made = [File(f"uid-{number}", b"\1" * (9 << 20)) for number in range(6)]
    shard = build(made)
    assert len(shard.data) < 5000
    assert sum(len(content) for _, content in shard.opener().read_all()) == 54 << 20


# ---------------------------------------------------------------------- sealing


def test_what_can_t_be_sealed_is_refused() -> None:
    sealer = ShardSealer.fresh(TENANT, 2)
    [file] = some_files(1)
    batch = Encoder(digest_with=TENANT.keyed_digest).encode([file.content])
    keyed = [TENANT.keyed_uid(file.uid)]
    names = names_of([file])
    with pytest.raises(BadUidError):
        sealer.seal(0, names._replace(uids=["a\nb"]), keyed, batch)
    with pytest.raises(UsageError, match="year 1 to 9999"):
        sealer.seal(0, names._replace(created_at=[1 << 60]), keyed, batch)
    with pytest.raises(UsageError, match="media type"):
        sealer.seal(0, names._replace(attributes=[("m" * 128, ())]), keyed, batch)
    with pytest.raises(UsageError, match="2 keyed uids were given"):
        sealer.seal(0, names, keyed * 2, batch)
    with pytest.raises(UsageError, match="no leaf 2"):
        sealer.seal(2, names, keyed, batch)
    hidden, sealed = sealer.seal(1, names, keyed, batch)
    assert sealer.seal(1, names, keyed, batch)[1].stored == sealed.stored
    assert (hidden.uids, list(hidden.created_at), list(hidden.attributes)) == (keyed, [0], [("", ())])
    assert ShardSealer.fresh(TENANT, 0).encryption.depth == 1


# ---------------------------------------------------------------------- what must not open


def check_nothing_opens(opener: ShardOpener, match: str) -> None:
    for entry in opener.reader.entries():
        with pytest.raises(IntegrityError, match=match):
            opener.read(entry)


def test_an_erased_file_opens_no_more_and_all_others_do(built: Built) -> None:
    gone = {3, 11, 12, 29}
    opener = built.opener(keyring=built.keyring.puncture(gone))
    for entry in opener.reader.entries():
        assert opener.holds(entry) == (entry.ordinal not in gone)
        if entry.ordinal in gone:
            with pytest.raises(
                ErasedError, match=rf"key .* destroyed.*key=k.vera, uid={entry.uid}, entry={entry.ordinal}"
            ):
                opener.read(entry)
        else:
            assert told(*opener.read(entry)) == built.files[entry.ordinal]
    left = opener.read_many(entry for entry in opener.reader.entries() if opener.holds(entry))
    assert [entry.ordinal for entry, _ in left] == [number for number in range(30) if number not in gone]
    with pytest.raises(ErasedError):
        list(opener.read_all())


def test_a_keyring_of_another_build_is_named(built: Built) -> None:
    header, tree = built.keyring.header, built.keyring.tree
    deeper = KeyTree.of_root(tree.depth + 1, bytes(32))
    for wrong in (
        Keyring(replace(header, keyring_id=bytes(16)), tree),
        Keyring(replace(header, depth=deeper.depth), deeper),
    ):
        check_nothing_opens(
            built.opener(keyring=wrong), r"keyring is not that of this shard.*Restore .*key=|not that of this"
        )
    small = KeyTree.of_root(2, bytes(32))
    elsewhere = replace(header, repository_id=b"R" * 16)
    for refused in (Keyring(replace(header, depth=2), small), Keyring(elsewhere, tree)):
        with pytest.raises(IntegrityError, match="keyring is not that of this shard"):
            built.opener(keyring=refused)


def test_with_other_roots_or_tenant_keys_nothing_opens(built: Built) -> None:
    header, depth = built.keyring.header, built.keyring.tree.depth
    check_nothing_opens(built.opener(keyring=Keyring(header, KeyTree.of_root(depth, bytes(32)))), "does not open")
    other = TenantKey(TENANT.header, bytes(32))
    check_nothing_opens(built.opener(tenant=other), "under the name of another")
    assert built.opener(tenant=other).find("uid-3") == []
    stranger = TenantKey(Header(Kind.TENANT, REPOSITORY, "other"), TENANT.secret)
    with pytest.raises(IntegrityError, match="not that of this shard"):
        built.opener(tenant=stranger)


def test_an_unencrypted_shard_takes_no_keyring(built: Built) -> None:
    reader = ShardReader.open(BytesSource((HERE / "one.vera").read_bytes()), sealed=True)
    with pytest.raises(UsageError, match="not encrypted"):
        ShardOpener(reader, TENANT, built.keyring)


@given(data=st.data())
def test_bytes_that_were_changed_with_all_checksums_do_not_open(built: Built, data: st.DataObject) -> None:
    parts = Parts.of(built.data)
    block = parts.groups[data.draw(st.integers(0, len(parts.groups) - 1))]
    at = data.draw(st.integers(0, len(block.contents) - 1))
    row = int((block.columns["stored_size"].cumsum() <= at).sum())
    changed = bytearray(block.contents)
    changed[at] ^= data.draw(st.integers(1, 255))
    block.contents = bytes(changed)
    reseal(block)
    opener = built.opener(data=parts.seal())
    opener.reader.verify()
    entries = list(opener.reader.entries())
    with pytest.raises(IntegrityError, match=rf"altered, moved.*entry={block.head['first'] + row}\b"):
        opener.read(entries[block.head["first"] + row])


def reseal(block: Block) -> None:
    """Makes the CRC32 of a group's contents right."""
    ends = block.columns["stored_size"].cumsum().tolist()
    pieces = [block.contents[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
    digests = block.proofs[: 32 * len(pieces)]
    block.proofs = digests + b"".join(crc32(piece).to_bytes(4, "little") for piece in pieces)


@pytest.mark.parametrize("uids", [("one", "one"), ("one", "two")])
def test_files_that_were_exchanged_do_not_open(uids: tuple[str, str]) -> None:
    """Versions of one uid with all that is said of them, or files under other names: without keys all looks well."""
    shard = build([File(uids[0], b"the first"), File(uids[1], b"the other")])
    parts = Parts.of(shard.data)
    block = parts.groups[0]
    if uids[0] == uids[1]:
        block.permute([1, 0])
    else:
        half = len(block.contents) // 2
        block.contents = block.contents[half:] + block.contents[:half]
        reseal(block)
    opener = shard.opener(data=parts.seal())
    opener.reader.verify()
    check_nothing_opens(opener, "altered, moved")


def test_a_keyed_digest_that_was_exchanged_is_found(built: Built) -> None:
    parts = Parts.of(built.data)
    block = parts.groups[0]
    block.proofs = bytes(32) + block.proofs[32:]
    opener = built.opener(data=parts.seal())
    opener.reader.verify()
    first, second_entry = list(opener.reader.entries())[:2]
    with pytest.raises(IntegrityError, match="does not match its keyed digest"):
        opener.read(first)
    assert told(*opener.read(second_entry)) == built.files[1]


@given(st.binary(max_size=80))
def test_whatever_is_sealed_only_format_errors_come_out(plaintext: bytes) -> None:
    try:
        inside = parse_inside(plaintext)
    except FormatError:
        return
    assert len(plaintext) >= HEAD.size + len(inside.uid.encode()) + len(inside.stored.stored)


@pytest.mark.parametrize(
    ("head", "rest", "match"),
    [
        ((0, 1, 9, 0, 1, 0), b"ux", "impossible values"),
        ((0, 1 << 25, 0, 0, 1, 0), b"ux", "impossible values"),
        ((1 << 60, 1, 0, 0, 1, 0), b"ux", "impossible values"),
        ((0, 1, 0, 0, 9, 0), b"ux", "impossible values"),
        ((0, 1, 0, 0, 1, 9), b"ux", "impossible values"),
        ((0, 1, 0, 0, 0, 0), b"x", "uid that can't be"),
        ((0, 1, 0, 0, 1, 0), b"\xffx", "uid that can't be"),
        ((0, 1, 0, 0, 1, 0), b"\nx", "uid that can't be"),
        ((0, 1, 0, 0, 1, 1), b"u\xffx", "cut off"),
        ((0, 2, 0, 0, 1, 0), b"ux", "raw bytes"),
        ((0, 1, 0, 0, 1, 0), b"u", "raw bytes"),
        ((0, 9, 1, 1, 1, 0), b"ux", "zstd"),
        ((0, 9, 3, 0, 1, 0), b"ux", "constant"),
    ],
)
def test_a_writer_that_seals_nonsense_is_found_out(
    built: Built, head: tuple[int, ...], rest: bytes, match: str
) -> None:
    """Bytes that were sealed with the right keys are no better for it."""
    header, tree = built.keyring.header, built.keyring.tree
    sealed = FileSealer(REPOSITORY, header.keyring_id).seal(4, tree.leaf(4), HEAD.pack(*head) + rest)
    entry = next(iter(built.reader().entries()))._replace(ordinal=4, uid=TENANT.keyed_uid("u"))
    with pytest.raises(FormatError, match=match):
        built.opener().open(entry, sealed)


def test_dictionaries_tell_nothing_of_a_single_file() -> None:
    """Neither in the shard's dictionary nor anywhere else stands what is in fewer than 50 files."""
    made = [File(f"page-{number}", make.page(number), NOON, "application/xml") for number in range(60)]
    shard = build(made, trained=PAGES)
    assert {entry.parameter for entry, _ in shard.opener().read_all()} == {1}
    [dictionary] = PAGES.dictionaries
    accounts = [make.noise(6, number).hex().encode() for number in range(200)]
    assert not any(account in dictionary for account in accounts)
    assert b"urn:example:statement" in shard.data
