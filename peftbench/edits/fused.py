"""A frozen linear layer and its low-rank update in one autograd node, for eager fp32 on a CPU.

The same sums as in :meth:`LowRank.update`, with fewer passes over memory: the update is added into
the layer's fresh output, its input gradient into the layer's input gradient, and products with a
tall, narrow matrix are written so that the long axis is contiguous (up to 4 times faster in BLAS).
Shape legend: N rows (all leading axes flattened), I input width, O output width, R ranks of all
roles together.
"""

from __future__ import annotations

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
    """y = W x + b, and y[rows of role i] += s B_i A_i x."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        a_RI: Tensor,
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
            a_RI: the A of every role, stacked.
            scale: s.
            rows: output rows of every role.
            *factors: the B of every role, (rows, rank).

        """
        x_NI = x.flatten(0, -2)
        y = F.linear(x, weight_OI, bias_O)
        y_NO, h_RN = y.flatten(0, -2), a_RI @ x_NI.t()
        parts = h_RN.split([b.shape[1] for b in factors])
        for (start, stop), b_OR, part_RN in zip(rows, factors, parts, strict=True):
            y_part = y_NO[:, start:stop]  # out= in place of addmm_, which torch's counter misses
            torch.addmm(y_part, part_RN.t(), b_OR.t(), alpha=scale, out=y_part)
        ctx.save_for_backward(x_NI, h_RN, weight_OI, a_RI, *factors)
        ctx.scale, ctx.rows, ctx.shape = scale, rows, x.shape
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, A and every B."""
        x_NI, h_RN, weight_OI, a_RI, *factors = ctx.saved_tensors
        grad_NO = grad.flatten(0, -2)
        parts = h_RN.split([b.shape[1] for b in factors])
        hidden, products = [], []
        for (start, stop), b_OR, part_RN in zip(ctx.rows, factors, parts, strict=True):
            g_NO = grad_NO[:, start:stop]
            hidden.append((ctx.scale * b_OR).t() @ g_NO.t())
            products.append((ctx.scale * (part_RN @ g_NO)).t())
        dh_RN = hidden[0] if len(hidden) == 1 else torch.cat(hidden)
        dx = None
        if ctx.needs_input_grad[0]:
            dx_NI = grad_NO @ weight_OI
            dx = torch.addmm(dx_NI, dh_RN.t(), a_RI, out=dx_NI).view(ctx.shape)
        return dx, None, None, dh_RN @ x_NI, None, None, *products
