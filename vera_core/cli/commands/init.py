"""`vera init`: makes a repository."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from vera_core.cli.context import connect, load_settings
from vera_core.cli.options import DryRunOption, JsonOption, SettingsOption, command_app
from vera_core.cli.output import emit, say, show_pairs, show_table
from vera_core.cli.values import read_class, read_period, read_time
from vera_core.errors import Kind, UsageError
from vera_core.keys.local import LocalKeys
from vera_core.model import LockMode, Policy, RetentionClass, to_micros
from vera_core.operations.initialise import InitOptions, InitReport, init, plan_init
from vera_core.operations.opening import workplace
from vera_core.routing import UidScheme

STANDARD = "standard"
KEY_FILE = """\
The keys of the repository are wrapped by {file}.
BACK IT UP, apart from the bucket: without it NOTHING in the repository can ever be read again. Whoever reads the file
reads the archive, so it is for one machine and for trying out. Every command finds it by these lines in vera.toml:

  [keys]
  service = "local"
  file = "{file}"
"""


class _Mode(StrEnum):
    """The lock modes that can be asked for."""

    GOVERNANCE = "GOVERNANCE"
    COMPLIANCE = "COMPLIANCE"


def command(
    uri: Annotated[str, typer.Argument(metavar="URI", help="Where: s3://bucket/prefix.", show_default=False)],
    lock_mode: Annotated[
        _Mode,
        typer.Option(
            "--lock-mode",
            metavar="GOVERNANCE|COMPLIANCE",
            case_sensitive=False,
            help="GOVERNANCE: who holds the right to bypass can still unlock. COMPLIANCE: nobody can, before the end.",
        ),
    ] = _Mode.GOVERNANCE,
    retain: Annotated[
        str, typer.Option("--retain", metavar="PERIOD", help="How long files are locked: 90d, 7y.")
    ] = "7y",
    more_classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME=PERIOD[:regulated]",
            help="A further retention class; may be repeated. Regulated files can't be erased early.",
        ),
    ] = None,
    bits: Annotated[
        int,
        typer.Option(
            "--bits",
            metavar="N",
            min=0,
            max=16,
            help="0 to 16: 2^N slots a day. `vera epoch` changes it for later days.",
        ),
    ] = 0,
    trust_uids: Annotated[
        list[UidScheme] | None,
        typer.Option(
            "--trust-uids",
            metavar="uuid7|ulid|snowflake",
            help="Uids that carry their time and are found by it. May be repeated.",
        ),
    ] = None,
    snowflake_epoch: Annotated[
        str | None, typer.Option("--snowflake-epoch", metavar="TIME", help="When the Snowflake ids count 0.")
    ] = None,
    compression: Annotated[
        Policy, typer.Option("--compression", metavar="fast|balanced|small", help="What packing aims at.")
    ] = Policy.BALANCED,
    erasure_approval: Annotated[
        bool,
        typer.Option("--erasure-approval", help="Erasures need the approval of somebody else than who asked for them."),
    ] = False,
    encrypt: Annotated[
        bool,
        typer.Option(
            "--encrypt",
            help="Encrypt files: one is erased by destroying its key. Recommended where locks are COMPLIANCE.",
        ),
    ] = False,
    keys_file: Annotated[
        Path | None,
        typer.Option(
            "--keys-file",
            metavar="FILE",
            help="With --encrypt: a key file on this machine in the place of [keys]; made if it is not there.",
        ),
    ] = None,
    accept_unlocked: Annotated[
        bool, typer.Option("--accept-unlocked", help="Accept a store that does not enforce locks. Not an archive then.")
    ] = False,
    accept_unerasable: Annotated[
        bool,
        typer.Option("--accept-unerasable", help="Accept COMPLIANCE without encryption: nothing can be erased early."),
    ] = False,
    dry_run: DryRunOption = False,
    settings: SettingsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a repository in a bucket.

    Creates the bucket with Object Lock where there is none, then tries out whether the store keeps the promises that
    an archive rests on: of racing writers exactly one wins, and what is locked stays. A store without atomic
    conditional PUT is refused always; one without enforced locks, and COMPLIANCE locks on unencrypted files, unless a
    flag accepts it. Takes up to a minute.

    With --encrypt every file is encrypted under a key of its own, and `vera erase` destroys that key at once, however
    long the object around it is locked. The keys are wrapped by a key encryption key that OpenBao, Vault or a local
    file keeps, as [keys] in vera.toml says. Whether a repository is encrypted is fixed for its life
    (docs/encryption.md).
    """
    if keys_file is not None and not encrypt:
        raise UsageError("--keys-file is for encrypted repositories", todo="Add --encrypt.")
    if (snowflake_epoch is not None) != (UidScheme.SNOWFLAKE in (trust_uids or [])):
        raise UsageError("--trust-uids snowflake and --snowflake-epoch belong together", todo="Give both or neither.")
    moment = read_time(snowflake_epoch)
    standard = RetentionClass(STANDARD, read_period(retain))
    options = InitOptions(
        lock_mode=LockMode(lock_mode.value),
        classes=(standard, *(read_class(text) for text in more_classes or [])),
        default_class=STANDARD,
        n_bits=bits,
        uid_schemes=frozenset(trust_uids or []),
        snowflake_epoch_ms=0 if moment is None else to_micros(moment) // 1000,
        compression=compression,
        erasure_approval=erasure_approval,
        encrypt=encrypt,
        accept_unlocked=accept_unlocked,
        accept_unerasable=accept_unerasable,
    )
    place = workplace(load_settings(settings))
    store, prefix = connect(uri)
    with TemporaryDirectory() as trial:
        if keys_file is not None:
            file = keys_file.absolute() if keys_file.exists() or not dry_run else Path(trial) / keys_file.name
            place = replace(place, key_service=partial(_key_file, file))
        report = (plan_init if dry_run else init)(store, prefix, options, place)
    if as_json:
        emit(report)
    else:
        _show(report, None if dry_run else keys_file, dry_run=dry_run)


