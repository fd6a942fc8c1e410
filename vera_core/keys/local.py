"""A KEK in a file on this machine: the key service of the embedded default, for one machine and for trying out.

Whoever reads the file reads the archive, and without it nothing is readable: production belongs to transit.py, whose
KEK never leaves the server. The file is read for every call, so that a rotation by another process counts at once.
docs/keys-v1.md, "The local key file".
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import stat
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from vera_core.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError, UsageError, VeraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from vera_core.keys.service import Outcome

KEY_BYTES = 32
NONCE_BYTES = 12
MAX_FILE_BYTES = 1 << 20
MODE = 0o600

_FORMAT = "vera-local-kek-v1"
_WRAPPED = re.compile(rb"local:v([1-9][0-9]{0,8}):", re.ASCII)


@dataclass(frozen=True, slots=True)
class _File:
    """The file's content: its id, and the versions of the key, 1 first."""

    id: str
    keys: tuple[bytes, ...] = field(repr=False)

    def encode(self) -> bytes:
        body = {"format": _FORMAT, "id": self.id, "keys": [key.hex() for key in self.keys]}
        return json.dumps(body, indent=2).encode() + b"\n"

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises ValueError, KeyError or TypeError where `data` is none."""
        body = json.loads(data)
        keys = tuple(bytes.fromhex(key) for key in body["keys"])
        if body["format"] != _FORMAT or not re.fullmatch("[0-9a-f]{16}", body["id"]):
            raise ValueError
        if not keys or {len(key) for key in keys} != {KEY_BYTES}:
            raise ValueError
        return cls(body["id"], keys)


class LocalKeys:
    """The key service of the file at `path`, as `service.KeyService` says.

    Raises:
        NotFoundError: there is no such file.
        UsageError: others than its owner may read it, or it is somebody else's.
        IntegrityError: it is none of ours, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kek = f"local:{self._read().id}"

    @classmethod
    def create(cls, path: Path) -> Self:
        """Makes the file, whole or not at all, with one random key.

        Raises:
            ConflictError: it exists.
            UnavailableError: the directory can't be written.
        """
        fresh = _File(secrets.token_hex(8), (os.urandom(KEY_BYTES),))
        with _locked(path.parent), _written(path, fresh.encode()) as temporary:
            try:
                os.link(temporary, path)  # never replaces, as a rename would
            except FileExistsError:
                raise ConflictError(
                    "the key file exists already", todo="Use it: what it has wrapped needs it.", file=path
                ) from None
        return cls(path)

    @property
    def kek(self) -> str:
        """`local:<id>`; the id is the file's, drawn when it was made."""
        return self._kek

    def current(self) -> int:
        """The number of the newest key in the file."""
        return len(self._keys())

    def made(self) -> datetime:
        """When the file was written, which only a rotation does."""
        self._keys()
        return datetime.fromtimestamp(self._path.stat().st_mtime, UTC)

    def version(self, wrapped: bytes) -> int:
        """The number of the key that a wrapped payload needs.

        Raises:
            IntegrityError: nothing that a local key file wrapped.
        """
        found = _WRAPPED.match(wrapped)
        if found is None:
            raise self._altered()
        return int(found[1])

    def wrap(self, payloads: Sequence[bytes]) -> list[bytes]:
        """`local:v<n>:`, nonce (12), ciphertext and tag (16) by AES-256-GCM, for each."""
        return [_wrap(self._kek, keys, payload) for keys in [self._keys()] for payload in payloads]

    def unwrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        """The payloads, one outcome for each."""
        keys = self._keys()
        return [self._unwrap(keys, item) for item in wrapped]

    def rewrap(self, wrapped: Sequence[bytes]) -> list[Outcome[bytes]]:
        """The same payloads under the newest key, one outcome for each."""
        keys = self._keys()
        payloads = [self._unwrap(keys, item) for item in wrapped]
        return [item if isinstance(item, VeraError) else _wrap(self._kek, keys, item) for item in payloads]

    def rotate(self) -> int:
        """Adds a key to the file, whole or not at all; two that rotate at once add two.

        Raises:
            UnavailableError: the directory can't be written.
        """
        with _locked(self._path.parent):
            keys = (*self._keys(), os.urandom(KEY_BYTES))
            new = _File(self._kek.removeprefix("local:"), keys)
            with _written(self._path, new.encode()) as temporary:
                temporary.replace(self._path)
        return len(keys)

    def _keys(self) -> tuple[bytes, ...]:
        found = self._read()
        if f"local:{found.id}" != self._kek:
            raise UsageError(
                "another key file was put in the place of this one",
                todo="Put the one back that has the id that the KEK's name ends with.",
                file=self._path,
                kek=self._kek,
            )
        return found.keys

    def _read(self) -> _File:
        try:
            with self._path.open("rb") as file:
                _check_private(os.fstat(file.fileno()), self._path)
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError:
            raise NotFoundError(
                "there is no such key file",
                todo="Restore it from its backup: what it has wrapped can't be read without it.",
                file=self._path,
            ) from None
        except OSError as error:
            raise UnavailableError(f"the key file can't be read: {error.strerror}", file=self._path) from error
        try:
            return _File.decode(data[:MAX_FILE_BYTES])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise IntegrityError(
                "this is no key file, or it is damaged", todo="Restore it from its backup.", file=self._path
            ) from None

    def _unwrap(self, keys: tuple[bytes, ...], wrapped: bytes) -> Outcome[bytes]:
        found = _WRAPPED.match(wrapped)
        if found is None or int(found[1]) > len(keys):
            return self._altered()
        nonce, sealed = wrapped[found.end() :][:NONCE_BYTES], wrapped[found.end() + NONCE_BYTES :]
        try:
            return AESGCM(keys[int(found[1]) - 1]).decrypt(nonce, sealed, self._kek.encode())
        except (InvalidTag, ValueError):  # ValueError: too short
            return self._altered()

    def _altered(self) -> IntegrityError:
        return IntegrityError(
            "the key file does not unwrap this key: it was altered, or wrapped by a key that the file lacks",
            todo="Restore the keyring from a registered copy, or the key file from its latest backup.",
            file=self._path,
            kek=self._kek,
        )


def _wrap(kek: str, keys: tuple[bytes, ...], payload: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return b"local:v%d:" % len(keys) + nonce + AESGCM(keys[-1]).encrypt(nonce, payload, kek.encode())


def _check_private(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077 or found.st_uid not in {0, os.geteuid()}:
        raise UsageError(
            f"others than its owner may use the key file (mode {stat.S_IMODE(found.st_mode):04o})",
            todo="Make it yours and run `chmod 600` on it; if others may have read it, rotate the KEK.",
            file=path,
        )


@contextmanager
def _written(path: Path, data: bytes) -> Iterator[Path]:
    """A private file with `data` beside `path`, safe on disk, to be renamed or linked; under `_locked` only."""
    temporary = path.parent / f".{path.name}.new"  # one name, so that what a crash leaves goes with the next
    try:
        temporary.unlink(missing_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
        _sync_directory(path.parent)
    except OSError as error:
        raise UnavailableError(f"the key file can't be written: {error.strerror}", file=path) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Alone among the processes that write key files into that directory."""
    try:
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise UnavailableError(f"the key file can't be written: {error.strerror}", file=directory) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
