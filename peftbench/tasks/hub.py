"""Any data set for image classification that ``datasets.load_dataset`` reads, from hub or disk.

The table stays on disk and images are decoded when asked for. Shapes: N samples in a split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from .. import pictures
from ..errors import ConfigError, CorruptAssetError
from .base import SPLITS, Classification, DataSpec, Task, manifest_digest
from .batch import Split
from .cut import Ints, take
from .hub_table import HubTable, read_table
from .images import Images, picture

if TYPE_CHECKING:
    from PIL.Image import Image

SCHEMA = 1
PINNED_BYTES = 2 << 30
"""A data set of the hub that is larger has its images pinned by its commit and is not read through
for a checksum of them."""


@dataclass(frozen=True)
class HubImages(DataSpec):
    """Data spec of an image classification data set of the hub, or of the same form on disk.

    Attributes:
        path: hub id ``owner/name``, a local folder that ``datasets`` reads, or a parquet file.
        subset: configuration of the data set; None where it has one only.
        revision: branch, tag or commit on the hub; None is its main branch.
        image: column of images; None is the only one.
        label: column of classes (class labels, integers or strings); None is the only column of
            class labels.
        train: split expression such as ``train`` or ``train[:80%]``.
        val: split expression, or None to hold ``val_share`` of train out.
        test: split expression.
        val_share: part of train that becomes val, with train's class shares.
        cut_seed: of that choice; not the run's seed, so all runs have the same val.

    """

    takes: ClassVar[str] = "image"

    path: str
    subset: str | None = None
    revision: str | None = None
    image: str | None = None
    label: str | None = None
    train: str = "train"
    val: str | None = None
    test: str = "test"
    val_share: float = 0.1
    cut_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.val_share < 1:
            raise ConfigError(f"data.val_share: {self.val_share} not between 0 and 1")
        if self.cut_seed < 0:
            raise ConfigError(f"data.cut_seed: expected 0 or more, got {self.cut_seed}")

    @property
    def name(self) -> str:
        """The last part of the path, and the subset."""
        last = Path(self.path).name
        return f"{last}/{self.subset}" if self.subset else last

    @cached_property
    def table(self) -> HubTable:
        """The data set, read (and fetched, if need be) once.

        Raises:
            ConfigError: a setting names no part of it; the package ``datasets`` is not installed.
            MissingAssetError: it cannot be had; says why, and what to do.
            CorruptAssetError: a file of it is damaged.

        """
        return read_table(self.path, self.subset, self.revision, self.image, self.label)

    @cached_property
    def positions(self) -> dict[str, Ints]:
        """Rows of the table that make up each split."""
        table = self.table
        found = {
            name: table.rows(getattr(self, name), f"data.{name}") for name in ("train", "test")
        }
        if self.val is not None:
            found["val"] = table.rows(self.val, "data.val")
        else:
            train = found["train"]
            count = round(self.val_share * len(train))
            if not 0 < count < len(train):
                raise ConfigError(
                    f"data.val_share: {self.val_share} of {len(train)} samples leaves none for "
                    f"{'val' if count == 0 else 'train'}"
                )
            held, rest = take(table.labels, train, count, "hub_images", self.cut_seed)
            found |= {"val": np.sort(held), "train": np.sort(rest)}
        for name in SPLITS:
            if not len(found[name]):
                raise ConfigError(f"data.{name}: '{getattr(self, name)}' holds no sample")
            if (bad := np.flatnonzero(table.labels[found[name]] < 0)).size:
                raise ConfigError(
                    f"data.{name}: {bad.size} of {len(found[name])} samples have no label; "
                    f"the first is {table.where(int(found[name][bad[0]]))}"
                )
        for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
            if (both := np.intersect1d(found[one], found[other])).size:
                raise ConfigError(
                    f"data.{one} and data.{other} share {both.size} samples, the first of them "
                    f"{table.where(int(both[0]))}"
                )
        return {name: found[name] for name in SPLITS}

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the data is: where from, class names, count and checksum of every split.

        Local data is known by its content, not by where it lies. A checksum covers labels and
        encoded images in order. For data sets of the hub above
        ``PINNED_BYTES`` it covers labels alone: their commit pins the images.
        """
        table = self.table
        whole = table.commit is None or table.nbytes <= PINNED_BYTES
        return {
            "schema_version": SCHEMA,
            "source": {"hub": self.path if table.commit else None, "commit": table.commit},
            "columns": {"image": table.image, "label": table.label},
            "labels": list(table.names),
            "checksum": "labels and images" if whole else "labels; the commit pins the images",
            "splits": {
                name: {"count": len(rows), "sha256": _digest(table, rows, whole)}
                for name, rows in self.positions.items()
            },
        }

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the table is read for it once."""
        return manifest_digest(self.manifest)

    def load(self) -> Task:
        """Return the task; its images are decoded when asked for."""
        splits = {}
        for name, rows in self.positions.items():
            images = HubRows(self.table, tuple(rows.tolist()))
            labels = torch.from_numpy(self.table.labels[rows])
            splits[name] = Split(name, {"image": images}, labels, torch.from_numpy(rows.copy()))
        return Classification(self.name, self.table.names, splits, self.manifest)


@dataclass(frozen=True, eq=False)
class HubRows(Images):
    """Images in rows of a table.

    Attributes:
        table: the data set.
        positions: one row per image.

    """

    table: HubTable
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.positions)

    def image(self, index: int) -> Image:
        """Decode one image as :func:`peftbench.pictures.decode` does."""
        position = self.positions[index]
        content = self.table.encoded(position)
        try:
            return picture(pictures.decode(content))
        except pictures.UnreadableError as error:
            where = self.table.where(position)
            raise CorruptAssetError(f"the image in {where} cannot be decoded: {error}") from error

    def take(self, index: Sequence[int]) -> HubRows:
        """Return the rows at ``index``."""
        return HubRows(self.table, tuple(self.positions[int(i)] for i in index))


def _digest(table: HubTable, rows: Ints, whole: bool) -> str:
    digest = hashlib.sha256()
    digest.update(np.ascontiguousarray(table.labels[rows], "<i8").tobytes())
    if whole:
        digest.update(table.image_digests[rows].tobytes())
    return digest.hexdigest()
