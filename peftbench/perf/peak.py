"""The peak of memory of real training steps on a GPU, beside what was computed."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import ConfigError
from ..methods import Method, Passes
from ..train.model import Adapted
from .memory import Load
from .rows import Row
from .shapes import Shape

STEPS = 2
"""The second step is the first one that starts with the optimiser's state."""


def need_gpu(key: str) -> None:
    """Refuse a measurement where no GPU is; ``key`` is the setting that asked."""
    if not torch.cuda.is_available():
        raise ConfigError(f"{key}: no CUDA device is at hand; leave {key} out")


def measured(method: Method, shape: Shape, load: Load) -> dict[str, int]:
    """Return the most bytes allocated on the GPU in training steps, random weights.

    Returns:
        ``kept`` and ``checkpointed``: without and with every block recomputed.

    """
    need_gpu("measure")
    found = {}
    for name, checkpointing in (("kept", False), ("checkpointed", True)):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        train(method, shape, load, "cuda", checkpointing)
        found[name] = int(torch.cuda.max_memory_allocated())
    return found


def train(method: Method, shape: Shape, load: Load, device: str, checkpointing: bool) -> float:
    """Train some steps on a batch without meaning; return the last loss."""
    backbone = shape.load(device, load.dtype, "sdpa" if load.fused else "eager")
    model = Adapted(backbone, method, None if shape.writes else load.classes).to(device).train()
    model.checkpointing(checkpointing)
    inputs: Mapping[str, Tensor] = shape.inputs(load.batch, load.seq, device, load.dtype)
    tokens = (load.batch, load.seq) if shape.writes else (load.batch,)
    row, labels = Row("", model), torch.zeros(tokens, dtype=torch.long, device=device)
    model.prepare(Passes(lambda batch, part: row.losses(inputs, labels).backward()))
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-5)
    for _ in range(STEPS):
        loss = row.losses(inputs, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        model.delta.sync()
    model.release()
    return float(loss.detach())
