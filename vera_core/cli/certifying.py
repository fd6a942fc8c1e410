"""How the commands about erasures show certificates, and what destroying keys again came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vera_core.cli.output import say, show_figures, show_findings, show_first, show_pairs, show_table
from vera_core.errors import Kind

if TYPE_CHECKING:
    from vera_core.operations.certificates import CertificateReport
    from vera_core.operations.destroy_again import DestroyReport

KEYRINGS_SHOWN = 20
DIGITS_SHOWN = 16


def show_certificates(report: CertificateReport) -> None:
    """A request's certificates as people read them, and what proving them again has found."""
    for document in report.documents:
        _show(document)
    if report.check is not None:
        verdict = "passed" if report.check.ok else f"FAILED, {report.check.failed:,} findings"
        say(f"No version of any keyring, in any place, gives a key of these files: {verdict}.")
        show_findings(report.check.findings)
    if report.open:
        say(f"{report.open:,} files of the request are in no certificate: vera erasures show {report.request}")
    show_figures(report)


def certificate_code(report: CertificateReport) -> int:
    """The exit code: 6 if a key was found again, else 0."""
    return 0 if report.ok else Kind.INTEGRITY.exit_code


def show_destroyed(report: DestroyReport) -> None:
    """What destroying again came to."""
    say("Keys of erased files had come back." if report.purged else "No key of an erased file is left.")
    show_figures(report)


def _show(document: dict[str, Any]) -> None:
    say(f"Certificate of the destruction of keys ({document['format']})")
    show_pairs(
        [
            ("repository", f"{document['uri']} ({document['repository']})"),
            ("tenant", document["tenant"]),
            ("request", document["request"]),
            ("reason", document["reason"]),
            ("asked for by", document["requested_by"]),
            ("recorded by", document["recorded_by"]),
            ("approved by", document["approved_by"]),
            ("received", document["received"]),
            ("out of sight", document["hidden"] or ""),
            ("keys destroyed", document["destroyed"]),
            ("wrapped by", document["kek"] or ""),
            ("places", ", ".join(document["places"])),
            ("record", f"{document['record']}, SHA-256 {document['sha256']}"),
            ("signature", document["signature"] or "none: there are no operator keys yet"),
        ]
    )
    say("Files, by what the archive calls them:")
    show_first([f"{item['name']} in {item['slot']}, versions {_versions(item)}" for item in document["files"]])
    say("Keyrings:")
    show_table(
        ("slot", "shard", "files", "revision before", "after"),
        [
            (
                item["slot"],
                item["shard"][:DIGITS_SHOWN],
                f"{item['files']:,}",
                str(item["revision_before"]),
                str(item["revision"]),
            )
            for item in document["keyrings"][:KEYRINGS_SHOWN]
        ],
        right=frozenset({2, 3, 4}),
    )
    more = len(document["keyrings"]) - KEYRINGS_SHOWN
    if more > 0:
        say(f"  ... and {more:,} more; --json names them")
    say(document["statement"])


def _versions(item: dict[str, Any]) -> str:
    return ", ".join(f"{commit}.{ordinal}" for commit, ordinal in item["versions"])
