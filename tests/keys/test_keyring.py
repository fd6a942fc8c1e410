"""Keyrings: every revision, in its shard's place only, and never an older one than wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.keys.support import error_of, make_keyring, wanted, with_checksum
from vera_core.errors import ErasedError, IncompatibleError, IntegrityError, UsageError, VeraError
from vera_core.keys.envelope import Envelope, seal_envelopes
from vera_core.keys.keyring import Keyring, open_keyrings, seal_keyrings
from vera_core.keys.service import good

if TYPE_CHECKING:
    from vera_core.keys.local import LocalKeys


def open_one(service: LocalKeys, data: bytes, keyring: Keyring, revision: int = 1) -> Keyring | VeraError:
    return open_keyrings(service, [(wanted(keyring, revision), data)])[0]


def test_keyrings_open_as_they_were_sealed(local: LocalKeys) -> None:
    keyrings = [make_keyring(f"shard {number}", leaves=number) for number in range(1, 20)]
    keyrings += [keyring.puncture(range(0, 1, 2)) for keyring in keyrings]
    stored = seal_keyrings(local, keyrings)
    assert good(open_keyrings(local, [(wanted(k), data) for k, data in zip(keyrings, stored, strict=True)])) == keyrings


def test_a_puncture_makes_the_next_revision_and_again_none(local: LocalKeys) -> None:
    first = make_keyring()
    second = first.puncture([3, 5])
    assert (first.revision, second.revision) == (1, 2)
    assert second.puncture([5]) is second
    assert second.puncture([]) is second
    third = second.puncture([3, 4])
    assert third.revision == 3
    (data,) = seal_keyrings(local, [third])
    (opened,) = good(open_keyrings(local, [(wanted(third, 3), data)]))
    assert opened.tree.leaf(6) == first.tree.leaf(6)
    for ordinal in (3, 4, 5):
        with pytest.raises(ErasedError):
            opened.tree.leaf(ordinal)
    assert first.tree.holds(3)


def test_a_keyring_without_a_leaf_is_one_too(local: LocalKeys) -> None:
    nothing = make_keyring(leaves=4).puncture(range(4))
    assert open_one(local, seal_keyrings(local, [nothing])[0], nothing) == nothing


def test_the_bytes_hold_no_secret_and_differ_each_time(local: LocalKeys) -> None:
    keyring = make_keyring()
    one, two = (seal_keyrings(local, [keyring])[0] for _ in range(2))
    assert one != two
    assert keyring.tree.nodes[5:] not in one + two
    assert len(one) < 400


def test_another_shards_keyring_is_refused(local: LocalKeys) -> None:
    mine, other = make_keyring("mine"), make_keyring("other")
    (data,) = seal_keyrings(local, [other])
    error = error_of(open_one(local, data, mine), IntegrityError)
    assert "something else" in error.what
    assert error.where["shard"] == mine.header.shard[:16].hex()
    for moved in (make_keyring("other", tenant="tenant-b"), replace_repository(other)):
        assert "something else" in error_of(open_one(local, data, moved), IntegrityError).what


def replace_repository(keyring: Keyring) -> Keyring:
    return replace(keyring, header=replace(keyring.header, repository_id=b"r" * 16))


def test_an_older_revision_is_refused_and_a_later_one_is_not(local: LocalKeys) -> None:
    first = make_keyring()
    second = first.puncture([3])
    old, new = seal_keyrings(local, [first, second])
    error = error_of(open_one(local, old, first, revision=2), IntegrityError)
    assert "older keyring" in error.what
    assert "revision 1" in error.what
    assert open_one(local, new, first, revision=1) == second


def test_a_revision_can_not_be_raised(local: LocalKeys) -> None:
    """The old nodes under a header that claims the new revision: the data key's holder is the KEK, not the thief."""
    first = make_keyring()
    envelope = Envelope.decode(seal_keyrings(local, [first])[0])
    forged = replace(envelope, header=replace(envelope.header, revision=2)).encode()
    assert "does not open" in error_of(open_one(local, forged, first, revision=2), IntegrityError).what


def test_one_bad_keyring_of_many_is_named_and_the_others_open(local: LocalKeys) -> None:
    keyrings = [make_keyring(f"shard {number}") for number in range(4)]
    stored = seal_keyrings(local, keyrings)
    stored[1] = stored[1][:-1]
    stored[2] = stored[3]
    outcomes = open_keyrings(local, [(wanted(k), data) for k, data in zip(keyrings, stored, strict=True)])
    assert (outcomes[0], outcomes[3]) == (keyrings[0], keyrings[3])
    for number in (1, 2):
        assert error_of(outcomes[number], IntegrityError).where["shard"] == keyrings[number].header.shard[:16].hex()


def test_a_newer_version_is_named(local: LocalKeys) -> None:
    keyring = make_keyring()
    data = bytearray(seal_keyrings(local, [keyring])[0])
    data[8] = 2
    error = error_of(open_one(local, with_checksum(bytes(data)), keyring), IncompatibleError)
    assert error.where["tenant"] == "default"


def test_a_sealed_body_that_is_no_tree_is_refused(local: LocalKeys) -> None:
    keyring = make_keyring()
    (envelope,) = seal_envelopes(local, [(keyring.header, b"no nodes")])
    error = error_of(open_one(local, envelope.encode(), keyring), IntegrityError)
    assert error.where["shard"] == keyring.header.shard[:16].hex()


def test_keyrings_that_there_are_not() -> None:
    keyring = make_keyring()
    with pytest.raises(UsageError):
        Keyring(replace(keyring.header, depth=3), keyring.tree)
    with pytest.raises(UsageError, match="no leaf"):
        keyring.puncture([1 << 7])
