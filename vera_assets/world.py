"""The world in which `make demo` and `make dev` happen: the sample business, an embedded S3 server, and the settings.

All of it lies below one directory and ends with the process. What is done in it is demo.py's and dev.py's business.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from vera_assets.sample import REPOSITORY, SOURCE, Sample, installed_roots, write_database
from vera_core.errors import UnavailableError
from vera_core.store.embedded import EmbeddedS3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

DAGSTER_SETTINGS = Path(__file__).parents[1] / "dagster_home" / "dagster.yaml"
SETTINGS = """\
# What VERA knows of this business. All settings: docs/sources.md
repository = "{repository}"
spool = "{root}/spool"

[keys]
service = "local"
file = "{root}/keys.json"

[sources.{source}]
url = "sqlite:///{root}/business.sqlite"
table = "documents"
uid = "uid"
created_at = {{ column = "created_at", type = "text" }}
content = {{ column = "path", kind = "path", roots = {roots} }}
size = "bytes"
media_type = {{ column = "media_type" }}
metadata = {{ department = "department" }}
late = {{ column = "number" }}
begin = {begin}
"""


@dataclass(frozen=True, slots=True)
class World:
    """A running world: where it lies, its business and its S3 server."""

    root: Path
    sample: Sample
    server: EmbeddedS3

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.root / "vera.toml"

    @property
    def keys_file(self) -> Path:
        """Where the key encryption key is; `vera init --encrypt --keys-file` makes it."""
        return self.root / "keys.json"

    def vera(self, *arguments: str) -> str:
        """Runs the `vera` command and returns what it printed.

        Raises:
            UnavailableError: it failed; what it said is in the error.
        """
        done = subprocess.run(  # noqa: S603 - our own program with arguments of our own
            [sys.executable, "-m", "vera_core.cli", *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = f"{done.stdout}{done.stderr}".strip()
            raise UnavailableError(f"`vera {' '.join(arguments)}` ended with exit code {done.returncode}: {said}")
        return done.stdout


@contextmanager
def new_world(root: Path, *, limit: int | None = None) -> Iterator[World]:
    """A fresh world below `root` (which is emptied first); its server ends with the block, however that ends.

    Args:
        root: a directory of ours.
        limit: use only so many files.

    The variables of this process are set so that VERA and Dagster, here and in child processes, find this world only.
    """
    root = root.resolve()
    shutil.rmtree(root, ignore_errors=True)
    (root / "dagster_home").mkdir(parents=True)
    shutil.copy(DAGSTER_SETTINGS, root / "dagster_home")
    sample = write_database(root / "business.sqlite", today=datetime.now(UTC).date(), limit=limit)
    roots = "[" + ", ".join(f'"{path}"' for path in installed_roots()) + "]"
    text = SETTINGS.format(repository=REPOSITORY, root=root, source=SOURCE, roots=roots, begin=sample.first.isoformat())
    (root / "vera.toml").write_text(text)
    for name in [name for name in os.environ if name.startswith(("AWS_", "VERA_", "DAGSTER_"))]:
        del os.environ[name]
    with EmbeddedS3(root / "s3") as server:
        os.environ.update(server.environment)
        os.environ["VERA_SETTINGS"] = str(root / "vera.toml")
        os.environ["DAGSTER_HOME"] = str(root / "dagster_home")
        os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
        yield World(root, sample, server)


def end_in_order() -> None:
    """Lets SIGTERM and SIGHUP unwind the stack as Ctrl-C does, so that every server is stopped."""

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
