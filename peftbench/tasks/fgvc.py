"""FGVC, five fine-grained data sets in the json layout of VPT (Jia et al., arXiv:2203.12119).

A set's folder holds ``train.json``, ``val.json`` and ``test.json``, each mapping a relative image
path to a class id, beside the images as the set's authors publish them. Ids need not be
contiguous: the sorted ids of ``train.json`` are ranked once, and the rank is the label everywhere.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from ..errors import MissingAssetError, unknown
from .base import SPLITS, DataSpec, Task, manifest_digest
from .listed import (
    LENIENT,
    Listed,
    Slip,
    absent,
    check_command,
    class_names,
    in_two,
    inside,
    manifest_of,
    read_json,
    refuse,
    task_of,
)
from .suite import Suite, SuiteSpec

Id = int | str
COUNTS = ("count", "classes")


@dataclass(frozen=True)
class Row:
    """One set.

    Attributes:
        name: our name, ``data=fgvc/<name>``.
        folders: names under which its folder is found, the usual one first.
        images: folder of the images below it; empty where paths start at the set's folder.
        classes: number of classes C.
        counts: images of train, val and test in VPT's split.
        certain: whether the counts were read in a source; the others are only warned about.

    """

    name: str
    folders: tuple[str, ...]
    images: str
    classes: int
    counts: tuple[int, int, int]
    certain: bool


_ROWS = (
    Row("cub", ("CUB_200_2011",), "images", 200, (5_394, 600, 5_794), False),
    Row("nabirds", ("nabirds",), "images", 555, (21_536, 2_393, 24_633), False),
    Row("flowers", ("OxfordFlower", "OxfordFlowers"), "", 102, (1_020, 1_020, 6_149), True),
    Row("dogs", ("Stanford-dogs", "StanfordDogs"), "Images", 120, (10_800, 1_200, 8_580), False),
    Row("cars", ("Stanford-cars", "StanfordCars"), "", 196, (7_329, 815, 8_041), False),
)
TABLE: Mapping[str, Row] = {row.name: row for row in _ROWS}
"""The five sets in the order of the published tables."""


@dataclass(frozen=True)
class FgvcTask(DataSpec):
    """Data spec of one FGVC set.

    Attributes:
        task: one of ``TABLE``.
        root: the folder that holds the sets' folders.
        strict: refuse a wrong number of classes, and wrong counts where the table is certain.

    """

    takes: ClassVar[str] = "image"

    task: str
    root: str
    strict: bool = True

    def __post_init__(self) -> None:
        if self.task not in TABLE:
            raise unknown("FGVC set", self.task, TABLE, "data.task")

    @property
    def name(self) -> str:
        """The task's name, ``fgvc/<set>``."""
        return f"fgvc/{self.task}"

    @property
    def row(self) -> Row:
        """What the set's folder must hold."""
        return TABLE[self.task]

    @cached_property
    def folder(self) -> Path:
        """The set's folder.

        Raises:
            MissingAssetError: there is none.

        """
        return find_folder(self.root, self.row)

    @cached_property
    def lists(self) -> tuple[dict[str, Listed], tuple[Id, ...], list[Slip]]:
        """The three splits as listed, the class ids, and what differs from the published counts.

        Raises:
            MissingAssetError, CorruptAssetError: name the file.

        """
        parts, ids, slips = read_splits(self.folder, self.row)
        counts = [slip for slip in slips if slip.kind in COUNTS]
        grave = [slip for slip in slips if slip.kind not in COUNTS] + in_two(parts)
        refuse(self.name, grave, self.remedy)
        strict = [slip for slip in counts if certain(slip, self.row)] if self.strict else []
        refuse(self.name, strict, f"{LENIENT}\n  {self.remedy}")
        return parts, ids, counts

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the data are: class names, count and checksum of every list; no image is read."""
        parts, ids, counts = self.lists
        return manifest_of(
            self.name,
            "json",
            class_names(self.folder, map(str, ids)),
            parts,
            [f"{slip.path.name}: {slip.text}" for slip in counts],
        )

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the same wherever the tree lies."""
        return manifest_digest(self.manifest)

    def load(self) -> Task:
        """Return the task; its images are decoded when asked for.

        Raises:
            MissingAssetError: a json file or an image that it names is missing.
            CorruptAssetError: a json file is not what the set has.

        """
        parts, _, _ = self.lists
        refuse(self.name, [s for name in SPLITS for s in absent(parts[name])], self.remedy)
        return task_of(self.manifest, parts)

    @property
    def remedy(self) -> str:
        """The line that says how to see all that is wrong."""
        return f"to check the whole tree: {check_command('fgvc', self.root, self.task)}"


