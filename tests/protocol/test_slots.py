"""The fold of a slot: what every record means, and that log and sidecar tell the same."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.slots_support import (
    FAR,
    SLOT,
    commit,
    condemn,
    dispose,
    grown,
    hold,
    readmit,
    release,
    repack,
    retain,
    shard,
    slot_log,
    tombstone,
)
from vera_core.errors import IncompatibleError, IntegrityError
from vera_core.model import Origin, Slot
from vera_core.slotrecords import apply
from vera_core.slots import FILTER_ENTRIES, ShardRef, SlotState, small_filter
from vera_core.store.chain import Record
from vera_core.store.memory import MemoryStore


def fold(*bodies: dict[str, Any], slot: Slot = SLOT) -> SlotState:
    state = SlotState(slot)
    for number, body in enumerate(bodies, 1):
        apply(state, Record(number, {"n": number, **body}, f"digest-{number}", f"version-{number}", None))
    return state


def test_a_commit_brings_its_shard_and_accounts_for_its_rows() -> None:
    one, two = shard("one", 1), shard("two", 2)
    state = fold(commit(0, 10, one), commit(10, 12, two), commit(12, 15))
    assert state.live() == [one, two]
    assert [(part.first, part.end, part.shard) for part in state.covered("m")] == [
        (0, 10, one), (10, 12, two), (12, 15, None),
    ]  # fmt: skip
    assert state.accounted == {"m": [(0, 15)]}
    assert state.covered("m")[2].rejected == 3
    assert state.covered("other") == []
    assert state.longest_lock() == one.lock.until
    assert state.brought_after(1) == [two]


@pytest.mark.parametrize("rows", [(0, 10), (3, 4), (9, 30), (0, 1)])
def test_rows_that_are_accounted_for_are_not_accounted_for_again(rows: tuple[int, int]) -> None:
    one = shard("one", 1)
    state = fold(commit(0, 10, one), commit(*rows, shard("two", 2)))
    assert state.live() == [one]
    assert state.strays == [2]
    assert [part.number for part in state.parts] == [1]


def test_rows_of_other_manifests_are_other_rows() -> None:
    state = fold(commit(0, 10, shard("one", 1)), commit(0, 10, shard("two", 2), manifest="other"))
    assert len(state.live()) == 2
    assert state.strays == []


def test_a_commit_routed_otherwise_counts_for_nothing() -> None:
    state = fold(commit(0, 10, shard("one"), n_bits=4), commit(0, 10, shard("two", 2)))
    assert [ref.version_id for ref in state.live()] == ["v-two"]
    assert state.strays == [1]


def test_a_condemned_version_is_never_committed() -> None:
    one = shard("one")
    state = fold(condemn(one), commit(0, 10, one), commit(0, 10, shard("two", 3)))
    assert [ref.version_id for ref in state.live()] == ["v-two"]
    assert state.strays == [2]


def test_a_condemn_comes_too_late_for_what_is_committed() -> None:
    one = shard("one")
    assert fold(commit(0, 10, one), condemn(one)).live() == [one]


def test_a_shard_condemned_by_name_is_never_committed_in_any_version() -> None:
    one = shard("one", 1)
    name = dataclasses.replace(one, version_id="")
    state = fold(condemn(name), commit(0, 10, one), commit(0, 10, dataclasses.replace(one, version_id="another")))
    assert (state.live(), state.strays) == ([], [2, 3])
    stored_again = dataclasses.replace(one, version_id="another")
    state = fold(commit(0, 10, one), condemn(name), repack(one, stored_again))
    assert [each.version_id for each in state.live()] == ["another"], "it counted already"


def test_a_condemned_version_is_never_repacked_to() -> None:
    one, two = shard("one"), shard("two")
    state = fold(commit(0, 10, one), condemn(two), repack(one, two))
    assert state.live() == [one]
    assert state.strays == [3]


def test_a_repack_puts_new_shards_in_the_place_of_old_ones() -> None:
    one, again = shard("one"), dataclasses.replace(shard("one"), version_id="v-again")
    state = fold(commit(0, 10, one), repack(one, again))
    assert state.live() == [again]
    assert state.shards == {1: [again]}, "entries without an origin still are of commit 1"
    assert state.superseded == [one]
    assert state.brought_after(1) == [again], "and its lock is this record's business"
    moved = fold(commit(0, 10, one), repack(one, shard("a", 9), shard("b", 9), keep_number=False))
    assert [ref.number for ref in moved.live()] == [2, 2]


def test_a_repack_of_what_is_not_live_counts_for_nothing() -> None:
    one, two = shard("one"), shard("two")
    state = fold(commit(0, 10, one), repack(two, shard("three")))
    assert state.live() == [one]
    assert state.strays == [2]
    twice = fold(commit(0, 10, one), repack(one, two), repack(one, shard("three")))
    assert twice.live() == [two]
    assert twice.strays == [3]


def test_a_tombstone_outlives_every_repack() -> None:
    one, two = shard("one"), shard("two")
    state = fold(commit(0, 10, one), tombstone("uid", (1, 3), (1, 70_000)), repack(one, two))
    assert state.is_dead(Origin(1, 3))
    assert state.is_dead(Origin(1, 70_000))
    assert not state.is_dead(Origin(1, 4))
    assert not state.is_dead(Origin(2, 3))
    assert state.erased == {"uid"}


def test_a_tombstone_names_many_files() -> None:
    state = fold(COMMIT, tombstone("u", (1, 3), v=[(1, 4), (1, 5)], w=[]))
    assert state.dead == {1: {3, 4, 5}}
    assert state.erased == {"u", "v", "w"}


def test_a_readmitted_uid_may_be_archived_again_and_what_was_erased_stays_so() -> None:
    state = fold(COMMIT, tombstone("u", (1, 3), v=[(1, 4)]), readmit("u"), readmit("never erased"))
    assert state.erased == {"v"}
    assert state.is_dead(Origin(1, 3))


def test_a_repack_that_would_leave_a_living_file_behind_counts_for_nothing() -> None:
    one, two = shard("one"), shard("two", 9)
    erased = (COMMIT, tombstone("u", (1, 3)))
    assert fold(*erased, repack(one, two, left_out=[Origin(1, 3), Origin(1, 4)])).strays == [3]
    state = fold(*erased, repack(one, two, keep_number=False, left_out=[Origin(1, 3)]))
    assert [ref.version_id for ref in state.live()] == ["v-two"]
    assert state.is_dead(Origin(1, 3))


def test_a_version_is_held_as_long_as_any_case_needs_it() -> None:
    held = (COMMIT, hold("u", (1, 3), (1, 4)), hold("u", (1, 3), case="case-0"))
    state = fold(*held)
    assert state.holds_of(Origin(1, 3)) == ["case-0", "case-1"]
    assert state.held() == {"u": [Origin(1, 3), Origin(1, 4)]}
    state = fold(*held, release("u", (1, 3), (1, 5)))
    assert state.is_held(Origin(1, 3)), "another case needs it"
    assert state.is_held(Origin(1, 4)), "not released"
    state = fold(*held, release("u", (1, 3), (1, 4)), release("u", (1, 3), case="case-0"), release("u", (9, 9)))
    assert not state.is_held(Origin(1, 3))
    assert state.holds == {}
    assert fold(COMMIT, hold("u")).holds == {}


def test_a_hold_beats_a_tombstone_and_a_repack() -> None:
    one, two = shard("one"), shard("two", 9)
    state = fold(COMMIT, hold("u", (1, 3)), tombstone("u", (1, 3), v=[(1, 4)]))
    assert (state.dead, state.erased, state.strays) == ({}, set(), [3])
    # A hold of what is dead already, which no VERA writes, keeps the bytes that are there.
    dead = fold(COMMIT, tombstone("u", (1, 3)), hold("u", (1, 3)), repack(one, two, left_out=[Origin(1, 3)]))
    assert dead.strays == [4]
    assert dead.is_dead(Origin(1, 3))
    released = (hold("u", (1, 3)), release("u", (1, 3)), tombstone("u", (1, 3)))
    assert fold(COMMIT, *released).is_dead(Origin(1, 3))


def test_an_extension_brings_a_copy_and_nothing_shortens_it() -> None:
    one, copy, longer = shard("one"), shard("copy", 2), shard("longer", 3)
    soon = FAR - timedelta(days=9)
    state = fold(COMMIT, retain(copy, "u", (1, 3), (1, 4), until=soon))
    assert state.live() == [one, copy]
    assert (state.is_copy(one), state.is_copy(copy)) == (False, True)
    assert (state.retained_until(Origin(1, 3)), state.retained_until(Origin(1, 5))) == (soon, None)
    later = fold(COMMIT, retain(copy, "u", (1, 3), (1, 4), until=soon), retain(longer, "u", (1, 3)))
    assert later.live() == [one, copy, longer]
    assert (later.retained_until(Origin(1, 3)), later.retained_until(Origin(1, 4))) == (FAR, soon)
    both = fold(COMMIT, retain(copy, "u", (1, 3), until=soon), retain(longer, "u", (1, 3)))
    assert both.live() == [one, longer], "the first copy keeps nothing any more"
    assert both.superseded == [copy]
    shorter = fold(COMMIT, retain(copy, "u", (1, 3)), retain(longer, "u", (1, 3), until=soon))
    assert (shorter.strays, shorter.live(), shorter.retained_until(Origin(1, 3))) == ([3], [one, copy], FAR)


def test_a_condemned_copy_extends_nothing() -> None:
    copy = shard("copy", 3)
    state = fold(COMMIT, condemn(copy), retain(copy, "u", (1, 3)))
    assert (state.strays, state.retained) == ([3], {})


def test_a_disposed_shard_is_live_no_more_and_may_be_condemned() -> None:
    one, two = shard("one"), shard("two", 2)
    packed = (COMMIT, commit(10, 20, two))
    state = fold(*packed, dispose(one))
    assert (state.live(), state.superseded) == ([two], [one])
    assert state.covered("m")[0].shard == one, "its rows stay accounted for"
    assert fold(*packed, repack(one, shard("three")), dispose(one, two)).strays == [4], "whole or not at all"


@pytest.mark.parametrize("kind", ["punctured", "unheard-of", "", "Commit"])
def test_an_unknown_record_is_never_passed_over(kind: str) -> None:
    with pytest.raises(IncompatibleError, match="does not know"):
        fold(commit(0, 10, shard("one")), {"type": kind})


COMMIT = commit(0, 10, shard("one"))
REPACK = repack(shard("one"), shard("two"))
RETAIN = retain(shard("copy", 1), "u", (1, 3))
MALFORMED = [
    {**COMMIT, "n_bits": None},
    {**COMMIT, "n_bits": float("inf")},
    {**COMMIT, "part": [0]},
    {**COMMIT, "part": [0, 0]},
    {**COMMIT, "part": [-1, 3]},
    {**COMMIT, "part": "ab"},
    {**COMMIT, "rejects": [1]},
    {**COMMIT, "rejects": {"reason": 7}},
    {**COMMIT, "rows": {}},
    {**COMMIT, "shard": {}},
    {**COMMIT, "shard": "x"},
    {**COMMIT, "shard": {**shard("one").to_json(), "sha256": "zz"}},
    {**COMMIT, "shard": {**shard("one").to_json(), "sha256": "00"}},
    {**COMMIT, "shard": {**shard("one").to_json(), "lock": {"mode": "SOFT", "until": "2026-01-01T00:00:00Z"}}},
    {**COMMIT, "shard": {**shard("one").to_json(), "lock": {"mode": "GOVERNANCE", "until": "2026-01-01T00:00"}}},
    {**COMMIT, "shard": {**shard("one").to_json(), "keys": "!"}},
    {**COMMIT, "shard": {**shard("one").to_json(), "min_key": "-"}},
    {key: value for key, value in COMMIT.items() if key != "manifest"},
    {"type": "repack", "replaces": 3, "shards": []},
    {"type": "repack", "replaces": [], "shards": [{"key": "x"}]},
    {"type": "repack", "replaces": [], "shards": []},
    {**REPACK, "anchor": {}},
    {**REPACK, "anchor": {**REPACK["anchor"], "old": []}},
    {**REPACK, "anchor": {**REPACK["anchor"], "new": []}},
    {**REPACK, "anchor": {**REPACK["anchor"], "old": [{**REPACK["anchor"]["old"][0], "sha256": "0" * 64}]}},
    {**REPACK, "anchor": {**REPACK["anchor"], "left_out": [[0, 1]]}},
    {**tombstone("u"), "entries": [{"uid": "u"}]},
    {**tombstone("u"), "entries": [{"uid": "u", "versions": [[1]]}]},
    {**tombstone("u"), "actor": None},
    tombstone("u", (1, -1)),
    tombstone("u", (0, 1)),
    tombstone("u", (1, 1 << 40)),
    {"type": "tombstone", "uid": "u", "versions": [[1, 0]]},
    {**readmit("u"), "uid": 7},
    {"type": "readmit", "uid": "u"},
    {**hold("u", (1, 3)), "case": 7},
    {**hold("u", (1, 3)), "entries": [{"uid": "u", "versions": [[0, 1]]}]},
    {"type": "release", "case": "case-1"},
    {**RETAIN, "until": "soon"},
    {**RETAIN, "until": "2996-01-01T00:00:00Z"},
    {**RETAIN, "shard": None},
    {**dispose(shard("one")), "request": None},
    {**dispose(shard("one")), "shards": 3},
    {"type": "condemn", "versions": [{}]},
    {"type": "condemn", "versions": None},
]


@pytest.mark.parametrize("body", MALFORMED, ids=range(len(MALFORMED)))
def test_a_record_that_cannot_be_understood_stops_the_reader(body: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="can't be understood"):
        fold(*([COMMIT] if body["type"] == "repack" else []), body)


FOREIGN = [
    shard("one", slot=dataclasses.replace(SLOT, tenant="other")),
    shard("one", slot=dataclasses.replace(SLOT, day=date(2026, 3, 2))),
    shard("one", slot=dataclasses.replace(SLOT, index=1)),
    dataclasses.replace(shard("one"), sha256="0" * 64),
]


@pytest.mark.parametrize("foreign", FOREIGN, ids=range(len(FOREIGN)))
def test_no_record_brings_a_shard_of_another_slot_or_tenant(foreign: ShardRef) -> None:
    """A log that somebody could write to is no door into another tenant's files (I8)."""
    for body in (commit(10, 20, foreign), repack(shard("one"), foreign), retain(foreign, "u", (1, 3))):
        with pytest.raises(IntegrityError, match="can't be understood"):
            fold(COMMIT, body)


