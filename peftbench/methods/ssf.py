"""SSF: scale and shift every feature. Lian et al., arXiv 2210.08823."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Edit, ScaleShift
from .base import Method


@dataclass(frozen=True)
class Ssf(Method):
    """y' = gamma * y + beta behind the patch embedding, every linear layer and every norm."""

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per output with a channel axis."""
        return [ScaleShift(channel.name, channel, generator) for channel in anatomy.channels]
