"""Which dictionaries a shard gets: one for each kind of file, trained on a sample, where it pays. Pure.

How one is made of files is dictionary.py's business, how files are compressed with it encoding.py's.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from vera_core.codec import MAX_DICTIONARIES
from vera_core.dictionary import TRAINING_FILES, train, train_common
from vera_core.encoding import (
    COMPRESSING,
    DICTIONARY_LEVELS,
    DICTIONARY_UP_TO,
    Encoder,
    Trained,
    choose,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vera_core.model import Policy

TRAINERS = 2
"""Threads that train, each a dictionary: until there are dictionaries, nothing else of a part goes on."""
_MIN_FILES = 64
"""Files of a kind below which no dictionary is tried."""
_MIN_GAIN = 0.03
"""Part of the stored bytes that a dictionary must save to be worth its cold read."""
_LEVEL_GAIN = 0.01
"""Part of the stored bytes that a slower level must save."""


def train_dictionaries(
    contents: Sequence[bytes], media_types: Sequence[str], *, policy: Policy, files: int, common: bool = False
) -> Trained:
    """Dictionaries for a shard of `files` files, of which `contents` are a fair sample; none where they don't pay.

    One for each kind that has files enough in the sample, one for all others. A dictionary pays if it saves more, on
    files that it was not trained on, than its two copies in the shard take. Same sample, same dictionaries.

    With `common` they hold only what many of the files have in common, as those of an encrypted shard must
    (`dictionary.train_common`).

    Takes some 0.05 s a kind: one is trained on `TRAINING_FILES` files and 640 KiB at most, and tried on as many files.
    A common one is trained on three quarters of its kind, as it has to count, and takes some 0.1 s.
    """
    samples: dict[str, list[bytes]] = {}
    for content, media_type in zip(contents, media_types, strict=True):
        if len(content) <= DICTIONARY_UP_TO and choose(content, policy).codec in COMPRESSING:
            samples.setdefault(kind_of(content, media_type), []).append(content)
    rare = [kind for kind, own in samples.items() if len(own) < _MIN_FILES]
    others = [content for kind in rare for content in samples.pop(kind)]
    if len(others) >= _MIN_FILES:
        samples[""] = others
    chosen: list[tuple[bytes, int]] = []
    kinds: dict[str, int] = {}
    frequent = Counter({kind: len(own) for kind, own in samples.items()}).most_common(MAX_DICTIONARIES)

    def paying_of(kind: str, count: int) -> tuple[bytes, int] | None:
        return _paying(samples[kind], policy, files * count // len(contents), common=common)

    with ThreadPoolExecutor(TRAINERS) as pool:
        found = list(pool.map(paying_of, *zip(*frequent, strict=True))) if frequent else []
    for (kind, _), paying in zip(frequent, found, strict=True):
        if paying is not None:
            chosen.append(paying)
            kinds[kind] = len(chosen)
        elif kind:
            kinds[kind] = 0
    return Trained(tuple([dictionary for dictionary, _ in chosen]), kinds, tuple([level for _, level in chosen]))


def _paying(samples: list[bytes], policy: Policy, files: int, *, common: bool) -> tuple[bytes, int] | None:
    """A dictionary trained on three quarters of `samples`, if it pays for `files` files on the evidence of the rest.

    With it the level that is best there.
    """
    usual, *slower = DICTIONARY_LEVELS[policy]
    cut = len(samples) * 3 // 4
    cut = cut if common else min(TRAINING_FILES, cut)
    dictionary = train_common(samples[:cut]) if common else train(samples[:cut], usual)
    if dictionary is None:
        return None
    test = samples[cut : cut + TRAINING_FILES]

    def stored(trained: Trained) -> int:
        return int(Encoder(policy, trained).encode(test).facts["stored_size"].sum())

    without, level = stored(Trained()), usual
    having = stored(Trained((dictionary,), {"": 1}, (usual,)))
    for other in slower:
        size = stored(Trained((dictionary,), {"": 1}, (other,)))
        if size < having * (1 - _LEVEL_GAIN):
            having, level = size, other
    pays = (without - having) * files / len(test) > 2 * len(dictionary) and having < without * (1 - _MIN_GAIN)
    return (dictionary, level) if pays else None
