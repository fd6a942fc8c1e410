"""The key tree: what is punctured follows from nothing that is left, and everything else stays as it was."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha512
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.keys import second
from tests.keys.support import ROOT
from vera_core.errors import ErasedError, IntegrityError, UsageError
from vera_core.keys import tree as module
from vera_core.keys.tree import NODE_BYTES, KeyTree

if TYPE_CHECKING:
    import random

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "fixtures" / "keys-vectors.json").read_text("utf-8"))

depths = st.integers(1, 6)


@st.composite
def punctured(draw: st.DrawFn) -> tuple[KeyTree, list[int]]:
    """A whole tree and leaves of it, in any order, some perhaps twice."""
    depth = draw(depths)
    holes = draw(st.lists(st.integers(0, (1 << depth) - 1), max_size=2 << depth))
    return KeyTree.of_root(depth, draw(st.binary(min_size=32, max_size=32))), holes


def everything_below(tree: KeyTree) -> set[bytes]:
    """All secrets that follow from a tree's nodes, by the second implementation."""
    found = set()
    for at in range(0, len(tree.nodes), NODE_BYTES):
        level = [tree.nodes[at + 5 : at + NODE_BYTES]]
        for _ in range(tree.nodes[at], tree.depth + 1):
            found |= set(level)
            level = [child for secret in level for child in second.derive(secret, "vera-key-tree-v1")]
    return found


@pytest.mark.parametrize("vector", VECTORS["tree"], ids=lambda vector: f"depth-{vector['depth']}")
def test_it_agrees_with_the_vectors(vector: dict[str, Any]) -> None:
    tree = KeyTree.of_root(vector["depth"], bytes.fromhex(vector["root"]))
    for number, secret in vector["leaves"].items():
        assert tree.leaf(int(number)).hex() == secret
    if "nodes" in vector:
        assert tree.puncture(vector["punctured"]).nodes.hex() == vector["nodes"]


def test_the_vectors_are_those_of_the_second_implementation() -> None:
    assert second.vectors() == VECTORS


@given(punctured())
def test_what_is_punctured_follows_from_nothing_and_the_rest_stays(case: tuple[KeyTree, list[int]]) -> None:
    whole, holes = case
    left = whole.puncture(holes)
    depth, root = whole.depth, whole.nodes[5:]
    assert left.nodes == second.nodes(root, depth, set(holes))
    assert left.left == (1 << depth) - len(set(holes))
    derivable = everything_below(left)
    for number in range(1 << depth):
        assert left.holds(number) == (number not in holes)
        if number not in holes:
            assert left.leaf(number) == second.leaf(root, depth, number)
            continue
        with pytest.raises(ErasedError, match="destroyed"):
            left.leaf(number)
        # Neither it nor anything above it, from which it would follow.
        path = [second.leaf(root, level, number >> (depth - level)) for level in range(1, depth + 1)]
        assert not derivable & {root, *path}


