"""A person's own pictures in folders, one folder per class.

Either ``root/{train,val,test}/<class>/...``, where val may be missing and is then cut from train,
or ``root/<class>/...``, which is cut into all three. A cut keeps the shares of the classes and
depends on the seed and the sorted relative paths alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..errors import ConfigError, CorruptAssetError, MissingAssetError
from .base import SPLITS, DataSpec, Task, manifest_digest
from .cut import take
from .listed import Listed, manifest_of, task_of

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""What a picture's name ends in, in any case; other files are no part of the data."""


@dataclass(frozen=True)
class ImageFolder(DataSpec):
    """Data spec of pictures in folders.

    Attributes:
        root: the folder.
        task: the task's name in results.
        val: share that is cut for val where there is no val folder.
        test: share that is cut for test where there are no folders of splits.
        seed: of the cut.

    """

    takes: ClassVar[str] = "image"

    root: str
    task: str = "image_folder"
    val: float = 0.1
    test: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        for key, share in (("val", self.val), ("test", self.test)):
            if not 0 < share < 1:
                raise ConfigError(f"data.{key}: a share between 0 and 1 is needed, got {share}")
        if self.val + self.test >= 1:
            raise ConfigError(f"data.val and data.test: {self.val} and {self.test} leave no train")
        if not self.task:
            raise ConfigError("data.task: the task needs a name")

    @property
    def name(self) -> str:
        """The task's name in results."""
        return self.task

    @property
    def folder(self) -> Path:
        """The root.

        Raises:
            MissingAssetError: there is no such folder.

        """
        folder = Path(self.root).expanduser()
        if not folder.is_dir():
            raise MissingAssetError(f"there is no folder {folder} (key: data.root)")
        return folder

    @cached_property
    def lists(self) -> tuple[dict[str, Listed], tuple[str, ...], str]:
        """The three splits, the class names, and how the splits came about.

        Raises:
            MissingAssetError: no folder, or no picture.
            CorruptAssetError: the folders make no data set; says what was expected.

        """
        folder = self.folder
        found = {name for name in SPLITS if (folder / name).is_dir()}
        if not found:
            return self._cut_all(folder)
        if not {"train", "test"} <= found:
            raise CorruptAssetError(
                f"{folder}: of the folders train, val and test there is only "
                f"{', '.join(sorted(found))}; train and test are needed (val is cut from train "
                "where it is missing), or none of them, then all three are cut from the classes"
            )
        classes = classes_in(folder / "train")
        parts = {name: pictures(folder, name, classes) for name in SPLITS if name in found}
        if "val" in found:
            return parts, classes, "folders"
        train, val = self._cut(parts["train"], self.val, "val")
        return parts | {"train": train, "val": val}, classes, "folders, val cut from train"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Class names, and per split the count and the checksum of paths and labels.

        The checksum of ``sizes`` stands for the content: a picture that is replaced by one of
        exactly its size in bytes is not noticed.

        Raises:
            MissingAssetError: a picture is a link to nothing.

        """
        parts, classes, splits = self.lists
        sizes = [
            f"{path} {_size(listed.folder / path)}"
            for listed in (parts[name] for name in SPLITS)
            for path in listed.paths
        ]
        more = {"cut": splits, "sizes": manifest_digest({"sizes": sizes})}
        return manifest_of(self.name, "image folder", classes, parts, (), **more)

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the same wherever the folder lies."""
        return manifest_digest(self.manifest)

    def load(self) -> Task:
        """Return the task; its images are decoded when asked for."""
        return task_of(self.manifest, self.lists[0], upright=True)

    def _cut_all(self, folder: Path) -> tuple[dict[str, Listed], tuple[str, ...], str]:
        classes = classes_in(folder)
        everything = pictures(folder, "", classes)
        rest, test = self._cut(everything, self.test, "test")
        train, val = self._cut(rest, self.val / (1 - self.test), "val")
        return {"train": train, "val": val, "test": test}, classes, f"seed {self.seed}"

    def _cut(self, listed: Listed, share: float, key: str) -> tuple[Listed, Listed]:
        """Return what is left and what is cut off."""
        count = round(share * len(listed))
        if not 0 < count < len(listed):
            raise CorruptAssetError(
                f"{self.root}: {len(listed)} pictures are too few to cut {share:.3g} of them "
                f"(key: data.{key})"
            )
        labels = np.array(listed.labels, np.int64)
        off, rest = take(labels, np.arange(len(labels)), count, key, self.seed)
        return listed.take(sorted(rest.tolist())), listed.take(sorted(off.tolist()))


def classes_in(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in ``folder``, sorted; hidden ones are left out.

    Raises:
        MissingAssetError: there is none.

    """
    names = sorted(e.name for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise MissingAssetError(f"{folder} has no folders of classes (key: data.root)")
    return tuple(names)


def pictures(folder: Path, split: str, classes: Sequence[str]) -> Listed:
    """List the pictures of every class below ``folder/split``, in the order of their paths.

    Raises:
        MissingAssetError: a class of train has no picture, or the split has none.
        CorruptAssetError: the split has a class that ``classes`` has not.

    """
    below = folder / split
    there = set(classes_in(below))
    if strange := sorted(there - set(classes)):
        raise CorruptAssetError(
            f"{below / strange[0]}: train has no class of this name; it has {len(classes)} classes"
        )
    rank: Mapping[str, int] = {name: label for label, name in enumerate(classes)}
    paths: list[str] = []
    labels: list[int] = []
    for name in sorted(there):
        mine = sorted(_files(below / name))
        if not mine and split in ("", "train"):
            raise MissingAssetError(
                f"{below / name} holds no picture (endings: {', '.join(ENDINGS)})"
            )
        paths += [(Path(split) / name / file).as_posix() for file in mine]
        labels += [rank[name]] * len(mine)
    if not paths:
        raise MissingAssetError(f"{below} holds no picture (endings: {', '.join(ENDINGS)})")
    return Listed(below, folder, tuple(paths), tuple(labels))


def _files(folder: Path) -> list[str]:
    """Return the relative paths of all pictures below ``folder``; hidden files are left out.

    Links to folders are followed, but no folder is entered twice.
    """
    found = []
    entered: set[str] = set()
    for at, folders, names in os.walk(folder, followlinks=True):
        if os.path.realpath(at) in entered:
            folders.clear()
            continue
        entered.add(os.path.realpath(at))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if name.lower().endswith(ENDINGS) and not name.startswith("."):
                found.append(Path(at, name).relative_to(folder).as_posix())
    return found


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise MissingAssetError(f"the picture {path} is a link to nothing") from error
