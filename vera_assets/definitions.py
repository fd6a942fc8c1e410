"""What Dagster loads: `dagster dev -m vera_assets.definitions`, with vera.toml (or VERA_SETTINGS) and VERA_*."""

from __future__ import annotations

from vera_assets.build import build_definitions
from vera_core.settings import Settings

defs = build_definitions(settings=Settings.load())
