"""Which captioned pictures show one concept: they must not be on two sides of a split.

Two pictures belong together if they share a key: a whole caption, a thing that some caption is
about, or a file's name without its number. A chain of shared keys makes a group.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from .cut import sample_key

_BREAKS = (
    "a an the of with in from and or on to at by for is are was that which as its it his her into"
    " inside between"
)
_COLOURS = "red blue green yellow white black brown pink purple grey gray"
_VARIANTS = (
    "man woman men women person people boy girl male female adult child older old two three facing"
    " right left"
)
NO_THING = frozenset(f"{_COLOURS} {_VARIANTS} pair baby remember".split())
"""Words at the end of a name by which variants of a thing differ, or that name no thing."""
LARGEST = 12
"""A group of more pictures than this stays in train: it would fill another split alone."""

_CHUNK = re.compile(rf"[^\w\s'’-]|\b(?:{_BREAKS.replace(' ', '|')})\b")
_WORD = re.compile(r"[\w'’-]+")
_NUMBER = re.compile(r"([-_.]?\d+|[-_][a-z])$")


def things(captions: Sequence[str]) -> set[str]:
    """Return what captions are about: the last word of the name that each begins with."""
    found = set()
    for caption in captions:
        chunks = [chunk.split() for chunk in _CHUNK.split(caption.lower())]
        if named := [words for words in chunks if words]:
            found.add(singular(named[0][-1]))
    return {word for word in found if len(word) > 2} - NO_THING


def keys(captions: Sequence[str], known: Collection[str], file: str = "") -> set[str]:
    """Return the keys of one picture.

    Args:
        captions: all of its captions.
        known: what any caption of the data set is about; see :func:`things`.
        file: name of its file without the ending; empty where that says nothing.

    """
    words = [[singular(w) for w in _WORD.findall(caption.lower())] for caption in captions]
    found = {word for caption in words for word in caption if word in known}
    found |= {f"caption:{' '.join(caption)}" for caption in words}
    if file:
        found |= {w for w in map(singular, re.split(r"[^a-z]+", file.lower())) if w in known}
        found.add(f"file:{_NUMBER.sub('', file.lower())}")
    return found


def singular(word: str) -> str:
    """Return a word without the endings of a plural or an owner, near enough for comparing."""
    word = word.strip("'’-").removesuffix("'s").removesuffix("’s")
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and re.search(r"(s|x|z|ch|sh)es$", word):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def groups(keyed: Sequence[Collection[str]]) -> list[list[int]]:
    """Return the groups of samples that share keys, each in order, by their first samples."""
    parent = list(range(len(keyed)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    owner: dict[str, int] = {}
    for i, own in enumerate(keyed):
        for key in sorted(own):
            parent[root(i)] = root(owner.setdefault(key, i))
    found: dict[int, list[int]] = {}
    for i in range(len(keyed)):
        found.setdefault(root(i), []).append(i)
    return sorted(found.values())


def deal(
    grouped: Sequence[Sequence[int]], task: str, seed: int, val: float, test: float
) -> dict[str, list[int]]:
    """Return the positions of train, val and test in hash order; no group is in two of them.

    Groups are dealt in the order of a hash, first to test, then to val, as long as they fit; what
    is left, and every group of more than ``LARGEST``, is train.

    Args:
        grouped: positions of every group.
        task: name of the task, part of the order.
        seed: of the order.
        val: share of all samples.
        test: share of all samples.

    Raises:
        ValueError: a split is left empty.

    """
    total = sum(map(len, grouped))
    room = {"test": round(test * total), "val": round(val * total)}
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for group in sorted(grouped, key=lambda found: sample_key(task, seed, min(found))):
        fits = [s for s in ("test", "val") if len(parts[s]) + len(group) <= room[s]]
        small = len(group) <= LARGEST
        parts[fits[0] if fits and small else "train"].extend(group)
    if not all(parts.values()):
        raise ValueError(f"task '{task}': {total} samples in {len(grouped)} groups fill no splits")
    return {
        name: sorted(part, key=lambda i: sample_key(task, seed, i)) for name, part in parts.items()
    }
