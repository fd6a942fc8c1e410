"""The keyring of a shard: its key tree with the name of the shard it opens and a revision, stored as `<digest32>.keys`.

A revision is never changed: puncturing makes the next one, under a fresh data key. Which revision counts is what the
slot log says, and where keyrings are stored and purged is the caller's. docs/keys-v1.md, "The keyring".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vera_core.errors import IntegrityError, UsageError, VeraError
from vera_core.keys.envelope import Envelope, Header, Kind, open_envelopes, seal_envelopes
from vera_core.keys.tree import KeyTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vera_core.keys.service import KeyService, Outcome


@dataclass(frozen=True, slots=True)
class Wanted:
    """The keyring that a reader must have: of the shard with this SHA-256 (32 bytes), of `revision` or a later one."""

    repository_id: bytes
    tenant: str
    shard: bytes
    revision: int = 1


@dataclass(frozen=True, slots=True)
class Keyring:
    """An open keyring. It holds secrets: keep it no longer than it is used.

    Raises:
        UsageError: the header is none of a keyring, or of a tree of another depth.
    """

    header: Header
    tree: KeyTree

    def __post_init__(self) -> None:
        if self.header.kind is not Kind.KEYRING or self.header.depth != self.tree.depth:
            raise UsageError("the header is not that of this keyring", **self.header.where())

    @property
    def revision(self) -> int:
        """1 for a keyring as built; each puncture adds one."""
        return self.header.revision

    def puncture(self, ordinals: Iterable[int]) -> Keyring:
        """The next revision, from which the keys of those entries can't be derived; itself if they can't be already.

        Raises:
            UsageError: the tree has no such leaf.
        """
        tree = self.tree.puncture(ordinals)
        if tree == self.tree:
            return self
        return Keyring(replace(self.header, revision=self.revision + 1), tree)


def seal_keyrings(service: KeyService, keyrings: Sequence[Keyring]) -> list[bytes]:
    """The bytes to store, each under a fresh data key; the service is asked once for all.

    Raises:
        UsageError: a keyring is longer than `envelope.MAX_BODY`.
        VeraError: the key service's; nothing was sealed then.
    """
    contents = [(keyring.header, keyring.tree.nodes) for keyring in keyrings]
    return [envelope.encode() for envelope in seal_envelopes(service, contents)]


def open_keyrings(service: KeyService, stored: Sequence[tuple[Wanted, bytes]]) -> list[Outcome[Keyring]]:
    """Opens stored keyrings, one outcome for each; the service is asked once for all.

    A keyring's error is an IntegrityError (damaged, altered, of another shard, of an earlier revision than wanted), an
    IncompatibleError (written by a newer VERA), or one of those of `envelope.open_envelopes`.

    Raises:
        VeraError: what concerns the whole key service, as KeyService says.
    """
    envelopes = [_checked(wanted, data) for wanted, data in stored]
    bodies = open_envelopes(service, envelopes)
    return [_keyring(envelope, body) for envelope, body in zip(envelopes, bodies, strict=True)]


def _checked(wanted: Wanted, data: bytes) -> Outcome[Envelope]:
    place = {"tenant": wanted.tenant, "shard": wanted.shard[:16].hex()}
    try:
        envelope = Envelope.decode(data)
    except VeraError as error:
        error.where |= place
        return error
    header = envelope.header
    named = (header.kind, header.repository_id, header.tenant, header.shard)
    if named != (Kind.KEYRING, wanted.repository_id, wanted.tenant, wanted.shard):
        return IntegrityError(
            "this is the keyring of something else", todo="Restore this shard's own from a registered copy.", **place
        )
    if header.revision < wanted.revision:
        return IntegrityError(
            f"an older keyring was put back: it has revision {header.revision}, the slot log names {wanted.revision}",
            todo="Restore the newest revision from a registered copy; purge this one, which can open erased files.",
            **place,
        )
    return envelope


def _keyring(envelope: Outcome[Envelope], body: Outcome[bytes]) -> Outcome[Keyring]:
    if isinstance(body, VeraError):
        return body
    assert isinstance(envelope, Envelope)
    try:
        return Keyring(envelope.header, KeyTree(envelope.header.depth, body))
    except IntegrityError as error:
        error.where |= envelope.header.where()
        return error
