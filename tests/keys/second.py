"""A second implementation, written from docs/keys-v1.md alone: it makes the vectors, and VERA must agree with it.

`python -m tests.keys.second` prints the vectors.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
import sys
import zlib
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import AESGCM


def derive(secret: bytes, label: str) -> tuple[bytes, bytes]:
    out = hashlib.sha512(bytes.fromhex("00000001") + secret + label.encode()).digest()
    return out[:32], out[32:]


def leaf(root: bytes, depth: int, number: int) -> bytes:
    secret = root
    for bit in format(number, f"0{depth}b"):
        secret = derive(secret, "vera-key-tree-v1")[int(bit)]
    return secret


def nodes(root: bytes, depth: int, holes: set[int], at: tuple[int, int] = (0, 0)) -> bytes:
    """What is kept of a small tree: at each node, all of it if there is no hole below, else what its children keep."""
    level, position = at
    below = range(position << (depth - level), (position + 1) << (depth - level))
    if not holes & set(below):
        return struct.pack("<BI", level, position) + root
    if level == depth:
        return b""
    left, right = derive(root, "vera-key-tree-v1")
    return nodes(left, depth, holes, (level + 1, 2 * position)) + nodes(
        right, depth, holes, (level + 1, 2 * position + 1)
    )


def sealed(secret: bytes, bound: bytes, plaintext: bytes) -> bytes:
    encryption, nonces = derive(secret, "vera-file-keys-v1")
    nonce = hmac.new(nonces, plaintext, hashlib.sha256).digest()[:12]
    return nonce + AESGCM(encryption).encrypt(nonce, plaintext, bound)


def segment(secret: bytes, ids: bytes, place: tuple[int, int, int], plaintext: bytes) -> bytes:
    """A segment of a sealed stream; `place` is ordinal, number, and whether it is the last."""
    encryption, nonces = derive(secret, "vera-stream-keys-v1")
    at = struct.pack("<QIB", *place)
    nonce = hmac.new(nonces, at + plaintext, hashlib.sha256).digest()[:12]
    return nonce + AESGCM(encryption).encrypt(nonce, plaintext, ids + at)


def opened_segments(secret: bytes, ids: bytes, ordinal: int, stored: bytes) -> list[bytes]:
    """The plaintexts of a sealed stream's segments."""
    encryption, _ = derive(secret, "vera-stream-keys-v1")
    full = (1 << 20) + 28
    middle = stored[5120:-60]
    sealed = [stored[:5120], *(middle[at : at + full] for at in range(0, len(middle), full)), stored[-60:]]
    return [
        AESGCM(encryption).decrypt(
            each[:12], each[12:], ids + struct.pack("<QIB", ordinal, number, number == len(sealed) - 1)
        )
        for number, each in enumerate(sealed)
    ]


def subkey(secret: bytes, purpose: str) -> bytes:
    """HKDF-SHA-256 for 32 bytes without salt: RFC 5869, sections 2.2 and 2.3."""
    extracted = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(extracted, purpose.encode() + b"\x01", hashlib.sha256).digest()


def header(kind: int, revision: int, repository: bytes, tenant: str, keyring: tuple[int, bytes, bytes]) -> bytes:
    depth, keyring_id, shard = keyring
    out = b"\x89VKEYS\r\n" + struct.pack("<HBBI", 1, kind, 1, revision) + repository
    out += struct.pack("<BB", depth, len(tenant)) + bytes(6) + tenant.encode().ljust(64, b"\0")
    return out + keyring_id + shard + bytes(8)


def envelope(head: bytes, kek: str, wrapped: bytes, secrets: tuple[bytes, bytes], body: bytes) -> bytes:
    data_key, nonce = secrets
    closed = AESGCM(data_key).encrypt(nonce, body, head)
    out = head + struct.pack("<HHI", len(kek), len(wrapped), len(closed)) + kek.encode() + wrapped + nonce + closed
    return out + struct.pack("<I", zlib.crc32(out))


