"""Pictures before a decoder: a frozen vision encoder, one trained map, a frozen language model.

Hadji-Kyriacou & Arandjelovic, arXiv 2312.08900, section 3. The map's outputs stand in the token
sequence where ids have placeholders; everything else is the decoder's own forward pass, so its
anatomy is the captioner's, and every method that works on the decoder works here.

Shape legend: B batch, C channels, S side of the network's square, P places of one picture, E vision
width, D width of the decoder, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..edits import noise
from ..files import sha256_tensors
from . import llama
from .anatomy import Anatomy

PICTURE = -1
"""Stands in the ids where one place of a picture comes in."""
TEXT_CONTEXT, PICTURE_CONTEXT = 0, 1
IMAGE, SEEN = "image", "seen"
_REPLACED = ("input_ids", IMAGE, SEEN)


class Captioner(nn.Module):
    """The two frozen networks. What joins them is trained and lives outside.

    Args:
        vision: a timm network; stays in eval mode (section 4.1: frozen, no gradient).
        text: a decoder with its language-model head.
        size: S, the side of the pictures it is given.

    Attributes:
        places: P.
        seen_width: E.

    """

    def __init__(self, vision: nn.Module, text: nn.Module, size: int) -> None:
        super().__init__()
        self.vision, self.text = vision.eval(), text
        image = torch.zeros(1, 3, size, size, device=next(vision.parameters()).device)
        with torch.no_grad():
            _, self.places, self.seen_width = see(vision, image).shape

    def sight(self) -> str:
        """Return the hash of the vision encoder's weights."""
        return sha256_tensors(self.vision.state_dict())

    @property
    def config(self) -> Any:
        """The decoder's."""
        return self.text.config

    def train(self, mode: bool = True) -> Captioner:
        """Set the decoder's mode; the vision encoder stays as it is."""
        self.training = mode
        self.text.train(mode)
        return self


class Projection(nn.Module):
    """u = Dropout(v) W^T + b: from the encoder's width to the decoder's (section 4.2).

    Args:
        seen: E.
        width: D.
        dropout: probability in front of the map.
        generator: of the initial values, uniform in +-1/sqrt(E).

    """

    def __init__(self, seen: int, width: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(seen, width), dropout
        with torch.no_grad():
            for tensor in (self.linear.weight, self.linear.bias):
                tensor.uniform_(-(seen**-0.5), seen**-0.5, generator=generator)

    def forward(self, seen_BPE: Tensor) -> Tensor:
        """Return what stands in the sequence, (B, P, D)."""
        x = seen_BPE.to(self.linear.weight.dtype)
        return self.linear(noise.dropout(x, self.dropout, self.training, "projection"))


def matches(model: nn.Module) -> bool:
    """Whether ``model`` is a captioner."""
    return isinstance(model, Captioner)


def anatomy(model: nn.Module, dropout: float = 0.1) -> Anatomy:
    """Write down where things are: in the decoder, behind the trained map.

    Args:
        model: a :class:`Captioner`.
        dropout: in front of the map.

    """
    assert isinstance(model, Captioner)
    inner = llama.anatomy(model.text)
    return replace(
        inner,
        model=model,
        logits=logits,
        write=write,
        encode=encode,
        connect=connect,
        sight=model.sight,
        connector=partial(Projection, model.seen_width, inner.width, dropout),
        unused=frozenset(id(m) for m in model.vision.modules()),
    )


def see(vision: Any, image_BCSS: Tensor) -> Tensor:
    """Return the output of a timm network's last norm at the places of a picture, (B, P, E).

    Rows first. Class and register tokens are left out; maps (B, H, W, E) and (B, E, H, W) are
    flattened.
    """
    found: Tensor = vision.forward_features(image_BCSS)
    if found.dim() == 3:
        return found[:, getattr(vision, "num_prefix_tokens", 0) :]
    if found.shape[-1] != vision.num_features:
        found = found.permute(0, 2, 3, 1)
    return found.flatten(1, 2)


def encode(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the inputs with what the vision encoder sees, (B, P, E) fp16, in place of images.

    Half precision always, so that features that were stored and features that were just computed
    are the same numbers.
    """
    if IMAGE not in inputs:
        return dict(inputs)
    with torch.no_grad():
        seen_BPE = see(model.vision, inputs[IMAGE]).half()
    return {**{n: t for n, t in inputs.items() if n != IMAGE}, SEEN: seen_BPE}


def connect(
    model: Any, projection: nn.Module, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], Tensor]:
    """Return what the decoder takes, vectors in place of ids, and the context number of each.

    Args:
        model: the captioner.
        projection: from (..., E) to (..., D).
        inputs: ``input_ids`` (B, T) with placeholders; ``image`` or ``seen``, whose places fill the
            placeholders in order: (B, P, E) for one picture per row, (B, M P, E) for M.

    Returns:
        Inputs with ``inputs_embeds`` (B, T, D), and (B, T) int64: 0 text, 1 picture.

    """
    told = encode(model, inputs)
    ids_BT = told["input_ids"]
    there_BT = ids_BT == PICTURE
    tokens_BTD = model.text.get_input_embeddings()(ids_BT.clamp(min=0))
    places = projection(told[SEEN]).to(tokens_BTD.dtype)
    if not torch.compiler.is_compiling():
        _check_places(int(there_BT.sum()), places.shape[:-1].numel())
    rest = {n: t for n, t in told.items() if n not in _REPLACED}
    rest["inputs_embeds"] = tokens_BTD.masked_scatter(there_BT[..., None], places)
    return rest, there_BT.long() * PICTURE_CONTEXT


def _check_places(wanted: int, given: int) -> None:
    if wanted != given:
        raise ValueError(f"{wanted} placeholders for {given} places of pictures")


def logits(model: Any, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return next-token logits (B, T, V), or (B, R, V) of the places in ``keep``."""
    return llama.logits(model.text, inputs)


def write(model: Any, inputs: Mapping[str, Tensor], config: Any) -> Tensor:
    """Return the ids (B, G) that the decoder writes after its inputs, which end together."""
    given = inputs["inputs_embeds"]
    mask = inputs.get("attention_mask")
    written: Tensor = model.text.generate(
        inputs_embeds=given,
        attention_mask=given.new_ones(given.shape[:2], dtype=torch.long) if mask is None else mask,
        generation_config=config,
    )
    return written
