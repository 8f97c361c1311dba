"""Dropout inside edits, drawn so that a sample's mask does not depend on how a batch is cut.

A training loop opens :func:`rows` around each forward pass and says which rows of the global batch
are being computed. Masks are then a pure function of (seed, step, edit name, row): the same for one
process or several, with or without gradient accumulation, and again when gradient checkpointing
repeats a forward pass. Outside such a block, and inside a compiled graph, torch's own dropout runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """Which rows of which global batch are being computed."""

    seed: int
    step: int
    start: int
    total: int


_current: Rows | None = None


def stream_seed(*parts: object) -> int:
    """Return a 63-bit seed that depends on every part, the same on every machine."""
    text = "|".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@contextmanager
def rows(seed: int, step: int, start: int, total: int) -> Iterator[None]:
    """Say that rows ``start ...`` of a global batch of ``total`` rows are being computed."""
    global _current
    before, _current = _current, Rows(seed, step, start, total)
    try:
        yield
    finally:
        _current = before


def dropout(x_Bx: Tensor, p: float, training: bool, name: str, shared: bool = False) -> Tensor:
    """Element-wise dropout over a batch-first tensor; kept entries are divided by ``1 - p``.

    Args:
        x_Bx: any shape with the batch first.
        p: probability of dropping an entry.
        training: identity when False.
        name: stream of random numbers, one per place of use.
        shared: the tensor has no batch axis; all samples of a batch share it, and its mask.

    """
    if not training or p == 0.0:
        return x_Bx
    if torch.compiler.is_compiling() or _current is None:
        return F.dropout(x_Bx, p, True)
    now = _current
    generator = torch.Generator(x_Bx.device)
    generator.manual_seed(stream_seed(now.seed, "dropout", now.step, name))
    shape = x_Bx.shape if shared else (now.total, *x_Bx.shape[1:])
    kept = torch.rand(shape, generator=generator, device=x_Bx.device) >= p
    mine = kept if shared else kept[now.start : now.start + x_Bx.shape[0]]
    return x_Bx * mine.to(x_Bx.dtype) / (1.0 - p)


def drop_path(x_Bx: Tensor, p: float, training: bool, name: str) -> Tensor:
    """Stochastic depth: whole samples are dropped, kept ones divided by ``1 - p``.

    Huang et al., arXiv 1603.09382. Arguments as for :func:`dropout`.
    """
    if not training or p == 0.0:
        return x_Bx
    ones = x_Bx.new_ones(x_Bx.shape[0], *[1] * (x_Bx.dim() - 1))
    return x_Bx * dropout(ones, p, training, name)
