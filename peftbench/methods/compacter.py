"""Compacter: adapters from Kronecker products. Karimi Mahabadi et al., arXiv 2106.04647.

A weight is W = sum_i A_i (x) (s_i t_i^T), where (x) is the Kronecker product (PHM layers, Zhang et
al., arXiv 2102.08597): the n matrices A_i are shared by both maps of all adapters of the network,
the rank-one factors are each map's own.
Shape legend: B batch, T tokens, D width, R bottleneck width, N division (n), I input, O output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..edits import Edit, OpEdit
from ..edits.sites import cast, seeded
from ..errors import ConfigError, IncompatibleError
from .base import Method
from .checks import at_least
from .layernorm import LayerNorm

START = 1e-4  # standard deviation of A in the authors' configurations


class Rule(nn.Module):
    """A_1 ... A_n, (N, N, N), which all adapters of a network share."""

    def __init__(self, division: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        draw = torch.randn(division, division, division, generator=seeded(generator))
        self.a = nn.Parameter(START * draw)

    @property
    def division(self) -> int:
        """N."""
        return self.a.shape[0]


class PhmLinear(nn.Module):
    """x -> x W + b with W = sum_i A_i (x) (s_i t_i^T), (I, O).

    s_i and t_i are Xavier-uniform with gain sqrt(2), b zero, as in the authors' code.
    """

    def __init__(
        self,
        rule: Rule,
        in_features: int,
        out_features: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        g, n = seeded(generator), rule.division
        self.rule = rule
        self.left = nn.Parameter(_rows(n, in_features // n, g))
        self.right = nn.Parameter(_rows(n, out_features // n, g))
        self.bias = nn.Parameter(torch.zeros(out_features))

    def weight(self) -> Tensor:
        """Return W transposed, (O, I)."""
        outer = self.right[:, :, None] * self.left[:, None, :]  # (N, O / N, I / N)
        n, high, wide = outer.shape
        mixed = self.rule.a.permute(2, 1, 0).flatten(0, 1) @ outer.flatten(1)  # (N N, O I / N^2)
        return mixed.view(n, n, high, wide).transpose(1, 2).reshape(n * high, n * wide)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W + b, (..., I) -> (..., O)."""
        return F.linear(x, cast(self.weight(), x), cast(self.bias, x))


class PhmBottleneck(nn.Module):
    """Up(gelu(Down x)) with PHM layers; gelu by its tanh formula, as in the authors' code."""

    def __init__(
        self, rule: Rule, width: int, hidden: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        g = seeded(generator)
        self.down = PhmLinear(rule, width, hidden, g)
        self.up = PhmLinear(rule, hidden, width, g)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the tuner's output, same shape as the input."""
        return self.up(F.gelu(self.down(x_BTD), approximate="tanh"))


@dataclass(frozen=True)
class Compacter(Method):
    """y + Up(gelu(Down y)) behind frozen operations.

    Attributes:
        placement: behind attention and MLP (``houlsby``: Compacter) or behind the MLP only
            (``pfeiffer``: Compacter++).
        hidden: bottleneck width; D / 32 in the paper.
        division: n; a divisor of hidden and of the network's width.
        norms: train the network's norms as well, as the paper does with every adapter.

    """

    placement: Literal["houlsby", "pfeiffer"] = "houlsby"
    hidden: int = 24
    division: int = 4
    norms: bool = False

    def __post_init__(self) -> None:
        at_least("method.hidden", self.hidden, 1)
        at_least("method.division", self.division, 1)
        if self.hidden % self.division:
            below = self.hidden - self.hidden % self.division
            raise ConfigError(
                f"method.hidden: {self.hidden} is no multiple of division={self.division}; "
                f"nearest: {below or self.division}"
            )

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One or two adapters per block, and the norms if asked for.

        Raises:
            IncompatibleError: the division does not divide the network's width.

        """
        if anatomy.width % self.division:
            raise IncompatibleError(
                f"method.division: {self.division} does not divide the width {anatomy.width}"
            )
        rule = Rule(self.division, generator)
        kinds = ("attn", "mlp") if self.placement == "houlsby" else ("mlp",)
        found: list[Edit] = [
            OpEdit(
                site.name,
                [site],
                PhmBottleneck(rule, site.width, self.hidden, generator),
                "output",
                identity=False,
            )
            for block in anatomy.blocks
            for site in (block.ops[kind] for kind in kinds)
        ]
        return [*found, *(LayerNorm().edits(anatomy, generator) if self.norms else [])]


def _rows(count: int, length: int, generator: torch.Generator) -> Tensor:
    """Return (count, length), each row Xavier-uniform as a matrix of one column, gain sqrt(2)."""
    bound = math.sqrt(2) * math.sqrt(6 / (length + 1))
    return torch.empty(count, length).uniform_(-bound, bound, generator=generator)
