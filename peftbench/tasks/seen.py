"""What a frozen vision encoder saw in the pictures of a split, computed once.

Shape legend: N samples, B of a batch, M pictures, P places of a picture, E width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """Features of N samples, of which several may share a picture.

    Attributes:
        tables: one (M, P, E) fp16 tensor or more, in memory or mapped from files; their pictures
            count on from one to the next.
        rows: (N,) int64, the picture of every sample.

    """

    tables: tuple[Tensor, ...]
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> Tensor:
        """Return (B, P, E) of the samples at ``index``."""
        wanted = self.rows[index.cpu()]
        out = torch.empty(len(wanted), *self.tables[0].shape[1:], dtype=self.tables[0].dtype)
        start = 0
        for table in self.tables:
            mine = (wanted >= start) & (wanted < start + len(table))
            out[mine] = table[wanted[mine] - start]
            start += len(table)
        return out

    def chosen(self, index: Tensor) -> Seen:
        """Return the samples at ``index``, in its order."""
        return Seen(self.tables, self.rows[index])

    def joined(self, other: Seen) -> Seen:
        """Return these samples with others behind them."""
        before = sum(len(table) for table in self.tables)
        return Seen((*self.tables, *other.tables), torch.cat([self.rows, other.rows + before]))