@given(punctured(), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_order_of_punctures_does_not_matter(
    case: tuple[KeyTree, list[int]], order: random.Random, at_once: int
) -> None:
    whole, holes = case
    expected = whole.puncture(holes)
    shuffled = list(holes)
    order.shuffle(shuffled)
    stepwise = whole
    for start in range(0, len(shuffled), at_once):
        stepwise = stepwise.puncture(shuffled[start : start + at_once])
    assert stepwise == expected
    assert stepwise.puncture(holes) == expected


@given(punctured(), st.lists(st.integers(0, 63), max_size=40))
def test_leaves_come_in_any_order_asked_for(case: tuple[KeyTree, list[int]], asked: list[int]) -> None:
    whole, holes = case
    left = whole.puncture(holes)
    known = [number % (1 << whole.depth) for number in asked]
    known = [number for number in known if number not in holes]
    assert list(left.leaves(known)) == [left.leaf(number) for number in known]
    assert list(left.leaves(sorted(known))) == [whole.leaf(number) for number in sorted(known)]


@given(punctured())
def test_nodes_read_back_to_the_same_tree(case: tuple[KeyTree, list[int]]) -> None:
    whole, holes = case
    left = whole.puncture(holes)
    assert KeyTree(left.depth, left.nodes) == left


@st.composite
def nodes_of_strangers(draw: st.DrawFn) -> tuple[int, bytes]:
    """Any bytes, or nodes of a tree with a byte changed."""
    depth = draw(depths)
    if draw(st.booleans()):
        return depth, draw(st.binary(max_size=4 * NODE_BYTES))
    nodes = bytearray(KeyTree.of_root(depth, ROOT).puncture(draw(st.sets(st.integers(0, (1 << depth) - 1)))).nodes)
    if nodes:
        place = draw(st.integers(0, len(nodes) // NODE_BYTES - 1)) * NODE_BYTES + draw(st.integers(0, 4))
        nodes[place] = draw(st.integers(0, 255))
    return depth, bytes(nodes)


@given(nodes_of_strangers())
def test_any_bytes_are_a_tree_in_its_one_form_or_refused(case: tuple[int, bytes]) -> None:
    depth, data = case
    with suppress(IntegrityError):
        tree = KeyTree(depth, data)
        kept = [number for number in range(1 << depth) if tree.holds(number)]
        assert len(kept) == tree.left
        assert len(list(tree.leaves(kept))) == len(kept)


def node(level: int, position: int) -> bytes:
    return bytes([level]) + position.to_bytes(4, "little") + ROOT


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (node(0, 0)[:-1], "cut short"),
        (node(4, 0), "outside"),
        (node(255, 0), "outside"),
        (node(2, 4), "outside"),
        (node(0, 1), "outside"),
        (node(3, 1) + node(3, 0), "order"),
        (node(3, 1) + node(3, 1), "overlap"),
        (node(1, 0) + node(2, 1), "overlap"),
        (node(0, 0) + node(3, 7), "overlap"),
        (node(3, 2) + node(3, 3), "siblings"),
        (node(3, 0) + node(1, 1) + node(1, 1), "overlap"),
    ],
)
def test_nodes_in_another_form_are_refused(nodes: bytes, why: str) -> None:
    with pytest.raises(IntegrityError, match=why):
        KeyTree(3, nodes)


def test_neighbours_that_are_no_siblings_are_fine() -> None:
    assert KeyTree(3, node(3, 1) + node(3, 2)).left == 2


def test_everything_can_be_punctured() -> None:
    nothing = KeyTree.of_root(5, ROOT).puncture(range(32))
    assert (nothing.nodes, nothing.left, nothing.node_count) == (b"", 0, 0)
    assert nothing.puncture([3]) == nothing
    with pytest.raises(ErasedError):
        nothing.leaf(31)


@pytest.mark.parametrize(
    ("leaves", "depth"), [(0, 1), (1, 1), (2, 1), (3, 2), (1 << 20, 20), (10**6, 20), (1 << 32, 32)]
)
def test_a_fresh_tree_is_deep_enough(leaves: int, depth: int) -> None:
    first, again = KeyTree.fresh(leaves), KeyTree.fresh(leaves)
    assert first.depth == depth
    assert first != again
    assert first.left == 1 << depth


def test_the_largest_tree() -> None:
    tree = KeyTree.of_root(32, ROOT)
    last = (1 << 32) - 1
    assert tree.leaf(last) == second.leaf(ROOT, 32, last)
    left = tree.puncture([last, 0])
    assert left.leaf(last - 1) == second.leaf(ROOT, 32, last - 1)
    assert not left.holds(0)
    assert not left.holds(last)


def test_one_erasure_of_a_million_takes_740_bytes() -> None:
    assert len(KeyTree.fresh(10**6).nodes) == 37
    assert len(KeyTree.fresh(10**6).puncture([123_456]).nodes) == 740


def test_a_run_costs_one_hash_a_leaf_and_a_puncture_its_paths_only(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed = 0

    def counting(data: bytes) -> Any:
        nonlocal hashed
        hashed += 1
        return sha512(data)

    monkeypatch.setattr(module, "sha512", counting)
    tree = KeyTree.of_root(20, ROOT)
    assert len(list(tree.leaves(range(1024)))) == 1024
    assert hashed == 1023 + 10
    hashed = 0
    tree.puncture(range(4096, 4096 + 1024))
    assert hashed == 10
    hashed = 0
    tree.puncture(range(0, 1 << 20, 1 << 10))
    assert hashed == 1023 + 1024 * 10


@pytest.mark.parametrize("wrong", [-1, 8, 1 << 40])
def test_leaves_that_there_are_not(wrong: int) -> None:
    tree = KeyTree.of_root(3, ROOT)
    for call in (tree.leaf, tree.holds, lambda number: tree.puncture([0, number])):
        with pytest.raises(UsageError, match="no leaf"):
            call(wrong)


@pytest.mark.parametrize("leaves", [-1, (1 << 32) + 1])
def test_no_tree_has_so_many_leaves(leaves: int) -> None:
    with pytest.raises(UsageError, match="no key tree has"):
        KeyTree.fresh(leaves)


@pytest.mark.parametrize(("depth", "root"), [(0, ROOT), (33, ROOT), (3, ROOT[:-1])])
def test_trees_that_there_are_not(depth: int, root: bytes) -> None:
    with pytest.raises(UsageError):
        KeyTree.of_root(depth, root)


def test_its_representation_shows_no_secret() -> None:
    tree = KeyTree.of_root(3, b"secret" + bytes(26))
    assert "secret" not in repr(tree)
    assert "736563" not in repr(tree)
