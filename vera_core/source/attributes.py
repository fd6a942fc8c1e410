"""What the shard format says of a row's media type and metadata, asked while the row is frozen.

Apart from rows.py so that processes that only read files don't load the format.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from vera_core.errors import UsageError
from vera_core.format.columns import encode_attributes

if TYPE_CHECKING:
    from vera_core.source.rows import Metadata


@lru_cache(maxsize=4096)
def attribute_trouble(media_type: str, metadata: Metadata) -> str:
    """What keeps media type and metadata out of a shard (format v1's limits), "" if nothing does."""
    try:
        encode_attributes(media_type, metadata)
    except UsageError as error:
        return error.what
    return ""
