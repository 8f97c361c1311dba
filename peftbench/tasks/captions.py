"""Captioned images as they are before a network reads them: pictures, and what people say of them.

A caption task is the same data for every network. :meth:`CaptionTask.bind` turns it into what one
of them reads and writes. Shape: N images.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import ConfigError
from ..spec import check_fields
from .base import SPLITS, DataSpec, Task, manifest_digest
from .images import Images

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

LONGEST = 63
"""Tokens of a caption; the end mark comes behind them."""


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
        if len(set(self.image_ids)) != len(self.image_ids) or "" in self.image_ids:
            raise ValueError("a split has images without an id of their own")

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


@dataclass(frozen=True)
class CaptionUse:
    """What an adapter knows of the caption task that it was trained on.

    Attributes:
        longest_target: limit in tokens of a caption that was learned.
        written: tokens of the captions that were written to score it; None: none was written.
        beams: of the search that wrote them; 1: greedy.

    """

    longest_target: int
    written: int | None = None
    beams: int = 1

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and value < 1:
                raise ConfigError(f"captions.{name}: at least 1 is needed, got {value}")

    @property
    def longest(self) -> int:
        """Tokens that a caption may have when it is written."""
        return self.written or self.longest_target

    @staticmethod
    def of(task: Any) -> CaptionUse | None:
        """Return what to store of a task; None where it is of something else."""
        if not isinstance(task, CaptionTask):
            return None
        return CaptionUse(task.longest_target, task.written, task.beams)

    @staticmethod
    def read(stored: Mapping[str, Any]) -> CaptionUse:
        """Return what :meth:`stored` wrote.

        Raises:
            ConfigError: it is something else.

        """
        return CaptionUse(**check_fields(CaptionUse, stored, "captions"))

    def stored(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


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
