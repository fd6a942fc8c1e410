"""Errors about one slot's own data as findings, so that the work on the others goes on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from vera_core.errors import ConflictError, IncompatibleError, IntegrityError
from vera_core.operations.report import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from vera_core.errors import VeraError
    from vera_core.model import Slot


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
