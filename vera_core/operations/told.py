"""Looking at many slots: some at once, and an error about one slot's own data is a finding, so that others go on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from vera_core.errors import ConflictError, IncompatibleError, IntegrityError
from vera_core.operations.report import Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vera_core.errors import VeraError
    from vera_core.model import Slot


T = TypeVar("T")
THREADS = 8
"""Slots at once: what they wait for is the store."""
AHEAD = 64
"""Slots that are begun before the first of them is taken."""


def look_at_each(
    slots: Iterable[Slot], look: Callable[[Slot], T], progress: Callable[[int], None] | None = None
) -> tuple[list[T], list[Finding], int]:
    """What `look` gives for each slot, in their order; the findings, and how many slots there were.

    `progress` gets the number of slots done.

    Raises:
        UnavailableError: the store can't be reached.
    """
    results: list[T] = []
    findings: list[Finding] = []
    count = 0
    coming = iter(slots)
    with ThreadPoolExecutor(THREADS, thread_name_prefix="vera-look") as pool:
        while several := list(islice(coming, AHEAD)):
            for slot, future in [(slot, pool.submit(look, slot)) for slot in several]:
                with told(findings, slot):
                    results.append(future.result())
                count += 1
                if progress is not None:
                    progress(count)
    return results, findings, count


@contextmanager
def told(findings: list[Finding], slot: Slot) -> Iterator[None]:
    """Makes an error about a slot's own data a finding, and goes on with the next one.

    That others kept coming first is a warning: nothing is wrong then.
    """
    try:
        yield
    except (IntegrityError, ConflictError, IncompatibleError) as error:
        findings.append(_finding(error, slot))


def _finding(error: VeraError, slot: Slot) -> Finding:
    where = error.where
    return Finding(
        what=error.what, key=where.get("key", str(slot)), version_id=where.get("version_id", ""),
        uid=where.get("uid", ""), todo=error.todo,
        severity="warning" if isinstance(error, ConflictError) else "error",
    )  # fmt: skip


def none_is_wrong(findings: Iterable[Finding]) -> bool:
    """Whether all findings are warnings."""
    return all(finding.severity != "error" for finding in findings)
