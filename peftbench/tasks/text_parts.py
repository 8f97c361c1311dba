"""Parts of text tasks that all of them share: templates, checksums, fewer samples.

Templates: Raffel et al. (arXiv:1910.10683) for T5; those of the transfer papers ATTEMPT
(arXiv:2205.11961) and PEMT write the same fields without the name of the task. Shapes: N samples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ..errors import ConfigError
from .cut import Ints, sample_key
from .text import Kind, Passages

Template = Literal["pemt", "attempt", "t5"]


@dataclass(frozen=True)
class Fewer:
    """How many of the training samples are used.

    Attributes:
        n_obs: the first so many; None: all.
        shots: so many per class, drawn from these; without classes so many in all; None: no draw.
        seed: of the draw; not the run's seed, so that runs with other seeds see the same samples.

    """

    n_obs: int | None = None
    shots: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("n_obs", "shots"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"data.{name}: expected 1 or more, or null for all, got {value}")
        if self.seed < 0:
            raise ConfigError(f"data.shots_seed: expected 0 or more, got {self.seed}")

    def rows(self, labels: Ints, kind: Kind, task: str) -> Ints:
        """Return the positions of the training samples that are used.

        Args:
            labels: (N,) classes of all training samples; not looked at where there are none.
            kind: of the task.
            task: its name; part of the draw.

        Raises:
            ConfigError: a class has fewer samples than ``shots``.

        """
        pool = np.arange(len(labels) if self.n_obs is None else min(self.n_obs, len(labels)))
        if self.shots is None:
            return pool
        order = sorted(pool.tolist(), key=lambda i: sample_key(f"{task}|shots", self.seed, i))
        of = labels[order] if kind == "classification" else np.zeros(len(order), np.int64)
        chosen: list[int] = []
        for value in np.unique(of):
            found = np.flatnonzero(of == value)
            if len(found) < self.shots:
                raise ConfigError(
                    f"data.shots: {self.shots} per class asked for, class {value} of task '{task}' "
                    f"has {len(found)} training samples"
                )
            chosen += found[: self.shots].tolist()
        return np.array([order[i] for i in sorted(chosen)], np.int64)

    def count(self, whole: int, kind: Kind, classes: int) -> int:
        """Return how many of ``whole`` training samples are used."""
        if self.shots is None:
            return whole if self.n_obs is None else min(self.n_obs, whole)
        return self.shots * (classes if kind == "classification" else 1)

    def stated(self) -> dict[str, Any]:
        """Return the choice for a manifest."""
        return {"n_obs": self.n_obs, "shots": self.shots, "shots_seed": self.seed}


def filled(fields: Sequence[tuple[str, str]], prefix: str) -> str:
    """Return what is read: ``name: value name: value``.

    Args:
        fields: names and values, in order.
        prefix: what stands in front (T5's templates: the task's name); empty: nothing.

    """
    parts = [f"{name}: {value}" for name, value in fields]
    return " ".join([prefix, *parts] if prefix else parts)


def written(words: Sequence[str], template: Template) -> tuple[str, ...]:
    """Return what stands for each class: its word, or its number in ATTEMPT's templates."""
    return tuple(str(i) for i in range(len(words))) if template == "attempt" else tuple(words)


def digest(passages: Passages) -> str:
    """Return the SHA-256 of ids, texts, labels, references and groups of a split."""
    found = hashlib.sha256()
    count = len(passages)
    for i in range(count):
        row = [
            int(passages.ids[i]),
            list(passages.segments[i]) if len(passages.segments) else [],
            passages.sources[i],
            passages.targets[i],
            repr(passages.labels[i].item()),
            list(passages.references[i]) if len(passages.references) else [],
            int(passages.groups[i]) if len(passages.groups) else -1,
        ]
        found.update(json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode("utf-8"))
        found.update(b"\n")
    return found.hexdigest()


def classified(
    ids: Sequence[int],
    segments: Sequence[tuple[str, ...]],
    sources: Sequence[str],
    labels: Sequence[int],
    words: Sequence[str],
) -> Passages:
    """Return a split of a task of classes; the target is the class's word."""
    targets = [words[int(label)] for label in labels]
    return Passages(
        torch.tensor(list(ids), dtype=torch.int64),
        list(segments),
        list(sources),
        targets,
        torch.tensor(list(labels), dtype=torch.int64),
    )
