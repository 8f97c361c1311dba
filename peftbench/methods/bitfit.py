"""BitFit: only the biases train. Ben Zaken et al., arXiv 2106.10199."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ..backbones.anatomy import Anatomy
from ..edits import AddedBias, Edit, LinearSite, Weight
from .base import Method


@dataclass(frozen=True)
class BitFit(Method):
    """Train every bias of linear, norm and patch-embedding layers.

    Attributes:
        add_missing: give linear layers that have no bias (T5, LLaMA) one that starts at zero.

    """

    add_missing: bool = True

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """A weight edit per bias, an added bias per bias-free linear layer."""
        found: list[Edit] = []
        for channel in anatomy.channels:
            module, name = channel.module, f"{channel.name}/bias"
            if isinstance(getattr(module, "bias", None), nn.Parameter):
                found.append(Weight(name, [(module, "bias")]))
            elif self.add_missing and isinstance(module, nn.Linear):
                rows = (0, module.out_features)
                site = LinearSite(channel.name, "linear", module, channel.path, rows)
                found.append(AddedBias(name, [site]))
        return found
