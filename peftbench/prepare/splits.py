"""Published lists of file names that decide which images are for training and validation.

A file of lists is JSON: data set -> names. The data set goes by our name of the task, its folder
or its builder in TensorFlow Datasets. The names are either a list of 1,000, the first 800 for
training, or ``{"train": [...], "val": [...]}`` (``train800`` and ``val200`` are understood too).
A name is what TensorFlow Datasets calls the file: its key, or the last part of it where that is
unique.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..errors import ConfigError, CorruptAssetError, MissingAssetError
from ..files import sha256_file
from .order import Cut, Record

Chosen = dict[str, list[tuple[str, Record]]]
ALIASES = {"train": ("train", "train800"), "val": ("val", "val200")}


class SplitLists:
    """A file of published lists.

    Attributes:
        path: the JSON file.
        sha256: its digest.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: it is no JSON object.

    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise MissingAssetError(f"there is no file {path} (key: splits)")
        try:
            self._lists = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CorruptAssetError(f"{path} is no JSON: {error} (key: splits)") from error
        if not isinstance(self._lists, dict):
            raise CorruptAssetError(f"{path} is no JSON object (key: splits)")
        self.sha256 = sha256_file(path)

    def names(self, keys: Sequence[str], train: int) -> dict[str, list[str]]:
        """Return the names for ``train`` and ``val`` of the first of ``keys`` that is there.

        Args:
            keys: names of one data set.
            train: so many names of a single list are for training.

        Raises:
            ConfigError: the file has no list for it.
            CorruptAssetError: what it has is no list of names.

        """
        found = [self._lists[key] for key in keys if key in self._lists]
        if not found:
            raise ConfigError(
                f"{self.path} has no list for {', '.join(keys)} (key: splits)\n  it has: "
                f"{', '.join(sorted(self._lists))}\n  tasks without a list are built without "
                "splits=, in the order that order= names"
            )
        entry = found[0]
        if isinstance(entry, list):
            entry = {"train": entry[:train], "val": entry[train:]}
        out = {}
        for part, aliases in ALIASES.items():
            names = next((entry[a] for a in aliases if a in entry), None)
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise CorruptAssetError(
                    f"{self.path}: {keys[0]} has no list of names for {part} (key: splits)"
                )
            out[part] = names
        return out


def choose(
    names: Mapping[str, Sequence[str]], splits: Mapping[str, Sequence[Record]], cut: Cut
) -> Chosen:
    """Return the parts that published names decide; the test part stays as it is cut.

    Args:
        names: "train" and "val" -> names.
        splits: split -> records in order.
        cut: where the parts are looked for.

    Raises:
        CorruptAssetError: a name is not in the split, or stands for several images.

    """
    homes = {"train": "train", "val": cut.val}
    out: Chosen = {}
    for part, home in homes.items():
        index = _index(splits[home])
        out[part] = []
        for name in names[part]:
            at = index.get(name)
            if at is None:
                raise CorruptAssetError(
                    f"the list for {part} names '{name}', which split {home} does not hold, or "
                    "which stands for several of its images (key: splits)"
                )
            out[part].append((home, splits[home][at]))
    used = {(home, record.key) for part in out.values() for home, record in part}
    rest = cut.parts(splits, 0, 0)["test"]
    out["test"] = [(split, record) for split, record in rest if (split, record.key) not in used]
    return out


def _index(records: Sequence[Record]) -> dict[str, int]:
    """Return name -> position, by whole names and by last parts that are unique."""
    whole = {record.name: i for i, record in enumerate(records)}
    last = [record.name.rpartition("/")[2] for record in records]
    once = Counter(last)
    return {n: i for i, n in enumerate(last) if once[n] == 1} | whole
