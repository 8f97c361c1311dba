"""Captioned images as they are before a network reads them: pictures, and what people say of them.

A caption task is the same data for every network. :meth:`CaptionTask.bind` turns it into what one
of them reads and writes. Shape: N images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .base import SPLITS, DataSpec, Task, manifest_digest
from .images import Images

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

LONGEST = 63
"""Tokens of a caption, the end mark among them."""


@dataclass(frozen=True, eq=False)
class Captions:
    """One split of captioned images; N images.

    Attributes:
        images: the pictures, decoded when they are asked for.
        ids: (N,) int64 sample ids, unique in the task over all splits.
        references: every caption of each image, one or more; see :func:`plain`.
        image_ids: the data set's own id of each image, as result files name it.

    """

    images: Images
    ids: Tensor
    references: tuple[tuple[str, ...], ...]
    image_ids: tuple[int | str, ...]

    def __post_init__(self) -> None:
        lengths = {
            name: len(getattr(self, name)) for name in ("images", "ids", "references", "image_ids")
        }
        if len(set(lengths.values())) != 1:
            raise ValueError(f"a split has parts of different lengths: {lengths}")
        if not all(self.references):
            raise ValueError("a split has an image without a caption")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Sequence[int]) -> Captions:
        """Return the images at ``index``, in its order."""
        rows = [int(i) for i in index]
        return Captions(
            self.images.take(rows),
            self.ids[rows],
            tuple(self.references[i] for i in rows),
            tuple(self.image_ids[i] for i in rows),
        )


@dataclass
class CaptionTask:
    """A caption task before it is bound to a network.

    Attributes:
        name: task name.
        splits: train, val and test.
        manifest: what the data is, with the checksum of every split.
        written: tokens of the captions that are written to score them; None: none is written, and
            perplexity stands alone.
        longest_target: limit in tokens of a caption.
        beams: how many beginnings of a caption are followed while one is written; 1: greedy.

    """

    name: str
    splits: Mapping[str, Captions]
    manifest: Mapping[str, Any]
    written: int | None = None
    longest_target: int = LONGEST
    beams: int = 1
    manifest_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"task '{self.name}' needs the splits {SPLITS}")
        self.manifest_sha256 = manifest_digest(self.manifest)

    def bind(self, backbone: Backbone) -> Task:
        """Return the task as a network reads and writes it."""
        from .captioned import bind

        return bind(self, backbone)


class CaptionSpec(DataSpec):
    """Settings that name a caption task."""

    takes = "captions"

    @property
    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What the data is, with the checksum of every split; no picture is read for it."""

    def load(self) -> CaptionTask:  # type: ignore[override]
        """Return the task; its pictures are decoded when they are asked for."""
        raise NotImplementedError


def plain(caption: str) -> str:
    """Return a caption without line breaks and without blanks at its ends."""
    return " ".join(caption.splitlines()).strip()
