"""Since when shard versions of a slot don't count, by the times of its records, which are the store's. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vera_core.model import parse_time
from vera_core.slotrecords import apply
from vera_core.slots import SlotState

if TYPE_CHECKING:
    from datetime import datetime

Name = tuple[str, str]
"""Key and VersionId."""

ENDING = "repack", "retain", "dispose", "condemn"
"""Types of records after which a version may be superseded, or condemned and not live."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Since when each version is superseded, and since when it was both condemned and not live for the first time.

    Whatever was condemned while it was live has its grace period from when it was superseded.
    """

    superseded: dict[Name, datetime] = field(default_factory=dict)
    condemned: dict[Name, datetime] = field(default_factory=dict)


def ends_of(state: SlotState) -> Ends:
    """What ended in a slot, and when; `state` must come from the whole log."""
    past = SlotState(state.slot)
    ends = Ends()
    for record in state.records:
        apply(past, record)
        if record.type in ENDING:
            moment = parse_time(record.body["time"])
            live = {(shard.key, shard.version_id) for shard in past.live()}
            for shard in past.superseded:
                ends.superseded.setdefault((shard.key, shard.version_id), moment)
            for name in past.condemned - live:
                ends.condemned.setdefault(name, moment)
    return ends
