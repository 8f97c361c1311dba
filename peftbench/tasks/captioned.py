"""From pictures with captions to what a captioner reads and writes.

Layout and loss: Hadji-Kyriacou & Arandjelovic, arXiv 2312.08900, section 3: a begin token, P places
of the picture, then the caption; the last place of the picture predicts its first token, and the
end token counts.

Shape legend: N samples (a picture with one of its captions), B of a batch, P places of a picture,
R tokens of the longest caption with its end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..backbones.captioner import PICTURE
from ..errors import IncompatibleError
from .base import Interval
from .batch import Split
from .encoded import IGNORED, Encoded, Ragged, join
from .images import Taken
from .text_metrics import bootstrap
from .token_task import TokenTask, loss_figures, loss_of

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from ..backbones.codec import Codec
    from .captions import Captions, CaptionTask

CAPTIONS = "captions"


@dataclass(frozen=True, eq=False)
class Pictured(Encoded):
    """Captions as ids behind a picture; filled up on the right.

    Attributes:
        caption: ids, end token included.
        begin: id in front of the picture.
        places: P.
        pad: id of padding.

    """

    caption: Ragged
    begin: int
    places: int
    pad: int

    def __len__(self) -> int:
        return len(self.caption)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sample, the picture's places included."""
        return self.caption.lengths + self.places

    @property
    def weights(self) -> Tensor:
        """Tokens of each caption."""
        return self.caption.lengths

    def take(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return ids (B, P + R) and targets (B, R) of the last R places, which ``keep`` names.

        No mask is needed: behind a caption's end nothing is asked for, and a decoder does not look
        ahead.
        """
        caption_BR, there_BR = self.caption.padded(rows, self.pad)
        before = self.prompts(rows)["input_ids"]
        ids = torch.cat([before, caption_BR[:, :-1]], dim=1)
        kept = torch.arange(self.places, ids.shape[1]).expand(len(rows), -1)
        targets_BR = caption_BR.masked_fill(there_BR == 0, IGNORED)
        return {"input_ids": ids, "keep": kept}, targets_BR

    def prompts(self, rows: Tensor) -> dict[str, Tensor]:
        """Return the begin token and the picture's places, (B, 1 + P)."""
        begin = torch.full((len(rows), 1), self.begin)
        return {"input_ids": torch.cat([begin, self._places(len(rows))], dim=1)}

    def joined(self, other: Encoded) -> Pictured:
        """Return these samples with others behind them."""
        assert isinstance(other, Pictured)
        return Pictured(join(self.caption, other.caption), self.begin, self.places, self.pad)

    def _places(self, count: int) -> Tensor:
        return torch.full((count, self.places), PICTURE)


class Captioned(TokenTask):
    """Captions: perplexity of every reference, and scores of one written caption per picture.

    Args:
        task: pictures and captions.
        codec: of the decoder.
        splits: bound to the network; a sample is a picture with one of its captions.
        per_picture: sample ids of one picture's captions: so many numbers, from a multiple of it.

    """

    kind = "captions"
    primary = "perplexity"
    higher_is_better = False

    def __init__(
        self, task: CaptionTask, codec: Codec, splits: Mapping[str, Split], per_picture: int
    ) -> None:
        super().__init__(task.name, splits, task.manifest, codec, task.written or 0)
        self.beams, self.per_picture = task.beams, per_picture
        self._about = {
            int(i): (image_id, references)
            for part in task.splits.values()
            for i, image_id, references in zip(
                part.ids.tolist(), part.image_ids, part.references, strict=True
            )
        }

    def answered(self, rows: Tensor, split: Split) -> Tensor:
        """Return which rows are the first of their picture, (B,) bool: one caption is written."""
        return split.ids[rows.to(split.ids.device)].cpu() % self.per_picture == 0

    def measure(self, outcomes: Tensor, split: Split) -> dict[str, float]:
        """Return ``perplexity`` and ``loss`` per token over all captions, and captioning scores."""
        found = loss_figures(outcomes)
        figures = {"perplexity": found["perplexity"], "loss": found["loss"]}
        if self.longest_written:
            from .caption_metrics import score

            written = self.captions(outcomes, split)
            references = {i: self._about[i][1] for i in written}
            scores = score(written, references, meteor=split.name == "test")  # a slow program
            figures |= {name: value for name, value in scores.items() if value is not None}
        return figures

    def interval(self, outcomes: Tensor, split: Split, value: float) -> Interval:
        """Return the 95% interval of the perplexity by a bootstrap over pictures."""
        pictures = (split.ids.cpu() // self.per_picture).numpy()
        _, at = np.unique(pictures, return_inverse=True)
        groups = np.split(np.argsort(at, kind="stable"), np.cumsum(np.bincount(at))[:-1])
        figure = loss_of(outcomes, perplexity=True)

        def drawn(rows: np.ndarray) -> float:
            return figure(np.concatenate([groups[row] for row in rows]))

        low, high = bootstrap(drawn, len(groups))
        return Interval(low, high, "bootstrap over pictures, one seed")

    def captions(self, outcomes: Tensor, split: Split) -> dict[int, str]:
        """Return the written caption of every picture, by the picture's sample id."""
        rows = self.answered(torch.arange(len(split)), split).nonzero().flatten()
        ids = (split.ids.cpu()[rows] // self.per_picture).tolist()
        texts = [one_line(text) for text in self.answers(outcomes[rows])]
        return dict(zip(ids, texts, strict=True))

    def leaves(self, outcomes: Tensor, split: Split) -> dict[str, Any]:
        """Return the written captions in the form of COCO's result files."""
        if not self.longest_written:
            return {}
        written = self.captions(outcomes, split)
        return {
            CAPTIONS: [{"image_id": self._about[i][0], "caption": t} for i, t in written.items()]
        }


def bind(task: CaptionTask, backbone: Backbone) -> Captioned:
    """Return the task as a captioner reads it.

    Raises:
        IncompatibleError: the network does not both see and write, or has too few positions.
        ConfigError: captions are to be scored, and the scorers are not installed.

    """
    codec = backbone.codec
    if codec is None or backbone.preprocess is None:
        raise IncompatibleError(
            f"backbone '{backbone.name}' does not see pictures and write: backbone=captioner does"
        )
    if task.written:
        from .caption_metrics import check

        check()
    places = places_of(backbone)
    longest = 1 + places + max(task.longest_target, task.written or 0)
    if codec.positions is not None and longest > codec.positions:
        raise IncompatibleError(
            f"backbone: {places} places of a picture and data.longest_target={task.longest_target} "
            f"need {longest} positions; the decoder has {codec.positions}"
        )
    most = max(len(r) for part in task.splits.values() for r in part.references)
    splits = {
        name: _split(name, part, task.longest_target, backbone, most)
        for name, part in task.splits.items()
    }
    return Captioned(task, codec, splits, most)


def places_of(backbone: Backbone) -> int:
    """Return P of a captioner."""
    return int(backbone.model.places)  # type: ignore[arg-type]


def pictured(captions: Sequence[str], longest: int, backbone: Backbone) -> Pictured:
    """Return captions as ids behind a picture, the end token behind each.

    Args:
        captions: N texts.
        longest: limit of each in tokens, the end token aside.
        backbone: a captioner.

    """
    assert backbone.codec is not None
    ids = backbone.codec.ids(captions)
    return behind_picture([[*caption[:longest], backbone.codec.end] for caption in ids], backbone)


def behind_picture(ids: Sequence[Sequence[int]], backbone: Backbone) -> Pictured:
    """Return captions that are ids already, as they are; empty ones have prompts alone."""
    codec = backbone.codec
    assert codec is not None
    return Pictured(Ragged.of(ids), codec.begin, places_of(backbone), codec.pad)


def one_line(text: str) -> str:
    """Return a written caption: the first line, with single blanks."""
    return " ".join(text.split("\n")[0].split())


def _split(name: str, part: Captions, longest: int, backbone: Backbone, per_picture: int) -> Split:
    """Return one split: a sample per caption, ids ``picture * per_picture + number``."""
    pairs = [(i, j) for i, texts in enumerate(part.references) for j in range(len(texts))]
    text = pictured([part.references[i][j] for i, j in pairs], longest, backbone)
    rows = tuple(i for i, _ in pairs)
    numbers = torch.tensor([j for _, j in pairs])
    at = torch.tensor(rows)
    return Split(
        name,
        {"image": Taken(part.images, rows), "text": text},
        torch.full((len(pairs),), -1),
        part.ids[at] * per_picture + numbers,
    )
