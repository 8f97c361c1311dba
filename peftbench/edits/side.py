"""A narrow network beside the frozen one. Ladder side-tuning, Sung et al., arXiv 2206.06522.

The side network reads what the frozen network computes (after the embedding and behind its blocks)
and gives nothing back until the end, so no gradient passes the frozen network. Its blocks are
pre-norm blocks of the frozen ones' kind at a fraction of their widths. Masks, and T5's position
bias, are those that the frozen attention is called with; queries and keys are not rotated.
Shape legend: B batch, T tokens, S tokens that are attended to, D width, W side width, H heads of
queries, G heads of keys, E side width of a head, F side width between the feed-forward maps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import IncompatibleError
from .base import Delta, Edit
from .kv import redirect
from .sites import AttentionSite, Handles, TensorRef, cast

EPSILON = 1e-6


@dataclass(frozen=True)
class SideShape:
    """What a side block is like.

    Attributes:
        width: W.
        heads: H.
        groups: G.
        head: E.
        feed: F.
        gated: whether a gate stands beside the upward map.
        biased: whether maps have biases (and norms are LayerNorms, else RMSNorms).
        cross: whether the block attends to another stack as well.
        scale: factor of the scores; None is E ** -0.5.
        activation: between the feed-forward maps.

    """

    width: int
    heads: int
    groups: int
    head: int
    feed: int
    gated: bool
    biased: bool
    cross: bool
    scale: float | None
    activation: Callable[[Tensor], Tensor]


class Map(nn.Module):
    """W x + b, Xavier-uniform (or zero) and zero at the start, in the dtype of x."""

    def __init__(
        self, inputs: int, outputs: int, biased: bool, g: torch.Generator, zero: bool = False
    ) -> None:
        super().__init__()
        weight = torch.zeros(outputs, inputs)
        if not zero:
            nn.init.xavier_uniform_(weight, generator=g)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(outputs)) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs) of (..., inputs)."""
        bias = None if self.bias is None else cast(self.bias, x)
        return F.linear(x, cast(self.weight, x), bias)


