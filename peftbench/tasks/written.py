"""Text tasks that a language-model head answers in words.

Shapes: B samples in a batch, N in a split, K = 2 + tokens of an answer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .base import Interval
from .batch import Split
from .interval import wilson
from .text_metrics import METRICS, bootstrap, interval, measure
from .token_task import TokenTask, loss_figures, loss_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..backbones.codec import Codec
    from .text import Passages, TextTask

FIGURES = ("loss", "perplexity")
"""Metrics of the target's loss; nothing is written for them."""
INVALID = -1


class Written(TokenTask):
    """Answers in words: token cross-entropy, and metrics of what is written.

    Args:
        task: in words.
        codec: of the network.
        splits: bound to the network.

    """

    kind = "text"

    def __init__(self, task: TextTask, codec: Codec, splits: Mapping[str, Split]) -> None:
        written = any(name not in FIGURES for name in task.metrics)
        longest = task.longest_target if written else 0
        super().__init__(task.name, splits, task.manifest, codec, longest)
        self.task = task
        self.primary, self.names = task.metrics[0], task.metrics
        self.higher_is_better = self.primary not in FIGURES and METRICS[self.primary].higher
        self._row = {
            int(i): (part, row)
            for part in task.splits.values()
            for row, i in enumerate(part.ids.tolist())
        }

    def answered(self, rows: Tensor, split: Split) -> Tensor:
        """Return which of some rows of a split are answered to score it, (B,) bool."""
        limit = self.task.written
        return rows < limit if limit is not None else torch.ones_like(rows, dtype=torch.bool)

    def measure(self, outcomes: Tensor, split: Split) -> dict[str, float]:
        """Return the named metrics, ``loss`` (per target token) among them."""
        found = loss_figures(outcomes)
        if self.longest_written:
            pairs = self._pairs(outcomes, split)
            found |= {name: measure(name, *pair) for name, pair in pairs.items()}
        wanted = dict.fromkeys((*self.names, "loss"))
        return {name: found[name] for name in wanted}

    def interval(self, outcomes: Tensor, split: Split, value: float) -> Interval:
        """Return the 95% interval: Wilson's of an accuracy, else by a bootstrap over samples."""
        if self.primary in FIGURES:
            mean = loss_of(outcomes, self.primary == "perplexity")
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
        return int(self.answered(torch.arange(len(split)), split).sum())

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
