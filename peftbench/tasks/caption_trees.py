"""Captioned pictures on a person's disk, in the layouts of their authors: COCO, Flickr.

COCO (Chen et al., arXiv:1504.00325), the splits of Karpathy and Fei-Fei (arXiv:1412.2306),
Flickr30k (Young et al., 2014), Flickr8k (Hodosh et al., 2013).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from ..errors import ConfigError, MissingAssetError
from .base import SPLITS, manifest_digest
from .caption_files import Picture, Pictures, in_two, locate, read_coco, read_karpathy
from .caption_settings import WrittenSpec
from .captions import Captions, CaptionTask
from .images import ImageFiles
from .listed import Slip, check_command, refuse

SEED = 42
"""Of the cut of val from train, and of the choice of a limit."""
COUNTS: Mapping[str, Mapping[str, int]] = {
    "karpathy": {"train": 113_287, "val": 5_000, "test": 5_000},
    "coco2017": {"train2017": 118_287, "val2017": 5_000},
    "coco2014": {"train2014": 82_783, "val2014": 40_504},
    "flickr30k": {"train": 29_000, "val": 1_014, "test": 1_000},
    "flickr8k": {"train": 6_000, "val": 1_000, "test": 1_000},
    "nocaps": {"val": 4_500},
}
"""Captioned images of the published parts."""
REMEDY = "docs/data.md says where every file belongs"
Source = Literal["karpathy", "coco2017", "coco2014"]
SOURCES: tuple[Source, ...] = get_args(Source)


@dataclass(frozen=True)
class Limit:
    """So many images of a split, chosen by a hash of their ids; None: all.

    Attributes:
        train: of train.
        val: of val.
        test: of test.

    """

    train: int | None = None
    val: int | None = None
    test: int | None = None


@dataclass(frozen=True)
class Parts:
    """The splits of a data set as its annotation files say.

    Attributes:
        splits: train, val and test.
        counts: images of the published parts that the files hold.
        cut: how the splits came about.
        slips: what is wrong.

    """

    splits: Mapping[str, Pictures]
    counts: Mapping[str, int]
    cut: str
    slips: Sequence[Slip]


@dataclass(frozen=True)
class TreeSpec(WrittenSpec):
    """Data spec of captioned pictures below a root.

    Attributes:
        root: the folder of the data set.
        limit: images per split, for small studies.

    """

    root: str
    limit: Limit = field(default_factory=Limit)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in SPLITS:
            value = getattr(self.limit, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.limit.{name}: at least 1 is needed, got {value}")

    @property
    @abstractmethod
    def published(self) -> str:
        """Its row of ``COUNTS``."""

    @property
    def folder(self) -> Path:
        """The root.

        Raises:
            MissingAssetError: there is no such folder.

        """
        return existing(self.root)

    @abstractmethod
    def parts(self) -> Parts:
        """Read the annotation files.

        Raises:
            MissingAssetError, CorruptAssetError: name the file.

        """

    def places(self, picture: Picture) -> Sequence[str]:
        """Return further places where a picture can lie, below the root."""
        return ()

    @cached_property
    def used(self) -> tuple[Parts, dict[str, Pictures], tuple[str, ...]]:
        """What the files hold, the splits that are used, and in what they differ from the set.

        Raises:
            MissingAssetError, CorruptAssetError: name the first thing that is wrong.

        """
        parts = self.parts()
        refuse(self.name, parts.slips, self.remedy)
        deviations = differing(self.published, parts.counts)
        splits = {}
        for name in SPLITS:
            most = getattr(self.limit, name)
            splits[name] = limited(parts.splits[name], most, self.name, name, deviations)
            if not len(splits[name]):
                slip = Slip("missing", parts.splits[name].source, f"no image is in '{name}'")
                refuse(self.name, [slip], self.remedy)
        return parts, splits, tuple(deviations)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the data are: count and checksum of ids and captions; no picture is looked at."""
        parts, splits, deviations = self.used
        return {
            "schema_version": 1,
            "task": self.name,
            "layout": self.published,
            "cut": parts.cut,
            "deviations": list(deviations),
            "splits": {name: splits[name].described() for name in SPLITS},
        }

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the same wherever the tree lies."""
        return manifest_digest(self.manifest)

    def load(self) -> CaptionTask:  # type: ignore[override]
        """Return the task; its pictures are decoded when they are asked for.

        Raises:
            MissingAssetError: a file or a picture that it names is missing, or the scorers are.
            CorruptAssetError: a file is not what the set has.

        """
        _, splits, _ = self.used
        found, slips = {}, []
        first = 0
        for name in SPLITS:
            files, missing = locate(self.folder, splits[name], self.places)
            slips += missing
            if not missing:
                found[name] = captions_of(splits[name], files, first)
            first += len(splits[name])
        refuse(self.name, slips, self.remedy)
        return self.made(found, self.manifest)

    @property
    def remedy(self) -> str:
        """The line that says what to do."""
        return REMEDY


@dataclass(frozen=True)
class Coco(TreeSpec):
    """Data spec of COCO captions; the root holds ``annotations`` and the folders of images.

    Attributes:
        source: ``karpathy``: ``dataset_coco.json``, in the root or in ``annotations``, with the
            images of 2014 or of 2017; ``coco2017``, ``coco2014``: the authors' parts. Captions of
            their test parts are not public: val is cut from train, and their val part is test.
        val: share of train that is cut for val in the authors' parts.

    """

    source: Source = "karpathy"
    val: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.val < 1:
            raise ConfigError(f"data.val: a share between 0 and 1 is needed, got {self.val}")

    @property
    def name(self) -> str:
        """The task's name, ``coco/<source>``."""
        return f"coco/{self.source}"

    @property
    def published(self) -> str:
        """Its row of ``COUNTS``."""
        return self.source

    def parts(self) -> Parts:
        """Read the annotation file of Karpathy's splits, or the two of a release."""
        if self.source == "karpathy":
            names = ("dataset_coco.json", "annotations/dataset_coco.json")
            return karpathy_parts(*read_karpathy(first_file(self.folder, names)))
        year = self.source.removeprefix("coco")
        read, slips = {}, []
        for part in (f"train{year}", f"val{year}"):
            path = self.folder / "annotations" / f"captions_{part}.json"
            read[part], wrong = read_coco(path, part)
            slips += wrong
        train, test = read.values()
        val, rest = train.cut(round(self.val * len(train)), self.name, SEED)
        return Parts(
            {"train": rest, "val": val, "test": test},
            {part: len(pictures) for part, pictures in read.items()},
            f"train{year} cut into train and val (share {self.val:g}, seed {SEED}); val{year} is"
            " test",
            [*slips, *in_two(read)],
        )

    def places(self, picture: Picture) -> Sequence[str]:
        """Return where a picture of 2014 lies in the folders of 2017."""
        if self.source != "karpathy":
            return ()
        name = picture.path.rpartition("/")[2].rpartition("_")[2]
        return (f"train2017/{name}", f"val2017/{name}")

    @property
    def remedy(self) -> str:
        """The lines that say what to do."""
        command = check_command("coco", self.root, self.source)
        return f"{REMEDY}\n  to see all that is wrong: {command}"


