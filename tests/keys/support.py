"""Keyrings, headers and small helpers that the tests of keys share."""

from __future__ import annotations

import hashlib
import struct
import zlib
from typing import TYPE_CHECKING

from vera_core.keys.envelope import Header, Kind
from vera_core.keys.keyring import Keyring, Wanted
from vera_core.keys.tree import KeyTree

if TYPE_CHECKING:
    from vera_core.errors import VeraError

REPOSITORY = b"R" * 16
ROOT = bytes(range(32))


def make_keyring(name: str = "a shard", *, leaves: int = 100, revision: int = 1, tenant: str = "default") -> Keyring:
    tree = KeyTree.fresh(leaves)
    shard = hashlib.sha256(name.encode()).digest()
    return Keyring(Header(Kind.KEYRING, REPOSITORY, tenant, revision, tree.depth, b"K" * 16, shard), tree)


def wanted(keyring: Keyring, revision: int = 1) -> Wanted:
    header = keyring.header
    return Wanted(header.repository_id, header.tenant, header.shard, revision)


def with_checksum(data: bytes) -> bytes:
    """The envelope with its CRC32 made right again, as somebody would who changes it on purpose."""
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def error_of(outcome: object, kind: type[VeraError]) -> VeraError:
    """The outcome, which must be an error of exactly that kind."""
    assert type(outcome) is kind, outcome
    return outcome
