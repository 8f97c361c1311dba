"""Visual prompt tuning. Jia et al., arXiv 2203.12119, section 3.2 (on text: prompts of the stack).

Prompts stand behind the class token, carry no position, and leave after the last norm. In an
encoder-decoder they stand in the encoder, and cross-attention does not see them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Edit, Tokens
from .base import Method
from .checks import at_least, fraction


@dataclass(frozen=True)
class Vpt(Method):
    """Learned tokens at the input (shallow) or at the input of every block (deep).

    Attributes:
        tokens: number of prompts.
        deep: own prompts for every block.
        dropout: on the prompts.

    """

    tokens: int = 10
    deep: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        at_least("method.tokens", self.tokens, 1)
        fraction("method.dropout", self.dropout)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One token edit; bound of the uniform start as in the authors' code."""
        site = anatomy.stacks[0].sequence
        bound = math.sqrt(6.0 / ((anatomy.patch_numbers or site.width) + site.width))
        return [
            Tokens(
                f"{site.name}/prompts",
                site,
                self.tokens,
                bound,
                deep=self.deep,
                dropout=self.dropout,
                generator=generator,
            )
        ]
