r"""In which order a data set's examples stand, which decides the 800 and the 200 of VTAB-1K.

The benchmark takes "the first 800" in the order of TensorFlow Datasets. That library gives every
example a key (a file name or a running number), hashes it, and stores the examples of a split by
rising hash, cut into shards one behind the other. So the order follows from the keys alone:

    hash(split, key) = MD5(split name as UTF-8, then the key as UTF-8), read as a 128-bit integer

with whole numbers as decimal digits and ``\`` in a key as ``/``. Source: the modules ``hashing``
and ``shuffle`` of tensorflow_datasets 4.4.0 (the version that VPT names) and 4.9.10, which agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import CorruptAssetError

Key = str | int | bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One example of a split.

    Attributes:
        key: what the order is computed from; unique in its split.
        label: class, from 0.
        ref: where its image is: a member's name or a row.
        title: the name that published lists use; empty: the key.

    """

    key: Key
    label: int
    ref: str | int
    title: str = ""

    @property
    def name(self) -> str:
        """Return the name that published lists use."""
        return self.title or _bytes(self.key).decode()


def _bytes(key: Key) -> bytes:
    if isinstance(key, bytes):
        return key
    return str(key).replace("\\", "/").encode()


def tfds_hash(split: str, key: Key) -> int:
    """Return the 128-bit number by which TensorFlow Datasets sorts ``key`` in ``split``."""
    return int.from_bytes(hashlib.md5(split.encode() + _bytes(key)).digest(), "big")


def by_hash(split: str, records: Sequence[Record]) -> list[Record]:
    """Return records in the order of TensorFlow Datasets.

    Raises:
        CorruptAssetError: two examples have one key, which that library refuses too.

    """
    ranked = sorted((tfds_hash(split, record.key), i) for i, record in enumerate(records))
    for (one, i), (two, _) in pairwise(ranked):
        if one == two:
            raise CorruptAssetError(f"{split}: two examples have the key {records[i].name}")
    return [records[i] for _, i in ranked]


def shuffled(records: Sequence[Record], seed: int) -> list[Record]:
    """Return records, taken in the archive's order, in a shuffle that ``seed`` gives."""
    order = np.random.default_rng(seed).permutation(len(records))
    return [records[i] for i in order]


def arrange(
    splits: Mapping[str, Sequence[Record]], order: str, seed: int
) -> dict[str, list[Record]]:
    """Return every split in the wanted order: ``tfds`` or ``source``."""
    ways: dict[str, Callable[[str, Sequence[Record]], list[Record]]] = {
        "tfds": by_hash,
        "source": lambda _, records: shuffled(records, seed),
    }
    return {split: ways[order](split, records) for split, records in splits.items()}


@dataclass(frozen=True)
class Cut:
    """Which parts of the original splits a task's three parts are (source: VTAB's data classes).

    Attributes:
        val: the split whose examples are for validation.
        test: the split whose examples are for the test.
        share: percent of split "train" that is for training where validation is its rest.
        middle: percent of the split that is for validation where the test is the rest of it.

    """

    val: str
    test: str
    share: int = 100
    middle: int = 0

    def bounds(self, splits: Mapping[str, Sequence[Record]]) -> tuple[int, int, int]:
        """Return where training ends in "train", and where validation and test begin in theirs."""
        n_val = len(splits[self.val])
        n_train = len(splits["train"])
        start = self.share * n_train // 100 if self.val == "train" else 0
        test = start + self.middle * n_val // 100 if self.test == self.val else 0
        return (start if self.val == "train" else n_train), start, test

    def parts(
        self, splits: Mapping[str, Sequence[Record]], train: int, val: int
    ) -> dict[str, list[tuple[str, Record]]]:
        """Return part -> (split, record) of at most ``train`` and ``val`` examples, and the test.

        Args:
            splits: split -> records in order.
            train: the length of the part for training, 800.
            val: the length of the part for validation, 200.

        """
        end, start, test = self.bounds(splits)
        last = test if self.test == self.val else len(splits[self.val])
        return {
            "train": [("train", r) for r in splits["train"][: min(train, end)]],
            "val": [(self.val, r) for r in splits[self.val][start : min(start + val, last)]],
            "test": [(self.test, r) for r in splits[self.test][test:]],
        }
