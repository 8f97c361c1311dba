"""A trained captioner that is shown pictures: captions, and how likely captions are to it.

Shape legend: B pictures, S side of the network's square, P places of a picture, E width of what is
seen, R tokens of the longest caption with its end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ArtefactError
from ..tasks.captioned import behind_picture, one_line
from ..tasks.token_task import token_losses
from .artefact import caption_use, describe, load_adapter
from .model import Adapted
from .reader import Writing

Seen = Mapping[str, Tensor]
"""What the vision encoder sees in B pictures: ``seen``, (B, P, E)."""


@dataclass(frozen=True)
class Told:
    """A caption that was written.

    Attributes:
        caption: one line.
        log_probability: mean over its tokens, in nats; the end token counts where it was written.

    """

    caption: str
    log_probability: float


class Describer:
    """A captioner with what it knows of its task.

    Args:
        model: in eval mode; its backbone sees and writes.
        how: of writing.

    """

    def __init__(self, model: Adapted, how: Writing) -> None:
        codec = model.backbone.codec
        if codec is None or model.backbone.anatomy.connect is None:
            raise ArtefactError(f"'{model.backbone.name}' does not see pictures and write")
        if how.longest is None:
            raise ValueError("how.longest: a captioner needs it")
        self.model, self.how, self.longest = model.eval(), how, how.longest
        self.backbone, self.codec = model.backbone, codec

    @staticmethod
    def load(path: str | Path) -> Describer:
        """Load base and adapter of a run or adapter folder; it writes as it did in training.

        Raises:
            ArtefactError: there is no adapter, or it does not say how it writes.

        """
        folder, description = describe(path)
        use = caption_use(folder, description)
        return Describer(load_adapter(folder), Writing(use.longest, beams=use.beams))

    @torch.no_grad()
    def see(self, image_BCSS: Tensor) -> Seen:
        """Return what the vision encoder sees in normalised pictures, fp16."""
        device = next(self.model.base.parameters()).device
        return self.model.encode({"image": image_BCSS.to(device)})

    @torch.no_grad()
    def write(self, seen: Seen) -> list[Told]:
        """Return a caption of every picture."""
        device = seen["seen"].device
        count = len(seen["seen"])
        given = behind_picture([[]] * count, self.backbone).prompts(torch.arange(count))
        inputs = {**{name: t.to(device) for name, t in given.items()}, **seen}
        end, pad = self.codec.end, self.codec.pad
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.how.seed)
            found = self.model.write(inputs, end, pad, self.longest, **self.how.settings())
        rows = [row[: row.index(end) + 1] if end in row else row for row in found.tolist()]
        likely_B = self.log_probabilities(seen, rows)
        return [
            Told(one_line(self.codec.answer(row)), p)
            for row, p in zip(rows, likely_B.tolist(), strict=True)
        ]

    def log_probabilities(self, seen: Seen, captions: Sequence[Sequence[int]]) -> Tensor:
        """Return the mean log-probability of each caption's tokens, (B,), nats.

        Args:
            seen: one row per caption.
            captions: ids, one or more each.

        """
        losses_BR = self.losses(seen, captions)
        tokens_B = torch.tensor([len(ids) for ids in captions], device=losses_BR.device)
        return -losses_BR.sum(1) / tokens_B

    @torch.no_grad()
    def losses(self, seen: Seen, captions: Sequence[Sequence[int]]) -> Tensor:
        """Return the cross-entropy of every token of a caption, (B, R) fp32, 0 behind its end.

        Args:
            seen: one row per caption.
            captions: ids, one or more each.

        """
        device = seen["seen"].device
        inputs, targets_BR = behind_picture(captions, self.backbone).take(
            torch.arange(len(captions))
        )
        output = self.model({**{name: t.to(device) for name, t in inputs.items()}, **seen})
        return token_losses(output.logits, targets_BR.to(device))
