"""An exponential moving average of what trains. Polyak and Juditsky, SIAM J. Control 30, 1992."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

AVERAGE = "average."


class Average:
    """avg <- decay avg + (1 - decay) value after every step, started at the first values.

    Args:
        params: trained tensors by name; they stay the ones that train.
        decay: per optimiser step.
        changed: called after values were exchanged, to bring the network up to date.

    """

    def __init__(
        self,
        params: Mapping[str, nn.Parameter],
        decay: float,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.params, self._changed = dict(params), changed
        self.tensors = {name: p.detach().clone() for name, p in params.items()}
        self._update = get_ema_multi_avg_fn(decay)

    @torch.no_grad()
    def update(self) -> None:
        """Take in the values after a step."""
        self._update(list(self.tensors.values()), [p.detach() for p in self.params.values()], 1)

    @torch.no_grad()
    def restart(self) -> None:
        """Start again from the values of now."""
        for name, parameter in self.params.items():
            self.tensors[name].copy_(parameter)

    def named(self) -> dict[str, Tensor]:
        """Return the averages under the names by which a state stores them."""
        return {AVERAGE + name: tensor for name, tensor in self.tensors.items()}

    def load(self, stored: Mapping[str, Tensor]) -> None:
        """Take the averages out of a stored state."""
        for name, tensor in self.tensors.items():
            tensor.copy_(stored[AVERAGE + name])

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Put the averages in the place of the values inside the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def settle(self) -> None:
        """Make the averages the values, at the end of training."""
        for name, parameter in self.params.items():
            parameter.copy_(self.tensors[name])
        self._changed()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self.params.items():
            value = parameter.detach().clone()
            parameter.copy_(self.tensors[name])
            self.tensors[name].copy_(value)
        self._changed()
