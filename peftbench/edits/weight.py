"""Edits that train an existing tensor, whole or some of its entries; restored on detach."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..errors import NoGradientError
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
    the dense one, so at most one dense gradient is alive at a time (one compiled graph hands out
    all of them together). After an optimiser step, and after loading, :meth:`sync` writes the
    values into the tensor.

    Args:
        name: unique name.
        owner: (module, attribute) that holds the tensor.
        index: (k,) int64 flat positions in the tensor, without repeats; or k, for entries that
            :meth:`choose` names later and that are -1 until then.
        spans: half-open flat ranges that entries are chosen from; None: the whole tensor.
        increment: the values are what is added to the entries, and start at zero.
        wide: keep values in fp32 (or wider) over a tensor in a 16-bit format.

    Attributes:
        watcher: takes every dense gradient in place of the values.
        observer: sees every dense gradient that the values are trained by.

    """

    index: Tensor

    def __init__(
        self,
        name: str,
        owner: Owner,
        index: Tensor | int,
        spans: Sequence[tuple[int, int]] | None = None,
        increment: bool = False,
        wide: bool = True,
    ) -> None:
        super().__init__(name)
        self.owner, self.increment = owner, increment
        tensor = self.tensor.detach()
        self.spans = tuple(spans) if spans is not None else ((0, tensor.numel()),)
        dtype = torch.promote_types(tensor.dtype, torch.float32) if wide else tensor.dtype
        if isinstance(index, int):
            index = torch.full((index,), -1, device=tensor.device)
            start = torch.zeros(len(index), dtype=dtype, device=tensor.device)
        else:
            index = index.to(tensor.device, torch.long).clone()
            start = tensor.reshape(-1)[index].to(dtype)
        self.register_buffer("index", index)
        self.values = nn.Parameter(torch.zeros_like(start) if increment else start)
        self.watcher: Callable[[Tensor], None] | None = None
        self.observer: Callable[[Tensor], None] | None = None
        self._installed = False
        self._before: Tensor | None = None

    @property
    def tensor(self) -> nn.Parameter:
        """The frozen tensor."""
        return getattr(*self.owner)

    @property
    def chosen(self) -> bool:
        """Whether the entries are known; those of a network without data (``meta``) never are."""
        if self._before is not None or self.index.is_meta:
            return self._before is not None
        return bool((self.index >= 0).all())

    def gathered(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Return the values and the tensor that their gradient is taken from."""
        return [(self.values, self.tensor)]

    def install(self, delta: Delta, handles: Handles) -> None:
        """Let gradients reach the tensor and gather them."""
        tensor = self.tensor
        trains = tensor.requires_grad
        tensor.requires_grad_(True)
        handle = tensor.register_post_accumulate_grad_hook(self._gather)
        self._installed = True

        def undo() -> None:
            handle.remove()
            tensor.grad = None
            tensor.requires_grad_(trains)
            self.lift()
            self._installed = False

        handles.add(undo)

    @torch.no_grad()
    def choose(self, index: Tensor) -> None:
        """Train other entries from now on, from the frozen tensor's values.

        Args:
            index: (k,) flat positions, without repeats.

        """
        self.lift()
        self.index.copy_(index)
        if self.increment:
            self.values.zero_()
        else:
            self.values.copy_(self.tensor.view(-1)[self.index])
        self.sync()

    def _gather(self, tensor: Tensor) -> None:
        gradient, tensor.grad = tensor.grad, None
        assert gradient is not None
        if self.watcher is not None:
            self.watcher(gradient)
            return
        if self.preparing:
            return
        if self.observer is not None:
            self.observer(gradient)
        if self._before is None:
            raise NoGradientError(
                f"the entries of '{self.name}' are not chosen yet; call "
                "model.prepare(Passes(run)) before the first step, with run(batch, part) making a "
                "forward and a backward pass over a training batch"
            )
        part = gradient.reshape(-1)[self.index].to(self.values.dtype)
        self.values.grad = part if self.values.grad is None else self.values.grad + part

    @torch.no_grad()
    def _write(self, values: Tensor) -> None:
        tensor = self.tensor
        tensor.view(-1).index_copy_(0, self.index, values.to(tensor.device, tensor.dtype))

    def lift(self) -> None:
        """Write the network's own entries back, until the next :meth:`sync`."""
        if self._before is not None:
            self._write(self._before)
            self._before = None

    @torch.no_grad()
    def sync(self) -> None:
        """Write the values into the network's tensor; remember what stood there."""
        if not self._installed or not self.chosen:
            return
        values = self.values.detach()
        if self._before is None:
            self._before = self.tensor.view(-1)[self.index]
        if self.increment:
            values = values + self._before.to(values.device, values.dtype)
        self._write(values)