class Norm(nn.Module):
    """LayerNorm, or RMSNorm without a bias."""

    def __init__(self, width: int, biased: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if biased else None

    def forward(self, x_BTW: Tensor) -> Tensor:
        """Return the normed tensor."""
        weight = cast(self.weight, x_BTW)
        if self.bias is None:
            return F.rms_norm(x_BTW, weight.shape, weight, EPSILON)
        return F.layer_norm(x_BTW, weight.shape, weight, cast(self.bias, x_BTW), EPSILON)


class SideAttention(nn.Module):
    """Multi-head attention; q reads the stream, k and v the stream or another stack's output."""

    def __init__(self, shape: SideShape, g: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        queries, keys = shape.heads * shape.head, shape.groups * shape.head
        self.q = Map(shape.width, queries, shape.biased, g)
        self.kv = Map(shape.width, 2 * keys, shape.biased, g)
        self.o = Map(queries, shape.width, shape.biased, g)

    def forward(self, x_BTW: Tensor, memory_BSW: Tensor, seen: Seen) -> Tensor:
        """Return attention of x to the memory, (B, T, W)."""
        shape = self.shape
        q_BHTE = self.q(x_BTW).unflatten(-1, (shape.heads, shape.head)).transpose(1, 2)
        pairs = self.kv(memory_BSW).unflatten(-1, (2 * shape.groups, shape.head)).transpose(1, 2)
        k_BGSE, v_BGSE = pairs.chunk(2, dim=1)
        if (repeats := shape.heads // shape.groups) > 1:
            k_BGSE = k_BGSE.repeat_interleave(repeats, dim=1)
            v_BGSE = v_BGSE.repeat_interleave(repeats, dim=1)
        mask = seen.mask
        if mask is not None and mask.is_floating_point():
            mask = cast(mask, q_BHTE)
        x_BHTE = F.scaled_dot_product_attention(
            q_BHTE, k_BGSE, v_BGSE, mask, is_causal=seen.causal, scale=shape.scale
        )
        return self.o(x_BHTE.transpose(1, 2).flatten(2))


class SideBlock(nn.Module):
    """x + attn(norm(x)), then cross-attention where there is one, then the feed-forward part."""

    def __init__(self, shape: SideShape, g: torch.Generator) -> None:
        super().__init__()
        width, biased = shape.width, shape.biased
        self.activation = (shape.activation,)  # in a tuple: the frozen network's, not registered
        self.norm_attn, self.attn = Norm(width, biased), SideAttention(shape, g)
        if shape.cross:
            self.norm_cross, self.cross = Norm(width, biased), SideAttention(shape, g)
        self.norm_mlp = Norm(width, biased)
        self.up = Map(width, shape.feed, biased, g)
        self.gate = Map(width, shape.feed, biased, g) if shape.gated else None
        self.down = Map(shape.feed, width, biased, g)

    def forward(self, x_BTW: Tensor, memory_BSW: Tensor | None, seen: Mapping[str, Seen]) -> Tensor:
        """Return the block's output, (B, T, W).

        Args:
            x_BTW: side stream.
            memory_BSW: output of the other side stack, for cross-attention.
            seen: how each kind of attention (attn, cross_attn) is masked.

        """
        read = self.norm_attn(x_BTW)
        x_BTW = x_BTW + self.attn(read, read, seen["attn"])
        if memory_BSW is not None:
            read = self.norm_cross(x_BTW)
            x_BTW = x_BTW + self.cross(read, memory_BSW, seen["cross_attn"])
        read = self.norm_mlp(x_BTW)
        if self.gate is None:
            hidden_BTF = self.activation[0](self.up(read))
        else:
            hidden_BTF = self.activation[0](self.gate(read)) * self.up(read)
        return x_BTW + self.down(hidden_BTF)


class Rung(nn.Module):
    """mu s + (1 - mu) W_down h, mu = sigmoid(alpha / T), and the side block that reads it."""

    def __init__(self, width: int, block: SideBlock, side: int, g: torch.Generator) -> None:
        super().__init__()
        self.down = Map(width, side, True, g)
        self.alpha = nn.Parameter(torch.zeros(1))
        self.block = block

    def mixed(self, s_BTW: Tensor, h_BTD: Tensor, temperature: float) -> Tensor:
        """Return the side stream with what the frozen block computed, (B, T, W)."""
        mu = cast((self.alpha / temperature).sigmoid(), s_BTW)
        return mu * s_BTW + (1 - mu) * cast(self.down(h_BTD), s_BTW)


class SideStack(nn.Module):
    """The side network of one stack: a first map, a rung per chosen block, a last norm.

    Args:
        width: D.
        blocks: side block by place of the frozen block.
        shape: of the side blocks.
        g: the random stream of initial values.

    """

    def __init__(
        self, width: int, blocks: Mapping[int, SideBlock], shape: SideShape, g: torch.Generator
    ) -> None:
        super().__init__()
        self.first = Map(width, shape.width, True, g)
        rungs = {str(i): Rung(width, block, shape.width, g) for i, block in blocks.items()}
        self.rungs = nn.ModuleDict(rungs)
        self.norm = Norm(shape.width, shape.biased)


@dataclass(frozen=True)
class Rail:
    """Where a side stack stands at a frozen one.

    Attributes:
        enter: the sequence as it enters the first block.
        outputs: the sequence behind each block that the side stack reads, by place.
        leave: the sequence after the last norm.
        attentions: attention modules by kind of the first block, whose masks hold for all blocks.

    """

    enter: TensorRef
    outputs: Mapping[int, TensorRef]
    leave: TensorRef
    attentions: Mapping[str, AttentionSite]


@dataclass(frozen=True)
class Seen:
    """How an attention call is masked."""

    mask: Tensor | None
    causal: bool


class Ladder(Edit):
    """The side network over one or two stacks. What the head reads is its last output, mapped up.

    Args:
        name: unique name.
        rails: stack -> where it stands, in the order of the forward pass; the last is read.
        sides: stack -> its side network.
        combine: ``replace`` the frozen output, as in the paper, or ``add`` to it (starts at zero).
        temperature: T of the gates.
        generator: the random stream of initial values.

    """

    alone = True
    caches = False  # no keys and values of the side network's own

    def __init__(
        self,
        name: str,
        rails: Mapping[str, Rail],
        sides: Mapping[str, SideStack],
        combine: Literal["replace", "add"],
        temperature: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__(name)
        self.rails, self.combine, self.temperature = dict(rails), combine, temperature
        self.sides = nn.ModuleDict(sides)
        last = sides[list(rails)[-1]].first.weight
        self.up = Map(last.shape[0], last.shape[1], True, generator, zero=combine == "add")
        self.identity = combine == "add"

    def install(self, delta: Delta, handles: Handles) -> None:
        """Watch every stack, and write the output of the last."""
        memory: list[Tensor] = []
        for place, (name, rail) in enumerate(self.rails.items()):
            side = self.sides[name]
            assert isinstance(side, SideStack)
            flow = _Flow(side, memory, self.temperature)
            handles.add(rail.enter.watch(flow.start))
            for kind, site in rail.attentions.items():
                handles.add(redirect(site, flow.watcher(kind)))
            for index, output in rail.outputs.items():
                handles.add(output.watch(flow.stepper(index)))
            if place + 1 < len(self.rails):
                handles.add(rail.leave.watch(flow.hand_over))
            else:
                handles.add(rail.leave.edit(self._writer(flow)))
            handles.add(flow.clear)

    def _writer(self, flow: _Flow) -> Callable[[Tensor], Tensor]:
        def write(y_BTD: Tensor) -> Tensor:
            mine_BTD = cast(self.up(flow.finish()), y_BTD)
            return mine_BTD if self.combine == "replace" else y_BTD.detach() + mine_BTD

        return write


class _Flow:
    """The side stream of one stack during one forward pass."""

    def __init__(self, side: SideStack, memory: list[Tensor], temperature: float) -> None:
        self.side, self.memory, self.temperature = side, memory, temperature
        self.stream: list[Tensor] = []
        self.seen: dict[str, Seen] = {}

    def clear(self) -> None:
        """Forget the forward pass."""
        self.stream.clear()
        self.memory.clear()
        self.seen.clear()

    def start(self, x_BTD: Tensor) -> None:
        self.stream[:] = [self.side.first(x_BTD.detach())]

    def watcher(self, kind: str) -> Callable[..., Tensor]:
        def attend(q: Tensor, k: Tensor, v: Tensor, attn_mask: Any = None, *rest: Any, **kw: Any):  # type: ignore[no-untyped-def]
            if kind == "attn" and q.shape[-2] != k.shape[-2]:
                raise IncompatibleError(
                    "the side network keeps no keys and values of earlier tokens: generate with "
                    "use_cache=False"
                )
            self.seen[kind] = Seen(attn_mask, bool(kw.get("is_causal", rest[1:2] == (True,))))
            return F.scaled_dot_product_attention(q, k, v, attn_mask, *rest, **kw)

        return attend

    def stepper(self, index: int) -> Callable[[Tensor], None]:
        rung = self.side.rungs[str(index)]
        assert isinstance(rung, Rung)

        def step(h_BTD: Tensor) -> None:
            memory_BSW = self._memory(len(h_BTD)) if "cross_attn" in self.seen else None
            s_BTW = rung.mixed(self.stream.pop(), h_BTD.detach(), self.temperature)
            self.stream.append(rung.block(s_BTW, memory_BSW, self.seen))

        return step

    def _memory(self, batch: int) -> Tensor:
        """Return the encoder's side output; of beams, which stand together, once for each."""
        if not self.memory or batch % len(self.memory[0]):
            raise IncompatibleError(
                "the decoder's side network reads the encoder's: run the encoder under the same "
                "adapter first"
            )
        memory_BSW = self.memory[0]
        beams = batch // len(memory_BSW)
        return memory_BSW if beams == 1 else memory_BSW.repeat_interleave(beams, dim=0)

    def hand_over(self, _: Tensor) -> None:
        self.memory[:] = [self.finish()]

    def finish(self) -> Tensor:
        last_BTW: Tensor = self.side.norm(self.stream.pop())
        self.seen.clear()
        return last_BTW
