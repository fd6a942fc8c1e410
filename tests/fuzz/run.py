"""Fuzzes one target with atheris, in this process: python -m tests.fuzz.run TARGET [FOLDER...] [-OPTION=VALUE...]."""

from __future__ import annotations

import sys
import warnings

import atheris


def main(name: str, arguments: list[str]) -> None:
    """Runs until libFuzzer ends, which ends the process."""
    with atheris.instrument_imports(include=["vera_core"]):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]
    atheris.instrument_func(target.function)
    atheris.Setup([sys.argv[0], *arguments], lambda data: target(bytes(data)))
    atheris.Fuzz()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], sys.argv[2:])
