"""Pocket captions: drawings and cut-out photographs with a sentence, emoji with their names.

The pictures stay the package's own files and are decoded when they are asked for; a load reads the
captions, cuts them by concept and holds them to the manifest in
``peftbench/tasks/manifests/captions``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from .. import assets
from ..assets import Package
from ..errors import MissingAssetError, unknown
from ..files import write_json
from . import caption_decoders, concepts, packed, pocket
from .base import SPLITS, manifest_digest
from .caption_decoders import Pictures
from .caption_settings import WrittenSpec
from .captions import Captions, CaptionTask
from .cut import SEED
from .images import ImageFiles
from .packed import Source

MANIFESTS = Path(__file__).parent / "manifests" / "captions"
VAL, TEST = 0.1, 0.2
_CLASSES = (
    "animals clothes food hobbies household medical military naturalforces people plants seasonal"
    " space sports town vehicles"
)
"""Folders of stamps that are used; ``symbols`` (letters, coins, notes) is left out."""
_BELOW = "./usr/share/tuxpaint/stamps"
STAMPS = Package(
    "apt",
    "tuxpaint-stamps-default",
    "2022.06.04-1",
    tuple(f"{_BELOW}/{name}/*.[pt][nx][gt]" for name in _CLASSES.split()),  # png and txt
    "03b4bcae7e40e36b6e6092c78c409613ad5b5625adc5e640c3f9643d735261ce",
    161,
    "GPL-2, pictures included",
    "pocket_captions",
    name_parts=5,
)
SOURCES: dict[str, Source[Pictures]] = {
    "pocket_captions": Source(
        "Tux Paint stamps with a sentence each (Debian)",
        caption_decoders.stamps,
        STAMPS,
        False,
        "cut-out photographs and drawings of many sizes; British and Australian sentences are"
        " further references",
    ),
    "pocket_captions_emoji": Source(
        "Noto emoji with their names (emoji-datasource-google)",
        caption_decoders.emoji_names,
        pocket.SOURCES["emoji"].package,
        False,
        "names, not sentences, in lower case; flags and symbols are left out; the largest groups,"
        " faces among them, stay in train",
    ),
}


@dataclass(frozen=True)
class PocketCaptions(WrittenSpec):
    """Data spec of captioned pictures out of a package.

    No concept is on two sides: see :mod:`peftbench.tasks.concepts`. Licences: the stamps are GPL-2,
    the emoji Apache-2.0 (pictures) and MIT (package).

    Attributes:
        task: one of ``SOURCES``.

    """

    task: str = "pocket_captions"

    def __post_init__(self) -> None:
        if self.task not in SOURCES:
            raise unknown("pocket caption task", self.task, SOURCES, "data.task")
        super().__post_init__()

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The committed manifest: source, and count and checksum of every split."""
        return read_manifest(self.task)

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; known without reading anything else."""
        return manifest_digest(self.manifest)

    def load(self) -> CaptionTask:  # type: ignore[override]
        """Return the task.

        Raises:
            MissingAssetError: the data is not here; the text names the command that gets it.
            CorruptAssetError: a split is not what the manifest says.

        """
        return self.made(load(self.task, self.manifest), self.manifest)


def read_manifest(task: str) -> dict[str, Any]:
    """Return the committed manifest of ``task``; see :func:`packed.read_manifest`."""
    return packed.read_manifest(task, MANIFESTS)


def prepared_path(task: str, manifest: Mapping[str, Any]) -> Path:
    """Return where the pictures of ``task`` lie: the kept members of its package."""
    return _package(task).folder


def load(task: str, manifest: Mapping[str, Any]) -> dict[str, Captions]:
    """Return the splits of ``task``, checked against the manifest."""
    packed.obtainable(task, SOURCES[task])
    splits, found = _cut(task, assets.fetch(_package(task)))
    packed.verify(task, manifest, found)
    return splits


def prepare(task: str, manifest: Mapping[str, Any], archive: Path | None = None) -> Path:
    """Fetch ``task`` and check its files; return their folder."""
    return assets.fetch(_package(task), archive)


def forget(task: str) -> None:
    """Remove what the cache holds of ``task``."""
    assets.drop(_package(task))


def build(
    task: str, archive: Path | None = None
) -> tuple[dict[str, Captions], dict[str, tuple[int, str]]]:
    """Fetch and cut ``task``; return its splits, and count and checksum of each."""
    return _cut(task, assets.fetch(_package(task), archive))


def write_manifest(task: str, archive: Path | None = None) -> Path:
    """Write the manifest of ``task`` from its package; for maintainers."""
    splits, found = build(task, archive)
    manifest = {
        "schema_version": 1,
        "task": task,
        "title": SOURCES[task].title,
        "source": packed.describe(SOURCES[task]),
        "seed": SEED,
        "cut": f"by concept; a concept of more than {concepts.LARGEST} pictures stays in train",
        "splits": {
            name: {
                "count": found[name][0],
                "captions": sum(map(len, splits[name].references)),
                "sha256": found[name][1],
            }
            for name in SPLITS
        },
    }
    path = MANIFESTS / f"{task}.json"
    write_json(path, manifest)
    return path


def concept_keys(captions: Sequence[Sequence[str]], stems: Sequence[str]) -> list[set[str]]:
    """Return the keys of every picture of a data set; see :mod:`peftbench.tasks.concepts`."""
    known = concepts.things([said[0] for said in captions])
    return [concepts.keys(said, known, s) for said, s in zip(captions, stems, strict=True)]


def digest(captions: Captions) -> str:
    """Return the SHA-256 of ids, names and captions of a split; the files have their own."""
    found = hashlib.sha256()
    rows = zip(captions.ids.tolist(), captions.image_ids, captions.references, strict=True)
    for number, name, said in rows:
        found.update(json.dumps([number, name, list(said)]).encode("ascii") + b"\n")
    return found.hexdigest()


def _package(task: str) -> Package:
    package = SOURCES[task].package
    if package is None:
        raise MissingAssetError(f"task '{task}' has no package")
    return package


def _cut(task: str, folder: Path) -> tuple[dict[str, Captions], dict[str, tuple[int, str]]]:
    data = SOURCES[task].decode(folder)
    grouped = concepts.groups(concept_keys(data.captions, data.stems))
    parts = concepts.deal(grouped, task, SEED, VAL, TEST)
    splits = {
        name: Captions(
            ImageFiles(tuple(folder / data.files[i] for i in parts[name])),
            torch.tensor(parts[name], dtype=torch.int64),
            tuple(data.captions[i] for i in parts[name]),
            tuple(data.image_ids[i] for i in parts[name]),
        )
        for name in SPLITS
    }
    return splits, {name: (len(part), digest(part)) for name, part in splits.items()}
