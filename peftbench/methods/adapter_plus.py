"""Adapter+: one adapter behind every block. Steitz & Roth, CVPR 2024, arXiv 2406.06820.

The paper's choice among positions and parts: behind the block (its post-adapter), no norm, a
learned scale per channel, both projections near zero at the start, stochastic depth on the adapter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Bottleneck, Edit, OpEdit
from ..edits.tuners import Gate, Gated
from .base import Method
from .checks import at_least, fraction


@dataclass(frozen=True)
class AdapterPlus(Method):
    """x + g * (W_up GELU(W_down x + b) + b), with x the output of a whole block.

    Attributes:
        hidden: bottleneck width (1 to 32 in the paper).
        gate: g is learned per ``channel``, one learned number (``scalar``), or 1 (``direct``).
        init: ``near_zero`` (both projections truncated normal 0.01, as in the paper), or
            ``houlsby`` and ``lora``, which start as no change.
        drop_path: probability that a sample goes without the adapter in training.

    """

    hidden: int = 8
    gate: Literal["channel", "scalar", "direct"] = "channel"
    init: Literal["near_zero", "houlsby", "lora"] = "near_zero"
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        at_least("method.hidden", self.hidden, 1)
        fraction("method.drop_path", self.drop_path)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One adapter per block."""
        found: list[Edit] = []
        for block in anatomy.blocks:
            op = block.ops["block"]
            core = Bottleneck(op.width, self.hidden, 1.0, "gelu", self.init, generator)
            tuner = Gated(core, Gate(self.gate, op.width, 1.0, generator))
            found.append(
                OpEdit(
                    op.name,
                    [op],
                    tuner,
                    reads="output",
                    identity=self.init != "near_zero",
                    drop_path=self.drop_path,
                )
            )
        return found
