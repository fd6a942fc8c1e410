"""Tenant keys: the same names for the same uids in one tenant, and no relation between tenants or purposes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.keys.support import REPOSITORY, make_keyring
from tests.keys.test_tree import VECTORS
from vera_core.errors import BadUidError, IntegrityError, UsageError
from vera_core.keys.envelope import Header, Kind, seal_envelopes
from vera_core.keys.keyring import seal_keyrings
from vera_core.keys.tenant import Purpose, TenantKey, keyed_uid_key
from vera_core.model import check_uid

if TYPE_CHECKING:
    from vera_core.keys.local import LocalKeys

(VECTOR,) = VECTORS["tenant"]
HEADER = Header(Kind.TENANT, REPOSITORY, "default")


def test_it_agrees_with_the_vector() -> None:
    key = TenantKey(HEADER, bytes.fromhex(VECTOR["secret"]))
    assert key.subkey(Purpose.UID).hex() == VECTOR["uid_subkey"]
    assert key.subkey(Purpose.CONTENT).hex() == VECTOR["content_subkey"]
    for uid, expected in VECTOR["uids"].items():
        assert key.keyed_uid(uid) == expected["keyed_uid"]
        assert keyed_uid_key(key.keyed_uid(uid)) == expected["key"]
    assert key.keyed_digest(bytes.fromhex(VECTOR["content"])).hex() == VECTOR["keyed_digest"]


def test_a_keyed_uid_is_a_uid() -> None:
    keyed = TenantKey.fresh(REPOSITORY, "default").keyed_uid("a" * 512)
    assert check_uid(keyed) == keyed
    assert len(keyed) == 32


def test_every_tenant_has_its_own_names() -> None:
    keys = [TenantKey.fresh(REPOSITORY, tenant) for tenant in ("default", "default", "other")]
    assert len({key.keyed_uid("uid") for key in keys}) == 3
    assert len({key.keyed_digest(b"content") for key in keys}) == 3


def test_it_opens_as_it_was_sealed(local: LocalKeys) -> None:
    key = TenantKey.fresh(REPOSITORY, "default")
    data = key.seal(local)
    assert TenantKey.open(local, REPOSITORY, "default", data) == key
    assert key.secret not in data
    assert repr(key.secret)[2:10] not in repr(key)


def test_anything_else_is_refused(local: LocalKeys) -> None:
    data = TenantKey.fresh(REPOSITORY, "default").seal(local)
    for repository, tenant, given in (
        (REPOSITORY, "other", data),
        (b"r" * 16, "default", data),
        (REPOSITORY, "default", seal_keyrings(local, [make_keyring()])[0]),
        (REPOSITORY, "default", data[:-1]),
        (REPOSITORY, "default", seal_envelopes(local, [(HEADER, b"short")])[0].encode()),
    ):
        with pytest.raises(IntegrityError):
            TenantKey.open(local, repository, tenant, given)


def test_what_is_no_uid_or_key() -> None:
    key = TenantKey.fresh(REPOSITORY, "default")
    with pytest.raises(BadUidError):
        key.keyed_uid("")
    for wrong in ("", "0" * 31, "0" * 33, "A" * 32, "g" * 32):
        with pytest.raises(UsageError, match="32 lowercase"):
            keyed_uid_key(wrong)
    for header, secret in ((HEADER, bytes(31)), (make_keyring().header, bytes(32))):
        with pytest.raises(UsageError, match="no tenant key"):
            TenantKey(header, secret)
