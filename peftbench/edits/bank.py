"""Several copies of an edit, chosen by an index per token or mixed by weights.

Shape legend: B batch, T tokens, K copies, O output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Delta, Edit
from .linear import LinearEdit
from .sites import Handles


class Bank(Edit):
    """y' = sum_k w_k f_k(x, y): K edits of one linear layer under one selection.

    The selection is read from ``delta.context[select]`` at each call: int64 (B, T) or (B,) chooses
    one copy per token or sample; floating point (..., K) mixes the copies' outputs.

    Args:
        name: unique name.
        copies: edits of the same layer.
        select: key of the selection in ``delta.context``.

    """

    def __init__(self, name: str, copies: Sequence[LinearEdit], select: str = "context") -> None:
        super().__init__(name)
        if len({id(c.module) for c in copies}) != 1:
            raise ConfigError(f"bank '{name}': the copies must edit one and the same layer")
        self.copies = nn.ModuleList(copies)
        self.select = select
        self.identity = all(c.identity for c in copies)

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the layer's output."""

        def after(_: nn.Module, args: tuple, y: Tensor) -> Tensor:
            if self.select not in delta.context:
                raise ConfigError(f"bank '{self.name}' needs '{self.select}' in delta.context")
            return self.mix(args[0], y, delta.context[self.select])

        first: LinearEdit = self.copies[0]  # type: ignore[assignment]
        handles.add(first.module.register_forward_hook(after))

    def mix(self, x: Tensor, y: Tensor, selection: Tensor) -> Tensor:
        """Return the selected or mixed output, same shape as ``y``."""
        outputs = [copy.change(x, y) for copy in self.copies]  # type: ignore[operator]
        if not selection.is_floating_point():
            while selection.dim() < y.dim():
                selection = selection.unsqueeze(-1)
            result = outputs[0]
            for k, output in enumerate(outputs[1:], start=1):
                result = torch.where(selection == k, output, result)
            return result
        while selection.dim() < y.dim() + 1:
            selection = selection.unsqueeze(-2)
        weighted = [selection[..., k].to(y.dtype) * out for k, out in enumerate(outputs)]
        return torch.stack(weighted).sum(0)
