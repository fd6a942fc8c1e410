"""The `.vera` format, version 1: bytes of one shard to entries and back (docs/format-v1.md)."""

from __future__ import annotations

from vera_core.format.layout import SUFFIX, Encryption, Footer, Header
from vera_core.format.lookup import Lookup
from vera_core.format.reader import ShardReader
from vera_core.format.recover import Survey, check_rebuild, rebuild, saved_entries, survey
from vera_core.format.remains import Clues, Damage
from vera_core.format.source import BytesSource, FileSource, MappedFile, RangeSource
from vera_core.format.verify import Verified
from vera_core.format.waiting import Names
from vera_core.format.writer import ShardOptions, ShardSummary, ShardWriter

__all__ = [
    "SUFFIX",
    "BytesSource",
    "Clues",
    "Damage",
    "Encryption",
    "FileSource",
    "Footer",
    "Header",
    "Lookup",
    "MappedFile",
    "Names",
    "RangeSource",
    "ShardOptions",
    "ShardReader",
    "ShardSummary",
    "ShardWriter",
    "Survey",
    "Verified",
    "check_rebuild",
    "rebuild",
    "saved_entries",
    "survey",
]
