"""Inventory files of encrypted repositories: Parquet, footer and columns encrypted under a key that the KEK wraps.

Parquet's own modular encryption (AES-GCM, a fresh key of 256 bits for each file), with the repository's key service
as its key management. The wrapped key stands in the file and is bound to the file's place in its repository, so that
one put in the place of another does not open. What a catalogue lists is inventory.py's.
"""

from __future__ import annotations

import base64
import hashlib
import io
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from vera_core.errors import IncompatibleError, IntegrityError
from vera_core.keys.service import good

try:
    from pyarrow.parquet import encryption
except ImportError:  # pragma: no cover - pyarrow's wheels have it
    encryption = None

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.keys.service import KeyService
    from vera_core.operations.repository import Repository
    from vera_core.store.base import VersionInfo

KEY_BYTES = 32
ENCRYPTED_MAGIC = b"PARE"
PURPOSE = b"vera-inventory-v1"
PARQUET_ERRORS = (pa.ArrowException, OSError)
_AGAIN = "Write it again: `dagster` materializes the day's inventory."


def inventory_writer(repo: Repository, key: str, path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """Writes the file that is to be stored as `key` to the new file `path`; asks the key service once if encrypted.

    Raises:
        IncompatibleError: the pyarrow that is installed can't encrypt.
        VeraError: the key service's.
    """
    properties = None
    if repo.config.encryption is not None:
        factory, connection = _factory(repo, key)
        wanted = encryption.EncryptionConfiguration(
            footer_key=repo.key_service().kek, uniform_encryption=True, plaintext_footer=False, double_wrapping=False,
            data_key_length_bits=8 * KEY_BYTES,
        )  # fmt: skip
        properties = factory.file_encryption_properties(connection, wanted)
    return pq.ParquetWriter(path, schema, compression="zstd", encryption_properties=properties)


def open_inventory(repo: Repository, info: VersionInfo) -> pq.ParquetFile:
    """Opens a version of an inventory file, decrypting as it is read; only the columns asked for are fetched.

    Rows are what was true when it was written: a file that was erased since may stand in a version that an eraser is
    about to remove, or that somebody put back.

    Raises:
        IntegrityError: it is no inventory file, was altered, or belongs to another place. Reading may raise pyarrow's
            own errors on bytes that were altered further on.
        NotFoundError: the version is gone.
        IncompatibleError: the pyarrow that is installed can't decrypt.
        VeraError: the key service's.
    """
    properties = None
    if repo.config.encryption is not None:
        factory, connection = _factory(repo, info.key)
        properties = factory.file_decryption_properties(connection, encryption.DecryptionConfiguration())
    file = _StoredFile(repo, info)
    try:
        # pyarrow takes what is not encrypted for good, also where it was told how to decrypt.
        if properties is not None and not file.is_encrypted():
            raise OSError("it is not encrypted")
        return pq.ParquetFile(file, decryption_properties=properties)
    except PARQUET_ERRORS as error:
        raise IntegrityError(
            f"the inventory file can't be opened: {error}", todo=_AGAIN,
            bucket=repo.store.bucket, key=info.key, version_id=info.version_id,
        ) from error  # fmt: skip


def _factory(repo: Repository, key: str) -> tuple[Any, Any]:
    """What pyarrow takes its keys from, for the file under one key."""
    if encryption is None:
        raise IncompatibleError(
            "the pyarrow that is installed can't encrypt, so that the repository's inventory can't be read or written",
            todo="Install pyarrow's own wheel, which can.", pyarrow=pa.__version__, key=key,
        )  # fmt: skip
    service = repo.key_service()
    place = key.removeprefix(repo.keys.root)
    bound = hashlib.sha256(PURPOSE + bytes.fromhex(repo.config.repository_id) + place.encode()).digest()
    client = _client(service, bound, key)
    return encryption.CryptoFactory(lambda _: client), encryption.KmsConnectionConfig()


def _client(service: KeyService, bound: bytes, key: str) -> Any:
    """The key service in the form that pyarrow wants; `bound` is wrapped together with each file's key."""

    class Client(encryption.KmsClient):  # type: ignore[misc]
        def wrap_key(self, key_bytes: bytes, _: str) -> str:
            return base64.b64encode(service.wrap([bytes(key_bytes) + bound])[0]).decode()

        def unwrap_key(self, wrapped_key: str | bytes, _: str) -> bytes:
            try:
                (payload,) = good(service.unwrap([base64.b64decode(wrapped_key, validate=True)]))
            except ValueError:
                payload = b""
            if payload[KEY_BYTES:] != bound:
                raise IntegrityError("the inventory file belongs to another place, or is none", todo=_AGAIN, key=key)
            return payload[:KEY_BYTES]

    return Client()


class _StoredFile(io.RawIOBase):
    """A version's bytes as a file that is read in ranges."""

    def __init__(self, repo: Repository, info: VersionInfo) -> None:
        self._repo, self._info, self._at = repo, info, 0

    def is_encrypted(self) -> bool:
        """Whether it ends as a Parquet file with an encrypted footer does."""
        self.seek(max(self._info.size - len(ENCRYPTED_MAGIC), 0))
        magic = self.read()
        self.seek(0)
        return magic == ENCRYPTED_MAGIC

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._info.size - self._at, 0)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        version_id = self._info.version_id or None  # plain listings don't say
        data = self._repo.store.get_range(self._info.key, self._at, length, version_id=version_id)
        self._at += len(data)
        return data
