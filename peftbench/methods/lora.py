"""LoRA. Hu et al., arXiv 2106.09685; rank-stabilised scaling: Kalajdzievski, arXiv 2312.03732."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.anatomy import Anatomy, expand_roles
from ..edits import Edit, LowRank
from .base import Method
from .checks import at_least, fraction, layer_name


@dataclass(frozen=True)
class Lora(Method):
    """y' = W x + s B A x.

    Attributes:
        roles: q, k, v, o, up, gate, down, or groups attn, qkv, mlp, all. ``qkv`` on a fused layer
            is one low-rank update of the whole layer.
        rank: R.
        alpha: s = alpha / rank.
        dropout: on the input of A.
        rslora: s = alpha / sqrt(rank).

    """

    roles: tuple[str, ...] = ("q", "v")
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    rslora: bool = False

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        fraction("method.dropout", self.dropout)
        expand_roles(self.roles)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per linear layer, for all the roles it plays."""
        return [
            self.edit_class(
                layer_name(sites),
                sites,
                rank=self.rank,
                alpha=self.alpha,
                dropout=self.dropout,
                rslora=self.rslora,
                generator=generator,
            )
            for sites in anatomy.linears(self.roles)
        ]

    @property
    def edit_class(self) -> type[LowRank]:
        """The edit that is put at each layer."""
        return LowRank
