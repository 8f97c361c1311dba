"""Frozen features, computed once per sample where nothing changes them. Exact, not approximate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..tasks.batch import Batch
from .model import MAIN, Adapted


def cacheable(model: Adapted) -> bool:
    """Whether features are the same at every step: no edit, and no randomness in the network."""
    return len(model.delta.edits) == 0 and MAIN in model.heads and not model.stochastic()


class FeatureCache:
    """Features (D,) by sample id, kept on the device where they were computed."""

    def __init__(self) -> None:
        self._rows: dict[int, int] = {}
        self._table = torch.empty(0, 0)

    def get(self, batch: Batch, compute: Callable[[Batch], Tensor]) -> Tensor:
        """Return features (B, D) of a batch, computing those that are not known yet."""
        ids = batch.ids.tolist()
        new = [i for i, sample in enumerate(ids) if sample not in self._rows]
        if new:
            with torch.no_grad():
                features = compute(batch.select(torch.tensor(new, device=batch.labels.device)))
            start = len(self._rows)
            self._reserve(start + len(new), features)
            self._table[start : start + len(new)] = features
            self._rows.update((ids[i], start + offset) for offset, i in enumerate(new))
        rows = torch.tensor([self._rows[sample] for sample in ids], device=self._table.device)
        return self._table[rows]

    def _reserve(self, rows: int, like: Tensor) -> None:
        if rows > len(self._table):
            table = like.new_empty(max(rows, 2 * len(self._table)), like.shape[1])
            if self._rows:
                table[: len(self._rows)] = self._table[: len(self._rows)]
            self._table = table