def _key_file(path: Path) -> LocalKeys:
    """The local key file there; made where there is none."""
    return LocalKeys(path) if path.exists() else LocalKeys.create(path)


def _show(report: InitReport, keys_file: Path | None, *, dry_run: bool) -> None:
    made = "would be made" if dry_run else "is ready"
    say(f"Repository {report.repository} {made}.")
    show_pairs(
        [
            ("id", "" if dry_run else report.repository_id),
            ("bucket", ("would be created" if dry_run else "created") if report.created_bucket else "exists"),
            ("lock mode", report.lock_mode),
            ("slots a day", f"{1 << report.n_bits:,}"),
            ("encrypted by", report.kek),
            ("erasures", "need an approval" if report.erasure_approval else ""),
        ]
    )
    show_table(
        ("class", "locked for", "may be erased meanwhile"),
        [
            (item.name, f"{item.days:,} days", "yes" if item.erasability.value == "erasable" else "no")
            for item in report.classes
        ],
    )
    if keys_file is not None:
        say(KEY_FILE.format(file=keys_file.absolute()))
    if not dry_run:
        say(f"Next: export VERA_REPOSITORY={report.repository}")


app = command_app(
    command,
    examples="""
vera init s3://archive/documents --lock-mode GOVERNANCE --retain 7y
vera init s3://archive/documents --retain 10y --class mail=2y --trust-uids uuid7
vera init s3://archive/documents --lock-mode COMPLIANCE --encrypt
vera init s3://archive/documents --encrypt --keys-file /etc/vera/keys.json
vera init s3://archive/documents --dry-run
""",
    codes=(Kind.USAGE, Kind.RESTRICTED, Kind.INTEGRITY, Kind.CONFLICT, Kind.UNSAFE_STORE, Kind.UNAVAILABLE),
)
