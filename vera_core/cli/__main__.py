"""`python -m vera_core.cli`: the same as `vera`."""

from __future__ import annotations

from vera_core.cli.main import main

main()
