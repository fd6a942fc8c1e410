"""`make dev`: the demo's world, kept running, with the Dagster UI on http://127.0.0.1:3000, until Ctrl-C.

Nothing is archived by itself: what to click is printed. All of it is in .dev/, made anew at each start.
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vera_assets.sample import REPOSITORY, SOURCE
from vera_assets.world import World, end_in_order, new_world
from vera_core.cli.output import describe, say, warn
from vera_core.errors import UnavailableError, UsageError, VeraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOME = Path(".dev")
HOST = "127.0.0.1"
PORT = 3000
PORT_VARIABLE = "PORT"
READY_SECONDS = 120.0
STOP_SECONDS = 30.0
CLICKS = """
   http://{host}:{port}/assets is the Dagster UI. What to click:

   1. Lineage, top right: the assets of `{source}`, from the day's window to the watermark.
   2. Materialize all, choose the {days} days ({first} to {last}), Launch: watch the checks.
   3. An asset, Plots: files, bytes, compression, files per object over the days.
   4. Automation: turn on `{source}_watermark_sensor`, and days that are due are archived by themselves.
   5. After `vera erase` below: Jobs, `vera__default_erase`, then `vera__default_repack` for the file's day.

   In another terminal:

   source {environment}
   vera ls
   vera verify --deep
   vera erase UID --created-at {first} --request-id a-first --reason "why"

   Ctrl-C ends all of it.
"""


def dev(home: Path = HOME, *, port: int = PORT, limit: int | None = None) -> None:
    """Runs the world and the Dagster UI until it is interrupted or Dagster ends.

    Raises:
        UsageError: the port is taken.
        UnavailableError: Dagster did not start, or ended.
        VeraError: the repository could not be made.
    """
    _check_port(port)
    say("Starting the business, the S3 server and the repository; this takes half a minute.")
    sys.stdout.flush()
    with new_world(home, limit=limit) as world:
        keys = ("--encrypt", "--keys-file", str(world.keys_file))
        world.vera("init", REPOSITORY, "--lock-mode", "GOVERNANCE", "--retain", "7y", *keys)
        world.vera("migrate", SOURCE, "--create-schema")
        environment = _write_environment(world)
        with _dagster(world, port) as running:
            days = world.sample.days
            say(
                CLICKS.format(
                    host=HOST, port=port, source=SOURCE, days=len(days), first=days[0], last=days[-1],
                    environment=environment,
                )
            )  # fmt: skip
            sys.stdout.flush()
            running.wait()
            raise UnavailableError("Dagster ended", todo="See the end of its log.", log=_log(world))


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"port {port} is taken: {error.strerror}",
                todo=f"Stop what listens there, or choose another one: {PORT_VARIABLE}=3001 make dev",
            ) from error


def _write_environment(world: World) -> Path:
    """A file for the shell, by which `vera` and any AWS tool find this world."""
    own = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "VERA_", "DAGSTER_HOME"))}
    path = world.root / "environment"
    path.touch(mode=0o600)
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(own.items())]
    lines.append(f"export PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH")
    path.write_text("\n".join(lines) + "\n")
    return path


def _log(world: World) -> Path:
    return world.root / "dagster.log"


@contextmanager
def _dagster(world: World, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Webserver and daemon, ready; they and all they started are gone after the block.

    Raises:
        UnavailableError: they did not get ready.
    """
    dagster = str(Path(sys.executable).parent / "dagster")
    command = [dagster, "dev", "-m", "vera_assets.definitions", "-h", HOST, "-p", str(port)]
    with _log(world).open("wb") as log:
        running = subprocess.Popen(  # noqa: S603 - dagster of our own environment
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C at the terminal is for us; we end it in order
        )
    try:
        _wait_until_ready(running, world, port)
        yield running
    finally:
        _stop(running)


def _wait_until_ready(running: subprocess.Popen[bytes], world: World, port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and running.poll() is None:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/server_info", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise UnavailableError("Dagster did not start", todo="See the end of its log.", log=_log(world))


def _stop(running: subprocess.Popen[bytes]) -> None:
    """Ends Dagster in order, then whatever is left of it."""
    running.send_signal(signal.SIGTERM)
    try:
        running.wait(timeout=STOP_SECONDS)
    except subprocess.TimeoutExpired:
        warn("Dagster does not end by itself; it is killed.")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()


def main(arguments: Sequence[str]) -> int:
    """Runs it in the directory that is named, or in .dev; returns the exit code."""
    end_in_order()
    try:
        home = Path(*arguments) if arguments else HOME
        dev(home, port=int(os.environ.get(PORT_VARIABLE, PORT)))
    except KeyboardInterrupt:
        say("Ended; its data stays until the next start.")
        return 0
    except VeraError as error:
        warn(describe(error.to_json()))
        return error.kind.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
