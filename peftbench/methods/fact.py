"""FacT: factors of all weight increments at once. Jie & Deng, arXiv 2212.03145."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from ..backbones.anatomy import Anatomy, expand_roles
from ..edits import Edit, Factored, Factors
from .base import Method
from .checks import at_least, fraction, layer_name


@dataclass(frozen=True)
class Fact(Method):
    """W + s V S U in every D x D tile of every weight; U and V are shared by the whole network.

    The Tucker form follows the paper in the two layers of the MLP: each of their four tiles mixes
    the slices of the cube by its own column. (The authors' code reshapes the four mixtures across
    tiles there.) A layer that is no multiple of D has a tile that it does not fill, which uses the
    first rows of V and the first columns of U.

    Attributes:
        form: ``tt``, a core S of R x R for every tile, 2 D R + tiles R^2 numbers; or ``tk``, a
            mixture of one cube, 2 D R + R^3 + tiles R numbers.
        rank: R.
        scale: s, fixed; searched over 0.01, 0.1, 1, 10, 100 in the paper.
        dropout: behind the core.
        roles: q, k, v, o, up, gate, down, or groups attn, qkv, mlp, all.

    """

    form: Literal["tt", "tk"] = "tt"
    rank: int = 16
    scale: float = 1.0
    dropout: float = 0.1
    roles: tuple[str, ...] = ("all",)

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        fraction("method.dropout", self.dropout)
        expand_roles(self.roles)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per linear layer; all read the same factors."""
        factors = Factors(anatomy.width, self.rank, self.form == "tk", generator)
        layers = anatomy.linears(self.roles)
        shapes = [factors.tiles(site) for sites in layers for site in sites]
        tiles = sum(out * into for out, into in shapes)
        return [
            Factored(layer_name(sites), sites, factors, self.scale, self.dropout, tiles, generator)
            for sites in layers
        ]