@dataclass(frozen=True)
class Flickr(TreeSpec):
    """Data spec of Flickr30k or Flickr8k in Karpathy's splits.

    The root holds ``dataset_<task>.json`` and the folder of images.

    Attributes:
        task: ``flickr30k`` or ``flickr8k``.

    """

    task: Literal["flickr30k", "flickr8k"] = "flickr30k"

    @property
    def name(self) -> str:
        """The task's name."""
        return self.task

    @property
    def published(self) -> str:
        """Its row of ``COUNTS``."""
        return self.task

    def parts(self) -> Parts:
        """Read the annotation file."""
        path = self.folder / f"dataset_{self.task}.json"
        return karpathy_parts(*read_karpathy(path, f"{self.task}-images"))

    def places(self, picture: Picture) -> Sequence[str]:
        """Return the other names of the folder of images."""
        name = picture.path.rpartition("/")[2]
        others = ("flickr30k_images", "Flicker8k_Dataset", "Flickr8k_Dataset", "images", "Images")
        return [f"{folder}/{name}" for folder in others]


def existing(root: str) -> Path:
    """Return a folder.

    Raises:
        MissingAssetError: there is none.

    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise MissingAssetError(f"there is no folder {folder} (key: data.root)\n  {REMEDY}")
    return folder


def first_file(folder: Path, names: Sequence[str]) -> Path:
    """Return the first of some files that is there.

    Raises:
        MissingAssetError: none is.

    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise MissingAssetError(f"{folder} holds no {' nor '.join(names)}\n  {REMEDY}")


def karpathy_parts(pictures: Pictures, slips: Sequence[Slip]) -> Parts:
    """Return the splits of a file of Karpathy's; ``restval`` is trained on."""
    splits = {
        name: Pictures(pictures.source, tuple(p for p in pictures.found if p.part == name))
        for name in SPLITS
    }
    counts = {name: len(part) for name, part in splits.items()}
    return Parts(splits, counts, "Karpathy's; restval belongs to train", slips)


def differing(published: str, counts: Mapping[str, int]) -> list[str]:
    """Return in words which counts are not the published ones."""
    return [
        f"{name}: {counts[name]:,} images, the published part has {expected:,}"
        for name, expected in COUNTS[published].items()
        if counts[name] != expected
    ]


def limited(
    whole: Pictures, most: int | None, task: str, split: str, deviations: list[str]
) -> Pictures:
    """Return at most so many pictures of a split; that some are left out is a deviation."""
    if most is None or most >= len(whole):
        return whole
    deviations.append(f"{split}: {most:,} of {len(whole):,} images (data.limit)")
    return whole.cut(most, f"{task}|limit", SEED)[0]


def captions_of(pictures: Pictures, files: Sequence[Path], first: int) -> Captions:
    """Return a split; its sample ids count from ``first``."""
    return Captions(
        ImageFiles(tuple(files), upright=False),
        torch.arange(first, first + len(pictures)),
        tuple(picture.captions for picture in pictures.found),
        tuple(picture.image_id for picture in pictures.found),
    )
