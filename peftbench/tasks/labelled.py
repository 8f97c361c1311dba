"""Text tasks that a classifier head answers: one class or one value per sample.

Shapes: B samples in a batch, N in a split, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from .base import Classification, Interval, Task
from .batch import Split
from .text_metrics import METRICS, interval, measure


class TextClasses(Classification):
    """One class per text, with the metrics that the field reports of a task.

    Args:
        name: of the task.
        labels: class names.
        splits: bound to a network.
        manifest: what the data is.
        metrics: names; the first stands for the task.

    """

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        splits: Mapping[str, Split],
        manifest: Mapping[str, Any],
        metrics: tuple[str, ...],
    ) -> None:
        super().__init__(name, labels, splits, manifest)
        # a head sees samples, not the groups that they are in
        self.names = tuple(name for name in metrics if not METRICS[name].grouped)
        self.primary = self.names[0]

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the named metrics and ``loss``, the mean cross-entropy."""
        found = super().metrics(logits, labels)
        chosen = logits.argmax(-1).cpu().numpy()
        named = {n: measure(n, chosen, labels.cpu().numpy()) for n in self.names}
        return {**named, "loss": found["loss"]}

    def interval(self, outcomes: Tensor, split: Split, value: float) -> Interval:
        """Return the 95% interval: Wilson's of an accuracy, else by a bootstrap over samples."""
        if METRICS[self.primary].binomial:
            return super().interval(outcomes, split, value)
        return _resampled(self.primary, outcomes.argmax(-1), split.labels)


class TextValues(Task):
    """One value per text: mean squared error and correlations. A head of one output."""

    kind = "regression"

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        splits: Mapping[str, Split],
        manifest: Mapping[str, Any],
        metrics: tuple[str, ...],
    ) -> None:
        super().__init__(name, labels or ("value",), splits, manifest)
        self.primary, self.names = metrics[0], metrics

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the named metrics and ``loss``, the mean squared error."""
        values, wanted = logits[:, 0].float().cpu(), labels.float().cpu()
        named = {n: measure(n, values.numpy(), wanted.numpy()) for n in self.names}
        return {**named, "loss": F.mse_loss(values, wanted).item()}

    def interval(self, outcomes: Tensor, split: Split, value: float) -> Interval:
        """Return the 95% interval by a bootstrap over samples."""
        return _resampled(self.primary, outcomes[:, 0].float(), split.labels)

    def per_sample_loss(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the squared error of each sample, (B,) fp32, from logits (B, 1)."""
        return (logits[:, 0].float() - labels.float()).square()


def _resampled(name: str, found: Tensor, wanted: Tensor) -> Interval:
    low, high = interval(name, found.cpu().numpy(), wanted.cpu().numpy())
    return Interval(low, high, "bootstrap over samples, one seed")
