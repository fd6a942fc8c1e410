"""What VERA is compared with. Each packs a corpus into one file and, if its format can, reads single files back."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from benchmarks.peers.base import Peer

VERA = "vera"
_PLACES = {
    VERA: "vera.Vera",
    "tar": "programs.Tar",
    "tar-zstd": "programs.TarZstd",
    "zip": "programs.Zip",
    "sqlite-zstd": "sqlite.Sqlite",
    "parquet-zstd": "parquet.Parquet",
    "squashfs-zstd": "programs.Squashfs",
    "swh-raw": "swh.RawShard",
    "swh-zstd": "swh.ZstdShard",
}
PEERS = tuple(_PLACES)
"""The names that results use, VERA's first."""


@lru_cache
def peer(name: str) -> Peer:
    """The peer of that name. Loads what it needs and no other does, whose memory is measured, too."""
    module, _, kind = _PLACES[name].partition(".")
    return cast("Peer", getattr(import_module(f"{__name__}.{module}"), kind)())
