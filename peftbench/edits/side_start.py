"""Side blocks that start as a pruned copy of frozen ones. Sung et al., arXiv 2206.06522, sec. 3.3.

Whole channels are kept, those whose weights are largest in L1 norm: W channels of the stream (the
same in all blocks of a stack), E of each head, F of the feed-forward part.
Shape legend: D width, W kept of it, P width of a head, E kept of it, H heads of queries, G heads of
keys, F kept of the feed-forward width, I and O inputs and outputs of a layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .side import Map, Norm, SideAttention, SideBlock
from .sites import LinearSite

WRITING = ("o", "cross_o", "down")  # roles of layers that write into the stream


def channels_to_keep(blocks: Sequence[Mapping[str, LinearSite]], width: int) -> Tensor:
    """Return the channels (W,) of the stream into which a stack's layers write the most.

    Args:
        blocks: linear layers by role, for each block.
        width: W.

    """
    writers = [s for linears in blocks for role, s in linears.items() if role in WRITING]
    return _largest(torch.stack([_weight(s).abs().sum(1) for s in writers]).sum(0), width)


@torch.no_grad()
def prune_block(
    block: SideBlock,
    linears: Mapping[str, LinearSite],
    norms: Mapping[str, nn.Module],
    keep_W: Tensor,
    memory_W: Tensor | None,
) -> None:
    """Write the largest weights of a frozen block into a side block.

    Args:
        block: the side block.
        linears: the frozen block's linear layers by role.
        norms: its norms by what they feed; a side norm without one stays at its start.
        keep_W: channels of the stream that are kept.
        memory_W: those of the stack that cross-attention reads.

    """
    _attention(block.attn, linears, "", keep_W, keep_W)
    if memory_W is not None and "cross_o" in linears:
        _attention(block.cross, linears, "cross_", keep_W, memory_W)
    rows = {r: _weight(linears[r])[:, keep_W] for r in ("up", "gate") if r in linears}
    written = _weight(linears["down"])[keep_W]
    size = torch.stack([r.abs().sum(1) for r in rows.values()]).sum(0) + written.abs().sum(0)
    keep_F = _largest(size, block.up.weight.shape[0])
    _write(block.up, rows["up"][keep_F], _bias(linears["up"], keep_F))
    if block.gate is not None:
        _write(block.gate, rows["gate"][keep_F], _bias(linears["gate"], keep_F))
    _write(block.down, written[:, keep_F], _bias(linears["down"], keep_W))
    for norm, name in ((block.norm_attn, "attn"), (block.norm_mlp, "mlp")):
        if name in norms:
            _write_norm(norm, norms[name], keep_W)


def _attention(
    side: SideAttention,
    linears: Mapping[str, LinearSite],
    lead: str,
    keep_W: Tensor,
    memory_W: Tensor,
) -> None:
    shape = side.shape
    sites = {role: linears[f"{lead}{role}"] for role in "qkvo"}
    frozen = sites["q"].out_features // shape.heads  # P
    parts, biases = {}, {}
    for role in "qkv":
        weight_OI = _weight(sites[role])[:, keep_W if role == "q" else memory_W]
        parts[role] = weight_OI.unflatten(0, (shape.groups, -1, frozen))
        if (bias_O := sites[role].module.bias) is not None:
            first, last = sites[role].rows
            biases[role] = bias_O[first:last].view(shape.groups, -1, frozen, 1)
    sizes = {role: part.abs().sum((1, 3)) for role, part in parts.items()}  # (G, P)
    out_WGNP = _weight(sites["o"])[keep_W].unflatten(1, (shape.groups, -1, frozen))
    keep_qk_GE = _largest(sizes["q"] + sizes["k"], shape.head)
    keep_vo_GE = _largest(sizes["v"] + out_WGNP.abs().sum((0, 2)), shape.head)
    kept = {"q": keep_qk_GE, "k": keep_qk_GE, "v": keep_vo_GE}
    rows = {role: _rows(part, kept[role]) for role, part in parts.items()}
    offsets = {role: _rows(part, kept[role]).flatten() for role, part in biases.items()}
    _write(side.q, rows["q"], offsets.get("q"))
    both = torch.cat([offsets["k"], offsets["v"]]) if offsets else None
    _write(side.kv, torch.cat([rows["k"], rows["v"]]), both)
    index = keep_vo_GE[None, :, None].expand(*out_WGNP.shape[:3], -1)
    _write(side.o, out_WGNP.gather(3, index).flatten(1), _bias(sites["o"], keep_W))


def _rows(part_GNPI: Tensor, keep_GE: Tensor) -> Tensor:
    """Return the kept rows of every head, (H E, I)."""
    index = keep_GE[:, None, :, None].expand(-1, part_GNPI.shape[1], -1, part_GNPI.shape[3])
    return part_GNPI.gather(2, index).flatten(0, 2)


def _largest(sizes: Tensor, count: int) -> Tensor:
    """Return the places of the largest numbers along the last axis, in their order."""
    return sizes.topk(count, dim=-1).indices.sort(dim=-1).values


def _weight(site: LinearSite) -> Tensor:
    first, last = site.rows
    return site.module.weight.detach()[first:last]


def _bias(site: LinearSite, keep: Tensor) -> Tensor | None:
    first, last = site.rows
    return None if site.module.bias is None else site.module.bias.detach()[first:last][keep]


def _write(into: Map, weight: Tensor, bias: Tensor | None) -> None:
    into.weight = nn.Parameter(weight.float().clone())
    if bias is not None:
        into.bias = nn.Parameter(bias.detach().float().clone())


def _write_norm(into: Norm, norm: nn.Module, keep_W: Tensor) -> None:
    for name, parameter in norm.named_parameters(recurse=False):
        setattr(into, name, nn.Parameter(parameter.detach()[keep_W].float().clone()))
