from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments), continued lines joined, comments left out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]


def final_stage() -> list[tuple[str, str]]:
    found = instructions()
    return found[max(at for at, (name, _) in enumerate(found) if name == "FROM") :]


def copied_from_context() -> list[str]:
    copies = [shlex.split(rest)[:-1] for name, rest in instructions() if name == "COPY"]
    return [source for sources in copies if not sources[0].startswith("--from") for source in sources]


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).parent / "hadolint"
    result = subprocess.run(
        [program, "--failure-threshold", "style", DOCKERFILE], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (0, "")


def test_the_image_does_not_run_as_root() -> None:
    users = [rest for name, rest in final_stage() if name == "USER"]
    assert users
    assert re.fullmatch(r"[1-9][0-9]{3,}:[1-9][0-9]{3,}", users[-1])


def test_nothing_floats_and_nothing_is_fetched_past_the_lock() -> None:
    images = [rest.split()[0] for name, rest in instructions() if name == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+-slim-[a-z]+", image) for image in images)
    assert "ADD" not in {name for name, _ in instructions()}
    runs = " ".join(rest for name, rest in instructions() if name == "RUN")
    assert not re.search(r"https?://|curl|wget|apt-get", runs)
    assert runs.count("pip install") == runs.count("--require-hashes") == 1
    assert runs.count("uv sync") == runs.count("--frozen") == 2


def test_what_is_copied_exists_and_is_in_the_context() -> None:
    ignore = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    let_in = [line[1:] for line in ignore if line.startswith("!")]
    assert "*" in ignore
    for source in copied_from_context():
        assert (ROOT / source).exists()
        assert any(fnmatch(source, pattern) for pattern in let_in), f"{source} is not in the build context"
    assert set(let_in) == set(copied_from_context())


def test_the_image_has_a_health_check_and_starts_without_a_shell() -> None:
    found = dict(final_stage())
    assert json.loads(found["HEALTHCHECK"].partition("CMD ")[2])[:3] == ["dagster", "api", "grpc-health-check"]
    assert json.loads(found["CMD"])[:3] == ["dagster", "api", "grpc"]


def test_no_secret_stands_in_the_image() -> None:
    variables = " ".join(rest for name, rest in instructions() if name in {"ENV", "ARG", "LABEL"})
    assert not re.search(r"(?i)password|secret|token|_key", variables)
