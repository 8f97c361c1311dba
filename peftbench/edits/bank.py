"""Several copies of an edit, chosen by an index per token or mixed by weights.

Shape legend: B batch, T tokens, K copies, O output width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .base import Delta, Edit
from .linear import LinearEdit
from .sites import Handles


class Bank(Edit):
    """y' = sum_k w_k f_k(x, y): K edits of one linear layer under one selection.

    The selection is read from ``delta.context[select]`` at each call: int64 (B, T) or (B,) chooses
    one copy per token or sample, -1 none; bool (..., K) says which copies act, one after the other;
    floating point (..., K) mixes the copies' outputs.

    Args:
        name: unique name.
        copies: edits of the same layer; under their names, where they have any, they are stored.
        select: key of the selection in ``delta.context``.

    """

    def __init__(
        self,
        name: str,
        copies: Sequence[LinearEdit] | Mapping[str, LinearEdit],
        select: str = "context",
    ) -> None:
        super().__init__(name)
        named = copies if isinstance(copies, Mapping) else {str(k): c for k, c in enumerate(copies)}
        if len({id(c.module) for c in named.values()}) != 1:
            raise ConfigError(f"bank '{name}': the copies must edit one and the same layer")
        self.copies = nn.ModuleDict(named)
        self.select = select
        self.identity = all(c.identity for c in named.values())

    @property
    def each(self) -> list[LinearEdit]:
        """The copies in their order."""
        return list(self.copies.values())  # type: ignore[arg-type]

    @property
    def module(self) -> nn.Linear:
        """The frozen layer."""
        return self.each[0].module

    def install(self, delta: Delta, handles: Handles) -> None:
        """Hook the layer's output."""

        def after(_: nn.Module, args: tuple, y: Tensor) -> Tensor:
            if self.select not in delta.context:
                raise ConfigError(f"bank '{self.name}' needs '{self.select}' in delta.context")
            return self.mix(args[0], y, delta.context[self.select])

        handles.add(self.module.register_forward_hook(after))

    def mix(self, x: Tensor, y: Tensor, selection: Tensor) -> Tensor:
        """Return the selected or mixed output, same shape as ``y``."""
        if selection.is_floating_point():
            while selection.dim() < y.dim() + 1:
                selection = selection.unsqueeze(-2)
            outputs = [copy.change(x, y) for copy in self.each]
            weighted = [selection[..., k].to(y.dtype) * out for k, out in enumerate(outputs)]
            return torch.stack(weighted).sum(0)
        for k, copy in enumerate(self.each):
            acts = selection[..., k] if selection.dtype == torch.bool else selection == k
            while acts.dim() < y.dim():
                acts = acts.unsqueeze(-1)
            y = torch.where(acts, copy.change(x, y), y)
        return y
