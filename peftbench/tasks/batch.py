"""Typed batches and whole splits; shapes: B samples in a batch, N samples in a split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .encoded import Encoded
from .images import Images, Joined
from .seen import Seen

Device = torch.device | str | int
Input = Tensor | Images | Encoded | Seen


@dataclass
class Batch:
    """Some samples of one split, as they are fed to the network.

    Attributes:
        inputs: raw tensors by name, first dimension B, for example ``{"image": uint8 (B,3,H,W)}``.
        labels: (B,) int64 class indices or fp32 values; (B, T) token targets of texts that are
            written.
        ids: (B,) int64 sample ids, unique in the task over all splits.
        weights: (B,) what each sample counts in the mean loss, 1 on average over the whole batch
            that it is part of; None: all alike.

    """

    inputs: dict[str, Tensor]
    labels: Tensor
    ids: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: Device) -> Batch:
        """Return the batch with every tensor on ``device``."""
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        weights = self.weights.to(device) if self.weights is not None else None
        return Batch(inputs, self.labels.to(device), self.ids.to(device), weights)

    def select(self, index: Tensor | slice) -> Batch:
        """Return the samples that ``index`` picks, in its order."""
        inputs = {name: tensor[index] for name, tensor in self.inputs.items()}
        weights = self.weights[index] if self.weights is not None else None
        return Batch(inputs, self.labels[index], self.ids[index], weights)


@dataclass
class Split:
    """A whole split, in memory on the CPU or on a device, or with images decoded when asked for.

    Attributes:
        name: ``"train"``, ``"val"``, ``"test"`` or a name for a union of these.
        inputs: raw tensors by name, first dimension N, or N :class:`Images`, or N texts as
            :class:`Encoded` ids, or what a vision encoder saw in N images (:class:`Seen`).
        labels: (N,) int64 class indices or fp32 values.
        ids: (N,) int64 sample ids, unique in the task over all splits.

    """

    name: str
    inputs: dict[str, Input]
    labels: Tensor
    ids: Tensor

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.inputs.items()}
        lengths |= {"labels": len(self.labels), "ids": len(self.ids)}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"split '{self.name}' has tensors of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def decoded(self) -> bool:
        """Whether everything lies in memory as tensors."""
        return not any(isinstance(value, Images) for value in self.inputs.values())

    @property
    def encoded(self) -> Encoded | None:
        """The texts, where the split holds any."""
        return next((v for v in self.inputs.values() if isinstance(v, Encoded)), None)

    def take(self, index: Tensor, decoded: Mapping[str, Tensor] | None = None) -> Batch:
        """Return the samples at ``index``, (B,) int64 positions in this split, as a batch.

        Args:
            index: positions.
            decoded: what was decoded of these samples elsewhere, by name of the input.

        Raises:
            ValueError: images are not decoded; ``train.feed`` loads those.

        """
        at = index.to(self.labels.device)
        inputs: dict[str, Tensor] = {}
        labels = None
        for name, value in self.inputs.items():
            if decoded is not None and name in decoded:
                inputs[name] = decoded[name]
            elif isinstance(value, Encoded):
                read, labels = value.take(index.cpu())
                inputs.update(read)
            elif isinstance(value, Seen):
                inputs[name] = value.take(index)
            else:
                inputs[name] = _tensor(name, value)[at]
        return Batch(inputs, self.labels[at] if labels is None else labels, self.ids[at])

    def to(self, device: Device) -> Split:
        """Return the split with every tensor on ``device``; files and texts stay where they are."""
        inputs = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        }
        return Split(self.name, inputs, self.labels.to(device), self.ids.to(device))

    @staticmethod
    def concat(name: str, splits: Sequence[Split]) -> Split:
        """Join splits in the given order, for example train and val for the final fit.

        Raises:
            ValueError: no splits, different input names, or a sample id that occurs twice.

        """
        if not splits:
            raise ValueError(f"cannot build split '{name}' from no splits")
        names = splits[0].inputs.keys()
        if any(split.inputs.keys() != names for split in splits):
            found = [sorted(split.inputs) for split in splits]
            raise ValueError(f"splits joined as '{name}' have different inputs: {found}")
        ids = torch.cat([split.ids for split in splits])
        if len(ids.unique()) != len(ids):
            parts = ", ".join(split.name for split in splits)
            raise ValueError(f"splits joined as '{name}' ({parts}) share sample ids")
        inputs = {key: _join(key, [split.inputs[key] for split in splits]) for key in names}
        return Split(name, inputs, torch.cat([split.labels for split in splits]), ids)


def _tensor(name: str, value: Input) -> Tensor:
    if not isinstance(value, Tensor):
        raise ValueError(f"input '{name}' is not decoded yet")
    return value


def _join(key: str, values: Sequence[Input]) -> Input:
    for kind in (Encoded, Seen):
        found: list = [v for v in values if isinstance(v, kind)]
        if found:
            return reduce(lambda first, second: first.joined(second), found)
    images = [v for v in values if isinstance(v, Images)]
    tensors = [v for v in values if isinstance(v, Tensor)]
    if images and tensors:
        raise ValueError(f"input '{key}' is decoded in one split and not in another")
    return Joined(tuple(images)) if images else torch.cat(tensors)
