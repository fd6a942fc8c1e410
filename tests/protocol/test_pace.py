"""The interpreter's settings while operations run: changed for all of them, put back after the last."""

from __future__ import annotations

import gc
import sys
import threading

import pytest

from vera_core.operations.pace import COLLECT_AFTER, SWITCH_SECONDS, at_pace

Settings = tuple[float, tuple[int, int, int]]


def settings() -> Settings:
    # The interpreter keeps the switch interval in whole microseconds.
    return round(sys.getswitchinterval(), 6), gc.get_threshold()


FAST: Settings = (SWITCH_SECONDS, COLLECT_AFTER)


def test_the_usual_settings_are_back_after_the_block_and_after_an_error() -> None:
    usual = settings()
    with at_pace():
        assert settings() == FAST
    assert settings() == usual
    with pytest.raises(ValueError, match="as told"), at_pace():
        raise ValueError("as told")
    assert settings() == usual
    assert gc.get_freeze_count() == 0


def test_blocks_of_several_threads_share_the_settings() -> None:
    usual = settings()
    begun, end = threading.Event(), threading.Event()

    def other() -> None:
        with at_pace():
            begun.set()
            end.wait(10)

    thread = threading.Thread(target=other)
    with at_pace():
        thread.start()
        assert begun.wait(10)
    assert settings() == FAST, "the other thread's block still runs"
    end.set()
    thread.join()
    assert settings() == usual
