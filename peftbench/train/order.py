"""The order of samples: a pure function of seed and epoch, texts of like length side by side.

Shape legend: N samples of the split, R rows of a global batch, b rows of one part of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..edits.noise import stream_seed
from ..tasks.batch import Batch, Split
from .config import Trainer


class Order:
    """Which rows make which batch, and what each of them counts.

    Args:
        split: what is trained on.
        cfg: batch size, and how many batches are sorted by length together.
        seed: of the run.

    """

    def __init__(self, split: Split, cfg: Trainer, seed: int) -> None:
        self.count, self.size, self.seed = len(split), cfg.batch_size, seed
        self.window = cfg.length_window
        encoded = split.encoded
        self.lengths_N = encoded.lengths if encoded is not None else None
        self.weights_N = encoded.weights if encoded is not None else None
        self._epoch, self._order_N = -1, torch.empty(0, dtype=torch.long)

    def batch(self, epoch: int, place: int) -> Tensor:
        """Return the rows (R,) that make batch ``place`` of ``epoch``."""
        if epoch != self._epoch:
            self._order_N, self._epoch = self._shuffled(epoch), epoch
        return self._order_N[place * self.size : (place + 1) * self.size]

    def _shuffled(self, epoch: int) -> Tensor:
        """Return all rows in the order of an epoch.

        Texts are sorted by length within windows of the shuffled order, and the whole batches are
        shuffled again; a last, smaller batch stays the last.
        """
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "order", epoch))
        order_N = torch.randperm(self.count, generator=generator)
        if self.lengths_N is None or self.window == 0:
            return order_N
        whole = self.count // self.size * self.size
        windows = order_N[:whole].split(self.window * self.size)
        sorted_rows = [rows[self.lengths_N[rows].argsort(stable=True)] for rows in windows]
        if not sorted_rows or whole == 0:
            return order_N
        groups = torch.cat(sorted_rows).view(-1, self.size)
        groups = groups[torch.randperm(len(groups), generator=generator)]
        return torch.cat([groups.flatten(), order_N[whole:]])

    def weights(self, rows_R: Tensor, part_b: Tensor, batch: Batch) -> Tensor | None:
        """Return what each sample of a part counts, (b,), 1 on average over the batch.

        Of texts that are written every target token counts alike, so a sample counts by its tokens.

        Args:
            rows_R: the whole batch.
            part_b: places in it that the part holds.
            batch: the part, for its device.

        """
        if self.weights_N is None:
            return None
        weights_R = self.weights_N[rows_R].double()
        weights_R = weights_R * (len(rows_R) / weights_R.sum().clamp(min=1))
        part_b = part_b if len(part_b) else torch.zeros(1, dtype=torch.long)
        return weights_R[part_b].float().to(batch.ids.device)
