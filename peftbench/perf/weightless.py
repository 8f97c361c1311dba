"""Running networks that hold no data, as if their batch were full.

Shape legend: B batch, H heads, T queries, E numbers of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


@contextmanager
def weightless(fused: bool = True) -> Iterator[None]:
    """Let networks on the meta device run.

    What they ask of a mask (is it all ones? is nothing packed?) is answered with yes, as for a
    batch without padding.

    Args:
        fused: attention keeps what a fused kernel keeps (FlashAttention, Dao et al., arXiv
            2205.14135): queries, keys, values, output and one number per query; else, all
            probabilities.

    """
    with _Yes():
        if not fused:
            yield
            return
        with _FusedAttention():
            yield


class _Yes(TorchDispatchMode):
    """Answers questions for a truth value that a tensor without data cannot answer."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        asked = func is torch.ops.aten._local_scalar_dense.default
        if asked and args[0].is_meta and args[0].dtype == torch.bool:
            return True
        return func(*args, **(kwargs or {}))


class _FusedAttention(TorchFunctionMode):
    """Replaces attention on the meta device by :class:`_Fused`."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is F.scaled_dot_product_attention and args[0].is_meta:
            return _Fused.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Fused(torch.autograd.Function):
    """The shapes of fused attention, and what it keeps."""

    @staticmethod
    def forward(ctx: Any, q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor) -> Tensor:
        out_BHTE = q_BHTE.new_empty(*q_BHTE.shape[:-1], v_BHTE.shape[-1])
        sums_BHT = q_BHTE.new_empty(q_BHTE.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(q_BHTE, k_BHTE, v_BHTE, out_BHTE, sums_BHT)
        return out_BHTE

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) for t in ctx.saved_tensors[:3])
