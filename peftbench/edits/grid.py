"""Edits that see the patches of an image as a grid. Convpass: Jie & Deng, arXiv 2207.07039.

Shape legend: B batch, T tokens, D width, R bottleneck width, P patches in a grid of H x W.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import IncompatibleError
from . import noise
from .base import Delta
from .op import OpEdit
from .sites import Handles, OpSite, SequenceSite, cast, seeded
from .token import Tokens


class ConvBypass(nn.Module):
    """s (W_up drop(phi(conv(phi(W_down x + b)))) + b_up), phi(u) = u sigmoid(1.702 u).

    The 3 x 3 convolution runs over the grid of patches, with zeros around it. Every other token is
    an image of its own of one pixel, so only the middle of the kernel meets it. W_down is
    Xavier-uniform, W_up and all biases zero, as in the authors' code.

    Args:
        width: D.
        hidden: R.
        grid: H and W.
        scale: s, fixed.
        dropout: in front of W_up.
        init: of the kernel: ``identity`` in its middle, or ``xavier`` uniform.
        name: of its stream of random numbers.

    """

    def __init__(
        self,
        width: int,
        hidden: int,
        grid: tuple[int, int],
        scale: float = 1.0,
        dropout: float = 0.1,
        init: Literal["identity", "xavier"] = "identity",
        name: str = "bypass",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        g = seeded(generator)
        self.grid, self.scale, self.dropout, self.name = grid, scale, dropout, name
        self.front, self.behind = 0, 0
        down = nn.init.xavier_uniform_(torch.empty(hidden, width), generator=g)
        kernel = torch.zeros(hidden, hidden, 3, 3)
        if init == "xavier":
            nn.init.xavier_uniform_(kernel, generator=g)
        else:
            kernel[:, :, 1, 1] = torch.eye(hidden)
        self.down_weight, self.down_bias = nn.Parameter(down), nn.Parameter(torch.zeros(hidden))
        self.kernel, self.kernel_bias = nn.Parameter(kernel), nn.Parameter(torch.zeros(hidden))
        self.up_weight = nn.Parameter(torch.zeros(width, hidden))
        self.up_bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the bypass of a sequence, same shape.

        Raises:
            IncompatibleError: the sequence is not the grid and the tokens around it.

        """
        patches = self.grid[0] * self.grid[1]
        if x_BTD.shape[1] != self.front + patches + self.behind:
            raise IncompatibleError(
                f"{x_BTD.shape[1]} tokens are not {self.front} + {self.grid[0]} x {self.grid[1]} "
                f"+ {self.behind}: a convolution needs every patch of images of one size, so "
                "dropped patches and other sizes do not go with it"
            )
        h_BTR = F.linear(x_BTD, cast(self.down_weight, x_BTD), cast(self.down_bias, x_BTD))
        h_BTR = self._convolve(_quick_gelu(h_BTR), patches)
        h_BTR = noise.dropout(_quick_gelu(h_BTR), self.dropout, self.training, self.name)
        bias_D: Tensor = self.up_bias
        if self.scale != 1.0:  # on the narrow side, where it costs least
            h_BTR, bias_D = h_BTR * self.scale, bias_D * self.scale
        return F.linear(h_BTR, cast(self.up_weight, h_BTR), cast(bias_D, h_BTR))

    def _convolve(self, h_BTR: Tensor, patches: int) -> Tensor:
        kernel, bias_R = cast(self.kernel, h_BTR), cast(self.kernel_bias, h_BTR)
        front, mine, behind = h_BTR.split([self.front, patches, self.behind], dim=1)
        image_BRHW = mine.unflatten(1, self.grid).permute(0, 3, 1, 2)
        mine = F.conv2d(image_BRHW, kernel, bias_R, padding=1).permute(0, 2, 3, 1).flatten(1, 2)
        pixel_RR = kernel[:, :, 1, 1]
        parts = [
            F.linear(front, pixel_RR, bias_R) if self.front else None,
            mine,
            F.linear(behind, pixel_RR, bias_R) if self.behind else None,
        ]
        found = [part for part in parts if part is not None]
        return found[0] if len(found) == 1 else torch.cat([cast(f, mine) for f in found], dim=1)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


class GridEdit(OpEdit):
    """An operation's bypass that has to know which tokens are patches.

    Class and register tokens stand in front of the patches; tokens that other edits insert stand
    behind those, or at the end. Tokens may stand in some blocks only.

    Args:
        name: unique name.
        site: the operation, in parallel to which the bypass reads what the operation reads.
        block: the block of the operation.
        sequence: the token sequence.
        bypass: the tuner.

    """

    def __init__(
        self,
        name: str,
        site: OpSite,
        block: nn.Module,
        sequence: SequenceSite,
        bypass: ConvBypass,
    ) -> None:
        super().__init__(name, [site], bypass, "input")
        self.block, self.sequence = (block,), sequence  # in a tuple, so that it is no submodule

    def install(self, delta: Delta, handles: Handles) -> None:
        """Count the tokens around the patches, then hook the operation."""
        added = [e for e in delta if isinstance(e, Tokens) and e.passes(self.block[0])]
        front = sum(e.count for e in added if e.place == "front")
        bypass = self.tuner
        assert isinstance(bypass, ConvBypass)
        bypass.front = self.sequence.prefix_tokens + front
        bypass.behind = sum(e.count for e in added) - front
        super().install(delta, handles)