def test_records_are_applied_in_order_only() -> None:
    state = fold(COMMIT)
    with pytest.raises(ValueError, match="can't follow"):
        apply(state, Record(3, COMMIT, "", "", None))


def test_a_snapshot_does_not_change_with_later_records() -> None:
    state = fold(COMMIT, tombstone("u", (1, 1)))
    before, fingerprint = state.snapshot(), state.fingerprint
    two, other = shard("two", 3), shard("x")
    later = (
        commit(10, 20, two), tombstone("w", (1, 2)), repack(shard("one"), other), condemn(shard("y")),
        hold("v", (1, 5)), retain(shard("copy", 8), "v", (1, 5)), dispose(other),
    )  # fmt: skip
    for number, body in enumerate(later, 3):
        apply(state, Record(number, body, str(number), "", None))
    assert before.fingerprint == fingerprint
    assert before.live() == [shard("one")]
    assert before.erased == {"u"}
    assert before.dead == {1: {1}}
    assert (before.holds, before.retained) == ({}, {})
    assert len(before.records) == 2
    assert before.brought_after(0) == [shard("one")]


# ---------------------------------------------------------------------- filters


@given(st.lists(st.integers(0, (1 << 64) - 1), max_size=FILTER_ENTRIES), st.integers(0, (1 << 64) - 1))
def test_a_small_filter_never_denies_a_key_that_is_there(keys: list[int], other: int) -> None:
    ref = shard("x", keys=keys) if keys else dataclasses.replace(shard("x"), entries=0)
    assert all(ref.may_hold(key) for key in keys)
    low = {key & 0xFFFFFFFF for key in keys}
    expected = bool(keys) and min(keys) <= other <= max(keys) and other & 0xFFFFFFFF in low
    assert ref.may_hold(other) == expected


