"""NoCaps (Agrawal et al., arXiv:1812.08658): captions of things that COCO's do not name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import ConfigError, unknown
from .base import manifest_digest
from .caption_files import Picture, Pictures, locate, read_coco
from .caption_settings import WrittenSpec
from .caption_trees import REMEDY, captions_of, differing, existing, first_file, limited
from .captions import CaptionSpec, CaptionTask
from .listed import Slip, refuse

DOMAINS = ("in-domain", "near-domain", "out-domain")


@dataclass(frozen=True)
class NoCaps(WrittenSpec):
    """Data spec of NoCaps' validation part as the test split of a task that is trained elsewhere.

    The set is for evaluation alone: it has no part to train on, and its own test captions are not
    public.

    Attributes:
        train: the caption task that train and val come from; the benchmark asks for COCO.
        root: the folder of ``nocaps_val_4500_captions.json`` and of ``images``.
        domain: ``all`` or one of ``DOMAINS``.
        limit: so many images of test, chosen by a hash of their ids; None: all.

    """

    train: CaptionSpec
    root: str
    domain: str = "all"
    limit: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.domain not in ("all", *DOMAINS):
            raise unknown("domain of NoCaps", self.domain, ("all", *DOMAINS), "data.domain")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"data.limit: at least 1 is needed, got {self.limit}")
        if isinstance(self.train, NoCaps):
            raise ConfigError("data.train: NoCaps has no part to train on; choose another task")

    @property
    def name(self) -> str:
        """The task's name, with the domain where it is one alone."""
        return "nocaps" if self.domain == "all" else f"nocaps/{self.domain}"

    @cached_property
    def test(self) -> tuple[Pictures, tuple[str, ...]]:
        """The images of test, and in what they differ from the published ones.

        Raises:
            MissingAssetError, CorruptAssetError: name the first thing that is wrong.

        """
        names = ("nocaps_val_4500_captions.json", "annotations/nocaps_val_4500_captions.json")
        whole, slips = read_coco(first_file(existing(self.root), names), "images")
        refuse(self.name, slips, REMEDY)
        deviations = differing("nocaps", {"val": len(whole)})
        chosen = whole.where(lambda p: self.domain in ("all", p.group))
        if not len(chosen):
            text = f"no image has the domain '{self.domain}'"
            refuse(self.name, [Slip("missing", whole.source, text)], REMEDY)
        return limited(chosen, self.limit, self.name, "test", deviations), tuple(deviations)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """What the data are; no picture is looked at."""
        trained: Mapping[str, Any] = self.train.manifest
        pictures, deviations = self.test
        own = [f"{self.train.name}: {text}" for text in trained.get("deviations", ())]
        return {
            "schema_version": 1,
            "task": self.name,
            "layout": "nocaps",
            "cut": "train and val of another task; test is the validation part of NoCaps",
            "trained_on": trained,
            "deviations": [*own, *deviations],
            "splits": {
                "train": trained["splits"]["train"],
                "val": trained["splits"]["val"],
                "test": pictures.described(),
            },
        }

    @property
    def manifest_sha256(self) -> str:
        """SHA-256 of the manifest; the same wherever the trees lie."""
        return manifest_digest(self.manifest)

    def load(self) -> CaptionTask:  # type: ignore[override]
        """Return the task; see :meth:`TreeSpec.load`."""
        pictures, _ = self.test

        def places(picture: Picture) -> Sequence[str]:
            name = picture.path.rpartition("/")[2]
            return (f"val/{name}", f"validation/{name}")

        files, missing = locate(existing(self.root), pictures, places)
        refuse(self.name, missing, REMEDY)
        trained = self.train.load().splits
        first = 1 + max(int(part.ids.max()) for part in trained.values())
        splits = {name: trained[name] for name in ("train", "val")}
        return self.made(splits | {"test": captions_of(pictures, files, first)}, self.manifest)
