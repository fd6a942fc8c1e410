"""Cold storage for superseded shards: the tag by which they are known, and the lifecycle rule that moves them.

VERA sets the tag (`operations/gc.py`) and copies nothing; moving is the store's business, by a rule that the operator
gives it. S3's words, and no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vera_core.errors import UsageError

if TYPE_CHECKING:
    from vera_core.keyspace import Keyspace
    from vera_core.store.base import LifecycleRule

SUPERSEDED = ("vera-state", "superseded")
"""The tag of a shard version that a repack or a disposal ended, and that waits for the end of its lock."""
OFFLINE = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes from which nothing is read before it was restored."""
COLD = ("GLACIER_IR", "GLACIER", "DEEP_ARCHIVE")
"""Storage classes that pay for what nobody reads; each bills an object for 90 or 180 days at least."""
RULE_ID = "vera-superseded"


def lifecycle_configuration(keys: Keyspace, storage_class: str) -> dict[str, Any]:
    """What `aws s3api put-bucket-lifecycle-configuration` takes: superseded shards move, nothing ever expires.

    A version is current as long as no other has its key, so the rule moves current and noncurrent ones.

    Raises:
        UsageError: that is no storage class for it.
    """
    if storage_class not in COLD:
        raise UsageError(f"{storage_class!r} is no cold storage class", todo=f"Give one of {', '.join(COLD)}.")
    name, value = SUPERSEDED
    rule = {
        "ID": RULE_ID,
        "Status": "Enabled",
        "Filter": {"And": {"Prefix": keys.tenants_prefix, "Tags": [{"Key": name, "Value": value}]}},
        # Days count from the upload of a version, and from when it got a successor; the tag comes a day later anyway.
        "Transitions": [{"Days": 1, "StorageClass": storage_class}],
        "NoncurrentVersionTransitions": [{"NoncurrentDays": 1, "StorageClass": storage_class}],
    }
    return {"Rules": [rule]}


def takes_offline(rule: LifecycleRule) -> bool:
    """Whether a transition moves more than superseded shards to where they can't be read."""
    return not OFFLINE.isdisjoint(rule.storage_classes) and SUPERSEDED not in rule.tags
