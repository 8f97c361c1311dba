"""Edits at a linear layer or another layer with a channel axis: y' = f(x, y).

Shape legend: N rows (all leading axes flattened), I input width, O output width, R rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from . import fused, noise
from .base import Delta, Edit
from .sites import ChannelSite, Handles, LinearSite, cast, seeded, wrap_forward


class LinearEdit(Edit):
    """y' = f(x, y) at one linear layer, for all the roles that the layer plays.

    Attributes:
        sites: the roles edited; all share one ``module``.

    """

    def __init__(self, name: str, sites: Sequence[LinearSite]) -> None:
        super().__init__(name)
        self.sites = tuple(sites)
        self.module_ref = [sites[0].module]  # in a list, so that it is no submodule

    @property
    def module(self) -> nn.Linear:
        """The frozen layer."""
        return self.module_ref[0]

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the layer's new output from its input and its frozen output."""
        raise TypeError(f"{type(self).__name__} has no formula")

    def around(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the layer's new output from its input and the frozen layer's ``forward``."""
        return self.change(x, forward(x))

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return plain (weight, bias) of a linear layer that computes the same function."""
        raise TypeError(f"{type(self).__name__} cannot be merged")

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the layer's output."""

        def after(_: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return self.change(args[0], output)

        handles.add(self.module.register_forward_hook(after))


def add_rows(
    y_NO: Tensor,
    sites: Sequence[LinearSite],
    hidden: Sequence[Tensor],
    factors: Sequence[Tensor],
    scale: float,
) -> Tensor:
    """Return ``y + scale h B^T``, touching only the rows of each role.

    Args:
        y_NO: output of the whole layer.
        sites: the roles.
        hidden: h of every role, (N, R).
        factors: B of every role, (rows, R).
        scale: of the update.

    """
    if len(sites) == 1 and sites[0].whole:
        return torch.addmm(y_NO, hidden[0], factors[0].t(), alpha=scale)
    starts = {s.rows[0]: i for i, s in enumerate(sites)}
    edges = sorted({0, y_NO.shape[1], *(edge for s in sites for edge in s.rows)})
    parts = []  # one split, so that its backward pass is one concatenation
    for start, y_part in zip(
        edges, y_NO.split([b - a for a, b in pairwise(edges)], dim=1), strict=False
    ):
        if start in starts:
            i = starts[start]
            y_part = torch.addmm(y_part, hidden[i], factors[i].t(), alpha=scale)
        parts.append(y_part)
    return torch.cat(parts, dim=1)


class LowRank(LinearEdit):
    """LoRA: y' = y + s B A drop(x). Hu et al., arXiv 2106.09685, section 4.1.

    ``s`` is alpha / rank, or alpha / sqrt(rank) with ``rslora`` (Kalajdzievski, arXiv 2312.03732).
    A is Kaiming-uniform with a = sqrt(5), B zero, as in the authors' loralib.
    """

    def __init__(
        self,
        name: str,
        sites: Sequence[LinearSite],
        rank: int,
        alpha: float,
        dropout: float = 0.0,
        rslora: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(name, sites)
        self.rank, self.dropout = rank, dropout
        self.scale = alpha / (math.sqrt(rank) if rslora else rank)
        self.a, self.b = nn.ParameterDict(), nn.ParameterDict()
        for site in self.sites:
            a_RI = torch.empty(rank, site.in_features)
            nn.init.kaiming_uniform_(a_RI, a=math.sqrt(5), generator=seeded(generator))
            self.a[site.role] = nn.Parameter(a_RI)
            self.b[site.role] = nn.Parameter(torch.zeros(site.out_features, rank))

    def install(self, delta: Delta, handles: Handles) -> None:
        """Stand in for the layer's forward where nothing edits it yet; else hook its output."""
        if fused.free(self.module):
            handles.add(wrap_forward(self.module, self.around))
        else:
            super().install(delta, handles)

    def around(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the updated output, in one fused step where that is possible."""
        dropped = self.training and self.dropout > 0
        if dropped or not fused.fits(x, self.module.weight):
            return self.change(x, forward(x))
        return fused.FusedLowRank.apply(
            x,
            self.module.weight,
            self.module.bias,
            None,
            self.scale,
            tuple(s.rows for s in self.sites),
            *(self.a[s.role] for s in self.sites),
            *(self.b[s.role] for s in self.sites),
        )

    def update(self, x_NI: Tensor, y_NO: Tensor) -> Tensor:
        """Return ``y + s B A x`` for flattened rows, touching only the rows of each role."""
        a_RI = torch.cat([self.a[s.role] for s in self.sites])
        hidden = cast(x_NI @ cast(a_RI, x_NI).t(), y_NO).split(self.rank, dim=1)
        factors = [cast(self.b[s.role], y_NO) for s in self.sites]
        return add_rows(y_NO, self.sites, hidden, factors, self.scale)

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the low-rank update."""
        x = noise.dropout(x, self.dropout, self.training, self.name)
        return self.update(x.flatten(0, -2), y.flatten(0, -2)).view_as(y)

    def weight_update(self) -> Tensor:
        """Return s B A as a matrix (O, I) of the whole layer, in fp32 or wider."""
        kind = torch.promote_types(self.module.weight.dtype, torch.float32)
        update_OI = torch.zeros_like(self.module.weight, dtype=kind)
        for s in self.sites:
            product = self.b[s.role].to(kind) @ self.a[s.role].to(kind)
            update_OI[s.rows[0] : s.rows[1]] += self.scale * product
        return update_OI

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return W + s B A."""
        return weight_OI + self.weight_update(), bias_O


class Dora(LowRank):
    """DoRA: y' = (m / ||W + s B A||) (W x + s B A x) + b. Liu et al., arXiv 2402.09353, eq. 5.

    The row norm is a constant of the backward pass (section 4.3). It is expanded as
    ||W||^2 + 2 s <W A^T, B> + s^2 <B A A^T, B>, so no dense W + s B A is formed in a step.
    """

    def __init__(self, name: str, sites: Sequence[LinearSite], **options: Any) -> None:
        super().__init__(name, sites, **options)
        self.m = nn.ParameterDict()
        for s in self.sites:  # B is zero: ||W||, by the same sum as in a step, so the ratio is 1
            self.m[s.role] = nn.Parameter(self.row_norm(s))

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the layer's output, whose magnitudes are scaled after the update."""
        LinearEdit.install(self, delta, handles)

    def around(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the updated output; the fused step of the base class leaves magnitudes out."""
        return self.change(x, forward(x))

    def row_norm(self, s: LinearSite) -> Tensor:
        """Return ||W + s B A|| per output row of a role, (O,), no gradient."""
        with torch.no_grad():
            weight = self.module.weight[s.rows[0] : s.rows[1]].float()
            a_RI = self.a[s.role].float().to(weight.device)  # a new edit starts on the CPU
            b_OR = self.b[s.role].float().to(weight.device)
            cross_O = ((weight @ a_RI.t()) * b_OR).sum(1)
            square_O = ((b_OR @ (a_RI @ a_RI.t())) * b_OR).sum(1)
            total = weight.pow(2).sum(1) + 2 * self.scale * cross_O + self.scale**2 * square_O
            return total.clamp_min(0).sqrt()

    def gain(self) -> Tensor:
        """Return m / ||W + s B A|| for every output row of the layer, 1 where no role is."""
        pieces, at = [], 0
        for s in sorted(self.sites, key=lambda p: p.rows):
            if s.rows[0] > at:
                pieces.append(self.m[s.role].new_ones(s.rows[0] - at))
            pieces.append(self.m[s.role] / self.row_norm(s))
            at = s.rows[1]
        if at < self.module.out_features:
            pieces.append(pieces[-1].new_ones(self.module.out_features - at))
        return torch.cat(pieces)

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """Scale the updated output by the ratio of magnitudes; the frozen bias is not scaled."""
        gain_O = cast(self.gain(), y)
        new = super().change(x, y)
        if self.module.bias is None:
            return new * gain_O
        return new * gain_O + cast(self.module.bias, y) * (1 - gain_O)

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (m / norm) (W + s B A), and the bias: only what edits before added is scaled."""
        gain_O = self.gain()
        weight = gain_O[:, None] * (weight_OI + self.weight_update())
        if bias_O is None:
            return weight, None
        if self.module.bias is None:
            return weight, gain_O * bias_O
        return weight, gain_O * bias_O + (1 - gain_O) * self.module.bias


class OutputScale(LinearEdit):
    """IA3 on keys and values: y' = l * y, l starts at one. Liu et al., arXiv 2205.05638, sec. 3.3.

    A fused layer is scaled in one multiplication, with ones on the rows of other roles.
    ``relative`` keeps l - 1 in place of l.
    """

    def __init__(self, name: str, sites: Sequence[LinearSite], relative: bool = False) -> None:
        super().__init__(name, sites)
        self.relative = relative
        start = 0.0 if relative else 1.0
        self.scale = nn.ParameterDict(
            {s.role: nn.Parameter(torch.full((s.out_features,), start)) for s in sites}
        )

    def _spread(self, rest: float) -> Tensor:
        """Return the numbers of every output row of the layer, ``rest`` where no role is."""
        pieces, at = [], 0
        for s in sorted(self.sites, key=lambda p: p.rows):
            if s.rows[0] > at:
                pieces.append(self.scale[s.role].new_full((s.rows[0] - at,), rest))
            pieces.append(self.scale[s.role])
            at = s.rows[1]
        if at < self.module.out_features:
            pieces.append(pieces[-1].new_full((self.module.out_features - at,), rest))
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def vector(self) -> Tensor:
        """Return the scale l of every output row of the layer, (O,)."""
        return 1 + self._spread(0.0) if self.relative else self._spread(1.0)

    def shift(self) -> Tensor:
        """Return l - 1 of every output row of the layer, (O,)."""
        return self._spread(0.0) if self.relative else self._spread(1.0) - 1

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """Scale the output."""
        return y * cast(self.vector(), y)

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return diag(l) W and l b."""
        scale_O = self.vector()
        return scale_O[:, None] * weight_OI, None if bias_O is None else scale_O * bias_O


class InputScale(LinearEdit):
    """IA3 on the feed-forward activation: y' = W (l * x). Liu et al., arXiv 2205.05638, 3.3.

    ``relative`` keeps l - 1 in place of l.
    """

    def __init__(self, name: str, sites: Sequence[LinearSite], relative: bool = False) -> None:
        super().__init__(name, sites)
        self.relative = relative
        start = 0.0 if relative else 1.0
        self.scale = nn.Parameter(torch.full((self.module.in_features,), start))

    def vector(self) -> Tensor:
        """Return the scale l of every input, (I,)."""
        return 1 + self.scale if self.relative else self.scale

    def shift(self) -> Tensor:
        """Return l - 1 of every input, (I,)."""
        return self.scale if self.relative else self.scale - 1

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the layer's input."""

        def before(_: nn.Module, args: tuple) -> tuple:
            return (args[0] * cast(self.vector(), args[0]), *args[1:])

        handles.add(self.module.register_forward_pre_hook(before))

    def around(self, forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return the frozen layer's output for the scaled input."""
        return forward(x * cast(self.vector(), x))

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return W diag(l)."""
        return weight_OI * self.vector(), bias_O


class AddedBias(LinearEdit):
    """A bias, zero at the start, for a linear layer that has none: y' = y + b."""

    def __init__(self, name: str, sites: Sequence[LinearSite]) -> None:
        super().__init__(name, sites)
        self.bias = nn.Parameter(torch.zeros(self.module.out_features))

    def change(self, x: Tensor, y: Tensor) -> Tensor:
        """Add the bias."""
        return y + cast(self.bias, y)

    def merged(self, weight_OI: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the weight and the new bias."""
        return weight_OI, self.bias if bias_O is None else bias_O + self.bias


class ScaleShift(Edit):
    """SSF: y' = gamma * y + beta on the channels. Lian et al., arXiv 2210.08823, eq. 2.

    gamma is drawn from N(1, 0.02) and beta from N(0, 0.02), as in the authors' code.
    """

    identity = False

    def __init__(
        self, name: str, site: ChannelSite, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(name)
        self.site = site
        g = seeded(generator)
        self.gamma = nn.Parameter(1 + 0.02 * torch.randn(site.features, generator=g))
        self.beta = nn.Parameter(0.02 * torch.randn(site.features, generator=g))

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the layer's output."""
        handles.add(self.site.output.edit(self.change))

    def change(self, y: Tensor) -> Tensor:
        """Scale and shift the channels (last axis)."""
        return torch.addcmul(cast(self.beta, y), y, cast(self.gamma, y))

    @property
    def module(self) -> nn.Module:
        """The frozen layer."""
        return self.site.module

    def merged(self, weight: Tensor, bias_O: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return (gamma * weight, gamma * bias + beta) for a weight whose first axis is O."""
        gamma = self.gamma.view(-1, *[1] * (weight.dim() - 1))
        bias = self.beta if bias_O is None else self.gamma * bias_O + self.beta
        return gamma * weight, bias
