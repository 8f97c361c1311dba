"""Edits that train an existing tensor, whole or some of its entries; restored on detach."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .base import Delta, Edit
from .sites import Handles

Owner = tuple[nn.Module, str]


class Weight(Edit):
    """Trains a whole tensor: a copy stands in the network's place for it while attached.

    Args:
        name: unique name.
        owners: every (module, attribute) that holds the tensor; more than one when it is tied.

    """

    def __init__(self, name: str, owners: Sequence[Owner]) -> None:
        super().__init__(name)
        self.owners = tuple(owners)
        module, attribute = owners[0]
        self.value = nn.Parameter(getattr(module, attribute).detach().clone())

    def install(self, delta: Delta, handles: Handles) -> None:
        """Swap the copy in."""
        for module, attribute in self.owners:
            frozen = getattr(module, attribute)
            setattr(module, attribute, self.value)
            handles.add(_restore(module, attribute, frozen))


def _restore(module: nn.Module, attribute: str, tensor: Tensor):  # type: ignore[no-untyped-def]
    def undo() -> None:
        setattr(module, attribute, tensor)

    return undo


class Entries(Edit):
    """Trains k entries of a tensor: state is k values and k indices (SIFT's form).

    While attached, the entries are written into the frozen tensor itself and written back, bit for
    bit, on detach. A hook gathers the k gradients as soon as the dense gradient is there and drops
    the dense one, so at most one dense gradient is alive at a time. After an optimiser step, and
    after loading, :meth:`sync` writes the values into the tensor.

    Args:
        name: unique name.
        owner: (module, attribute) that holds the tensor.
        index: (k,) int64 flat positions in the tensor, without repeats.

    """

    index: Tensor

    def __init__(self, name: str, owner: Owner, index: Tensor) -> None:
        super().__init__(name)
        self.owner = owner
        self.register_buffer("index", index.long().clone())
        flat = self.tensor.detach().reshape(-1)
        self.values = nn.Parameter(flat[self.index].float())

    @property
    def tensor(self) -> nn.Parameter:
        """The frozen tensor."""
        return getattr(*self.owner)

    def install(self, delta: Delta, handles: Handles) -> None:
        """Let gradients reach the tensor and gather them; remember the entries."""
        tensor = self.tensor
        before = tensor.detach().reshape(-1)[self.index].clone()
        trains = tensor.requires_grad
        tensor.requires_grad_(True)
        handle = tensor.register_post_accumulate_grad_hook(self._gather)

        def undo() -> None:
            handle.remove()
            tensor.grad = None
            tensor.requires_grad_(trains)
            self._write(before)

        handles.add(undo)
        self.sync()

    def _gather(self, tensor: Tensor) -> None:
        assert tensor.grad is not None
        part = tensor.grad.reshape(-1)[self.index].to(self.values.dtype)
        self.values.grad = part if self.values.grad is None else self.values.grad + part
        tensor.grad = None

    @torch.no_grad()
    def _write(self, values: Tensor) -> None:
        tensor = self.tensor
        tensor.view(-1).index_copy_(0, self.index, values.to(tensor.dtype))

    def sync(self) -> None:
        """Write the values into the network's tensor."""
        self._write(self.values.detach())