def vectors() -> dict[str, Any]:
    root = bytes(range(32))
    return {
        "tree": [_tree(root, 1, {0}), _tree(root, 3, {5}), _tree(root, 5, {0, 1, 2, 17, 31}), _tree(root, 20, None)],
        "file": [_file(root, 0, b""), _file(root, 3, b"a sealed file"), _file(root, (1 << 20) - 1, bytes(range(256)))],
        "segment": [
            _segment(root, (0, 0, 0), b""),
            _segment(root, (0, 1, 0), b"some stored bytes of the content"),
            _segment(root, (0, 2, 1), hashlib.sha256(b"the content").digest()),
        ],
        "tenant": [_tenant(bytes(range(100, 132)))],
        "envelope": [_envelope(root)],
    }


def _tree(root: bytes, depth: int, holes: set[int] | None) -> dict[str, Any]:
    numbers = sorted({0, 1, 2, (1 << depth) // 3, (1 << depth) - 1} & set(range(1 << depth)))
    found = {
        "root": root.hex(),
        "depth": depth,
        "leaves": {str(number): leaf(root, depth, number).hex() for number in numbers},
    }
    return found if holes is None else {**found, "punctured": sorted(holes), "nodes": nodes(root, depth, holes).hex()}


def _file(root: bytes, ordinal: int, plaintext: bytes) -> dict[str, Any]:
    repository, keyring, secret = b"R" * 16, b"K" * 16, leaf(root, 20, ordinal)
    bound = repository + keyring + struct.pack("<Q", ordinal)
    return {
        "repository_id": repository.hex(),
        "keyring_id": keyring.hex(),
        "ordinal": ordinal,
        "leaf": secret.hex(),
        "plaintext": plaintext.hex(),
        "stored": sealed(secret, bound, plaintext).hex(),
    }


def _segment(root: bytes, place: tuple[int, int, int], plaintext: bytes) -> dict[str, Any]:
    repository, keyring, secret = b"R" * 16, b"K" * 16, leaf(root, 20, place[0])
    return {
        "repository_id": repository.hex(),
        "keyring_id": keyring.hex(),
        "ordinal": place[0],
        "number": place[1],
        "last": place[2],
        "leaf": secret.hex(),
        "plaintext": plaintext.hex(),
        "stored": segment(secret, repository + keyring, place, plaintext).hex(),
    }


def _tenant(secret: bytes) -> dict[str, Any]:
    uid_key, content_key = subkey(secret, "vera-tenant-uid-v1"), subkey(secret, "vera-tenant-content-v1")
    uids = {}
    for uid in ("a", "invoices/2026/0001.pdf", "Müller"):
        keyed = hmac.new(uid_key, uid.encode(), hashlib.sha256).digest()[:16]
        uids[uid] = {"keyed_uid": keyed.hex(), "key": int.from_bytes(keyed[:8], "big")}
    content = b"the content of a file"
    return {
        "secret": secret.hex(),
        "uid_subkey": uid_key.hex(),
        "content_subkey": content_key.hex(),
        "uids": uids,
        "content": content.hex(),
        "keyed_digest": hmac.new(content_key, content, hashlib.sha256).hexdigest(),
    }


def _envelope(root: bytes) -> dict[str, Any]:
    shard, data_key, nonce = hashlib.sha256(b"a shard").digest(), b"D" * 32, b"N" * 12
    head = header(1, 2, b"R" * 16, "default", (3, b"K" * 16, shard))
    return {
        "revision": 2,
        "repository_id": (b"R" * 16).hex(),
        "tenant": "default",
        "depth": 3,
        "keyring_id": (b"K" * 16).hex(),
        "shard": shard.hex(),
        "kek": "transit:transit/vera",
        "wrapped": b"vault:v1:AAAA".hex(),
        "data_key": data_key.hex(),
        "nonce": nonce.hex(),
        "body": nodes(root, 3, {5}).hex(),
        "payload": (data_key + hashlib.sha256(head).digest()).hex(),
        "envelope": envelope(
            head, "transit:transit/vera", b"vault:v1:AAAA", (data_key, nonce), nodes(root, 3, {5})
        ).hex(),
    }


if __name__ == "__main__":
    json.dump(vectors(), sys.stdout, indent=1, ensure_ascii=False)
    print()
