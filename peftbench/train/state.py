"""Resumable state: one safetensors file, the one before it kept as a fall-back.

Data order, masks and learning rates are pure functions of seed and step, so a state is tensors,
optimiser moments and the step.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import NonFiniteError
from ..files import write_tensors

LAST, PREVIOUS = "last.safetensors", "previous.safetensors"


@dataclass
class State:
    """A point in a run from which it continues.

    Attributes:
        phase: which fit of the run this is (a run may fit more than once).
        step: optimiser steps done in this phase.
        tensors: what trains, and optimiser moments, by name.
        info: anything else that is plain JSON.

    """

    phase: int
    step: int
    tensors: dict[str, Tensor]
    info: dict[str, Any] = field(default_factory=dict)


def save(folder: Path, state: State) -> None:
    """Write ``state`` as the last state; the last one becomes the previous one.

    Raises:
        NonFiniteError: a tensor is not finite; the states on disk are left as they are.

    """
    for name, tensor in state.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise NonFiniteError(f"tensor '{name}' is not finite; the last good state is kept")
    folder.mkdir(parents=True, exist_ok=True)
    meta = {"phase": state.phase, "step": state.step, "info": state.info}
    last = folder / LAST
    if last.exists():
        os.replace(last, folder / PREVIOUS)
    write_tensors(last, state.tensors, {"state": json.dumps(meta)})


def load(folder: Path) -> tuple[State | None, list[str]]:
    """Return the newest readable state, and a line for each file that could not be read."""
    problems: list[str] = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            with safe_open(str(path), "pt") as file:
                meta = json.loads(file.metadata()["state"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return State(meta["phase"], meta["step"], tensors, meta["info"]), problems
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            problems.append(f"{path} cannot be read ({error})")
    return None, problems


def pack_optimizer(optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> dict[str, Tensor]:
    """Return the optimiser's moments as tensors named ``optimizer.<moment>.<parameter>``."""
    packed: dict[str, Tensor] = {}
    for parameter, moments in optimizer.state.items():
        for key, value in moments.items():
            if value is not None:
                tensor = value if isinstance(value, Tensor) else torch.tensor(value)
                packed[f"optimizer.{key}.{names[id(parameter)]}"] = tensor
    return packed


def unpack_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    params: Mapping[str, nn.Parameter],
) -> None:
    """Put moments packed by :func:`pack_optimizer` back."""
    optimizer.state.clear()
    for full, tensor in tensors.items():
        if full.startswith("optimizer."):
            _, key, name = full.split(".", 2)
            parameter = params[name]
            value = tensor.clone() if key == "step" else tensor.to(parameter.device)
            optimizer.state[parameter][key] = value
