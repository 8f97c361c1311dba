"""A data set as one table of ``datasets``, with its columns found and its commit known.

Shapes: N rows in all splits together.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import hub
from ..errors import ConfigError, CorruptAssetError, MissingAssetError, PeftbenchError, unknown

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
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            "data=hub_images needs the package 'datasets', which is not installed\n"
            "  pip install 'peftbench[data]'"
        ) from error
    loaded = _load(path, subset, revision)
    parts = {str(name): part for name, part in loaded.items()}
    features = next(iter(parts.values())).features
    image = _image_column(features, image)
    label = _label_column(features, label)
    with _quiet():
        whole = datasets.concatenate_datasets(list(parts.values()))
    labels, names = _classes(whole, label)
    pictures = whole.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    counts = {name: len(part) for name, part in parts.items()}
    commit = None if _local(path) else _commit(path, revision, parts)
    return HubTable(pictures, counts, image, label, labels, names, path, commit)


def _local(path: str) -> Path | None:
    """Return the folder or file that a path means, or None where it is a hub id."""
    local = Path(path).expanduser()
    if local.exists():
        return local
    if hub.HUB_ID.fullmatch(path):
        return None
    raise MissingAssetError(
        f"data.path: there is no folder or file {path}, and it is no id of the hub (owner/name)"
    )


def _load(path: str, subset: str | None, revision: str | None) -> Mapping[str, Any]:
    """Call ``datasets.load_dataset`` and put its errors into words."""
    import datasets

    local = _local(path)
    where: dict[str, Any] = {"path": path if local is None else str(local), "name": subset}
    if local is None:
        where["revision"] = revision
        _obtainable(path)
    elif revision is not None:
        raise ConfigError(f"data.revision: '{revision}': {path} is local and has no revisions")
    elif local.is_file():
        if local.suffix != ".parquet":
            raise ConfigError(
                f"data.path: {path} is no parquet file; a folder, a parquet file or owner/name"
            )
        where |= {"path": "parquet", "data_files": {"train": str(local)}}
    try:
        with _quiet():
            loaded: Mapping[str, Any] = datasets.load_dataset(**where)
            return loaded
    except Exception as error:  # whatever a client or one of a dozen readers raises
        raise _told(path, subset, local is None, error) from error


def _obtainable(path: str) -> None:
    """Fail within seconds where a data set is neither in the cache nor within reach."""
    import datasets
    from datasets.naming import camelcase_to_snakecase

    owner, _, name = path.partition("/")
    folder = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{camelcase_to_snakecase(name)}"
    if any(folder.glob("*/*/*/dataset_info.json")):
        return
    offline = datasets.config.HF_HUB_OFFLINE
    why = "HF_DATASETS_OFFLINE or HF_HUB_OFFLINE is set" if offline else hub.out_of_reach()
    if why is not None:
        raise _missing(path, f"it is not in the local cache, and {why}")


def _missing(path: str, why: str) -> MissingAssetError:
    from huggingface_hub import constants

    return MissingAssetError(
        f"data set {path} cannot be loaded (key: data.path)\n  why not: {why}\n"
        f"  asked: {constants.ENDPOINT}; a copy on disk instead: data.path=FOLDER"
    )


def _told(path: str, subset: str | None, remote: bool, error: Exception) -> PeftbenchError:
    """Return the error for a person that stands for one out of ``datasets``."""
    from datasets.exceptions import DatasetNotFoundError

    text = " ".join(str(error).split())[:400]
    listed = re.search(r"vailable[^:]*: \[([^\]]*)\]", text)
    if listed and isinstance(error, ValueError):
        choices = re.findall(r"'([^']+)'", listed[1])
        if subset is None:
            return ConfigError(f"data.subset: {path} has several; choose one of {choices}")
        return unknown(f"subset of {path}", subset, choices, "data.subset")
    if remote:
        try:
            hub.check_stored("dataset", path, f"data.path: a file of {path}")
        except CorruptAssetError as damaged:
            return damaged
    if isinstance(error, DatasetNotFoundError):
        more = "" if "Revision" in text else " (`hf auth login` opens private and gated ones)"
        return _missing(path, text + more)
    if remote and isinstance(error, hub.client_errors()):
        return _missing(path, hub.reason(error))
    causes = " ".join(str(error.__cause__ or "").split())[:300]
    return CorruptAssetError(f"data.path: datasets cannot read {path}: {text} {causes}".rstrip())


def _commit(path: str, revision: str | None, parts: Mapping[str, Any]) -> str:
    """Return the commit that was read, and hold it to the one that was asked for.

    Offline, ``datasets`` takes the copy that was read last, whatever its revision.
    """
    files = [Path(f["filename"]) for part in parts.values() for f in part.cache_files]
    commits = {file.parent.name for file in files}
    commit = commits.pop() if len(commits) == 1 else ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise CorruptAssetError(f"data.path: the stored copy of {path} does not name its commit")
    meant = revision and (hub.cached_commit("dataset", path, revision) or revision)
    if meant and meant != commit:
        raise _missing(
            path,
            f"revision '{revision}' was asked for, the local copy is of commit {commit[:12]}, and"
            " the hub was not asked (offline) or did not answer",
        )
    return commit


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


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep progress bars to terminals."""
    import datasets

    if sys.stderr.isatty() or datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        with hub.quiet():
            yield
    finally:
        datasets.enable_progress_bars()
