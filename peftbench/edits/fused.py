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
        add_update(y_NO, h_RN, rows, _by_role(factors, rows), scale)
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
        joined = _by_role(factors, ctx.rows)
        dh_RN, products = gradients(grad_NO, h_RN, ctx.rows, joined, ctx.scale)
        _choose(dh_RN, mask_KN, len(ctx.rows))
        dx = None
        if ctx.needs_input_grad[0]:
            dx_NI = grad_NO @ weight_OI
            dx = torch.addmm(dx_NI, dh_RN.t(), _joined(factors[:half]), out=dx_NI).view(ctx.shape)
        da = (dh_RN @ x_NI).chunk(half)
        db = [part.t() for product in products for part in product.chunk(copies)]
        return dx, None, None, None, None, None, *da, *db


class FusedRuns(torch.autograd.Function):
    """y = W x + b, and y += s B_k A_k x with the one copy k of each run of rows."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight_OI: Tensor,
        bias_O: Tensor | None,
        runs: Sequence[tuple[int, int, int]],
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
            runs: (start, stop, k) of rows on which copy k acts; other rows stay as they are.
            scale: s.
            rows: output rows of every role.
            *factors: as for :class:`FusedLowRank`.

        """
        x_NI = x.flatten(0, -2)
        y = F.linear(x, weight_OI, bias_O)
        y_NO, copies = y.flatten(0, -2), len(factors) // 2 // len(rows)
        hidden = []
        for start, stop, k in runs:
            a_RI, b = _of_copy(factors, len(rows), copies, k)
            hidden.append(a_RI @ x_NI[start:stop].t())
            add_update(y_NO[start:stop], hidden[-1], rows, b, scale)
        ctx.save_for_backward(x_NI, weight_OI, *hidden, *factors)
        ctx.scale, ctx.rows, ctx.shape, ctx.runs = scale, rows, x.shape, runs
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of x, every A and every B."""
        x_NI, weight_OI, *rest = ctx.saved_tensors
        hidden, factors = rest[: len(ctx.runs)], rest[len(ctx.runs) :]
        half, roles = len(factors) // 2, len(ctx.rows)
        copies = half // roles
        grad_NO = grad.flatten(0, -2)
        dx_NI = grad_NO @ weight_OI if ctx.needs_input_grad[0] else None
        found: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for (start, stop, k), h_RN in zip(ctx.runs, hidden, strict=True):
            a_RI, b = _of_copy(factors, roles, copies, k)
            dh_RN, products = gradients(grad_NO[start:stop], h_RN, ctx.rows, b, ctx.scale)
            if dx_NI is not None:
                dx_part = dx_NI[start:stop]
                torch.addmm(dx_part, dh_RN.t(), a_RI, out=dx_part)
            da_RI = dh_RN @ x_NI[start:stop]
            if k in found:
                found[k][0].add_(da_RI)
                for total, product in zip(found[k][1], products, strict=True):
                    total.add_(product)
            else:
                found[k] = (da_RI, products)
        da, db = [torch.zeros_like(f) for f in factors[:half]], list(factors[half:])
        for at in range(half):
            role, k = divmod(at, copies)
            if k in found:
                da[at] = found[k][0].chunk(roles)[role]
                db[at] = found[k][1][role].t()
            else:
                db[at] = torch.zeros_like(db[at])
        dx = None if dx_NI is None else dx_NI.view(ctx.shape)
        return dx, None, None, None, None, None, *da, *db


def add_update(
    y_NO: Tensor, h_RN: Tensor, rows: Rows, factors: Sequence[Tensor], scale: float
) -> None:
    """Add ``scale h^T B^T`` to the rows of every role, in place."""
    for (start, stop), b_OR, part_RN in zip(rows, factors, h_RN.chunk(len(rows)), strict=True):
        y_part = y_NO[:, start:stop]  # out= in place of addmm_, which torch's counter misses
        torch.addmm(y_part, part_RN.t(), b_OR.t(), alpha=scale, out=y_part)


def gradients(
    grad_NO: Tensor, h_RN: Tensor, rows: Rows, factors: Sequence[Tensor], scale: float
) -> tuple[Tensor, list[Tensor]]:
    """Return the gradient of h, (R, N), and that of every role's B, transposed."""
    hidden, products = [], []
    for (start, stop), b_OR, part_RN in zip(rows, factors, h_RN.chunk(len(rows)), strict=True):
        g_NO = grad_NO[:, start:stop]
        hidden.append((scale * b_OR).t() @ g_NO.t())
        products.append(scale * (part_RN @ g_NO))
    return _joined(hidden), products


def _of_copy(
    factors: Sequence[Tensor], roles: int, copies: int, k: int
) -> tuple[Tensor, list[Tensor]]:
    """Return A of all roles, stacked, and B of every role, of one copy."""
    half = roles * copies
    return _joined(factors[k:half:copies]), list(factors[half + k :: copies])


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
