"""Convpass: convolutional bypasses beside attention and MLP. Jie & Deng, arXiv 2207.07039."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ..backbones.anatomy import Anatomy
from ..edits import ConvBypass, Edit, GridEdit
from ..errors import IncompatibleError
from .base import Method
from .checks import at_least, fraction

NO_GRID = "a sentence is no image, so there is no grid of patches to convolve over"


@dataclass(frozen=True)
class Convpass(Method):
    """x + MHA(LN(x)) + s C(LN(x)), and the same beside the MLP; C is 1x1, 3x3, 1x1.

    Attributes:
        placement: beside attention and MLP (``both``) or beside attention only (``attn``).
        hidden: width of the 3x3 convolution.
        scale: s, fixed; searched over 0.01, 0.1, 1, 10, 100 in the paper.
        init: of the 3x3 kernel, ``identity`` or ``xavier``; the paper chooses per task.
        dropout: in front of the last map.

    """

    refused: ClassVar[Mapping[str, str]] = {"bert": NO_GRID, "t5": NO_GRID, "llama": NO_GRID}

    placement: Literal["both", "attn"] = "both"
    hidden: int = 8
    scale: float = 1.0
    init: Literal["identity", "xavier"] = "identity"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        at_least("method.hidden", self.hidden, 1)
        fraction("method.dropout", self.dropout)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One or two bypasses per block.

        Raises:
            IncompatibleError: the network's patches lie in no fixed grid.

        """
        grid = anatomy.patch_grid
        if grid is None:
            raise IncompatibleError(
                f"method Convpass has no meaning on this {anatomy.family}: its patches lie in no "
                "grid of a fixed size"
            )
        kinds = ("attn", "mlp") if self.placement == "both" else ("attn",)
        return [
            GridEdit(
                site.name,
                site,
                block.module,
                stack.sequence,
                ConvBypass(
                    site.width,
                    self.hidden,
                    grid,
                    self.scale,
                    self.dropout,
                    self.init,
                    site.name,
                    generator,
                ),
            )
            for stack in anatomy.stacks
            for block in stack.blocks
            for site in (block.ops[kind] for kind in kinds)
        ]
