"""RepAdapter: affine adapters in front of attention and MLP. Luo et al., arXiv 2302.08106.

Without a nonlinearity, an adapter is part of the layers that read its output (structural
re-parameterisation), so a trained network runs at no cost once it is merged.
Shape legend: B batch, T tokens, D width, R bottleneck width, G groups.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy, Block
from ..edits import Edit, InputOp, noise
from ..edits.sites import cast, seeded
from ..errors import ConfigError, IncompatibleError
from .base import Method
from .checks import at_least, fraction

READERS = {"attn": ("qkv", "q", "k", "v"), "mlp": ("up", "gate")}


class GroupedBottleneck(nn.Module):
    """s (B drop(A x + a) + b), where B maps each of G groups of R / G numbers to D / G channels.

    A is Xavier-uniform, B and both biases zero, as in the authors' code.

    Args:
        width: D.
        hidden: R.
        groups: G.
        scale: s.
        dropout: between A and B.
        name: of its stream of random numbers.

    """

    def __init__(
        self,
        width: int,
        hidden: int,
        groups: int,
        scale: float,
        dropout: float,
        name: str,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        down_RD = torch.empty(hidden, width)
        nn.init.xavier_uniform_(down_RD, generator=seeded(generator))
        self.scale, self.dropout, self.name, self.groups = scale, dropout, name, groups
        self.down_weight, self.down_bias = nn.Parameter(down_RD), nn.Parameter(torch.zeros(hidden))
        self.up_weight = nn.Parameter(torch.zeros(groups, width // groups, hidden // groups))
        self.up_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return what the adapter adds, same shape."""
        h_BTR = F.linear(x_BTD, cast(self.down_weight, x_BTD), cast(self.down_bias, x_BTD))
        h_BTR = noise.dropout(h_BTR, self.dropout, self.training, self.name) * self.scale
        bias_D = cast(self.up_bias * self.scale, h_BTR)
        parts = [
            F.linear(h, cast(up, h_BTR), bias)
            for h, up, bias in zip(
                h_BTR.chunk(self.groups, dim=-1),
                self.up_weight.unbind(),
                bias_D.chunk(self.groups),
                strict=True,
            )
        ]
        return parts[0] if self.groups == 1 else torch.cat(parts, dim=-1)

    def affine(self) -> tuple[Tensor, Tensor]:
        """Return M (D, D) and c (D,) of what it adds without dropout, M x + c."""
        up_DR = torch.block_diag(*self.up_weight.unbind())
        vector_D = self.scale * (up_DR @ self.down_bias + self.up_bias)
        return self.scale * (up_DR @ self.down_weight), vector_D


@dataclass(frozen=True)
class RepAdapter(Method):
    """OP(x + s (B (A x + a) + b)), where x has passed the norm.

    Attributes:
        hidden: R, width between A and B.
        groups: G, of B; a divisor of hidden and of the network's width.
        scale: s, fixed; searched over 0.1, 0.5, 1, 5, 10 in the authors' configurations.
        dropout: between A and B.
        placement: in front of attention and MLP (``both``) or of attention only (``attn``).

    """

    hidden: int = 8
    groups: int = 2
    scale: float = 1.0
    dropout: float = 0.1
    placement: Literal["both", "attn"] = "both"

    def __post_init__(self) -> None:
        at_least("method.hidden", self.hidden, 1)
        at_least("method.groups", self.groups, 1)
        fraction("method.dropout", self.dropout)
        if self.hidden % self.groups:
            raise ConfigError(
                f"method.groups: {self.groups} does not divide hidden={self.hidden}; "
                f"allowed: {_divisors(self.hidden)}"
            )

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One or two adapters per block.

        Raises:
            IncompatibleError: the groups do not divide the network's width.

        """
        if anatomy.width % self.groups:
            raise IncompatibleError(
                f"method.groups: {self.groups} does not divide the width {anatomy.width}"
            )
        kinds = ("attn", "mlp") if self.placement == "both" else ("attn",)
        return [self._edit(b, kind, generator) for b in anatomy.blocks for kind in kinds]

    def _edit(self, block: Block, kind: str, generator: torch.Generator) -> Edit:
        site = block.ops[kind]
        layers = [block.linears[r].module for r in READERS[kind] if r in block.linears]
        readers = list({id(layer): layer for layer in layers}.values())
        tuner = GroupedBottleneck(
            site.width, self.hidden, self.groups, self.scale, self.dropout, site.name, generator
        )
        return InputOp(site.name, site, readers, tuner)


def _divisors(number: int) -> str:
    return ", ".join(str(n) for n in range(1, number + 1) if number % n == 0)
