"""U-Tuners: what stands beside a frozen operation, OP(x) + s * tuner(x). Jiang et al., 2303.00690.

A tuner is a core (``Bottleneck`` or a branch of attention over learned rows) behind a gate. The
branches borrow the frozen projections of their block and register none of them.
Shape legend: B batch, T tokens, D width, H heads of queries, G heads of keys, L rows, E head width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Delta, Edit
from .kv import redirect
from .sites import AttentionSite, Handles, LinearSite, OpSite, cast, seeded

Gating = Literal["direct", "scalar", "channel", "input"]


class Gate(nn.Module):
    """y -> s y, by one of the four strategies of the paper's table 7.

    Args:
        kind: ``direct`` (s fixed), ``scalar`` (one learned number), ``channel`` (D learned numbers)
            or ``input`` (sigmoid of a linear map of y, averaged over tokens: one s per sample).
        width: D.
        start: s itself if fixed, the first value of learned numbers; ``input`` does not use it.

    """

    def __init__(
        self, kind: Gating, width: int, start: float = 1.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.kind, self.start = kind, start
        if kind in ("scalar", "channel"):
            self.scale = nn.Parameter(torch.full((1 if kind == "scalar" else width,), float(start)))
        elif kind == "input":
            g = seeded(generator)
            draws = 2 * torch.rand(2, width, generator=g) - 1
            self.weight = nn.Parameter(draws[:1] / width**0.5)
            self.bias = nn.Parameter(draws[1, :1] / width**0.5)

    def values(self, y_BTD: Tensor) -> Tensor:
        """Return s for an output: (1,), (D,) or (B, 1, 1)."""
        if self.kind == "direct":
            return y_BTD.new_full((1,), self.start)
        if self.kind == "input":
            score_BT1 = F.linear(y_BTD, cast(self.weight, y_BTD), cast(self.bias, y_BTD))
            return score_BT1.sigmoid().mean(dim=1, keepdim=True)
        return self.scale

    def forward(self, y_BTD: Tensor) -> Tensor:
        """Return s y, same shape."""
        if self.kind == "direct":
            return y_BTD if self.start == 1.0 else y_BTD * self.start
        return y_BTD * cast(self.values(y_BTD), y_BTD)


class Gated(nn.Module):
    """s * core(u)."""

    def __init__(self, core: nn.Module, gate: Gate, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.core, self.gate = core, gate
        self._norm = (norm,)  # in a tuple: frozen, so not registered

    def forward(self, u_BTD: Tensor) -> Tensor:
        """Return the gated output, same shape."""
        return self.gate(self.core(_normed(self._norm[0], u_BTD)))


@dataclass(frozen=True)
class Projections:
    """The frozen attention of one block, as far as branches beside an operation borrow it.

    Frozen layers are read through their weights and norms through ``forward``, so hooks of other
    edits neither run nor see the branch.

    Attributes:
        attention: the attention.
        linears: its layers by role: q, k, v, o.
        norms: norms by what they feed (attn, mlp, q, k, o), where there are any.

    """

    attention: AttentionSite
    linears: Mapping[str, LinearSite]
    norms: Mapping[str, nn.Module]

    @property
    def heads(self) -> int:
        """H, heads of queries."""
        return self.linears["q"].out_features // self.attention.head_dim

    def query(self, u_BTD: Tensor, kind: str) -> Tensor:
        """Return queries (B, H, T, E) of the stream that enters an operation (no rotation)."""
        x_BTD = _normed(self.norms.get("mlp" if kind == "mlp" else "attn"), u_BTD)
        return _normed(self.norms.get("q"), self._split(self._project("q", x_BTD)))

    def keys_values(self, prompt_LD: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (G, L, E) that the frozen attention makes of tokens."""
        like = self.linears["k"].module.weight
        x_LD = _normed(self.norms.get("attn"), cast(prompt_LD, like))
        keys_GLE = _normed(self.norms.get("k"), self._split(self._project("k", x_LD)))
        return keys_GLE, self._split(self._project("v", x_LD))

    def merge(self, x_BHTE: Tensor) -> Tensor:
        """Return heads merged and sent through W_o without its bias, (B, T, D)."""
        x_BTF = _normed(self.norms.get("o"), x_BHTE.transpose(1, 2).flatten(2))
        return F.linear(x_BTF, cast(self.linears["o"].module.weight, x_BTF))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.attention.head_dim)).transpose(-3, -2)

    def _project(self, role: str, x: Tensor) -> Tensor:
        site = self.linears[role]
        first, last = site.rows
        bias = site.module.bias
        return F.linear(
            x,
            cast(site.module.weight[first:last], x),
            None if bias is None else cast(bias[first:last], x),
        )