def test_large_shards_carry_no_filter() -> None:
    keys = list(range(FILTER_ENTRIES + 1))
    assert small_filter(keys) == b""
    assert len(small_filter(keys[:-1])) == 4 * FILTER_ENTRIES
    assert small_filter([]) == b""
    ref = shard("x", keys=keys)
    assert ref.may_hold(FILTER_ENTRIES)
    assert not ref.may_hold(FILTER_ENTRIES + 1)


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=8).map(lambda data: data.ljust(8, b"\0")))
def test_a_shard_reads_back_from_its_json(key: int, data: bytes) -> None:
    ref = dataclasses.replace(shard("x", 7), min_key=0, max_key=key, keys=data)
    assert ShardRef.from_json(SLOT, 7, ref.to_json()) == ref


# ---------------------------------------------------------------------- log and sidecar tell the same


SOON = FAR - timedelta(days=1)


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Any sequence of records: overlapping and odd parts, repacks of live and dead shards, early and late condemns."""
    shards = [shard(name, 1, keys=[at]) for at, name in enumerate("abcdef")]
    any_shard = st.sampled_from(shards)
    rows = st.tuples(st.integers(0, 30), st.integers(1, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))
    commits = st.builds(
        lambda at, ref, manifest, n_bits: commit(at[0], at[1], ref, manifest=manifest, n_bits=n_bits),
        rows, st.none() | any_shard, st.sampled_from(["m", "n"]), st.sampled_from([8, 8, 8, 4]),
    )  # fmt: skip
    tombstones = st.builds(
        tombstone, st.sampled_from("uvw"), st.tuples(st.integers(1, 6), st.integers(0, 300)), st.just((2, 2))
    )
    repacks = st.builds(lambda old, new, keep: repack(old, new, keep_number=keep), any_shard, any_shard, st.booleans())
    others = st.builds(condemn, any_shard) | st.builds(readmit, st.sampled_from("uvw")) | st.builds(dispose, any_shard)
    version = st.tuples(st.integers(1, 6), st.integers(0, 3))
    law = st.builds(hold, st.sampled_from("uvw"), version, case=st.sampled_from("AB"))
    law |= st.builds(release, st.sampled_from("uvw"), version, case=st.sampled_from("AB"))
    law |= st.builds(retain, any_shard, st.sampled_from("uvw"), version, until=st.sampled_from([FAR, SOON]))
    return draw(st.lists(commits | commits | tombstones | repacks | others | law, min_size=1, max_size=14))


@given(histories(), st.data())
def test_sidecar_and_tail_fold_to_what_the_log_folds_to(history: list[dict[str, Any]], data: st.DataObject) -> None:
    log = slot_log(MemoryStore())
    at = data.draw(st.integers(1, len(history)))
    log.write_sidecar(grown(log, *history[:at]), FAR)
    whole = grown(log, *history[at:])
    seen = log.current()
    assert seen.records == whole.records[at:], "the sidecar was used, and only the tail was read"
    assert seen.head == whole.head
    assert seen.fingerprint == whole.fingerprint
    assert seen.live() == whole.live()
    assert seen.dead == whole.dead
    assert seen.condemned == whole.condemned
    assert (seen.holds, seen.retained) == (whole.holds, whole.retained)
    reloaded = log.load()
    assert reloaded.fingerprint == whole.fingerprint
    for number in range(1, len(history) + 1):
        assert log.before(reloaded, number).records == reloaded.records[: number - 1]


def test_a_version_begins_to_count_once() -> None:
    """Hypothesis found the first: after it, a repack that replaced the version had it twice."""
    one, other = shard("a", 1, keys=[0]), shard("b", 1, keys=[0])
    copied = retain(one, "u", (1, 0), until=FAR)
    for again in (commit(0, 1, one), copied, repack(other, one)):
        state = fold(commit(0, 1, one), commit(1, 2, other), again)
        assert state.strays == [3], again["type"]
        assert [ref.version_id for ref in state.live()] == [one.version_id, other.version_id]
    assert fold(copied, commit(0, 1, one), repack(one, other)).live()[0].version_id == other.version_id


@given(histories())
def test_what_is_held_is_not_erased_and_what_is_retained_stays_as_long(history: list[dict[str, Any]]) -> None:
    state = SlotState(SLOT)
    for number, body in enumerate(history, 1):
        before = state.snapshot()
        apply(state, Record(number, {"n": number, **body}, f"digest-{number}", f"version-{number}", None))
        for origins in before.held().values():
            assert all(before.is_dead(origin) or not state.is_dead(origin) for origin in origins)
        for origin, retention in before.retained.items():
            assert state.retained[origin].until >= retention.until


@given(histories())
def test_rows_are_accounted_for_once(history: list[dict[str, Any]]) -> None:
    state = fold(*history)
    for manifest in ("m", "n"):
        rows = [row for part in state.covered(manifest) for row in range(part.first, part.end)]
        assert len(rows) == len(set(rows))
        merged = [row for first, end in state.accounted.get(manifest, []) for row in range(first, end)]
        assert sorted(rows) == merged
    live = {ref.version_id for ref in state.live()}
    assert set(state.named_by) >= live
    assert all(state.named_by[ref.version_id] not in state.strays for ref in state.live())
