"""Weight increments whose factors the whole network shares. FacT, Jie & Deng, arXiv 2212.03145.

A weight is cut into D x D tiles. Tile (o, i) grows by s V S_oi U, where U and V are shared by all
tiles of the network and the core S_oi is the tile's own (tensor-train), or a mixture of the slices
of one shared cube (Tucker). A tile that a layer does not fill uses the first rows of V and the
first columns of U.
Shape legend: I input width, O output width, D side of a tile, R rank, P tiles along the input,
Q tiles along the output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import noise
from .linear import LinearEdit
from .sites import LinearSite, cast, seeded


class Factors(nn.Module):
    """What all tiles share: U, V and, in the Tucker form, the cube C.

    U is uniform in 1 / sqrt(D), V zero, C Xavier-uniform, as in the authors' code.

    Args:
        width: D.
        rank: R.
        cube: whether the cores are mixtures of the slices of one cube (R, R, R).

    """

    def __init__(
        self, width: int, rank: int, cube: bool, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        g = seeded(generator)
        u_RD = nn.init.kaiming_uniform_(torch.empty(rank, width), a=math.sqrt(5), generator=g)
        self.u, self.v = nn.Parameter(u_RD), nn.Parameter(torch.zeros(width, rank))
        self.cube: nn.Parameter | None = None
        if cube:
            start = nn.init.xavier_uniform_(torch.empty(rank, rank, rank), generator=g)
            self.cube = nn.Parameter(start)

    @property
    def width(self) -> int:
        """D."""
        return self.v.shape[0]

    @property
    def rank(self) -> int:
        """R."""
        return self.v.shape[1]

    def tiles(self, site: LinearSite) -> tuple[int, int]:
        """Return Q and P of a linear layer's role."""
        return -(-site.out_features // self.width), -(-site.in_features // self.width)


class Factored(LinearEdit):
    """y' = y + s V drop(S U x), tile by tile.

    Args:
        name: unique name.
        sites: roles of one layer.
        factors: shared with the other edits of the network.
        scale: s.
        dropout: on S U x.
        tiles: number of tiles in the network, for the start of the mixtures (Tucker).

    """

    def __init__(
        self,
        name: str,
        sites: Sequence[LinearSite],
        factors: Factors,
        scale: float,
        dropout: float = 0.0,
        tiles: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(name, sites)
        self.factors, self.scale, self.dropout = factors, scale, dropout
        self.core = nn.ParameterDict()
        g, rank = seeded(generator), factors.rank
        for site in self.sites:
            out_tiles, in_tiles = factors.tiles(site)
            if factors.cube is None:  # as a linear layer of P R inputs starts
                start = torch.empty(out_tiles, in_tiles, rank, rank)
                bound = 1 / math.sqrt(in_tiles * rank)
            else:  # columns of one Xavier-uniform matrix (R, all tiles)
                start = torch.empty(out_tiles, in_tiles, rank)
                bound = math.sqrt(6 / (rank + tiles))
            self.core[site.role] = nn.Parameter(start.uniform_(-bound, bound, generator=g))

    def cores(self, role: str) -> Tensor:
        """Return the cores of a role as one matrix (Q R, P R)."""
        core = self.core[role]
        if self.factors.cube is not None:
            core = (core @ self.factors.cube.flatten(1)).unflatten(-1, (self.factors.rank, -1))
        return core.transpose(1, 2).flatten(2).flatten(0, 1)

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the update of every role to its rows of the output."""
        for site in self.sites:
            update = cast(self._update(site, x), y)
            if not site.whole:
                update = F.pad(update, (site.rows[0], y.shape[-1] - site.rows[1]))
            y = y + update
        return y

    def _update(self, site: LinearSite, x: Tensor) -> Tensor:
        hidden = _narrow(x, cast(self.factors.u, x))
        hidden = F.linear(hidden, cast(self.cores(site.role) * self.scale, hidden))
        hidden = noise.dropout(hidden, self.dropout, self.training, f"{self.name}/{site.role}")
        return _widen(hidden, cast(self.factors.v, hidden), site.out_features)

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return W with s V S_oi U added to each tile."""
        weight_OI, width = weight_OI.clone(), self.factors.width
        rank = self.factors.rank
        u_RD, v_DR = self.factors.u.to(weight_OI.dtype), self.factors.v.to(weight_OI.dtype)
        for site in self.sites:
            rows_OI = weight_OI[site.rows[0] : site.rows[1]]
            cores = self.cores(site.role).to(weight_OI.dtype) * self.scale
            out_tiles, in_tiles = self.factors.tiles(site)
            for o in range(out_tiles):
                for i in range(in_tiles):
                    tile = rows_OI[o * width : (o + 1) * width, i * width : (i + 1) * width]
                    core_RR = cores[o * rank : (o + 1) * rank, i * rank : (i + 1) * rank]
                    tile += v_DR[: tile.shape[0]] @ core_RR @ u_RD[:, : tile.shape[1]]
        return weight_OI, bias_O


def _narrow(x: Tensor, u_RD: Tensor) -> Tensor:
    """Return U times each of the P pieces of x, (..., I) -> (..., P R)."""
    width = u_RD.shape[1]
    whole, rest = divmod(x.shape[-1], width)
    parts = []
    if whole:
        pieces = x[..., : whole * width].unflatten(-1, (whole, width))
        parts.append(F.linear(pieces, u_RD).flatten(-2))
    if rest:
        parts.append(F.linear(x[..., whole * width :], u_RD[:, :rest]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _widen(hidden: Tensor, v_DR: Tensor, out_features: int) -> Tensor:
    """Return V times each of the Q pieces, cut to the layer: (..., Q R) -> (..., O)."""
    width, rank = v_DR.shape
    whole, rest = divmod(out_features, width)
    parts = []
    if whole:
        pieces = hidden[..., : whole * rank].unflatten(-1, (whole, rank))
        parts.append(F.linear(pieces, v_DR).flatten(-2))
    if rest:
        parts.append(F.linear(hidden[..., whole * rank :], v_DR[:rest]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