class PrefixRows(nn.Module):
    """L learned keys and values. Xavier-uniform over (1, L, G E); values zero if ``zero``."""

    def __init__(
        self,
        frozen: Projections,
        length: int,
        zero: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.site = frozen.attention
        width, g = self.site.heads * self.site.head_dim, seeded(generator)
        self.key = nn.Parameter(_rows(length, width, g))
        self.value = nn.Parameter(torch.zeros(length, width) if zero else _rows(length, width, g))

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return keys and values, (G, L, E) each."""
        shape = (-1, self.site.heads, self.site.head_dim)
        return self.key.view(shape).transpose(0, 1), self.value.view(shape).transpose(0, 1)


class PromptRows(nn.Module):
    """L learned tokens, whose keys and values the frozen attention makes. Xavier-uniform."""

    def __init__(
        self,
        frozen: Projections,
        length: int,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.prompt = nn.Parameter(
            _rows(length, frozen.linears["k"].in_features, seeded(generator))
        )

    def forward(self) -> tuple[Tensor, Tensor]:
        """Return keys and values, (G, L, E) each."""
        return self.frozen.keys_values(self.prompt)


class RowScale(nn.Module):
    """Learned scales of keys and of values, in place of one of the output (section 4.2).

    Args:
        site: the attention.
        per_channel: a number per head and channel; else one for all keys and one for all values.
        start: first value.

    """

    def __init__(self, site: AttentionSite, per_channel: bool, start: float) -> None:
        super().__init__()
        self.start = start
        shape = (site.heads, 1, site.head_dim) if per_channel else (1, 1, 1)
        self.key = nn.Parameter(torch.full(shape, float(start)))
        self.value = nn.Parameter(torch.full(shape, float(start)))

    def forward(self, keys_GLE: Tensor, values_GLE: Tensor) -> tuple[Tensor, Tensor]:
        """Return scaled keys and values, same shapes."""
        return keys_GLE * cast(self.key, keys_GLE), values_GLE * cast(self.value, values_GLE)


class Branch(nn.Module):
    """merge(Attn(Q(u), K, V)) W_o over learned rows alone.

    Args:
        rows: where keys and values come from.
        frozen: the block's attention.
        kind: the operation beside which the branch stands.
        scale: of keys and values, where they have one.

    """

    def __init__(
        self,
        rows: PrefixRows | PromptRows,
        frozen: Projections,
        kind: str,
        scale: RowScale | None = None,
    ) -> None:
        super().__init__()
        self.rows, self.frozen, self.kind, self.scale = rows, frozen, kind, scale

    def forward(self, u_BTD: Tensor) -> Tensor:
        """Return the branch of the stream that enters the operation, (B, T, D)."""
        return self.of_queries(self.frozen.query(u_BTD, self.kind))

    def of_queries(self, q_BHTE: Tensor) -> Tensor:
        """Return the branch of given queries, (B, T, D)."""
        return self.frozen.merge(self.attend(q_BHTE)[0])

    def attend(self, q_BHTE: Tensor, scale: float | None = None) -> tuple[Tensor, Tensor]:
        """Return attention over the rows (B, H, T, E), and its scores (B, H, T, L)."""
        pair = self.rows.forward()
        pair = pair if self.scale is None else self.scale(*pair)
        keys_HLE, values_HLE = (cast(_repeated(t, q_BHTE.shape[1]), q_BHTE) for t in pair)
        scale = scale if scale is not None else self.frozen.attention.scale
        scores_BHTL = q_BHTE @ keys_HLE.mT * _scale(q_BHTE, scale)
        weights_BHTL = cast(scores_BHTL.softmax(-1), values_HLE)
        return cast(weights_BHTL @ values_HLE, q_BHTE), scores_BHTL


class QueryTuner(Edit):
    """MHA(x) + s * branch, with the queries that the frozen attention computes anyway.

    Args:
        name: unique name.
        site: the attention operation, to whose output the branch is added.
        branch: the branch.
        gate: s.
        identity: whether the branch is zero at the start.

    """

    def __init__(self, name: str, site: OpSite, branch: Branch, gate: Gate, identity: bool) -> None:
        super().__init__(name)
        self.site, self.branch, self.gate, self.identity = site, branch, gate, identity

    def install(self, delta: Delta, handles: Handles) -> None:
        """Keep the queries of the one attention call, and add the branch behind the operation."""
        seen: list[Tensor] = []
        heads = self.branch.frozen.heads

        def attend(q_BHTE: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            # of one query, transformers stacks the heads that share keys: (B, G, H / G, E)
            seen.append(q_BHTE.reshape(len(q_BHTE), heads, -1, q_BHTE.shape[-1]))
            return F.scaled_dot_product_attention(q_BHTE, *args, **kwargs)

        def add(y_BTD: Tensor) -> Tensor:
            return y_BTD + cast(self.gate(self.branch.of_queries(seen.pop())), y_BTD)

        handles.add(redirect(self.branch.frozen.attention, attend))
        handles.add(self.site.output.edit(add))
        handles.add(seen.clear)


class LambdaTuner(Edit):
    """(1 - lam) Attn(Q, K, V) + lam Attn(Q, K_rows, V_rows): prefix tuning, exactly (section 3).

    lam is the share of the softmax that the rows would take beside the network's own keys, whose
    scores (B, H, T, Tk) are computed for it.
    """

    identity = False

    def __init__(self, name: str, branch: Branch) -> None:
        super().__init__(name)
        self.branch = branch

    def install(self, delta: Delta, handles: Handles) -> None:
        """Mix the branch into the result of the one attention call."""
        handles.add(redirect(self.branch.frozen.attention, self.attend))

    def attend(
        self,
        q_BHTE: Tensor,
        k_BGTE: Tensor,
        v_BGTE: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **rest: Any,
    ) -> Tensor:
        """Call attention and mix in the branch."""
        own_BHTE = F.scaled_dot_product_attention(
            q_BHTE, k_BGTE, v_BGTE, attn_mask, dropout_p, is_causal, scale=scale, **rest
        )
        mine_BHTE, scores_BHTL = self.branch.attend(q_BHTE, _scale(q_BHTE, scale))
        lam_BHT1 = share(scores_BHTL, own_scores(q_BHTE, k_BGTE, attn_mask, is_causal, scale))
        lam_BHT1 = cast(lam_BHT1, own_BHTE)
        return (1 - lam_BHT1) * own_BHTE + lam_BHT1 * cast(mine_BHTE, own_BHTE)


def share(rows_BHTL: Tensor, own_BHTT: Tensor) -> Tensor:
    """Return lam (B, H, T, 1), the softmax mass of the rows, from two sets of scores."""
    difference_BHT = rows_BHTL.logsumexp(-1) - own_BHTT.logsumexp(-1)
    return difference_BHT.sigmoid().unsqueeze(-1)


def own_scores(
    q_BHTE: Tensor,
    k_BGTE: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Return the scores (B, H, T, Tk) of an attention call; hidden ones are the least number."""
    scores = q_BHTE @ _repeated(k_BGTE, q_BHTE.shape[1]).mT * _scale(q_BHTE, scale)
    least = torch.finfo(scores.dtype).min
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, least)
    if attn_mask is None:
        return scores
    if attn_mask.dtype == torch.bool:
        return scores.masked_fill(~attn_mask, least)
    return (scores + attn_mask).clamp_min(least)


def _scale(q: Tensor, scale: float | None) -> float:
    return q.shape[-1] ** -0.5 if scale is None else scale


def _repeated(x: Tensor, heads: int) -> Tensor:
    """Return (..., G, L, E) as (..., H, L, E), each head repeated for its group of queries."""
    repeats = heads // x.shape[-3]
    return x if repeats == 1 else x.repeat_interleave(repeats, dim=-3)


def _normed(norm: nn.Module | None, x: Tensor) -> Tensor:
    """Apply a frozen norm without the hooks that stand on it."""
    return x if norm is None else norm.forward(x)


def _rows(length: int, width: int, generator: torch.Generator) -> Tensor:
    """Return (L, width), Xavier-uniform over (1, L, width): bound sqrt(6 / (width (L + 1)))."""
    return nn.init.xavier_uniform_(torch.empty(1, length, width), generator=generator)[0]
