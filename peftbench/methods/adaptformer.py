"""AdaptFormer: a scaled bottleneck beside the MLP. Chen et al., arXiv 2205.13535, eq. 3-4."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Bottleneck, Edit, OpEdit
from .base import Method
from .checks import at_least


@dataclass(frozen=True)
class AdaptFormer(Method):
    """x + MLP(LN(x)) + s W_up ReLU(W_down x); the branch reads the residual stream.

    Attributes:
        hidden: bottleneck width (64 in the paper, 8 in the VTAB-1K tables).
        scale: s, fixed (0.1 in the paper).

    """

    hidden: int = 8
    scale: float = 0.1

    def __post_init__(self) -> None:
        at_least("method.hidden", self.hidden, 1)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One parallel branch per block."""
        return [
            OpEdit(
                block.ops["mlp"].name,
                [block.ops["mlp"]],
                Bottleneck(
                    block.ops["mlp"].width, self.hidden, self.scale, "relu", "lora", generator
                ),
                reads="stream",
            )
            for block in anatomy.blocks
        ]
