"""A delivered file is whole or not there, whatever happens meanwhile; standard output gets verified bytes only."""

from __future__ import annotations

import errno
import io
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from vera_core.cli.deliver import IN_MEMORY, new_file, to_stdout
from vera_core.errors import ConflictError, IntegrityError, Kind, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_new_file_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with new_file(target, force=False) as file:
        file.write(b"part one, ")
        assert not target.exists()
        file.write(b"part two")
    assert target.read_bytes() == b"part one, part two"
    assert names(tmp_path) == ["out.bin"]


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("error", [IntegrityError("the content does not verify"), KeyboardInterrupt(), SystemExit(143)])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException, force: bool) -> None:
    target = tmp_path / "out.bin"
    if force:
        target.write_bytes(b"old")
    with pytest.raises(type(error)):
        write_half(target, force, error)
    assert names(tmp_path) == (["out.bin"] if force else [])
    assert not force or target.read_bytes() == b"old"


def test_an_existing_file_is_refused_before_anything_is_fetched(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"mine")
    with pytest.raises(ConflictError, match="exists already"), new_file(target, force=False):
        pytest.fail("the block must not run")
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr("os.link", refuse_links)
    target = tmp_path / "out.bin"
    with pytest.raises(ConflictError):
        race(target)
    assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["out.bin"]


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.link", refuse_links)
    with new_file(tmp_path / "out.bin", force=False) as file:
        file.write(b"ours")
    assert (tmp_path / "out.bin").read_bytes() == b"ours"
    assert names(tmp_path) == ["out.bin"]


def test_force_replaces_and_keeps_permissions(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    target.chmod(0o600)
    with new_file(target, force=True) as file:
        file.write(b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    target = tmp_path / "there" / "real"
    target.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(target)
    with pytest.raises(ConflictError), new_file(link, force=False):
        pytest.fail("the block must not run")
    with new_file(link, force=True) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("force", [False, True])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, force: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (tmp_path, pipe):
        with pytest.raises(UsageError, match="no regular file"), new_file(target, force=force):
            pytest.fail("the block must not run")
    assert names(tmp_path) == ["pipe"]


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    with (
        pytest.raises(UnavailableError, match="No such file") as caught,
        new_file(tmp_path / "no" / "out", force=False),
    ):
        pytest.fail("the block must not run")
    assert caught.value.where["path"].endswith("no/out")


def test_a_long_name(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 255)
    with new_file(target, force=False) as file:
        file.write(b"content")
    assert target.read_bytes() == b"content"


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.BytesIO]:
    """Standard output as a terminal; in the test's own phase, because pytest replaces it between phases."""
    raw = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdout", Terminal(raw))
        yield raw


def damaged(size: int) -> Iterator[bytes]:
    yield b"x" * size
    raise IntegrityError("the content does not verify", uid="a")


@pytest.mark.parametrize("size", [10, IN_MEMORY + 10])
def test_nothing_is_written_before_all_is_verified(capsysbinary: pytest.CaptureFixture[bytes], size: int) -> None:
    with pytest.raises(IntegrityError):
        to_stdout(damaged(size))
    assert capsysbinary.readouterr().out == b""


@pytest.mark.parametrize("content", [b"", bytes(range(256)), b"\r\n\r\n", b"y" * (IN_MEMORY + 3)])
def test_standard_output_gets_the_very_bytes(capsysbinary: pytest.CaptureFixture[bytes], content: bytes) -> None:
    to_stdout(iter([content[:7], content[7:]]))
    assert capsysbinary.readouterr().out == content


def test_a_terminal_gets_text_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with terminal(monkeypatch) as shown:
        with pytest.raises(UsageError, match="binary") as caught:
            to_stdout([b"\x7fELF\0\0"])
        assert caught.value.kind is Kind.USAGE
        assert shown.getvalue() == b""
        to_stdout([b"plain\n"])
        to_stdout([b"\0"], may_be_terminal=True)
        assert shown.getvalue() == b"plain\n\0"


def write_half(target: Path, force: bool, error: BaseException) -> None:
    with new_file(target, force=force) as file:
        file.write(b"half")
        raise error


def race(target: Path) -> None:
    with new_file(target, force=False) as file:
        file.write(b"ours")
        target.write_bytes(b"theirs")


def refuse_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links here")
