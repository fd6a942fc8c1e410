"""What every `ObjectStore` must do: one class of tests; test_store_conformance.py runs it for each implementation."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from vera_core.errors import (
    ConflictError,
    IntegrityError,
    PreconditionError,
    RestrictedError,
    UsageError,
)
from vera_core.model import Lock, LockMode
from vera_core.store.base import ABSENT, SINGLE_PUT_LIMIT, Condition, MissingObjectError

if TYPE_CHECKING:
    from pathlib import Path

    from vera_core.store.base import ObjectStore, Stored


def lock(seconds: float, mode: LockMode = LockMode.GOVERNANCE) -> Lock:
    return Lock(mode, (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0))


def put_file(
    store: ObjectStore, key: str, path: Path, *, at: Condition | None = None, held: Lock | None = None
) -> Stored:
    return store.put_file(key, path, sha256=hashlib.sha256(path.read_bytes()).digest(), condition=at, lock=held)


class StoreConformance:
    """Subclasses define the fixture `store`: a fresh bucket with versioning and Object Lock."""

    # ------------------------------------------------------------------ put and get

    @pytest.mark.parametrize("data", [b"", b"x", bytes(range(256)) * 300, b"\r\n<Key>&amp;\0"])
    def test_what_is_put_is_read_back(self, store: ObjectStore, data: bytes) -> None:
        made = store.put("a/b.json", data)
        blob = store.get("a/b.json")
        assert (blob.key, blob.data, blob.version_id, blob.etag) == ("a/b.json", data, made.version_id, made.etag)
        assert made.size == len(data)
        assert made.etag.startswith('"')
        assert made.version_id not in {"", "null"}
        assert blob.last_modified is not None
        assert abs(blob.last_modified - store.now()) < timedelta(seconds=10)

    def test_every_put_is_a_version_that_stays_readable(self, store: ObjectStore) -> None:
        made = [store.put("k", str(number).encode()) for number in range(4)]
        assert len({stored.version_id for stored in made}) == 4
        assert [store.get("k", version_id=stored.version_id).data for stored in made] == [b"0", b"1", b"2", b"3"]
        assert store.get("k").data == b"3"

    @pytest.mark.parametrize(
        "key", ["plain", "a/b/.vera.meta", "with space", "ü/漢字.txt", "a+b&c=d%20;'(x)", "t/*?[z]"]
    )
    def test_keys_are_kept_as_they_are(self, store: ObjectStore, key: str) -> None:
        made = store.put(key, b"0123456789")
        assert store.get(key).data == b"0123456789"
        assert store.get_range(key, 2, 3, version_id=made.version_id) == b"234"
        assert store.get_suffix(key, 3) == (b"789", 10)
        assert store.head(key).key == key
        assert [info.key for info in store.list_objects("")] == [key]
        assert [info.key for info in store.list_versions(key)] == [key]
        store.delete(key, version_id=made.version_id)
        assert list(store.list_versions("")) == []

    def test_head_names_size_and_version(self, store: ObjectStore) -> None:
        first = store.put("k", b"12345")
        second = store.put("k", b"1234567")
        assert (store.head("k").size, store.head("k").version_id, store.head("k").etag) == (
            7,
            second.version_id,
            second.etag,
        )
        assert store.head("k", version_id=first.version_id).size == 5

    def test_what_is_missing_is_said_to_be_missing(self, store: ObjectStore, tmp_path: Path) -> None:
        made = store.put("there", b"x")
        for call in (
            lambda: store.get("k"),
            lambda: store.head("k"),
            lambda: store.get_range("k", 0, 1),
            lambda: store.get_suffix("k", 1),
            lambda: store.download("k", tmp_path / "out"),
            lambda: store.get("k", version_id=made.version_id),
            lambda: store.get_range("k", 0, 1, version_id=made.version_id),
            lambda: store.get_lock("k", made.version_id),
        ):
            with pytest.raises(MissingObjectError) as caught:
                call()
            assert caught.value.where["key"] == "k"
            assert caught.value.where["bucket"] == store.bucket
            assert caught.value.delete_marker is not True
        assert not (tmp_path / "out").exists()

    # ------------------------------------------------------------------ conditions

    def test_if_none_match_lets_one_through(self, store: ObjectStore) -> None:
        store.put("k", b"first", condition=ABSENT)
        with pytest.raises(PreconditionError) as caught:
            store.put("k", b"second", condition=ABSENT)
        assert caught.value.where == {"bucket": store.bucket, "key": "k"}
        assert store.get("k").data == b"first"

    def test_if_match_wants_the_current_etag(self, store: ObjectStore) -> None:
        first = store.put("k", b"first")
        store.put("k", b"second", condition=Condition(first.etag))
        with pytest.raises(PreconditionError):
            store.put("k", b"third", condition=Condition(first.etag))
        assert store.get("k").data == b"second"

    def test_if_match_on_nothing_fails(self, store: ObjectStore) -> None:
        with pytest.raises((PreconditionError, MissingObjectError)):
            store.put("k", b"x", condition=Condition('"0123456789abcdef0123456789abcdef"'))
        assert list(store.list_versions("k")) == []

    def test_if_none_match_succeeds_over_a_delete_marker(self, store: ObjectStore) -> None:
        first = store.put("k", b"first", lock=lock(60))
        store.delete("k")
        second = store.put("k", b"second", condition=ABSENT)
        listed = list(store.list_versions("k"))
        assert [info.is_delete_marker for info in listed] == [False, True, False]
        assert (listed[0].version_id, listed[2].version_id) == (second.version_id, first.version_id)
        assert store.get("k", version_id=first.version_id).data == b"first"

    @pytest.mark.parametrize("swap", [False, True])
    def test_of_racing_conditional_puts_one_wins(self, store: ObjectStore, swap: bool) -> None:
        condition = Condition(store.put("k", b"before").etag) if swap else ABSENT
        start = threading.Barrier(8)
        won: list[bytes] = []
        lost: list[PreconditionError] = []

        def race(number: int) -> None:
            start.wait()
            try:
                store.put("k", f"racer {number}".encode(), condition=condition)
                won.append(f"racer {number}".encode())
            except PreconditionError as error:
                lost.append(error)

        racers = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert (len(won), len(lost)) == (1, 7)
        assert store.get("k").data == won[0]

    # ------------------------------------------------------------------ ranges

    def test_ranges_are_exact(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 40
        made = store.put("k", data)
        store.put("k", b"newer and shorter")
        for start, length in ((0, 1), (0, len(data)), (17, 1), (255, 3), (len(data) - 1, 1)):
            assert store.get_range("k", start, length, version_id=made.version_id) == data[start : start + length]
        assert store.get_range("k", 18, 0, version_id=made.version_id) == b""

    def test_many_ranges_come_in_the_order_in_which_they_were_asked_for(self, store: ObjectStore) -> None:
        data = bytes(range(256)) * 400
        made = store.put("k", data)
        store.put("k", b"newer and shorter")
        rng = random.Random(1)
        ranges = [(rng.randrange(100_000), rng.randrange(2_000)) for _ in range(70)] + [(5, 0), (0, len(data))]
        found = store.get_ranges("k", ranges, version_id=made.version_id)
        assert list(found) == [data[start : start + length] for start, length in ranges]
        assert list(store.get_ranges("k", [])) == []
        assert list(store.get_ranges("k", [(6, 3)])) == [b"and"]

    def test_many_ranges_are_an_error_if_one_is(self, store: ObjectStore) -> None:
        made = store.put("k", bytes(1000))
        with pytest.raises(IntegrityError) as caught:
            store.get_ranges("k", [(start, 100) for start in range(0, 1000, 50)], version_id=made.version_id)
        assert caught.value.where["version_id"] == made.version_id
        with pytest.raises(MissingObjectError):
            store.get_ranges("nowhere", [(0, 1), (1, 1)])
        with pytest.raises(ValueError, match="negative"):
            store.get_ranges("k", [(0, 1), (-1, 1)])

    @pytest.mark.parametrize(("start", "length"), [(0, 11), (9, 2), (10, 1), (500, 1)])
    def test_a_range_beyond_the_end_is_an_error(self, store: ObjectStore, start: int, length: int) -> None:
        made = store.put("k", b"0123456789")
        with pytest.raises(IntegrityError) as caught:
            store.get_range("k", start, length, version_id=made.version_id)
        assert caught.value.where["key"] == "k"
        assert caught.value.where["version_id"] == made.version_id

    def test_a_range_of_nothing_needs_no_object(self, store: ObjectStore) -> None:
        assert store.get_range("nowhere", 5, 0) == b""

    def test_suffixes_tell_the_size(self, store: ObjectStore) -> None:
        made = store.put("k", b"0123456789")
        store.put("k", b"newer")
        assert store.get_suffix("k", 4, version_id=made.version_id) == (b"6789", 10)
        assert store.get_suffix("k", 10, version_id=made.version_id) == (b"0123456789", 10)
        assert store.get_suffix("k", 9999, version_id=made.version_id) == (b"0123456789", 10)
        assert store.get_suffix("k", 2) == (b"er", 5)

    def test_the_suffix_of_an_empty_object_is_empty(self, store: ObjectStore) -> None:
        made = store.put("k", b"")
        assert store.get_suffix("k", 100, version_id=made.version_id) == (b"", 0)

    def test_senseless_ranges_are_refused_before_any_request(self, store: ObjectStore) -> None:
        for start, length in ((-1, 1), (0, -1)):
            with pytest.raises(ValueError, match="negative"):
                store.get_range("k", start, length)
        with pytest.raises(ValueError, match="positive"):
            store.get_suffix("k", 0)

    # ------------------------------------------------------------------ files

    @pytest.mark.parametrize("size", [0, 1, 5_000_000])
    def test_files_go_up_and_come_down(self, store: ObjectStore, tmp_path: Path, size: int) -> None:
        source = tmp_path / "source"
        source.write_bytes(hashlib.shake_128(b"seed").digest(size))
        until = lock(60)
        made = put_file(store, "f.vera", source, at=ABSENT, held=until)
        store.put("f.vera", b"newer")
        store.download("f.vera", tmp_path / "copy", version_id=made.version_id)
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()
        assert made.size == size
        assert store.get_lock("f.vera", made.version_id) == until
        with pytest.raises(PreconditionError):
            put_file(store, "f.vera", source, at=ABSENT)

    def test_a_file_with_other_bytes_than_promised_is_refused(self, store: ObjectStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"altered on disk")
        with pytest.raises(IntegrityError):
            store.put_file("f.vera", source, sha256=hashlib.sha256(b"as it was").digest())
        assert list(store.list_versions("f.vera")) == []

    def test_large_files_take_no_condition(self, store: ObjectStore, tmp_path: Path) -> None:
        source = tmp_path / "source"
        with source.open("wb") as file:
            file.truncate(SINGLE_PUT_LIMIT + 1)
        with pytest.raises(ValueError, match="SINGLE_PUT_LIMIT"):
            store.put_file("f.vera", source, sha256=bytes(32), condition=ABSENT)

    def test_a_download_never_overwrites(self, store: ObjectStore, tmp_path: Path) -> None:
        store.put("k", b"new")
        (tmp_path / "mine").write_bytes(b"mine")
        with pytest.raises(UsageError):
            store.download("k", tmp_path / "mine")
        assert (tmp_path / "mine").read_bytes() == b"mine"

    # ------------------------------------------------------------------ listing

    def test_listing_is_in_key_order(self, store: ObjectStore) -> None:
        keys = ["a", "a.b", "a/1", "a/10", "a/2", "a0", "b/", "Z"]
        for key in keys:
            store.put(key, key.encode())
        store.delete("a/10")
        left = sorted(set(keys) - {"a/10"}, key=str.encode)
        assert [info.key for info in store.list_objects("")] == left
        assert [info.key for info in store.list_objects("a/")] == ["a/1", "a/2"]
        assert [info.key for info in store.list_objects("", start_after="a/1")] == left[left.index("a/1") + 1 :]
        assert [info.key for info in store.list_objects("a", start_after="a.")] == ["a.b", "a/1", "a/2", "a0"]
        assert [(info.size, info.version_id) for info in store.list_objects("a/1")] == [(3, "")]

    def test_prefixes_are_whole_components(self, store: ObjectStore) -> None:
        for key in ("t/x/20260101/0/k", "t/x/20260102/0/k", "t/xy/20260101/0/k", "t/x/file", "other"):
            store.put(key, b"")
        assert list(store.list_prefixes("t/")) == ["t/x/", "t/xy/"]
        assert list(store.list_prefixes("t/x/")) == ["t/x/20260101/", "t/x/20260102/"]
        assert list(store.list_prefixes("t/x/20260101/0/")) == []
        assert list(store.list_prefixes("nothing/")) == []

    def test_delete_markers_hide_no_prefix(self, store: ObjectStore) -> None:
        store.put("t/x/20260101/0/k", b"")
        store.delete("t/x/20260101/0/k")
        store.put("t/y/20260101/0/k", b"")
        assert list(store.list_objects("t/x/")) == []
        assert list(store.list_prefixes("t/")) == ["t/x/", "t/y/"]
        assert list(store.list_prefixes("t/x/")) == ["t/x/20260101/"]

    def test_what_is_read_states_its_lock(self, store: ObjectStore) -> None:
        held, free = store.put("k", b"1", lock=lock(60)), store.put("k", b"2")
        assert store.get("k", version_id=held.version_id).lock == store.get_lock("k", held.version_id)
        assert store.get("k", version_id=held.version_id).lock is not None
        assert store.get("k", version_id=free.version_id).lock is None

    def test_versions_are_listed_newest_first_with_markers_in_between(self, store: ObjectStore) -> None:
        one = store.put("k", b"1")
        store.delete("k")
        two = store.put("k", b"22")
        three = store.put("k", b"333")
        store.delete("k")
        store.put("k/other", b"x")
        listed = [info for info in store.list_versions("k") if info.key == "k"]
        assert [info.is_delete_marker for info in listed] == [True, False, False, True, False]
        assert [info.version_id for info in listed if not info.is_delete_marker] == [
            three.version_id, two.version_id, one.version_id,
        ]  # fmt: skip
        assert [info.size for info in listed] == [0, 3, 2, 0, 1]
        assert [info.is_latest for info in listed] == [True, False, False, False, False]
        assert [info.key for info in store.list_objects("")] == ["k/other"]

    # ------------------------------------------------------------------ deletion

    def test_a_delete_marker_hides_and_its_removal_reveals(self, store: ObjectStore) -> None:
        made = store.put("k", b"x", lock=lock(60))
        store.delete("k")
        with pytest.raises(MissingObjectError) as caught:
            store.get("k")
        assert caught.value.delete_marker is not False
        assert store.get("k", version_id=made.version_id).data == b"x"
        marker = next(iter(store.list_versions("k")))
        with pytest.raises(MissingObjectError):
            store.get("k", version_id=marker.version_id)
        store.delete("k", version_id=marker.version_id)
        assert store.get("k").data == b"x"

    def test_deleting_what_is_not_there_is_no_error(self, store: ObjectStore) -> None:
        made = store.put("k", b"x")
        store.delete("k", version_id=made.version_id)
        store.delete("k", version_id=made.version_id)
        assert store.delete_batch([("k", made.version_id), ("never", made.version_id)]) == []
        assert list(store.list_versions("")) == []

    def test_locked_versions_can_not_be_deleted(self, store: ObjectStore) -> None:
        soft = store.put("soft", b"x", lock=lock(60))
        hard = store.put("hard", b"x", lock=lock(5, LockMode.COMPLIANCE))
        free = store.put("free", b"x")
        for made in (soft, hard):
            with pytest.raises(RestrictedError) as caught:
                store.delete(made.key, version_id=made.version_id)
            assert caught.value.where["version_id"] == made.version_id
        with pytest.raises(RestrictedError):
            store.delete("hard", version_id=hard.version_id, bypass_governance=True)
        everything = [(made.key, made.version_id) for made in (soft, hard, free)]
        refused = store.delete_batch(everything)
        assert {pair[:2] for pair in refused} == set(everything[:2])
        assert all(reason for _, _, reason in refused)
        assert [info.key for info in store.list_versions("")] == ["hard", "soft"]
        assert store.delete_batch(everything[:1], bypass_governance=True) == []
        assert [info.key for info in store.list_versions("")] == ["hard"]

    def test_a_batch_may_be_larger_than_one_request(self, store: ObjectStore) -> None:
        made = [store.put(f"many/{number:04d}", b"") for number in range(1005)]
        assert len(list(store.list_versions("many/"))) == len(list(store.list_objects("many/"))) == 1005
        assert store.delete_batch((stored.key, stored.version_id) for stored in made) == []
        assert list(store.list_versions("many/")) == []

    # ------------------------------------------------------------------ locks

    def test_locks_are_read_back_as_they_were_set(self, store: ObjectStore) -> None:
        until = lock(600)
        made = store.put("k", b"x", lock=until)
        free = store.put("free", b"x")
        assert store.get_lock("k", made.version_id) == until
        assert store.get_lock("free", free.version_id) is None
        store.set_lock("free", free.version_id, until)
        assert store.get_lock("free", free.version_id) == until

    def test_a_lock_never_ends_before_the_moment_asked_for(self, store: ObjectStore) -> None:
        wanted = datetime.now(UTC).replace(microsecond=123456) + timedelta(minutes=1)
        made = store.put("k", b"x", lock=Lock(LockMode.GOVERNANCE, wanted))
        held = store.get_lock("k", made.version_id)
        assert held is not None
        assert timedelta(0) <= held.until - wanted < timedelta(seconds=1)

    def test_a_lock_of_mode_none_is_no_lock(self, store: ObjectStore) -> None:
        made = store.put("k", b"x", lock=lock(60, LockMode.NONE))
        assert store.get_lock("k", made.version_id) is None
        with pytest.raises(UsageError):
            store.set_lock("k", made.version_id, lock(60, LockMode.NONE))

    @pytest.mark.parametrize("mode", [LockMode.GOVERNANCE, LockMode.COMPLIANCE])
    def test_locks_extend_but_do_not_shrink(self, store: ObjectStore, mode: LockMode) -> None:
        made = store.put("k", b"x", lock=lock(4, mode))
        longer = lock(8, mode)
        store.set_lock("k", made.version_id, longer)
        with pytest.raises(RestrictedError):
            store.set_lock("k", made.version_id, lock(3, mode))
        assert store.get_lock("k", made.version_id) == longer

    def test_compliance_can_not_be_weakened_by_anybody(self, store: ObjectStore) -> None:
        held = lock(5, LockMode.COMPLIANCE)
        made = store.put("k", b"x", lock=held)
        for weaker in (lock(60, LockMode.GOVERNANCE), lock(2, LockMode.COMPLIANCE)):
            with pytest.raises(RestrictedError):
                store.set_lock("k", made.version_id, weaker, bypass_governance=True)
        assert store.get_lock("k", made.version_id) == held

    def test_governance_yields_to_the_bypass(self, store: ObjectStore) -> None:
        made = store.put("k", b"x", lock=lock(600))
        shorter = lock(60)
        store.set_lock("k", made.version_id, shorter, bypass_governance=True)
        assert store.get_lock("k", made.version_id) == shorter

    def test_a_lock_in_the_past_is_refused(self, store: ObjectStore) -> None:
        with pytest.raises(UsageError):
            store.put("k", b"x", lock=lock(-5))
        assert list(store.list_versions("k")) == []

    def test_locks_end_and_legal_holds_do_not(self, store: ObjectStore) -> None:
        made = store.put("k", b"x", lock=lock(2, LockMode.COMPLIANCE))
        held = store.put("held", b"x", lock=lock(2, LockMode.COMPLIANCE))
        store.set_hold("held", held.version_id, held=True)
        with pytest.raises(RestrictedError):
            store.delete("k", version_id=made.version_id)
        time.sleep(2.5)
        store.delete("k", version_id=made.version_id)
        with pytest.raises(RestrictedError, match="legal hold"):
            store.delete("held", version_id=held.version_id)
        store.set_hold("held", held.version_id, held=False)
        store.delete("held", version_id=held.version_id)
        assert list(store.list_versions("")) == []

    def test_a_plain_put_over_a_locked_version_hides_but_keeps_it(self, store: ObjectStore) -> None:
        made = store.put("k", b"locked", lock=lock(60))
        store.put("k", b"on top")
        assert store.get("k").data == b"on top"
        assert store.get("k", version_id=made.version_id).data == b"locked"

    # ------------------------------------------------------------------ legal holds

    def test_a_held_version_can_not_be_deleted_whether_it_is_locked_or_not(self, store: ObjectStore) -> None:
        free, soft = store.put("free", b"x"), store.put("soft", b"x", lock=lock(60))
        for made in (free, soft):
            assert store.get_hold(made.key, made.version_id) is False
            store.set_hold(made.key, made.version_id, held=True)
            assert store.get_hold(made.key, made.version_id) is True
            for bypass in (False, True):
                with pytest.raises(RestrictedError) as caught:
                    store.delete(made.key, version_id=made.version_id, bypass_governance=bypass)
                assert caught.value.where["version_id"] == made.version_id
        refused = store.delete_batch([(made.key, made.version_id) for made in (free, soft)], bypass_governance=True)
        assert {pair[0] for pair in refused} == {"free", "soft"}
        assert store.get("free", version_id=free.version_id).data == b"x"
        for made in (free, soft):
            store.set_hold(made.key, made.version_id, held=False)
            assert store.get_hold(made.key, made.version_id) is False
            store.delete(made.key, version_id=made.version_id, bypass_governance=True)
        assert list(store.list_versions("")) == []

    def test_hold_and_lock_do_not_touch_each_other(self, store: ObjectStore) -> None:
        until, longer = lock(60), lock(90)
        made = store.put("k", b"x", lock=until)
        store.put("k", b"a newer version")
        store.set_hold("k", made.version_id, held=True)
        store.set_hold("k", made.version_id, held=True)
        assert store.get_lock("k", made.version_id) == until
        store.set_lock("k", made.version_id, longer)
        assert store.get_hold("k", made.version_id) is True
        assert store.get("k").data == b"a newer version"
        assert store.get_hold("k", store.head("k").version_id) is False
        with pytest.raises(RestrictedError):
            store.set_lock("k", made.version_id, until)
        store.set_hold("k", made.version_id, held=False)
        assert store.get_lock("k", made.version_id) == longer

    def test_holds_are_of_versions_that_are_there(self, store: ObjectStore) -> None:
        made = store.put("there", b"x")
        with pytest.raises(MissingObjectError):
            store.get_hold("k", made.version_id)
        with pytest.raises(MissingObjectError):
            store.set_hold("k", made.version_id, held=True)

    # ------------------------------------------------------------------ tags

    def test_tags_are_of_one_version_and_touch_nothing_else(self, store: ObjectStore) -> None:
        until = lock(60, LockMode.COMPLIANCE)
        old = store.put("k", b"old", lock=until)
        new = store.put("k", b"new")
        assert store.get_tags("k", old.version_id) == {}
        store.set_tags("k", old.version_id, {"state": "a b/c+d:e@f", "empty": ""})
        assert store.get_tags("k", old.version_id) == {"state": "a b/c+d:e@f", "empty": ""}
        assert store.get_tags("k", new.version_id) == {}
        assert store.get_lock("k", old.version_id) == until
        assert store.get("k", version_id=old.version_id).data == b"old"
        assert store.get_range("k", 1, 2, version_id=old.version_id) == b"ld"
        assert store.get("k").data == b"new"
        assert [info.version_id for info in store.list_versions("k")] == [new.version_id, old.version_id]
        with pytest.raises(RestrictedError):
            store.delete("k", version_id=old.version_id)
        store.set_tags("k", old.version_id, {"state": "other"})
        assert store.get_tags("k", old.version_id) == {"state": "other"}

    def test_tags_stay_under_a_delete_marker_and_go_with_their_version(self, store: ObjectStore) -> None:
        made = store.put("k", b"x")
        store.set_hold("k", made.version_id, held=True)
        store.set_tags("k", made.version_id, {"state": "superseded"})
        store.delete("k")
        assert store.get_tags("k", made.version_id) == {"state": "superseded"}
        assert store.get_hold("k", made.version_id) is True
        store.set_hold("k", made.version_id, held=False)
        store.delete("k", version_id=made.version_id)
        for call in (lambda: store.get_tags("k", made.version_id), lambda: store.set_tags("k", made.version_id, {})):
            with pytest.raises(MissingObjectError) as caught:
                call()
            assert caught.value.where["version_id"] == made.version_id

    # ------------------------------------------------------------------ bucket

    def test_the_stores_clock_runs(self, store: ObjectStore) -> None:
        assert abs(store.now() - datetime.now(UTC)) < timedelta(seconds=10)
        assert store.now().tzinfo is not None
        assert store.now().microsecond == 0

    def test_the_buckets_state(self, store: ObjectStore) -> None:
        state = store.bucket_state()
        assert (state.exists, state.versioning, state.object_lock) == (True, True, True)
        assert (state.default_retention, state.expirations, state.transitions) == ("", (), ())

    def test_a_bucket_is_created_once(self, store: ObjectStore) -> None:
        with pytest.raises(ConflictError) as caught:
            store.create_bucket()
        assert caught.value.where["bucket"] == store.bucket
