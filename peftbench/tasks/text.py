"""Text tasks as they are before a network reads them: segments, sources and targets in words.

A text task is the same data for every network. :func:`peftbench.tasks.bind.bind` turns it into ids
for one of them: an encoder classifies the segments, other networks read the source and write the
target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from .base import SPLITS, DataSpec, Task, manifest_digest

if TYPE_CHECKING:
    from ..backbones.backbone import Backbone
    from .wording import Wording

Kind = Literal["classification", "regression", "answers"]
Form = Literal["auto", "classification", "text_to_text"]
Style = Literal["plain", "alpaca", "chat"]


@dataclass(frozen=True)
class Passages:
    """One split of a text task; N samples.

    Attributes:
        ids: (N,) int64, unique in the task over all splits.
        segments: one or two texts per sample, for a network that classifies; empty where the task
            is not one of classes or values.
        sources: what a network that writes reads.
        targets: what it shall write.
        labels: (N,) int64 classes, fp32 values, or -1 where the task has neither.
        references: every accepted answer per sample; empty: the target alone.
        groups: (N,) int64, samples that are counted together (the answers to one question); empty
            where a metric needs none.
        messages: what is said before the target, ``role`` and ``content`` per turn, for a network
            with a chat template of its own; empty where ``sources`` are read as they are.

    """

    ids: Tensor
    segments: Sequence[tuple[str, ...]]
    sources: Sequence[str]
    targets: Sequence[str]
    labels: Tensor
    references: Sequence[tuple[str, ...]] = ()
    groups: Sequence[int] = ()
    messages: Sequence[tuple[Mapping[str, str], ...]] = ()

    def __post_init__(self) -> None:
        lengths = {
            name: len(getattr(self, name)) for name in ("ids", "sources", "targets", "labels")
        }
        for name in ("segments", "references", "groups", "messages"):
            if len(getattr(self, name)):
                lengths[name] = len(getattr(self, name))
        if len(set(lengths.values())) != 1:
            raise ValueError(f"a split has parts of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, index: Sequence[int]) -> Passages:
        """Return the samples at ``index``, in its order."""
        rows = [int(i) for i in index]

        def of(values: Sequence[Any]) -> Sequence[Any]:
            return [values[i] for i in rows] if len(values) else ()

        return Passages(
            self.ids[rows],
            of(self.segments),
            of(self.sources),
            of(self.targets),
            self.labels[rows],
            of(self.references),
            of(self.groups),
            of(self.messages),
        )


@dataclass
class TextTask:
    """A text task before it is bound to a network.

    Attributes:
        name: task name.
        kind: ``classification`` (classes), ``regression`` (one value), ``answers`` (free text).
        splits: train, val and test.
        labels: class names, in the order of the classes; empty where there are none.
        words: what stands for each class when it is written.
        metrics: names of :mod:`peftbench.tasks.text_metrics`, the first one stands for the task.
        description: one sentence that says what is asked.
        longest_source: limit in tokens of what is read.
        longest_target: limit in tokens of what is written.
        manifest: what the data is, with the checksum of every split.
        form: how a network is used that can both classify and write.
        written: so many samples at the beginning of a split are answered to score it; None: all.
        style: how a source is written: ``plain`` (fields of a task), ``alpaca`` (the template of
            Alpaca, in ``sources``), ``chat`` (``messages``, put into the tokenizer's template).
        wording: how a raw sample becomes these texts; None: an adapter cannot be asked by fields.

    """

    name: str
    kind: Kind
    splits: Mapping[str, Passages]
    labels: tuple[str, ...]
    words: tuple[str, ...]
    metrics: tuple[str, ...]
    description: str
    longest_source: int
    longest_target: int
    manifest: Mapping[str, Any]
    form: Form = "auto"
    written: int | None = None
    style: Style = "plain"
    wording: Wording | None = None
    manifest_sha256: str = field(init=False)

    def __post_init__(self) -> None:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"task '{self.name}' needs the splits {SPLITS}")
        if len(self.words) != len(self.labels):
            raise ValueError(f"task '{self.name}': a word is needed for every class")
        self.manifest_sha256 = manifest_digest(self.manifest)

    def bind(self, backbone: Backbone) -> Task:
        """Return the task as a network reads it; see :func:`peftbench.tasks.bind.bind`."""
        from .bind import bind

        return bind(self, backbone)


class TextSpec(DataSpec):
    """Settings that name a text task."""

    takes = "text"

    def load(self) -> TextTask:  # type: ignore[override]
        """Return the task with its texts."""
        raise NotImplementedError
