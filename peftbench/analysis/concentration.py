"""How much of a gradient sits in few entries. Song et al., arXiv 2312.11875 (quasi-sparsity).

Shape legend: n entries, S shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError


def coverage(gradient: Tensor, shares: Sequence[float], order: int = 2) -> Tensor:
    """Return C(x) = ||the ceil(x n) largest entries|| / ||all entries|| for every share x, (S,).

    Args:
        gradient: any shape, n entries; not all zero.
        shares: x in (0, 1].
        order: of the norm; 2 is the paper's, C(x)^2 the share of energy; 1 sums magnitudes.

    """
    for x in shares:
        if not 0 < x <= 1:
            raise ConfigError(f"shares: {x} is out of range; allowed: above 0, up to 1")
    sums = _sums(gradient, order)
    places = torch.tensor([math.ceil(round(x * len(sums), 9)) - 1 for x in shares])
    return (sums[places] / sums[-1]) ** (1 / order)


def least_share(gradient: Tensor, level: float = 0.99) -> float:
    """Return the smallest share of the entries that holds ``level`` of the norm (x99)."""
    sums = _sums(gradient, 2)
    reached = int((sums < (level**2) * sums[-1]).sum()) + 1
    return reached / len(sums)


def hoyer(gradient: Tensor) -> float:
    """Return (sqrt n - ||g||_1 / ||g||_2) / (sqrt n - 1): 0 for equal sizes, 1 for one entry.

    Hoyer, JMLR 5, 2004; n above 1.
    """
    flat = gradient.detach().flatten().double()
    root = math.sqrt(len(flat))
    return float((root - flat.abs().sum() / flat.norm()) / (root - 1))


def _sums(gradient: Tensor, order: int) -> Tensor:
    """Return cumulative sums of |g|^order, from the largest entry on, in fp64."""
    sizes = gradient.detach().flatten().double().abs().sort(descending=True).values
    return (sizes**order).cumsum(0)