def find_folder(root: str | Path, row: Row) -> Path:
    """Return the folder of a set below ``root``.

    Raises:
        MissingAssetError: there is none; names every place that was looked at.

    """
    places = [Path(root).expanduser() / folder for folder in row.folders]
    for place in places:
        if place.is_dir():
            return place
    raise MissingAssetError(
        f"task 'fgvc/{row.name}': there is no folder {', nor '.join(map(str, places))}\n"
        "  the folder of all sets is given by data.root=PATH (or fgvc in $PEFTBENCH_DATA); it "
        "needs the images as their authors publish them and VPT's train.json, val.json, test.json"
    )


def read_splits(folder: Path, row: Row) -> tuple[dict[str, Listed], tuple[Id, ...], list[Slip]]:
    """Read the three json files; return the splits, the sorted class ids, and all that is wrong.

    Raises:
        MissingAssetError: one of them is not there.
        CorruptAssetError: one of them is no JSON object.

    """
    found = {name: read_json(folder / f"{name}.json") for name in SPLITS}
    slips: list[Slip] = []
    entries: dict[str, dict[str, Id]] = {}
    for name in SPLITS:
        entries[name], wrong = _entries(folder / f"{name}.json", found[name])
        slips += wrong
    ids = tuple(sorted(set(entries["train"].values()), key=lambda i: (isinstance(i, str), i)))
    rank = {value: label for label, value in enumerate(ids)}
    if len(ids) != row.classes:
        text = f"{len(ids)} classes, the published set has {row.classes}"
        slips.append(Slip("classes", folder / "train.json", text))
    parts: dict[str, Listed] = {}
    for name, expected in zip(SPLITS, row.counts, strict=True):
        source = folder / f"{name}.json"
        known = {path: rank[i] for path, i in entries[name].items() if i in rank}
        for path, value in entries[name].items():
            if value not in rank:
                text = f"{path} has class id {value!r}, which train.json does not have"
                slips.append(Slip("label", source, text))
        parts[name] = Listed(source, folder / row.images, tuple(known), tuple(known.values()))
        if len(entries[name]) != expected:
            doubt = "" if row.certain else ", a figure that is not certain"
            text = f"{len(entries[name])} images, expected {expected}{doubt}"
            slips.append(Slip("count", source, text))
    return parts, ids, slips


def certain(slip: Slip, row: Row) -> bool:
    """Tell whether a count that differs is an error, and not only worth a warning."""
    return row.certain or slip.kind == "classes"


def _entries(path: Path, value: Mapping[str, Any]) -> tuple[dict[str, Id], list[Slip]]:
    """Return the usable entries of one json file, and what is wrong with the others."""
    good: dict[str, Id] = {}
    slips = []
    for image, label in value.items():
        if not inside(image):
            slips.append(Slip("line", path, f"{image!r} is no path below the set's folder"))
        elif isinstance(label, bool) or not isinstance(label, int | str):
            slips.append(Slip("label", path, f"{image} has {label!r} instead of a class id"))
        else:
            plain = posixpath.normpath(image)
            if plain in good:
                slips.append(Slip("duplicate", path, f"the image {plain} is already listed"))
            good[plain] = label
    if not value:
        slips.append(Slip("line", path, "it names no image"))
    return good, slips


@dataclass(frozen=True)
class Fgvc(SuiteSpec):
    """Data spec of the five FGVC sets; the field's mean is that of the five.

    Attributes:
        root: as in :class:`FgvcTask`, for all sets.
        strict: as in :class:`FgvcTask`, for all sets.
        tasks: the sets to run, or None for all.

    """

    root: str
    strict: bool = True
    tasks: tuple[str, ...] | None = None

    @cached_property
    def whole(self) -> Suite:
        """The suite with its five members."""
        members: Mapping[str, DataSpec] = {
            name: FgvcTask(name, self.root, self.strict) for name in TABLE
        }
        return Suite("fgvc", members, {}, self.tasks)
