"""A corpus: files below one directory, and what is known of them without looking at them, as a database would know it.

`lay_out` writes one, `Corpus.load` finds it again in another process. What is in the files is the business of
records.py and corpora.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

FILES_PER_DIRECTORY = 1000


class Item(NamedTuple):
    """A file: its uid, its path from the corpus's root, its bytes, and its microseconds since 1970 UTC.

    Neither uid nor path contains a tab or a line's end. The file's modification time is `created_at`.
    """

    uid: str
    path: str
    size: int
    created_at: int


@dataclass(frozen=True, slots=True)
class Corpus:
    """What was laid out in `directory`; `distinct` counts different contents."""

    name: str
    directory: Path
    files: int
    content_bytes: int
    distinct: int

    @classmethod
    def load(cls, directory: Path) -> Self:
        """The corpus that lies in `directory`."""
        facts = json.loads(_facts(directory).read_text())
        return cls(**{**facts, "directory": directory})

    @property
    def root(self) -> Path:
        """The directory with the files, and nothing else."""
        return self.directory / "files"

    def items(self) -> Iterator[Item]:
        """All files, read from a listing, in the order in which they were made."""
        with _listing(self.directory).open(encoding="utf-8") as lines:
            for line in lines:
                uid, path, size, created_at = line.split("\t")
                yield Item(uid, path, int(size), int(created_at))

    def sample(self, count: int, *, seed: int = 1) -> list[Item]:
        """Up to `count` different files, in random order."""
        chosen = random.Random(seed).sample(range(self.files), min(count, self.files))
        wanted = set(chosen)
        found = {number: item for number, item in enumerate(self.items()) if number in wanted}
        return [found[number] for number in chosen]

    def content(self, item: Item) -> bytes:
        """What the file holds."""
        return (self.root / item.path).read_bytes()


def lay_out(name: str, directory: Path, files: Iterable[tuple[Item, bytes]]) -> Corpus:
    """Writes files and their listing into `directory`, which must not exist."""
    root = directory / "files"
    root.mkdir(parents=True)
    made: set[str] = set()
    digests: set[bytes] = set()
    count = total = 0
    with _listing(directory).open("w", encoding="utf-8") as listing:
        for item, content in files:
            folder = item.path.rpartition("/")[0]
            if folder not in made:
                (root / folder).mkdir(parents=True, exist_ok=True)
                made.add(folder)
            path = f"{root}/{item.path}"
            Path(path).write_bytes(content)
            os.utime(path, ns=(item.created_at * 1000, item.created_at * 1000))
            listing.write("\t".join(map(str, item)) + "\n")
            digests.add(hashlib.sha256(content).digest()[:16])
            count += 1
            total += len(content)
    corpus = Corpus(name, directory, count, total, len(digests))
    _facts(directory).write_text(json.dumps(asdict(corpus), default=str))
    return corpus


def _listing(directory: Path) -> Path:
    return directory / "listing.tsv"


def _facts(directory: Path) -> Path:
    return directory / "corpus.json"
