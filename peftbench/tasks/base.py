"""What every task offers: splits with a closed test part, a loss and metrics.

Shapes: B samples in a batch, N samples in a split, C classes.
"""

from __future__ import annotations

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch.nn.functional as F
from torch import Tensor

from ..errors import ClosedSplitError, unknown
from .batch import Split
from .interval import wilson

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone

SPLITS = ("train", "val", "test")


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a manifest's canonical JSON (keys sorted, no spaces)."""
    text = json.dumps(manifest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


@dataclass(frozen=True)
class Interval:
    """Where a figure may lie, 95%.

    Attributes:
        low: lower bound.
        high: upper bound.
        kind: how it was found, in words.

    """

    low: float
    high: float
    kind: str


class DataSpec(ABC):
    """Settings that name a task; small, and built before anything is read.

    Attributes:
        takes: what a network must read to be used with the task, ``image``, ``text`` or
            ``captions`` (both).
        committed: whether the manifest is part of this package, so that it changes with its files.

    """

    takes: ClassVar[str]
    committed: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The task's name."""

    @property
    @abstractmethod
    def manifest_sha256(self) -> str:
        """SHA-256 of the data's manifest; known without reading the data."""

    @abstractmethod
    def load(self) -> Task:
        """Return the task with its data."""


class Task(ABC):
    """Data, loss and metrics of one problem; the test split stays closed until it is opened.

    Attributes:
        name: task name, for example ``"digits"``.
        kind: what the labels are, for example ``"classification"``.
        labels: class names; class ``i`` has the name ``labels[i]``.
        primary: the metric that stands for the task.
        manifest: what the data is and the checksum of every split.
        manifest_sha256: SHA-256 of the manifest, part of a run's identity.
        test_reads: how many times the test split was opened.

    """

    kind: str
    primary: str
    higher_is_better = True
    longest_written = 0
    """Tokens that a sample's answer may have; 0: nothing is written to score the task."""

    def __init__(
        self,
        name: str,
        labels: tuple[str, ...],
        splits: Mapping[str, Split],
        manifest: Mapping[str, Any],
    ) -> None:
        """Keep the three splits.

        Raises:
            ValueError: a split is missing, or a sample id occurs in two splits.

        """
        if set(splits) != set(SPLITS):
            raise ValueError(f"task '{name}' needs the splits {SPLITS}, got {sorted(splits)}")
        self.name = name
        self.labels = labels
        self.manifest = dict(manifest)
        self.manifest_sha256 = manifest_digest(manifest)
        self.test_reads = 0
        self._splits = dict(splits)
        seen: set[int] = set()
        for split_name in SPLITS:
            ids = set(splits[split_name].ids.tolist())
            if len(ids) != len(splits[split_name]) or seen & ids:
                raise ValueError(f"task '{name}': split '{split_name}' repeats sample ids")
            seen |= ids

    def split(self, name: str) -> Split:
        """Return a split.

        Raises:
            ClosedSplitError: the test split, before :meth:`open_test`.
            ConfigError: no split has this name.

        """
        if name not in self._splits:
            raise unknown(f"split of task '{self.name}'", name, SPLITS)
        if name == "test" and not self.test_reads:
            raise ClosedSplitError(
                f"the test split of task '{self.name}' is closed: settings are chosen on 'val'."
                " The protocol opens it once with task.open_test(), and the result counts that."
            )
        return self._splits[name]

    def closed(self) -> Self:
        """Return the same task, its data shared, with a closed test split that nobody read."""
        task = copy.copy(self)
        task.test_reads = 0
        return task

    def open_test(self) -> None:
        """Open the test split; each call counts as one reading in ``test_reads``."""
        self.test_reads += 1

    @property
    def head(self) -> int | None:
        """Outputs of the classifier head; None: the network's own language-model head is used."""
        return len(self.labels)

    @property
    def columns(self) -> int:
        """K, the numbers that scoring keeps of a sample."""
        return len(self.labels)

    def bind(self, backbone: Backbone) -> Task:
        """Return the task as a network reads it."""
        return self

    def measure(self, outcomes: Tensor, split: Split) -> dict[str, float]:
        """Return named metrics of a whole split.

        Args:
            outcomes: (N, K) what scoring kept: the network's outputs.
            split: the samples, in the same order.

        """
        return self.metrics(outcomes, split.labels.cpu())

    def interval(self, outcomes: Tensor, split: Split, value: float) -> Interval:
        """Return the 95% interval of the primary metric: Wilson's, of a share of N."""
        low, high = wilson(round(value * len(split)), len(split))
        return Interval(low, high, "Wilson, binomial, one seed")

    def leaves(self, outcomes: Tensor, split: Split) -> dict[str, Any]:
        """Return what is to be kept of a scored split besides figures, as JSON by name."""
        return {}

    @abstractmethod
    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return named metrics of a whole split from its outputs and labels."""

    @abstractmethod
    def per_sample_loss(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return one fp32 loss per sample, shape (B,)."""


class Classification(Task):
    """One class per sample: cross-entropy and accuracy."""

    kind = "classification"
    primary = "accuracy"

    def metrics(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return ``accuracy`` (fraction, 0..1) and ``loss`` (mean cross-entropy).

        Args:
            logits: (N, C), any float type; computed in fp32.
            labels: (N,) int64.

        Raises:
            ValueError: there are no samples, or the lengths differ.

        """
        if len(labels) == 0 or len(labels) != len(logits):
            raise ValueError(f"metrics of {len(logits)} outputs and {len(labels)} labels")
        labels = labels.to(logits.device)
        accuracy = (logits.argmax(-1) == labels).double().mean().item()
        return {"accuracy": accuracy, "loss": F.cross_entropy(logits.float(), labels).item()}

    def per_sample_loss(
        self, logits: Tensor, labels: Tensor, label_smoothing: float = 0.0
    ) -> Tensor:
        """Return the cross-entropy of each sample, (B,) fp32, from logits (B, C)."""
        return F.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=label_smoothing
        )
