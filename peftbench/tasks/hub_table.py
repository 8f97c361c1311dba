"""A data set as one table of ``datasets``, with its columns found and its commit known.

Shapes: N rows in all splits together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, CorruptAssetError, MissingAssetError, unknown
from .hub_parts import commit_of, load, local, needed, quiet

Ints = NDArray[np.int64]
CHUNK = 1000
PLAIN = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
WORDS = ("string", "large_string", "string_view")


@dataclass(frozen=True, eq=False)
class HubTable:
    """All splits of a data set, one behind the other.

    Attributes:
        data: ``datasets.Dataset`` of the image column, not decoded.
        counts: rows of each split, in the order of the table.
        image: name of the image column.
        label: name of the label column.
        labels: (N,) int64 class indices; negative where a row has no label.
        names: class names.
        path: what the user called the data set.
        commit: on the hub; None for local data.

    """

    data: Any
    counts: Mapping[str, int]
    image: str
    label: str
    labels: Ints
    names: tuple[str, ...]
    path: str
    commit: str | None

    def rows(self, expression: str, key: str) -> Ints:
        """Return the rows that a split expression (``a``, ``a[:10%]``, ``a+b``) means.

        Raises:
            ConfigError: no split has this name, or the expression is malformed.

        """
        from datasets import ReadInstruction

        for part in expression.split("+"):
            name = part.strip().partition("[")[0]
            if name not in self.counts:
                raise unknown(f"split of {self.path}", name, self.counts, key)
        try:
            parts = ReadInstruction.from_spec(expression).to_absolute(dict(self.counts))
        except (ValueError, AssertionError) as error:
            raise ConfigError(f"{key}: '{expression}': {error}") from error
        starts = dict(zip(self.counts, np.cumsum([0, *self.counts.values()]), strict=False))
        found = [
            np.arange(p.from_ or 0, self.counts[p.splitname] if p.to is None else p.to)
            + starts[p.splitname]
            for p in parts
        ]
        rows = np.concatenate(found).astype(np.int64)
        if len(np.unique(rows)) != len(rows):
            raise ConfigError(f"{key}: '{expression}' names samples twice")
        return rows

    def where(self, position: int) -> str:
        """Say which row a position is."""
        row = position
        for name, count in self.counts.items():
            if row < count:
                return f"row {row} of '{name}' of {self.path}"
            row -= count
        raise IndexError(f"{self.path} has no row {position}")

    def encoded(self, position: int) -> bytes:
        """Return one image as the bytes of its file.

        Raises:
            CorruptAssetError: the row has none.
            MissingAssetError: it lies in a file of its own, which cannot be read.

        """
        return self._encoded(self.data[position][self.image], position)

    @cached_property
    def nbytes(self) -> int:
        """Size of the table in bytes; images in files of their own are not counted."""
        return int(self.data.data.nbytes)

    @cached_property
    def image_digests(self) -> NDArray[np.uint8]:
        """SHA-256 of every encoded image, (N, 32)."""
        digests = bytearray()
        for start in range(0, len(self.data), CHUNK):
            for offset, cell in enumerate(self.data[start : start + CHUNK][self.image]):
                digests += hashlib.sha256(self._encoded(cell, start + offset)).digest()
        return np.frombuffer(bytes(digests), np.uint8).reshape(-1, 32)

    def _encoded(self, cell: Mapping[str, Any] | None, position: int) -> bytes:
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise CorruptAssetError(f"{self.where(position)} has no image")
        if cell["bytes"] is not None:
            content: bytes = cell["bytes"]
            return content
        try:
            return Path(cell["path"]).read_bytes()
        except OSError as error:
            raise MissingAssetError(
                f"{self.where(position)}: the image {cell['path']} cannot be read: {error.strerror}"
            ) from error


def read_table(
    path: str, subset: str | None, revision: str | None, image: str | None, label: str | None
) -> HubTable:
    """Read a data set and find its columns; the arguments are those of ``HubImages``."""
    needed("data=hub_images")
    import datasets

    loaded = load(path, subset, revision)
    parts = {str(name): part for name, part in loaded.items()}
    features = next(iter(parts.values())).features
    image = _image_column(features, image)
    label = _label_column(features, label)
    with quiet():
        whole = datasets.concatenate_datasets(list(parts.values()))
    labels, names = _classes(whole, label)
    pictures = whole.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    counts = {name: len(part) for name, part in parts.items()}
    commit = None if local(path) else commit_of(path, revision, parts)
    return HubTable(pictures, counts, image, label, labels, names, path, commit)


def _image_column(features: Mapping[str, Any], wanted: str | None) -> str:
    from datasets import Image

    images = [name for name, kind in features.items() if isinstance(kind, Image)]
    if wanted is None and len(images) == 1:
        return images[0]
    if wanted is None:
        raise ConfigError(f"data.image: name one column of images; there are {images}")
    if wanted not in images:
        raise unknown("column of images", wanted, images, "data.image")
    return wanted


def _label_column(features: Mapping[str, Any], wanted: str | None) -> str:
    from datasets import ClassLabel

    classes = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    usable = [n for n, kind in features.items() if n in classes or _dtype(kind) in PLAIN + WORDS]
    if wanted is None and len(classes) == 1:
        return classes[0]
    if wanted is None:
        raise ConfigError(
            f"data.label: name the column of classes; columns of class labels: {classes}, "
            f"columns that can be one: {usable}"
        )
    if wanted not in usable:
        raise unknown("column of classes", wanted, usable, "data.label")
    return wanted


def _dtype(kind: Any) -> str:
    """Return the type of a column of plain values, or an empty string."""
    from datasets import Value

    return str(kind.dtype) if isinstance(kind, Value) else ""


def _classes(whole: Any, label: str) -> tuple[Ints, tuple[str, ...]]:
    """Return class indices and class names; values that are no class labels are sorted."""
    from datasets import ClassLabel

    column = whole.data.column(label).to_pylist()
    kind = whole.features[label]
    if isinstance(kind, ClassLabel):
        values = [-1 if value is None else value for value in column]
        return np.array(values, np.int64), tuple(kind.names)
    present = sorted({value for value in column if value is not None})
    index = {value: number for number, value in enumerate(present)} | {None: -1}
    return np.array([index[v] for v in column], np.int64), tuple(str(v) for v in present)
