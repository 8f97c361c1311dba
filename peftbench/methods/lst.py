"""Ladder side-tuning (LST). Sung et al., arXiv 2206.06522.

A narrow network reads the frozen one after the embedding and behind its blocks, and its last output
takes the place of the frozen one's. No gradient passes the frozen network, which keeps no
activation for a backward pass. In an encoder-decoder both stacks have a side network, and the
decoder's attends to the encoder's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..backbones.anatomy import Anatomy, Block, Stack
from ..edits import Edit
from ..edits.side import Ladder, Rail, SideBlock, SideShape, SideStack
from ..edits.side_start import channels_to_keep, prune_block
from ..errors import ConfigError, IncompatibleError
from .base import Method
from .checks import at_least


@dataclass(frozen=True)
class Lst(Method):
    """s <- block(mu s + (1 - mu) W_down h), mu = sigmoid(alpha / T); the head reads W_up norm(s).

    Attributes:
        reduction: r; widths of the side network are those of the frozen one divided by r.
        every: the frozen blocks are taken in runs of so many,
        keep: and the last so many of each run have a side block (the paper: 3 of 4 on T5-base).
        init: ``pruned`` copies the weights of the frozen blocks that are largest in L1 norm (the
            paper ranks them by Fisher information or by magnitude); ``random`` is Xavier-uniform.
        combine: ``replace`` the frozen output, as in the paper, or ``add`` to it (starts as no
            change).
        temperature: T; alpha starts at 0, which is mu = 1/2.

    """

    reduction: int = 8
    every: int = 1
    keep: int = 1
    init: Literal["pruned", "random"] = "pruned"
    combine: Literal["replace", "add"] = "replace"
    temperature: float = 0.1

    def __post_init__(self) -> None:
        at_least("method.reduction", self.reduction, 1)
        at_least("method.every", self.every, 1)
        if not 1 <= self.keep <= self.every:
            raise ConfigError(
                f"method.keep: {self.keep} blocks of a run of {self.every}; "
                f"allowed: 1 to {self.every} (method.every)"
            )
        if self.temperature <= 0:
            raise ConfigError(f"method.temperature: {self.temperature} must be above 0")

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit: the whole side network.

        Raises:
            IncompatibleError: no width is left, or no block is chosen.

        """
        rails: dict[str, Rail] = {}
        sides: dict[str, SideStack] = {}
        memory_W: torch.Tensor | None = None
        for stack in anatomy.stacks:
            dropped = self.every - self.keep
            blocks = [b for i, b in enumerate(stack.blocks) if i % self.every >= dropped]
            if not blocks:
                raise IncompatibleError(
                    f"method.every: the last {self.keep} of {self.every} blocks leave no side "
                    f"block, since {stack.name} of {anatomy.family} has {len(stack.blocks)}"
                )
            shape = self._shape(stack, blocks[0])
            made = {b.index: SideBlock(shape, generator) for b in blocks}
            if self.init == "pruned":
                keep_W = channels_to_keep([b.linears for b in blocks], shape.width)
                for block in blocks:
                    linears, norms = block.linears, block.norms
                    prune_block(made[block.index], linears, norms, keep_W, memory_W)
                memory_W = keep_W
            sides[stack.name] = SideStack(stack.width, made, shape, generator)
            rails[stack.name] = _rail(stack, blocks)
        return [Ladder("side", rails, sides, self.combine, self.temperature, generator)]

    def _shape(self, stack: Stack, block: Block) -> SideShape:
        if stack.width < self.reduction:
            raise IncompatibleError(
                f"method.reduction: {self.reduction} leaves nothing of width {stack.width}; "
                f"allowed: 1 to {stack.width}"
            )
        site, linears = block.attentions["attn"], block.linears
        if linears["up"].out_features != linears["down"].in_features:
            raise IncompatibleError(
                "method Lst: the first map of the MLP makes a gate as well (SwiGLU in one layer), "
                "of which there is no side block"
            )
        return SideShape(
            width=stack.width // self.reduction,
            heads=linears["q"].out_features // site.head_dim,
            groups=site.heads,
            head=max(1, site.head_dim // self.reduction),
            feed=max(1, linears["up"].out_features // self.reduction),
            gated="gate" in linears,
            biased=linears["o"].module.bias is not None,
            cross="cross_attn" in block.attentions,
            scale=site.scale,
            activation=block.activation,
        )


def _rail(stack: Stack, blocks: list[Block]) -> Rail:
    return Rail(
        enter=stack.sequence.block_inputs[0],
        outputs={b.index: b.ops["block"].output for b in blocks},
        leave=stack.sequence.leave,
        attentions=stack.blocks[0].attentions,
    )
