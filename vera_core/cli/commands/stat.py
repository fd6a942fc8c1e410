"""`vera stat`: what is archived of a file."""

from __future__ import annotations

from typing import Annotated

import typer

from vera_core.cli.context import load_settings
from vera_core.cli.options import (
    CreatedAtOption,
    JsonOption,
    RepositoryOption,
    SettingsOption,
    TenantOption,
    UidArgument,
    VersionOption,
    command_app,
)
from vera_core.cli.output import amount, emit, show_pairs, show_table
from vera_core.cli.values import read_time
from vera_core.errors import Kind, UsageError
from vera_core.model import format_time
from vera_core.operations.opening import open_repository
from vera_core.operations.report import size_text
from vera_core.operations.retrieve import FileReport, Retriever


def command(
    uid: UidArgument,
    created_at: CreatedAtOption = None,
    version: VersionOption = None,
    versions: Annotated[
        bool, typer.Option("--versions", help="All versions, oldest first, erased ones marked.")
    ] = False,
    tenant: TenantOption = None,
    repository: RepositoryOption = None,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is archived of a file, without its bytes.

    Size, digest, media type, metadata, the shard that holds it, until when that is locked, and which legal cases hold
    the file. In an encrypted repository too, these are those of the file, and the digest is the SHA-256 of its content;
    of an erased version nothing is known there but where it lies.
    """
    if versions and version is not None:
        raise UsageError("--versions shows them all, --version N one", todo="Give one of the two.")
    moment = read_time(created_at)
    chosen = load_settings(settings, repository=repository, tenant=tenant)
    retriever = Retriever(open_repository(chosen), chosen.tenant)
    if versions:
        found = retriever.versions(uid, moment)
        if as_json:
            emit({"ok": True, "uid": uid, "versions": found})
        else:
            _show_versions(found)
        return
    report = retriever.stat(uid, moment, version=version)
    if as_json:
        emit(report)
    else:
        _show(report)


def _show(report: FileReport) -> None:
    show_pairs(
        [
            ("uid", report.uid),
            ("tenant", report.tenant),
            ("version", report.version),
            ("created at", report.created),
            ("size", amount(report.size, "bytes")),
            ("stored", f"{amount(report.stored_size, 'bytes')}, {report.codec}"),
            ("sha256", report.sha256),
            ("media type", report.media_type),
            *((f"metadata {name}", value) for name, value in report.metadata.items()),
            ("slot", report.slot),
            ("shard", report.shard),
            ("shard version", report.version_id),
            ("retention class", report.retention_class),
            ("locked", f"{report.lock_mode} until {format_time(report.lock_until)}"),
            ("held for", ", ".join(report.held)),
        ]
    )


def _show_versions(found: list[FileReport]) -> None:
    show_table(
        ("version", "created at", "size", "sha256", ""),
        [
            (
                item.version,
                item.created,
                size_text(item.size),
                item.sha256,
                "erased" if item.erased else "",
            )
            for item in found
        ],
        right=frozenset({2}),
    )


app = command_app(
    command,
    examples="""
vera stat invoices/2026-000017.pdf --created-at 2026-03-01
vera stat contract-7 --created-at 2026-03-01 --versions
vera stat contract-7 --created-at 2026-03-01 --json | jq -r .sha256
""",
    codes=(Kind.USAGE, Kind.NOT_FOUND, Kind.ERASED, Kind.RESTRICTED, Kind.INTEGRITY, Kind.UNAVAILABLE),
)
