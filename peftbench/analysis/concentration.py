"""How much of a gradient sits in few entries. Song et al., arXiv 2312.11875 (quasi-sparsity).

Shape legend: n entries, S shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """How a gradient is spread over its entries.

    Attributes:
        n: entries.
        norm: ||g||_2.
        c2: C2 at every share, (S,).
        c1: C1 at every share, (S,).
        x99: smallest share with C2 of at least 0.99.
        hoyer: the Hoyer index; 1 for a single entry.

    """

    n: int
    norm: float
    c2: Tensor
    c1: Tensor
    x99: float
    hoyer: float


def profile(gradient: Tensor, shares: Sequence[float]) -> Profile | None:
    """Return everything about a gradient from one sorting; None if it is zero throughout.

    Args:
        gradient: any shape, n entries.
        shares: x in (0, 1].

    """
    sizes = torch.from_numpy(np.sort(gradient.detach().flatten().abs().float().cpu().numpy()))
    sizes = sizes.flip(0).double()
    n, places = len(sizes), _places(shares, gradient.numel())
    sums, squares = sizes.cumsum(0), sizes.square().cumsum(0)
    if float(squares[-1]) == 0:
        return None
    norm, root = math.sqrt(float(squares[-1])), math.sqrt(n)
    reached = int((squares < 0.99**2 * squares[-1]).sum()) + 1
    return Profile(
        n,
        norm,
        (squares[places] / squares[-1]).sqrt(),
        sums[places] / sums[-1],
        reached / n,
        (root - float(sums[-1]) / norm) / (root - 1) if n > 1 else 1.0,
    )


def _places(shares: Sequence[float], n: int) -> Tensor:
    """Return ceil(x n) - 1 for every share x."""
    for x in shares:
        if not 0 < x <= 1:
            raise ConfigError(f"shares: {x} is out of range; allowed: above 0, up to 1")
    return torch.tensor([math.ceil(round(x * n, 9)) - 1 for x in shares])


def coverage(gradient: Tensor, shares: Sequence[float], order: int = 2) -> Tensor:
    """Return C(x) = ||the ceil(x n) largest entries|| / ||all entries|| for every share x, (S,).

    Args:
        gradient: any shape, n entries; not all zero.
        shares: x in (0, 1].
        order: of the norm; 2 is the paper's, C(x)^2 the share of energy; 1 sums magnitudes.

    """
    places = _places(shares, gradient.numel())
    sums = _sums(gradient, order)
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
