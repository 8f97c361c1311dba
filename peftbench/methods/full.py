"""Full fine-tuning: every parameter of the network trains."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Edit, Weight
from .base import Method


@dataclass(frozen=True)
class Full(Method):
    """Train a copy of every parameter; the frozen network itself stays as it is."""

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One weight edit per parameter; tied parameters once."""
        owners = anatomy.owners()
        return [Weight(name.replace(".", "/"), places) for name, places in owners.items()]
