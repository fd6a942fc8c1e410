"""Versions of encrypted shards on their way to other ones: what was sealed of them, and back to what they were.

A shelf over an encrypted shard shows names (keyed uids) and keyed digests; time, size, codec, uid and attributes come
to light with the contents. How new shards are made of them is reshard.py's business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from vera_core.errors import ErasedError, IntegrityError, VeraError
from vera_core.format.columns import Attributes
from vera_core.format.layout import RESTORE
from vera_core.format.sealed import parse_inside
from vera_core.format.source import named
from vera_core.keys.sealing import FileSealer
from vera_core.operations.living import Living

if TYPE_CHECKING:
    from vera_core.format.sealed import Inside
    from vera_core.keys.shards import ShardOpener

Unseal: TypeAlias = Callable[[Living, Sequence[bytes]], tuple[Living, list[bytes]]]
"""Versions as they were archived, and their contents as an unencrypted shard would store them, from those of a shard.

Raises:
    IntegrityError: a file does not open, is not the one that its entry names, or its key is gone.
"""


class KeyGoneError(IntegrityError):
    """The key of a file was destroyed that was not erased, as far as is known: read the log again."""


def unsealing(opener: Callable[[], ShardOpener]) -> Unseal:
    """How the versions of a shard are unsealed; `opener` is asked once, when there is something to unseal."""
    opened = cache(opener)

    def unseal(living: Living, sealed: Sequence[bytes]) -> tuple[Living, list[bytes]]:
        insides = _insides(opened(), living, sealed)
        uids = [inside.uid for inside in insides]
        _check_names(opened(), living, uids)
        stored = [inside.stored.stored for inside in insides]
        rows = living.rows.copy()
        rows["created_at"] = [inside.created_at for inside in insides]
        rows["size"] = [inside.stored.size for inside in insides]
        rows["codec"] = [inside.stored.codec for inside in insides]
        rows["parameter"] = [inside.stored.parameter for inside in insides]
        rows["stored_size"] = list(map(len, stored))
        attributes = [Attributes(inside.media_type, inside.metadata) for inside in insides]
        return Living(rows, [uid.encode() for uid in uids], attributes), stored

    return unseal


def _insides(opener: ShardOpener, living: Living, sealed: Sequence[bytes]) -> list[Inside]:
    of = opener.keyring.header
    files = FileSealer(of.repository_id, of.keyring_id)
    ordinals = living.rows["ordinal"].astype(np.int64)
    leaves = opener.keyring.tree.leaves(ordinals.tolist())
    found: list[Inside] = []
    for begin, end in pairwise([0, *(np.flatnonzero(np.diff(ordinals) != 1) + 1).tolist(), len(ordinals)]):
        try:
            plaintexts = files.open_many(int(ordinals[begin]), islice(leaves, end - begin), sealed[begin:end])
            found += map(parse_inside, plaintexts)
        except ErasedError as error:
            raise _gone(named(error, opener.reader.source.where)) from error
        except VeraError as error:
            raise named(error, opener.reader.source.where) from error
    return found


def _check_names(opener: ShardOpener, living: Living, uids: Sequence[str]) -> None:
    names = [name.decode() for name in living.uids]
    for name, keyed, ordinal in zip(names, opener.tenant.keyed_texts(uids), living.rows["ordinal"], strict=True):
        if keyed != name:
            where = {**opener.reader.source.where, "uid": name, "entry": int(ordinal)}
            raise IntegrityError("a sealed file lies under the name of another", todo=RESTORE, **where)


def _gone(error: VeraError) -> KeyGoneError:
    return KeyGoneError(
        "the key of a file was destroyed that no tombstone names",
        todo="Restore the shard's keyring from a registered copy, in the revision that the slot log names.",
        **error.where,
    )
