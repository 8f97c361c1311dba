"""Attention to the Gist token and from it (GIST, arXiv 2312.07255).

Probabilities are computed from the queries and keys of every attention call, which the networks
hand to a fused kernel that keeps none of them.
Shape legend: B images, H heads, T queries, K keys, P patches, L layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edits import Tokens
from ..edits.kv import redirect
from ..edits.sites import Handles
from ..edits.tuners import own_scores
from ..errors import ConfigError, IncompatibleError, NonFiniteError
from ..methods.base import Output
from ..methods.gist import GIST
from ..reports.figures import new_figure, styled
from ..tasks.batch import Batch
from ..train.model import Adapted
from .opened import Opened, on_val

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUM_BOUND = 1e-5
"""How far the sum of a row of probabilities may be from 1 (fp32)."""


@dataclass(frozen=True)
class Places:
    """Where tokens stand in a sequence that inserted tokens have made longer.

    Attributes:
        gist: places of the Gist tokens.
        front: places of class and register tokens.
        patches: places of the patches, in the order of the image.

    """

    gist: tuple[int, ...]
    front: tuple[int, ...]
    patches: tuple[int, ...]


@dataclass
class Watch:
    """What attention calls were seen to do, layer by layer, over all batches.

    Attributes:
        images: number of images for which maps are kept.
        to_gist: per layer, sums over images of the attention to the Gist tokens, (H,), averaged
            over queries (class and register tokens, and patches).
        maps: per layer, attention from the Gist token to the patches, (B, P), averaged over heads.
        count: images seen by each layer.

    """

    places: Any
    layers: int
    images: int
    to_gist: list[Tensor | None] = field(init=False)
    maps: list[list[Tensor]] = field(init=False)
    count: list[int] = field(init=False)
    tokens: int = 0

    def __post_init__(self) -> None:
        self.to_gist = [None] * self.layers
        self.maps = [[] for _ in range(self.layers)]
        self.count = [0] * self.layers

    def see(self, layer: int, weights_BHTK: Tensor) -> None:
        """Add the probabilities of one attention call."""
        queries, keys = weights_BHTK.shape[-2:]
        places: Places = self.places(queries)
        extra = keys - queries  # learned keys, which stand in front
        gist = [extra + p for p in places.gist]
        shares_BHT = weights_BHTK[..., gist].sum(-1)
        sums_H = shares_BHT[..., [*places.front, *places.patches]].mean(-1).sum(0).double().cpu()
        before = self.to_gist[layer]
        self.to_gist[layer] = sums_H if before is None else before + sums_H
        wanted = self.images - self.count[layer]
        if wanted > 0:
            from_gist_BHK = weights_BHTK[:wanted, :, list(places.gist)].mean(2)
            patches = [extra + p for p in places.patches]
            self.maps[layer].append(from_gist_BHK[..., patches].mean(1).cpu())
        self.count[layer] += len(weights_BHTK)
        self.tokens = queries


def probabilities(q_BHTE: Tensor, k_BGKE: Tensor, **how: Any) -> Tensor:
    """Return the attention probabilities (B, H, T, K) of a call, in fp32 under autocast too.

    Args:
        q_BHTE: queries.
        k_BGKE: keys, of as many heads or fewer.
        how: ``attn_mask``, ``is_causal`` and ``scale`` of the call.

    Raises:
        NonFiniteError: a row does not add up to 1.

    """
    with torch.autocast(q_BHTE.device.type, enabled=False):
        weights_BHTK = own_scores(q_BHTE.float(), k_BGKE.float(), **how).softmax(-1)
        off = float((weights_BHTK.sum(-1) - 1).abs().max())
    if not off <= SUM_BOUND:
        raise NonFiniteError(f"attention probabilities add up to 1 only within {off:g}")
    return weights_BHTK


class Seer(Protocol):
    """Looks at attention calls."""

    def see(self, layer: int, weights_BHTK: Tensor) -> None:
        """Look at the probabilities of one attention call."""


def watch(model: Adapted, seen: Seer) -> Handles:
    """Show every self-attention of the first stack to ``seen``; ``remove()`` ends it."""
    handles = Handles()
    for layer, block in enumerate(model.backbone.anatomy.stacks[0].blocks):
        handles.add(redirect(block.attentions["attn"], _attend(layer, seen)))
    return handles


def _attend(layer: int, seen: Seer) -> Any:
    def attend(
        q_BHTE: Tensor,
        k_BGKE: Tensor,
        v_BGKE: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        **rest: Any,
    ) -> Tensor:
        how: dict[str, Any] = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale}
        seen.see(layer, probabilities(q_BHTE, k_BGKE, **how))
        return F.scaled_dot_product_attention(
            q_BHTE, k_BGKE, v_BGKE, dropout_p=dropout_p, **how, **rest
        )

    return attend


def slots(model: Adapted, length: int) -> dict[str, range]:
    """Return where inserted tokens stand in a sequence of ``length`` that has them, by edit."""
    tokens = [e for e in model.delta if isinstance(e, Tokens)]
    return {e.name: range(e.slot(length), e.slot(length) + e.count) for e in tokens}


def own_places(model: Adapted, length: int) -> list[int]:
    """Return where the network's own tokens stand in a sequence of ``length``, in order."""
    inserted = {place for slot in slots(model, length).values() for place in slot}
    return [place for place in range(length) if place not in inserted]


