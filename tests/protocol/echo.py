"""A helping process that answers each call with it between two texts, and prints if it is told to."""

from __future__ import annotations

import sys

from vera_core.operations.child import serve


def main(before: str, after: str) -> None:
    def answer(call: bytes) -> list[bytes]:
        if call == b"print":
            print("this must not be taken for an answer", flush=True)
        return [before.encode(), call, after.encode()]

    serve(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
