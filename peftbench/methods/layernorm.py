"""LayerNorm tuning: only the norms' gains and biases train. Zhao et al., arXiv 2312.11420."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Edit, Weight
from .base import Method


@dataclass(frozen=True)
class LayerNorm(Method):
    """Train weight and bias of every norm layer (RMSNorm: weight only)."""

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One weight edit per parameter of a norm."""
        return [
            Weight(f"{channel.name}/{attribute}", [(channel.module, attribute)])
            for channel in anatomy.channels
            if channel.kind == "norm"
            for attribute, _ in channel.module.named_parameters(recurse=False)
        ]
