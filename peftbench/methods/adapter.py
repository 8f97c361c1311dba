"""Bottleneck adapters.

Houlsby et al., arXiv 1902.00751 (behind attention and behind the MLP); Pfeiffer et al.,
arXiv 2005.00247 (behind the MLP); parallel form: He et al., arXiv 2110.04366; one adapter shared by
both sub-layers: the host in the release of GIST, arXiv 2312.07255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..backbones.anatomy import Anatomy, Block
from ..edits import Bottleneck, Edit, OpEdit
from .base import Method
from .checks import at_least


@dataclass(frozen=True)
class Adapter(Method):
    """A(u) = s (W_up act(W_down u + b) + b).

    Attributes:
        placement: ``houlsby`` (sequential, attention and MLP), ``pfeiffer`` (sequential, MLP),
            ``parallel`` (attention and MLP, reading the residual stream), ``shared_parallel`` (the
            same with one adapter for both sub-layers).
        hidden: bottleneck width.
        scale: s, fixed.
        activation: gelu, relu or silu.
        init: ``houlsby`` and ``lora`` start as no change; ``small`` does not.

    """

    placement: Literal["houlsby", "pfeiffer", "parallel", "shared_parallel"] = "pfeiffer"
    hidden: int = 8
    scale: float = 1.0
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    init: Literal["houlsby", "lora", "small"] = "houlsby"

    def __post_init__(self) -> None:
        at_least("method.hidden", self.hidden, 1)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One or two adapters per block."""
        return [e for block in anatomy.blocks for e in self._block(block, generator)]

    def _block(self, block: Block, generator: torch.Generator) -> list[Edit]:
        kinds = ["mlp"] if self.placement == "pfeiffer" else ["attn", "mlp"]
        sites = [block.ops[kind] for kind in kinds]
        groups = [sites] if self.placement == "shared_parallel" else [[s] for s in sites]
        reads: Literal["output", "stream"] = (
            "output" if self.placement in ("houlsby", "pfeiffer") else "stream"
        )
        return [
            OpEdit(
                f"{block.stack}/{block.index}/{'+'.join(s.kind for s in group)}",
                group,
                Bottleneck(
                    group[0].width, self.hidden, self.scale, self.activation, self.init, generator
                ),
                reads,
                identity=self.init != "small",
            )
            for group in groups
        ]
