"""What all tasks have in common that a language-model head answers in words.

A sample is scored by the loss of its target and by what the network writes. Shapes: B samples in a
batch, N in a split, T tokens of a target, G of an answer, V vocabulary, K = 2 + G.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Task
from .batch import Split
from .encoded import IGNORED

if TYPE_CHECKING:
    from ..backbones.codec import Codec

ABSENT = -1.0


class TokenTask(Task):
    """Token cross-entropy, and answers in words for those samples that are answered.

    Args:
        name: of the task.
        splits: bound to the network.
        manifest: what the data is.
        codec: of the network.
        longest_written: tokens that an answer may have; 0: nothing is written.

    """

    beams = 1

    def __init__(
        self,
        name: str,
        splits: Mapping[str, Split],
        manifest: Mapping[str, Any],
        codec: Codec,
        longest_written: int,
    ) -> None:
        super().__init__(name, (), splits, manifest)
        self.codec, self.longest_written = codec, longest_written

    @abstractmethod
    def answered(self, rows: Tensor, split: Split) -> Tensor:
        """Return which of some rows of a split are answered to score it, (B,) bool."""

    @property
    def head(self) -> None:
        """None: the network's own language-model head is used."""

    @property
    def columns(self) -> int:
        """Loss, number of target tokens, and the ids that were written."""
        return 2 + self.longest_written

    def per_sample_loss(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the mean cross-entropy over each sample's target tokens, (B,) fp32.

        Args:
            logits: (B, T, V).
            labels: (B, T) ids, -100 where nothing is asked for.
            label_smoothing: of the cross-entropy.

        """
        tokens = (labels != IGNORED).sum(1).clamp(min=1)
        return self.token_loss(logits, labels, label_smoothing).sum(1) / tokens

    def token_loss(self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of every target token, (B, T) fp32, 0 where there is none."""
        return token_losses(logits, labels, label_smoothing)

    def outcome(self, logits: Tensor, labels: Tensor, written: Tensor) -> Tensor:
        """Return (B, K) numbers: summed loss, number of target tokens, ids of the answer.

        Args:
            logits: (B, T, V) of the targets.
            labels: (B, T) the targets.
            written: (B, G') ids, G' <= G; -1 where nothing is written.

        """
        losses = self.token_loss(logits, labels).sum(1)
        tokens = (labels != IGNORED).sum(1)
        out = torch.full((len(labels), self.columns), ABSENT, device=logits.device)
        out[:, 0], out[:, 1] = losses, tokens
        out[:, 2 : 2 + written.shape[1]] = written.float()
        return out

    def answers(self, outcomes: Tensor) -> list[str]:
        """Return what was written, without special tokens and space at the ends."""
        rows = outcomes[:, 2:].long().tolist()
        return [self.codec.answer([i for i in row if i >= 0]) for row in rows]

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Not of outputs alone: :meth:`measure` knows the samples."""
        raise TypeError("a written task is measured with its samples")


def token_losses(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of every target token, (B, T) fp32, 0 where there is none.

    Args:
        logits: (B, T, V).
        labels: (B, T) ids, -100 where nothing is asked for.
        label_smoothing: of the cross-entropy.

    """
    return F.cross_entropy(
        logits.float().flatten(0, 1),
        labels.flatten(),
        reduction="none",
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
    ).view(labels.shape)


def loss_figures(outcomes: Tensor) -> dict[str, float]:
    """Return ``loss`` (nats per target token over all samples) and ``perplexity``, its exp.

    Args:
        outcomes: (N, K) with summed loss and number of target tokens in front.

    """
    loss = float(outcomes[:, 0].double().sum() / outcomes[:, 1].double().sum())
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def loss_of(outcomes: Tensor, perplexity: bool) -> Callable[[np.ndarray], float]:
    """Return rows -> loss or perplexity of those samples, for a bootstrap."""
    sums, counts = (outcomes[:, i].double().cpu().numpy() for i in (0, 1))
    grow: Callable[[float], float] = math.exp if perplexity else float

    def figure(rows: np.ndarray) -> float:
        return grow(float(sums[rows].sum() / counts[rows].sum()))

    return figure
