"""The probe: does a store keep the promises on which the archive rests? It tries to break each, and says what it saw.

Everything happens on small objects under `probe/`, locked for seconds. `hygiene` alone only looks at the bucket's
settings: the daily check. What follows from a broken promise (who is refused what) is decided by `vera init`.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vera_core.store.cold import takes_offline
from vera_core.store.probe_checks import (
    DATA,
    clock_promises,
    content_promises,
    lock_promises,
    marker_promises,
    race_promises,
)
from vera_core.store.probe_holds import hold_promises
from vera_core.store.probe_tags import tag_promises
from vera_core.store.promises import Bench, ProbeReport, Promise, Topic, Verdict

if TYPE_CHECKING:
    from vera_core.store.base import LifecycleRule, ObjectStore

__all__ = ["HygieneFinding", "ProbeReport", "Promise", "Topic", "Verdict", "hygiene", "probe"]

LOCK_SECONDS = 12
"""How long the probe's locks last; a check that takes longer can't say."""
GROUPS = (
    lock_promises, race_promises, content_promises, hold_promises, tag_promises, marker_promises, clock_promises,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HygieneFinding:
    """A setting of the bucket that endangers the archive (`required`) or could not be read, and what to do about it."""

    name: str
    what: str
    todo: str
    required: bool = True


def probe(store: ObjectStore, *, prefix: str = "", racers: int = 16, lock_seconds: int = LOCK_SECONDS) -> ProbeReport:
    """Tries every promise out on small objects under `<prefix>/probe/`. Takes up to a minute; needs full rights.

    Args:
        store: the bucket; it must exist.
        prefix: the repository's prefix in it, without a slash at its end.
        racers: how many conditional PUTs race each other.
        lock_seconds: how long the probe's locks last.

    Raises:
        VeraError: the store can't be reached, or refuses even a plain PUT.
    """
    base = f"{prefix}/probe/" if prefix else "probe/"
    bench = Bench(store, f"{base}{uuid.uuid4().hex}/", racers, lock_seconds)
    store.put(bench.key("plain"), DATA)  # a store that refuses this one is not worth probing
    promises: list[Promise] = []
    for group in GROUPS:
        promises += group(bench)
    promises += _hygiene_promises(store, prefix)
    return ProbeReport(store.bucket, prefix, tuple(promises), bench.tells_markers, bench.clean())


def hygiene(store: ObjectStore, prefix: str = "") -> list[HygieneFinding]:
    """Judges the bucket's settings by looking only; [] if all is well.

    Raises:
        VeraError: the store can't be reached or denies reading its settings.
    """
    ours = f"{prefix}/" if prefix else ""
    state = store.bucket_state()
    if not state.exists:
        return [HygieneFinding("bucket", "there is no such bucket", "Create it with `vera init`.")]
    findings = []
    if not state.versioning:
        findings.append(
            HygieneFinding(
                "versioning", "versioning is off or suspended", "Turn it on: without it a PUT destroys what was there."
            )
        )
    if not state.object_lock:
        findings.append(
            HygieneFinding("object lock", "Object Lock is off", "Use a bucket that was created with Object Lock.")
        )
    if state.default_retention:
        findings.append(
            HygieneFinding(
                "default retention",
                f"the bucket locks every new object by default ({state.default_retention})",
                "Remove the default retention: it would lock keyrings and sidecars, which must stay changeable.",
            )
        )
    findings += [
        HygieneFinding(
            "expiration",
            f"lifecycle rule {rule.rule_id or '(unnamed)'!r} removes objects under {rule.prefix or '(everything)'!r}",
            "Remove the rule or keep it off the repository's prefix.",
        )
        for rule in state.expirations or ()
        if _meets(rule, ours)
    ]
    findings += [
        HygieneFinding(
            "transition",
            f"lifecycle rule {rule.rule_id or '(unnamed)'!r} moves objects under {rule.prefix or '(everything)'!r} to "
            f"{', '.join(rule.storage_classes)}, where nothing can be read",
            "Replace it by the rule of `vera gc --lifecycle-rule`, which moves superseded shards only.",
        )
        for rule in state.transitions or ()
        if takes_offline(rule) and _meets(rule, ours)
    ]
    unread = {"default retention": state.default_retention, "expiration": state.expirations}
    findings += [
        HygieneFinding(name, "the store does not offer to read this setting", "Check it by hand.", required=False)
        for name, value in unread.items()
        if value is None
    ]
    return findings


def _meets(rule: LifecycleRule, ours: str) -> bool:
    """Whether a rule is about any key under `ours`."""
    return rule.prefix.startswith(ours) or ours.startswith(rule.prefix)


def _hygiene_promises(store: ObjectStore, prefix: str) -> list[Promise]:
    findings = hygiene(store, prefix)
    meanings = {
        "bucket": "there is a bucket",
        "versioning": "what was stored is kept when a key is written again",
        "object lock": "the bucket can lock versions",
        "default retention": "nothing is locked that must stay changeable",
        "expiration": "the store removes nothing by itself",
        "transition": "the store moves nothing that counts to where it can't be read",
    }
    return [
        _hygiene_promise(name, meaning, [finding for finding in findings if finding.name == name])
        for name, meaning in meanings.items()
    ]


def _hygiene_promise(name: str, meaning: str, findings: list[HygieneFinding]) -> Promise:
    required = not findings or any(finding.required for finding in findings)
    verdict = Verdict.HELD if not findings else Verdict.BROKEN if required else Verdict.UNKNOWN
    evidence = " ".join(f"{finding.what}. {finding.todo}" for finding in findings) or "as it should be"
    # Who accepts a store without enforced locks accepts a bucket without them.
    topic = Topic.LOCKS if name == "object lock" else Topic.HYGIENE
    return Promise(f"hygiene: {name}", topic, meaning, verdict, evidence, required=required)
