"""CIFAR-100 with all its images, from the archive or folder that its authors publish.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009). The files are
pickles; they are read by an unpickler that builds arrays and plain values and nothing else.

Shapes: N images, 32 pixels high and wide, 3 channels.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, CorruptAssetError, MissingAssetError
from ..files import sha256_tensors
from .base import SPLITS, Classification, DataSpec, Task, manifest_digest
from .batch import Split

FOLDER = "cifar-100-python"
ARCHIVE = f"{FOLDER}.tar.gz"
CLASSES, TRAIN, TEST = 100, 50_000, 10_000
MD5: Mapping[str, str] = {
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}
"""The published files, as torchvision knows them."""

_RECONSTRUCT = np.empty(0).__reduce__()[0]
ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
}
"""All that a pickle may name: what an array of numbers is made of."""


class Unpickler(pickle.Unpickler):
    """Reads arrays, bytes, text, numbers, lists and dictionaries, and refuses all else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few allowed names.

        Raises:
            UnpicklingError: any other name.

        """
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return ALLOWED[module, name]


@dataclass(frozen=True)
class Cifar100(DataSpec):
    """Data spec of CIFAR-100: 50,000 images to train, 10,000 to test, fine labels.

    Attributes:
        root: the folder ``cifar-100-python``, the archive ``cifar-100-python.tar.gz``, or the
            folder that holds one of them.
        holdout: so many images at the end of train are val.
        strict: refuse other counts than the published ones.

    """

    takes: ClassVar[str] = "image"
    name: ClassVar[str] = "cifar100"

    root: str
    holdout: int = 5_000
    strict: bool = True

    def __post_init__(self) -> None:
        if self.holdout < 1:
            raise ConfigError(f"data.holdout: expected 1 or more, got {self.holdout}")

    @cached_property
    def parts(self) -> tuple[dict[str, Split], dict[str, Any]]:
        """The three splits in memory, and the manifest.

        Raises:
            MissingAssetError: neither folder nor archive is there.
            CorruptAssetError: a file is not what it should be; names it.

        """
        place = find(self.root)
        files = {name: read_file(place, name) for name in MD5}
        names = _names(unpickle(files["meta"], place, "meta"), place)
        train_N, labels_N = _images(unpickle(files["train"], place, "train"), place, "train")
        test_N, test_labels_N = _images(unpickle(files["test"], place, "test"), place, "test")
        deviations = []
        for part, count, expected in (("train", len(train_N), TRAIN), ("test", len(test_N), TEST)):
            if count != expected:
                deviations.append(f"{part}: {count} images, the published set has {expected}")
        if deviations and self.strict:
            raise CorruptAssetError(
                f"task 'cifar100': {place}, {deviations[0]}\n"
                "  data.strict=false lets it through, and the result says so"
            )
        if self.holdout >= len(train_N):
            raise ConfigError(
                f"data.holdout: {self.holdout} of {len(train_N)} training images leave none"
            )
        changed = [n for n, data in files.items() if _md5(data) != MD5[n]]
        if changed and not deviations:
            deviations.append(f"not the published files: {', '.join(changed)}")
        cut = len(train_N) - self.holdout
        tensors = {
            "train": (train_N[:cut], labels_N[:cut]),
            "val": (train_N[cut:], labels_N[cut:]),
            "test": (test_N, test_labels_N),
        }
        splits: dict[str, Split] = {}
        first = 0
        for name in SPLITS:
            image, label = tensors[name]
            ids = torch.arange(first, first + len(label))
            splits[name] = Split(name, {"image": image}, label, ids)
            first += len(label)
        return splits, _manifest(splits, names, deviations)

    @property
    def manifest(self) -> dict[str, Any]:
        """What the data are; the count and checksum of every split need the decoded images."""
        return self.parts[1]

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the same for folder and archive."""
        return manifest_digest(self.manifest)

    def load(self) -> Task:
        """Return the task with its splits in memory."""
        splits, manifest = self.parts
        return Classification(self.name, tuple(manifest["labels"]), splits, manifest)