def places(model: Adapted, length: int) -> Places:
    """Return where tokens stand in a sequence of ``length`` that has passed all edits.

    Raises:
        IncompatibleError: the method has no Gist token, or the network has no patches.

    """
    gist = [e for e in model.delta if isinstance(e, Tokens) and e.readout == GIST]
    if not gist:
        name = type(model.method).__name__
        raise IncompatibleError(
            f"run: method {name} has no Gist token; attention needs a run of method=gist"
        )
    if model.backbone.anatomy.patch_numbers is None:
        raise IncompatibleError("run: attention maps are of images, and this network reads text")
    own = own_places(model, length)
    front = model.backbone.anatomy.stacks[0].sequence.prefix_tokens
    return Places(tuple(slots(model, length)[gist[0].name]), tuple(own[:front]), tuple(own[front:]))


def measure(opened: Opened, images: int = 4) -> tuple[dict[str, Any], Tensor]:
    """Measure attention to and from the Gist token on val.

    Args:
        opened: a run of GIST on a vision transformer.
        images: number of pictures (the first of val) for which maps are kept.

    Returns:
        The numbers: ``to_gist`` [layer][head], mean over images and queries of the probability of
        the Gist tokens; ``uniform``, what equal attention to all tokens would give them; ``maps``
        [layer][image][row][column], attention of the Gist token to patches, mean over heads; and
        the pictures, uint8 (images, 3, H, W).

    """
    accelerator = opened.accelerator()
    model = opened.model(accelerator)
    stack = model.backbone.anatomy.stacks[0]
    seen = Watch(lambda length: places(model, length), len(stack.blocks), images)
    pictures: list[Tensor] = []

    def see(batch: Batch, output: Output) -> None:
        left = images - sum(len(p) for p in pictures)
        if left > 0:
            pictures.append(batch.inputs["image"][:left].cpu())

    handles = Handles()
    try:
        places(model, 2 + stack.sequence.prefix_tokens)  # refuses before any data are read
        task = opened.task()
        count = len(task.split("val"))
        if not 1 <= images <= count:
            raise ConfigError(f"images: {images} is not in 1..{count}, the val split")
        handles = watch(model, seen)
        on_val(opened, model, task, accelerator, see)
        own = seen.places(seen.tokens)
    finally:
        handles.remove()
        model.release()
    means = [s / n for s, n in zip(seen.to_gist, seen.count, strict=True) if s is not None]
    side = math.isqrt(len(own.patches))
    if side * side != len(own.patches):
        raise ConfigError(f"run: {len(own.patches)} patches are no square picture")
    maps = [torch.cat(parts).unflatten(1, (side, side)) for parts in seen.maps]
    numbers = {
        **opened.about(),
        "split": "val",
        "samples": seen.count[0],
        "uniform": len(own.gist) / seen.tokens,
        "to_gist": [m.tolist() for m in means],
        "maps": [m.tolist() for m in maps],
    }
    return numbers, torch.cat(pictures)


def draw_heads(numbers: dict[str, Any], title: str) -> Figure:
    """Draw the attention to the Gist token, layers by heads."""
    grid = [[100 * x for x in row] for row in numbers["to_gist"]]
    layers, heads = len(grid), len(grid[0])
    with styled():
        figure = new_figure(max(2.6, 1.4 + 0.32 * layers))
        axes = figure.subplots()
        shown = axes.imshow(grid, aspect="auto", cmap="viridis", vmin=0)
        axes.grid(False)
        axes.set_xticks(range(heads), [str(i + 1) for i in range(heads)])
        axes.set_yticks(range(layers), [str(i + 1) for i in range(layers)])
        axes.set_ylabel("layer")
        even = 100 * numbers["uniform"]
        bar = figure.colorbar(
            shown, ax=axes, label="probability of the Gist token, % (dashed: even)"
        )
        if even <= shown.get_clim()[1]:
            bar.ax.axhline(even, color="white", linewidth=2)
            bar.ax.axhline(even, color="black", linewidth=1, linestyle="--")
        axes.set_title(f"Attention to the Gist token: {title}", fontsize=9)
        axes.set_xlabel(
            f"head (mean over class token, patches and {numbers['samples']} val images; "
            f"even attention: {even:.2f} %)"
        )
    return figure


def draw_maps(numbers: dict[str, Any], pictures: Tensor, title: str) -> Figure:
    """Draw some pictures with where the Gist token looks, in first, middle and last layers."""
    layers = len(numbers["maps"])
    chosen = sorted({0, layers // 2, layers - 1})
    rows = len(pictures)
    with styled():
        figure = new_figure(0.6 + 1.75 * rows, width=1.0 + 1.75 * (1 + len(chosen)))
        grid: Any = figure.subplots(rows, 1 + len(chosen), squeeze=False)
        for i in range(rows):
            cells: Sequence[Any] = grid[i]
            cells[0].imshow(pictures[i].permute(1, 2, 0).numpy())
            for axes, layer in zip(cells[1:], chosen, strict=True):
                shown = [[100 * x for x in row] for row in numbers["maps"][layer][i]]
                image = axes.imshow(shown, cmap="viridis", vmin=0)
                figure.colorbar(image, ax=axes, fraction=0.046, format="%.1f")
            for axes in cells:
                axes.set_axis_off()
        grid[0][0].set_title("picture", fontsize=9)
        for axes, layer in zip(grid[0][1:], chosen, strict=True):
            axes.set_title(f"layer {layer + 1}", fontsize=9)
        figure.suptitle(
            f"Where the Gist token looks (probability of a patch, %, mean over heads)\n{title}",
            fontsize=9,
        )
    return figure
