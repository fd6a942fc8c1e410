"""The key tree of a shard: one file key for each ordinal, and nodes from which all but the punctured ones follow. Pure.

A binary tree after Goldreich, Goldwasser and Micali ("How to construct random functions", J. ACM 33, 1986): both
children of a node follow from its secret, never the other way round, so the siblings along the path to a leaf give
every leaf but that one (a puncturable PRF: Boneh and Waters, "Constrained pseudorandom functions", 2013). What is done
with a leaf is sealing.py's; how the nodes are kept is keyring.py's. docs/keys-v1.md, "The key tree", has test vectors.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from dataclasses import dataclass, field
from hashlib import sha512
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from vera_core.errors import ErasedError, IntegrityError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

SECRET_BYTES = 32
MAX_DEPTH = 32
NODE_BYTES = 37
"""A node as stored: u8 depth, u32 position, 32 bytes of secret."""

_COUNTER = b"\x00\x00\x00\x01"
_TREE = b"vera-key-tree-v1"
_NODE = struct.Struct("<BI32s")
_NODES = np.dtype([("depth", "u1"), ("position", "<u4"), ("secret", "V32")])


def derive(secret: bytes, label: bytes) -> bytes:
    """64 bytes from a secret of 32: SHA-512(00000001 || secret || label).

    The one-step key derivation of NIST SP 800-56C Rev. 2, section 4.1, option 1, with H = SHA-512, FixedInfo = label
    and L = 512 bits. All messages for a label have one length, so SHA-512's length extension gives nothing.
    """
    return sha512(_COUNTER + secret + label).digest()


def derive_many(secrets: Iterable[bytes], label: bytes) -> list[bytes]:
    """`derive` of each, without a call for each."""
    return [sha512(_COUNTER + secret + label).digest() for secret in secrets]


class Node(NamedTuple):
    """A node: its depth (0 is the root), its position from the left among those, its secret."""

    depth: int
    position: int
    secret: bytes


@dataclass(frozen=True, slots=True)
class KeyTree:
    """The keys that are left of a tree with 2**depth leaves. Immutable; equal if every key is.

    `nodes` are the fewest that give every key that is left, from left to right, 37 bytes each; none where all are
    punctured. One set of keys has one such byte string, whatever order it was punctured in.

    Raises:
        IntegrityError: they are not that.
        UsageError: the depth is not 1 to 32.
    """

    depth: int
    nodes: bytes = field(repr=False)
    _sizes: NDArray[np.int64] = field(init=False, repr=False, compare=False)  # leaves below each node
    _firsts: NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_depth(self.depth)
        if len(self.nodes) % NODE_BYTES:
            raise _malformed("they are cut short")
        table = np.frombuffer(self.nodes, _NODES)
        depths, positions = table["depth"].astype(np.int64), table["position"].astype(np.int64)
        if (depths > self.depth).any() or (positions >> depths).any():
            raise _malformed("one lies outside the tree")
        sizes = 1 << (self.depth - depths)
        firsts = positions * sizes
        if (firsts[1:] < (firsts + sizes)[:-1]).any():
            raise _malformed("they overlap or are not in order")
        siblings = (depths[1:] == depths[:-1]) & (positions[1:] == positions[:-1] + 1) & (positions[:-1] & 1 == 0)
        if siblings.any():
            raise _malformed("two are siblings, which stand for what was never punctured")
        object.__setattr__(self, "_sizes", sizes)
        object.__setattr__(self, "_firsts", firsts)

    @classmethod
    def fresh(cls, leaves: int) -> Self:
        """A tree with a fresh random root and at least `leaves` leaves.

        Raises:
            UsageError: they are more than 2**32, or fewer than none.
        """
        if not 0 <= leaves <= 1 << MAX_DEPTH:
            raise UsageError(f"no key tree has {leaves} leaves", todo="A tree has at most 2**32.")
        return cls.of_root(max(1, (leaves - 1).bit_length()), os.urandom(SECRET_BYTES))

    @classmethod
    def of_root(cls, depth: int, secret: bytes) -> Self:
        """The tree with that root: 32 bytes that are drawn at random and used for nothing else.

        Raises:
            UsageError: depth or secret can't be.
        """
        if len(secret) != SECRET_BYTES:
            raise UsageError(f"the root of a key tree has {SECRET_BYTES} bytes, not {len(secret)}")
        return cls(_check_depth(depth), _NODE.pack(0, 0, secret))

    @property
    def node_count(self) -> int:
        """How many nodes are stored."""
        return len(self._sizes)

    @property
    def memory(self) -> int:
        """Bytes that it takes, about."""
        return len(self.nodes) + self._sizes.nbytes + self._firsts.nbytes

    @property
    def left(self) -> int:
        """How many leaves are not punctured; those that no file uses count too."""
        return int(self._sizes.sum())

    def holds(self, ordinal: int) -> bool:
        """Whether the key of that leaf can still be derived.

        Raises:
            UsageError: there is no such leaf.
        """
        return self._owner(ordinal) is not None

    def leaf(self, ordinal: int) -> bytes:
        """The secret of a leaf, 32 bytes: `depth` hashes. For many, `leaves` is faster.

        Raises:
            ErasedError: it is punctured.
            UsageError: there is no such leaf.
        """
        return next(self.leaves((ordinal,)))

    def leaves(self, ordinals: Iterable[int]) -> Iterator[bytes]:
        """The secrets of leaves in the order asked for; neighbours share their path, so a run costs one hash a leaf.

        Raises:
            ErasedError: one is punctured; those before it have been given.
            UsageError: there is no such leaf.
        """
        depth = self.depth
        pairs = [b""] * depth  # at each level of the path, the secrets of both children
        first = end = previous = 0
        secret = b""
        for ordinal in ordinals:
            if not first <= ordinal < end:
                node = self._node(ordinal)
                level, secret = node.depth, node.secret
                first, end = node.position << (depth - level), (node.position + 1) << (depth - level)
            else:
                level = depth - (ordinal ^ previous).bit_length() + 1  # below the first turn that differs
                if level <= depth:
                    pair = pairs[level - 1]
                    secret = pair[32:] if ordinal >> (depth - level) & 1 else pair[:32]
            for below in range(level, depth):
                pair = pairs[below] = sha512(_COUNTER + secret + _TREE).digest()  # derive(), without a call
                secret = pair[32:] if ordinal >> (depth - 1 - below) & 1 else pair[:32]
            previous = ordinal
            yield secret

    def run(self, first: int, end: int) -> list[bytes]:
        """The secrets of leaves `first` to `end` - 1, made level by level: as `leaves`, in two thirds of the time.

        Raises:
            ErasedError: one is punctured.
            UsageError: there is no such leaf.
        """
        found: list[bytes] = []
        while first < end:
            node = self._node(first)
            below = self.depth - node.depth
            stop = min(end, (node.position + 1) << below)
            found += _leaves_below(node.secret, below, first - (node.position << below), stop - first)
            first = stop
        return found

    def puncture(self, ordinals: Iterable[int]) -> KeyTree:
        """The tree without those leaves, for good; punctured ones among them stay so. One walk for all of them.

        Raises:
            UsageError: there is no such leaf; nothing was punctured.
        """
        holes = sorted(set(ordinals))
        if holes and not 0 <= holes[0] <= holes[-1] < 1 << self.depth:
            raise _no_leaf(holes[0] if holes[0] < 0 else holes[-1], self.depth)
        lows = np.searchsorted(holes, self._firsts)
        highs = np.searchsorted(holes, self._firsts + self._sizes)
        parts, kept = [], 0
        for number in np.flatnonzero(lows < highs).tolist():
            parts.append(self.nodes[kept * NODE_BYTES : number * NODE_BYTES])
            parts += [_NODE.pack(*node) for node in self._copath(number, holes[lows[number] : highs[number]])]
            kept = number + 1
        return KeyTree(self.depth, b"".join([*parts, self.nodes[kept * NODE_BYTES :]]))

    def _copath(self, number: int, holes: Sequence[int]) -> Iterator[Node]:
        """What stays of node `number` without the leaves in `holes`, which rise, from left to right."""
        depth = self.depth
        stack = [(self._at(number), 0, len(holes))]
        while stack:
            node, low, high = stack.pop()
            below = depth - node.depth
            if low == high:
                yield node
            elif high - low < 1 << below:
                pair = derive(node.secret, _TREE)
                right = 2 * node.position + 1
                cut = bisect_left(holes, right << (below - 1), low, high)
                stack.append((Node(node.depth + 1, right, pair[32:]), cut, high))
                stack.append((Node(node.depth + 1, right - 1, pair[:32]), low, cut))

    def _at(self, number: int) -> Node:
        return Node(*_NODE.unpack_from(self.nodes, number * NODE_BYTES))

    def _owner(self, ordinal: int) -> Node | None:
        """The node that gives a leaf; None if it is punctured."""
        if not 0 <= ordinal < 1 << self.depth:
            raise _no_leaf(ordinal, self.depth)
        number = int(self._firsts.searchsorted(ordinal, "right")) - 1
        if number < 0:
            return None
        node = self._at(number)
        return node if ordinal >> (self.depth - node.depth) == node.position else None

    def _node(self, ordinal: int) -> Node:
        node = self._owner(ordinal)
        if node is None:
            raise ErasedError(
                "the key of this entry was destroyed: its bytes can't be read any more, by anybody", ordinal=ordinal
            )
        return node


def _leaves_below(secret: bytes, depth: int, first: int, count: int) -> list[bytes]:
    """`count` leaves of a tree of `depth` under that secret, from leaf `first` on."""
    secrets, position = [secret], 0  # on each level those above what is asked for, and where the first of them stands
    for below in reversed(range(depth)):
        pairs = b"".join(derive_many(secrets, _TREE))
        low, high = first >> below, (first + count - 1) >> below
        begin = SECRET_BYTES * (low - 2 * position)
        secrets = [
            pairs[at : at + SECRET_BYTES] for at in range(begin, begin + SECRET_BYTES * (high - low + 1), SECRET_BYTES)
        ]
        position = low
    return secrets


def _check_depth(depth: int) -> int:
    if not 1 <= depth <= MAX_DEPTH:
        raise UsageError(f"a key tree has a depth of 1 to {MAX_DEPTH}, not {depth}")
    return depth


def _no_leaf(ordinal: int, depth: int) -> UsageError:
    return UsageError(f"a key tree of depth {depth} has no leaf {ordinal}", ordinal=ordinal)


def _malformed(why: str) -> IntegrityError:
    return IntegrityError(
        f"the nodes of a key tree are not in their one form: {why}", todo="Restore the keyring from a copy of it."
    )
