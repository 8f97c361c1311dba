"""The same architecture with random weights, drawn as its library draws them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ..errors import IncompatibleError
from .backbone import Backbone


def fresh_start(backbone: Backbone, seed: int = 0) -> Backbone:
    """Return a copy of a network as it was before any training; the network itself is left alone.

    timm and transformers draw the weights, by their own rules for the architecture; tied tensors
    stay tied.

    Args:
        backbone: nothing attached.
        seed: of the weights.

    Raises:
        IncompatibleError: the library leaves a tensor as it was trained.

    """
    model: Any = copy.deepcopy(backbone.model)
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        torch.manual_seed(seed)
        _draw(model)
    trained = dict(backbone.model.named_parameters())
    kept = [n for n, p in model.named_parameters() if _as_trained(p, trained[n])]
    if kept:
        raise IncompatibleError(
            f"backbone: {type(model).__name__} cannot be drawn anew; these tensors stay as they "
            f"were trained: {', '.join(kept[:4])}"
        )
    name = f"{backbone.name} with random weights"
    return replace(backbone, name=name, model=model, source="random", spec={})


def _draw(model: Any) -> None:
    if hasattr(model, "initialize_weights"):  # transformers, which skips what it marked as done
        for module in model.modules():
            vars(module).pop("_is_hf_initialized", None)
        for tensor in (*model.parameters(), *model.buffers()):
            vars(tensor).pop("_is_hf_initialized", None)
        model.initialize_weights()
        return
    if not hasattr(model, "init_weights"):  # networks put together: each by its own library
        for part in model.children():
            _draw(part)
        return
    for module in model.modules():  # timm's own pass leaves out what it does not know by name
        if not isinstance(module, nn.Linear) and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    model.init_weights()


def _as_trained(now: nn.Parameter, before: nn.Parameter) -> bool:
    """Whether a tensor is unchanged, and no constant such as a norm starts with."""
    return torch.equal(now, before) and not bool((now == now.flatten()[0]).all())
