"""The local key file: private, whole or not at all, and every version of the key stays usable."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.keys.support import error_of
from vera_core.errors import ConflictError, IntegrityError, NotFoundError, UnavailableError, UsageError, VeraError
from vera_core.keys.local import LocalKeys
from vera_core.keys.service import KeyService, good


@pytest.fixture
def path(tmp_path: Path, local: LocalKeys) -> Path:
    return tmp_path / "kek.json"


def test_it_is_a_key_service(local: LocalKeys) -> None:
    service: KeyService = local
    payloads = [bytes([number]) * 64 for number in range(5)]
    wrapped = service.wrap(payloads)
    assert service.unwrap(wrapped) == payloads
    assert service.current() == 1
    assert {service.version(item) for item in wrapped} == {1}
    assert len(set(service.wrap([b"same"] * 5))) == 5
    assert service.unwrap([]) == service.rewrap([]) == service.wrap([]) == []


def test_old_versions_stay_and_rewrapped_keys_need_the_new_one(local: LocalKeys) -> None:
    old = local.wrap([b"one", b"two"])
    assert [local.rotate(), local.rotate(), local.current()] == [2, 3, 3]
    new = good(local.rewrap(old))
    assert local.unwrap(old) == local.unwrap(new) == [b"one", b"two"]
    assert [local.version(item) for item in old + new] == [1, 1, 3, 3]


def test_a_rotation_by_another_process_counts_at_once(local: LocalKeys, path: Path) -> None:
    code = (
        "import sys, pathlib; from vera_core.keys.local import LocalKeys; LocalKeys(pathlib.Path(sys.argv[1])).rotate()"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert local.version(local.wrap([b"key"])[0]) == 2


def test_two_that_rotate_at_once_lose_no_key(local: LocalKeys, path: Path) -> None:
    wrapped = local.wrap([b"key"])
    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(lambda _: LocalKeys(path).rotate(), range(8)))
    assert sorted(versions) == list(range(2, 10))
    assert local.unwrap(wrapped) == [b"key"]
    assert len(json.loads(path.read_text())["keys"]) == 9


def test_it_is_private_and_leaves_nothing_else(local: LocalKeys, path: Path) -> None:
    local.rotate()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_what_a_crash_left_goes_with_the_next_rotation(local: LocalKeys, path: Path) -> None:
    (path.parent / f".{path.name}.new").write_text("half of a key file")
    assert local.rotate() == 2
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("step", ["fsync", "replace", "unlink"])
def test_killed_while_rotating_it_keeps_every_key(local: LocalKeys, path: Path, step: str) -> None:
    wrapped = local.wrap([b"key"])
    code = f"""
import os, pathlib, signal, sys
from vera_core.keys.local import LocalKeys
owner = pathlib.Path if {step!r} in ("replace", "unlink") else os
service = LocalKeys(pathlib.Path(sys.argv[1]))
setattr(owner, {step!r}, lambda *given, **options: os.kill(os.getpid(), signal.SIGKILL))
service.rotate()
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert local.unwrap(wrapped) == [b"key"]
    assert local.rotate() == 2
    assert local.unwrap(good(local.rewrap(wrapped))) == [b"key"]
    assert [item.name for item in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o666, 0o601])
def test_a_file_that_others_may_use_is_refused(local: LocalKeys, path: Path, mode: int) -> None:
    path.chmod(mode)
    for call in (lambda: LocalKeys(path), lambda: local.wrap([b"key"]), lambda: local.unwrap([b"key"])):
        with pytest.raises(UsageError, match="others than its owner") as caught:
            call()
        assert "chmod 600" in caught.value.todo


def test_a_file_of_another_user_is_refused(local: LocalKeys, path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    with pytest.raises(UsageError, match="others than its owner"):
        LocalKeys(path if os.geteuid() == 0 else Path("/dev/null"))


def test_it_is_never_made_twice(local: LocalKeys, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ConflictError, match="exists already"):
        LocalKeys.create(path)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


def test_without_the_file_there_is_nothing(local: LocalKeys, path: Path) -> None:
    path.unlink()
    for call in (lambda: LocalKeys(path), lambda: local.wrap([b"key"]), local.rotate):
        with pytest.raises(NotFoundError, match="no such key file"):
            call()
    with pytest.raises(UnavailableError, match="can't be written"):
        LocalKeys.create(path.parent / "missing" / "kek.json")
    with pytest.raises(UnavailableError, match="can't be read"):
        LocalKeys(path.parent)


def test_another_file_in_its_place_is_refused(local: LocalKeys, path: Path) -> None:
    wrapped = local.wrap([b"key"])
    path.unlink()
    other = LocalKeys.create(path)
    with pytest.raises(UsageError, match="another key file"):
        local.unwrap(wrapped)
    error = error_of(other.unwrap(wrapped)[0], IntegrityError)
    assert error.where["kek"] == other.kek != local.kek


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        '{"format": "vera-local-kek-v1", "id": "0123456789abcdef", "keys": []}',
        '{"format": "vera-local-kek-v1", "id": "0123456789abcdef", "keys": ["00"]}',
        '{"format": "vera-local-kek-v1", "id": "0123456789abcdef", "keys": [7]}',
        '{"format": "vera-local-kek-v2", "id": "0123456789abcdef", "keys": ["' + "0" * 64 + '"]}',
        '{"format": "vera-local-kek-v1", "id": "../../etc/passwd", "keys": ["' + "0" * 64 + '"]}',
        '{"format": "vera-local-kek-v1", "id": 7, "keys": ["' + "0" * 64 + '"]}',
    ],
)
def test_what_is_no_key_file_is_refused(local: LocalKeys, path: Path, text: str) -> None:
    path.write_text(text)
    with pytest.raises(IntegrityError, match="no key file"):
        LocalKeys(path)


def test_what_it_did_not_wrap_does_not_unwrap(local: LocalKeys) -> None:
    (good_one,) = local.wrap([b"key"])
    bad = [b"", b"local:v1:", b"local:v2:" + good_one[9:], b"local:v0:", b"vault:v1:AAAA", b"local:v1:" + bytes(60)]
    bad += [good_one[:-1], good_one + b"x", bytes([*good_one[:-1], good_one[-1] ^ 1])]
    outcomes = local.unwrap([*bad, good_one])
    assert [type(outcome) for outcome in outcomes] == [IntegrityError] * len(bad) + [bytes]
    assert [isinstance(outcome, VeraError) for outcome in local.rewrap([*bad, good_one])] == [True] * len(bad) + [False]
    with pytest.raises(IntegrityError):
        local.version(b"vault:v1:AAAA")
