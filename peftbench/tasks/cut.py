"""Cut a data set once into train, val and test, the same on every machine.

The order of samples comes from SHA-256, not from a random generator, so no library version can
change a split. Shapes: N samples, H and W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
SEED = 0
TRAIN = 800
VAL = 200
TEST_CAP = 2000


@dataclass(frozen=True)
class Decoded:
    """A whole data set as its package holds it.

    Attributes:
        images: (N, 3, H, W) uint8.
        labels: (N,) int64 class indices.
        names: class names.
        official_test: (N,) bool, True where the publisher's own test part is, or None where the
            publisher made no parts.

    """

    images: NDArray[np.uint8]
    labels: Ints
    names: tuple[str, ...]
    official_test: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Cut:
    """Positions of the samples of each split, and what was left out as a duplicate.

    Attributes:
        splits: int64 positions by name, train, val and test.
        copies: samples left out because an equal sample with the same label is kept.
        conflicting: samples left out because an equal sample has another label.

    """

    splits: dict[str, Ints]
    copies: int
    conflicting: int


def cut(data: Decoded, task: str, seed: int = SEED, test_cap: int = TEST_CAP) -> Cut:
    """Cut images into 800 train, 200 val and up to ``test_cap`` test samples.

    Exact copies are removed first, so no image is in two splits. The classes have the same shares
    in every split as in the part that the split comes from (largest remainder). Where the
    publisher made a test part, test comes from it and train and val from the rest.

    Raises:
        ValueError: fewer than 1,000 samples for train and val, or none for test.

    """
    keep, copies, conflicting = without_copies(
        [image.tobytes() for image in data.images], data.labels, data.official_test
    )
    if data.official_test is None:
        train, val, rest = _train_val(data.labels, keep, task, seed)
    else:
        held_out = data.official_test[keep]
        train, val, _ = _train_val(data.labels, keep[~held_out], task, seed)
        rest = keep[held_out]
    if len(rest) == 0:
        raise ValueError(f"task '{task}' leaves no sample for the test split")
    test, _ = take(data.labels, rest, min(test_cap, len(rest)), task, seed)
    return Cut({"train": train, "val": val, "test": test}, copies, conflicting)


def _train_val(labels: Ints, pool: Ints, task: str, seed: int) -> tuple[Ints, Ints, Ints]:
    if len(pool) < TRAIN + VAL:
        raise ValueError(f"task '{task}' has {len(pool)} different samples, needs {TRAIN + VAL}")
    chosen, rest = take(labels, pool, TRAIN + VAL, task, seed)
    train, val = take(labels, chosen, TRAIN, task, seed)
    return train, val, rest


@dataclass(frozen=True)
class Sizes:
    """Upper limits of the splits of a task that is cut by shares.

    Attributes:
        train: of train; what val and test leave is the other limit.
        val: of val.
        test: of test.
        val_share: of all samples, the other limit of val.
        test_share: of all samples, the other limit of test.

    """

    train: int = 2000
    val: int = 500
    test: int = 2000
    val_share: float = 0.2
    test_share: float = 0.4


def cut_shares(
    contents: Sequence[bytes], labels: Ints, groups: Ints | None, task: str, sizes: Sizes
) -> Cut:
    """Cut samples into train, val and test by ``sizes``, with copies removed as in :func:`cut`.

    Without groups the classes have the same shares in every split. Samples of one group stay on
    one side: groups are dealt out whole in hash order as long as they fit, so the shares are kept
    only on average, and a split can be a little smaller than its limit.

    Args:
        contents: what two samples have in common if one is a copy of the other, N of them.
        labels: (N,) int64 classes.
        groups: (N,) int64, or None.
        task: name of the task, part of the order.
        sizes: limits of the splits.

    Raises:
        ValueError: a split is left without samples.

    """
    keep, copies, conflicting = without_copies(contents, labels, None)
    test = min(sizes.test, int(sizes.test_share * len(keep)))
    val = min(sizes.val, int(sizes.val_share * len(keep)))
    counts = {"test": test, "val": val, "train": min(sizes.train, len(keep) - test - val)}
    splits: dict[str, Ints] = {}
    for name, count in counts.items():
        if groups is None:
            splits[name], keep = take(labels, keep, count, task, SEED)
        else:
            splits[name], keep = _take_groups(groups, keep, count, task)
        if not len(splits[name]):
            raise ValueError(f"task '{task}' leaves no sample for the split '{name}'")
    return Cut({name: splits[name] for name in ("train", "val", "test")}, copies, conflicting)


def _take_groups(groups: Ints, pool: Ints, count: int, task: str) -> tuple[Ints, Ints]:
    """Take whole groups of ``pool`` up to ``count`` samples, in hash order; return the rest too."""
    members: dict[int, list[int]] = {}
    for position in pool.tolist():
        members.setdefault(int(groups[position]), []).append(position)
    ordered = sorted(members.values(), key=lambda found: sample_key(task, SEED, min(found)))
    chosen: list[int] = []
    rest: list[int] = []
    for found in ordered:
        (chosen if len(chosen) + len(found) <= count else rest).extend(found)
    chosen.sort(key=lambda i: sample_key(task, SEED, i))
    return np.array(chosen, np.int64), np.array(rest, np.int64)


def take(labels: Ints, pool: Ints, count: int, task: str, seed: int) -> tuple[Ints, Ints]:
    """Take ``count`` positions of ``pool`` with the pool's class shares; return taken and rest.

    Both are in hash order, so any first part of a split mixes the classes.
    """
    ordered = np.array(sorted(pool.tolist(), key=lambda i: sample_key(task, seed, i)), np.int64)
    of_ordered = labels[ordered]
    counts = np.bincount(of_ordered, minlength=int(labels.max()) + 1)
    quotas = shares(counts, count)
    chosen = np.zeros(len(ordered), bool)
    for label, quota in enumerate(quotas):
        chosen[np.flatnonzero(of_ordered == label)[:quota]] = True
    return ordered[chosen], ordered[~chosen]


def sample_key(task: str, seed: int, index: int) -> bytes:
    """Return the key by which sample ``index`` is ordered."""
    return hashlib.sha256(f"{task}|{seed}|{index}".encode()).digest()


def shares(counts: Ints, total: int) -> list[int]:
    """Split ``total`` in proportion to ``counts`` by largest remainder (first class on ties)."""
    everything = int(counts.sum())
    exact = [int(count) * total for count in counts]
    quotas = [product // everything for product in exact]
    order = sorted(range(len(exact)), key=lambda c: (-(exact[c] % everything), c))
    for label in order[: total - sum(quotas)]:
        quotas[label] += 1
    return quotas


def without_copies(
    contents: Sequence[bytes], labels: Ints, official_test: NDArray[np.bool_] | None
) -> tuple[Ints, int, int]:
    """Return positions of different samples, and how many copies and conflicting ones went.

    Of equal samples with one label the first is kept, one of the publisher's test part before one
    of the rest: a copy always goes from the train side. Equal samples with different labels all go.

    Args:
        contents: what is compared, N of them.
        labels: (N,) int64.
        official_test: (N,) bool, True in the publisher's test part; None where there is none.

    """
    equal: dict[bytes, list[int]] = {}
    for index, content in enumerate(contents):
        equal.setdefault(hashlib.sha256(content).digest(), []).append(index)
    keep: list[int] = []
    copies = conflicting = 0
    for group in equal.values():
        if len({int(labels[i]) for i in group}) > 1:
            conflicting += len(group)
            continue
        copies += len(group) - 1
        tested = [i for i in group if official_test is not None and official_test[i]]
        keep.append((tested or group)[0])
    return np.array(sorted(keep), np.int64), copies, conflicting
