"""A frozen linear layer and its low-rank update in one autograd node, for eager fp32 on a CPU.

The same sums as in :meth:`LowRank.update`, with fewer passes over memory: the update is added into
the layer's fresh output, its input gradient into the layer's input gradient, and products with a
tall, narrow matrix are written so that the long axis is contiguous (up to 4 times faster in BLAS).
Shape legend: N rows (all leading axes flattened), I input width, O output width, K copies that a
mask chooses among, R ranks of all roles and copies together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Rows = tuple[tuple[int, int], ...]


def free(module: nn.Module) -> bool:
    """Whether nothing edits the layer yet, so that a fused form may stand in for its forward."""
    return not module._forward_hooks and "forward" not in vars(module)


def fits(x: Tensor, weight_OI: Tensor) -> bool:
    """Whether the fused form serves this call: eager, fp32, on a CPU, weights frozen."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight_OI.dtype == torch.float32
        and not weight_OI.requires_grad
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


class FusedLowRank(torch.autograd.Function):
    """y = W x + b, and y[rows of role i] += s sum_k m_k B_ik A_ik x; no mask: m_k = 1."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        mask_KN: Tensor | None,
        scale: float,
        rows: Rows,
        *factors: Tensor,
    ) -> Tensor:
        """Return the updated output.

        Args:
            ctx: autograd's.
            x: (..., I).
            weight_OI: of the frozen layer.
            bias_O: of the frozen layer.
            mask_KN: zeros and ones, which copies act on a row; None where there is one copy.
            scale: s.
            rows: output rows of every role.
            *factors: the A of every role, (rank, I), those of its copies side by side; then the B
                in the same order, (rows, rank).

        """
        x_NI, half = x.flatten(0, -2), len(factors) // 2
        y = F.linear(x, weight_OI, bias_O)
        y_NO, h_RN = y.flatten(0, -2), _joined(factors[:half]) @ x_NI.t()
        _choose(h_RN, mask_KN, len(rows))
        parts = h_RN.chunk(len(rows))
        for (start, stop), b_OR, part_RN in zip(rows, _by_role(factors, rows), parts, strict=True):
            y_part = y_NO[:, start:stop]  # out= in place of addmm_, which torch's counter misses
            torch.addmm(y_part, part_RN.t(), b_OR.t(), alpha=scale, out=y_part)
        ctx.save_for_backward(x_NI, h_RN, weight_OI, mask_KN, *factors)
        ctx.scale, ctx.rows, ctx.shape = scale, rows, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, every A and every B."""
        x_NI, h_RN, weight_OI, mask_KN, *factors = ctx.saved_tensors
        half, copies = len(factors) // 2, len(factors) // 2 // len(ctx.rows)
        grad_NO = grad.flatten(0, -2)
        parts = h_RN.chunk(len(ctx.rows))
        hidden, products = [], []
        for (start, stop), b_OR, part_RN in zip(
            ctx.rows, _by_role(factors, ctx.rows), parts, strict=True
        ):
            g_NO = grad_NO[:, start:stop]
            hidden.append((ctx.scale * b_OR).t() @ g_NO.t())
            products += [p.t() for p in (ctx.scale * (part_RN @ g_NO)).chunk(copies)]
        dh_RN = _joined(hidden)
        _choose(dh_RN, mask_KN, len(ctx.rows))
        dx = None
        if ctx.needs_input_grad[0]:
            dx_NI = grad_NO @ weight_OI
            dx = torch.addmm(dx_NI, dh_RN.t(), _joined(factors[:half]), out=dx_NI).view(ctx.shape)
        da = (dh_RN @ x_NI).chunk(half)
        return dx, None, None, None, None, None, *da, *products


def _joined(matrices: Sequence[Tensor], dim: int = 0) -> Tensor:
    return matrices[0] if len(matrices) == 1 else torch.cat(tuple(matrices), dim)


def _by_role(factors: Sequence[Tensor], rows: Rows) -> list[Tensor]:
    """Return the B of every role, (rows, ranks of all copies)."""
    half = len(factors) // 2
    copies = half // len(rows)
    return [_joined(factors[at : at + copies], 1) for at in range(half, 2 * half, copies)]


def _choose(h_RN: Tensor, mask_KN: Tensor | None, roles: int) -> None:
    """Leave of each row what its copies make of it, in place."""
    if mask_KN is not None:
        h_RN.view(roles, mask_KN.shape[0], -1, h_RN.shape[1]).mul_(mask_KN[:, None])