def find(root: str) -> Path:
    """Return the folder or archive that ``root`` names or holds; the folder goes first.

    Raises:
        MissingAssetError: neither is there.

    """
    base = Path(root).expanduser()
    if base.is_file():
        return base
    for place in (base, base / FOLDER, base / ARCHIVE):
        if place.is_file() or (place / "train").is_file():
            return place
    raise MissingAssetError(
        f"task 'cifar100': neither {FOLDER}/ nor {ARCHIVE} is in {base}\n"
        "  the place is given by data.root=PATH or $PEFTBENCH_DATA; the authors' page offers the "
        "archive as 'CIFAR-100 python version'"
    )


def read_file(place: Path, name: str) -> bytes:
    """Return the bytes of ``train``, ``test`` or ``meta`` in a folder or a tar archive.

    Raises:
        MissingAssetError: there is no such file.
        CorruptAssetError: the archive cannot be read.

    """
    missing = MissingAssetError(f"task 'cifar100': the file {name} is missing in {place}")
    try:
        if place.is_dir():
            return (place / name).read_bytes()
        with tarfile.open(place) as archive:
            member = archive.extractfile(f"{FOLDER}/{name}")
            if member is None:
                raise missing
            return member.read()
    except (KeyError, FileNotFoundError) as error:
        raise missing from error
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise CorruptAssetError(f"task 'cifar100': {place} cannot be read: {error}") from error


def unpickle(data: bytes, place: Path, name: str) -> dict[str, Any]:
    """Return the dictionary in one file.

    Raises:
        CorruptAssetError: no pickle, one that asks for more than arrays and plain values, or
            one of something else.

    """
    try:
        value = Unpickler(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise CorruptAssetError(
            f"task 'cifar100': the file {name} in {place} cannot be read: {error}"
        ) from error
    if not isinstance(value, dict):
        raise CorruptAssetError(f"task 'cifar100': the file {name} in {place} is no dictionary")
    return value


def _images(value: Mapping[str, Any], place: Path, name: str) -> tuple[Tensor, Tensor]:
    """Return the images (N,3,32,32) uint8 and the fine labels (N,) int64 of one file."""
    data, labels = value.get("data"), value.get("fine_labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3072,):
        raise CorruptAssetError(
            f"task 'cifar100': 'data' of the file {name} in {place} is not (N, 3072) uint8"
        )
    good = isinstance(labels, list) and len(labels) == len(data) > 0
    if not good or any(type(x) is not int or not 0 <= x < CLASSES for x in labels or ()):
        raise CorruptAssetError(
            f"task 'cifar100': 'fine_labels' of the file {name} in {place} are not {len(data)} "
            f"numbers from 0 to {CLASSES - 1}"
        )
    image = torch.from_numpy(np.array(data).reshape(-1, 3, 32, 32))
    return image, torch.tensor(labels, dtype=torch.int64)


def _names(value: Mapping[str, Any], place: Path) -> list[str]:
    names = value.get("fine_label_names")
    if not isinstance(names, list) or len({str(name) for name in names}) != CLASSES:
        raise CorruptAssetError(
            f"task 'cifar100': the file meta in {place} does not name {CLASSES} classes"
        )
    return [str(name) for name in names]


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _manifest(
    splits: Mapping[str, Split], names: list[str], deviations: list[str]
) -> dict[str, Any]:
    counts = {}
    for name, split in splits.items():
        image = split.inputs["image"]
        assert isinstance(image, Tensor)
        sha256 = sha256_tensors({"image": image, "labels": split.labels})
        counts[name] = {"count": len(split), "sha256": sha256}
    return {
        "schema_version": 1,
        "task": "cifar100",
        "layout": FOLDER,
        "classes": CLASSES,
        "labels": names,
        "deviations": deviations,
        "splits": counts,
    }
