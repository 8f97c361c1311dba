"""Prefix tuning: learned keys and values in every attention. Li & Liang, arXiv 2101.00190."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Edit
from ..edits import Prefix as PrefixEdit
from .base import Method
from .checks import at_least


@dataclass(frozen=True)
class Prefix(Method):
    """Keys and values get ``length`` learned rows each, without a reparametrising network.

    Attributes:
        length: rows per attention.
        cross: extend the decoder's cross-attention too, where there is one.

    """

    length: int = 10
    cross: bool = True

    def __post_init__(self) -> None:
        at_least("method.length", self.length, 1)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per attention."""
        return [
            PrefixEdit(site.name, site, self.length, generator)
            for block in anatomy.blocks
            for kind, site in block.attentions.items()
            if self.cross or kind == "attn"
        ]
