"""Text tasks that a language-model head answers in words.

A sample is scored by the loss of its target and by what the network writes. Shapes: B samples in a
batch, N in a split, T tokens of a target, G of an answer, V vocabulary, K = 2 + G.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .base import Interval, Task
from .batch import Split
from .encoded import IGNORED
from .interval import wilson
from .text_metrics import METRICS, bootstrap, interval, measure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..backbones.codec import Codec
    from .text import Passages, TextTask

FIGURES = ("loss", "perplexity")
"""Metrics of the target's loss; nothing is written for them."""
ABSENT = -1.0
INVALID = -1


class Written(Task):
    """Answers in words: token cross-entropy, and metrics of what is written.

    Args:
        task: in words.
        codec: of the network.
        splits: bound to the network.

    """

    kind = "text"

    def __init__(self, task: TextTask, codec: Codec, splits: Mapping[str, Split]) -> None:
        super().__init__(task.name, (), splits, task.manifest)
        self.task, self.codec = task, codec
        self.primary, self.names = task.metrics[0], task.metrics
        self.higher_is_better = self.primary not in FIGURES and METRICS[self.primary].higher
        written = any(name not in FIGURES for name in task.metrics)
        self.longest_written = task.longest_target if written else 0
        self._row = {
            int(i): (part, row)
            for part in task.splits.values()
            for row, i in enumerate(part.ids.tolist())
        }

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
        return F.cross_entropy(
            logits.float().flatten(0, 1),
            labels.flatten(),
            reduction="none",
            ignore_index=IGNORED,
            label_smoothing=label_smoothing,
        ).view(labels.shape)

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

    def answered(self, rows: Tensor) -> Tensor:
        """Return which of some rows of a split are answered to score it, (B,) bool."""
        limit = self.task.written
        return rows < limit if limit is not None else torch.ones_like(rows, dtype=torch.bool)

    def answers(self, outcomes: Tensor) -> list[str]:
        """Return what was written, without special tokens and space at the ends."""
        rows = outcomes[:, 2:].long().tolist()
        return [self.codec.answer([i for i in row if i >= 0]) for row in rows]

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Not of outputs alone: :meth:`measure` knows the samples."""
        raise TypeError("a written task is measured with its samples")

    def measure(self, outcomes: Tensor, split: Split) -> dict[str, float]:
        """Return the named metrics, ``loss`` (per target token) among them."""
        loss = float(outcomes[:, 0].double().sum() / outcomes[:, 1].double().sum())
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
        if self.longest_written:
            pairs = self._pairs(outcomes, split)
            found |= {name: measure(name, *pair) for name, pair in pairs.items()}
        wanted = dict.fromkeys((*self.names, "loss"))
        return {name: found[name] for name in wanted}

    def interval(self, outcomes: Tensor, split: Split, value: float) -> Interval:
        """Return the 95% interval: Wilson's of an accuracy, else by a bootstrap over samples."""
        if self.primary in FIGURES:
            sums, counts = (outcomes[:, i].double().cpu().numpy() for i in (0, 1))
            grow: Callable[[float], float] = math.exp if self.primary == "perplexity" else float

            def mean(rows: np.ndarray) -> float:
                return grow(float(sums[rows].sum() / counts[rows].sum()))

            low, high = bootstrap(mean, len(split))
        elif METRICS[self.primary].binomial:
            count = self._count(split)
            low, high = wilson(round(value * count), count)
            return Interval(low, high, "Wilson, binomial, one seed")
        else:
            pair = self._pairs(outcomes, split)[self.primary]
            low, high = interval(self.primary, *pair)
            if len(pair[2]):
                return Interval(low, high, "bootstrap over groups of samples, one seed")
        return Interval(low, high, "bootstrap over samples, one seed")

    def _count(self, split: Split) -> int:
        """Return how many samples of a split are answered: its first ones."""
        return int(self.answered(torch.arange(len(split))).sum())

    def _pairs(self, outcomes: Tensor, split: Split) -> dict[str, tuple[Any, Any, Sequence[int]]]:
        """Return what was given, what was wanted and the groups, per metric of what is written."""
        count = self._count(split)
        answers = self.answers(outcomes[:count])
        places = [self._row[i] for i in split.ids.tolist()[:count]]
        groups = [int(part.groups[row]) for part, row in places if len(part.groups)]
        return {
            name: (*self._pair(METRICS[name].kind, answers, places), groups)
            for name in self.names
            if name not in FIGURES
        }

    def _pair(
        self, kind: str, answers: Sequence[str], places: Sequence[tuple[Passages, int]]
    ) -> tuple[Any, Any]:
        """Return what was given and what was wanted, as a kind of metric takes them."""
        if kind == "classes":
            order = {word: i for i, word in enumerate(self.task.words)}
            given = np.array([order.get(answer, INVALID) for answer in answers])
            return given, np.array([int(part.labels[row]) for part, row in places])
        if kind == "values":
            given = np.array([_number(answer) for answer in answers])
            return given, np.array([float(part.labels[row]) for part, row in places])
        references = [
            part.references[row] if len(part.references) else (part.targets[row],)
            for part, row in places
        ]
        return list(answers), references


def _number(text: str) -> float:
    """Return the number a text is; -1 where it is none."""
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0
