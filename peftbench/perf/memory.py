"""What training needs memory for, part by part. Song et al., arXiv 2312.11875, table 1.

Two accounts of the same tensors. ``formats``: the paper's number formats: gradients in the format
of the network's weights, AdamW's moments in fp32, fp32 values and int32 indices for chosen entries.
``allocated``: the tensors that this code has, in the formats that it gives them. Activations are
measured: what a forward pass keeps for its backward pass, each storage once.
Shape legend: n entries of a tensor, k chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..edits import Entries, Weight
from ..edits.sites import Handles
from ..methods import Method
from ..train.model import Adapted
from .cost import saved_bytes
from .rows import Row
from .shapes import Shape
from .weightless import weightless

GIB = 2**30
FP32, INT32 = 4, 4
PARTS = {
    "weights": "network",
    "added": "trained beside it",
    "values": "values of entries",
    "indices": "indices",
    "kept": "originals, for release",
    "gradients": "gradients",
    "transient": "one dense gradient",
    "optimizer": "AdamW's moments",
}
"""Parts that do not depend on the batch, in words."""


@dataclass(frozen=True)
class Bill:
    """Bytes of training one method on one network.

    Attributes:
        method: name.
        trainable: numbers of the method.
        head: numbers of a classifier head.
        total: numbers of the network.
        formats: part -> bytes, in the paper's formats.
        allocated: part -> bytes, of the tensors as this code has them.
        activations: kept for the backward pass, without checkpointing.
        checkpointed: the same with every block recomputed.
        block: what one block keeps while it is recomputed.

    """

    method: str
    trainable: int
    head: int
    total: int
    formats: Mapping[str, int]
    allocated: Mapping[str, int]
    activations: int
    checkpointed: int
    block: int

    def sums(self, account: str) -> tuple[int, int]:
        """Return all bytes of an account, without and with checkpointing."""
        own = sum(getattr(self, account).values())
        return own + self.activations, own + self.checkpointed + self.block


@dataclass(frozen=True)
class Load:
    """What is trained on.

    Attributes:
        batch: sequences or images.
        seq: tokens of a sequence.
        classes: of a classifier head, where the network has no language-model head.
        dtype: of the weights.
        fused: attention keeps what a fused kernel keeps; else all probabilities.

    """

    batch: int = 1
    seq: int = 2048
    classes: int = 2
    dtype: torch.dtype = torch.bfloat16
    fused: bool = True


def bill(name: str, method: Method, shape: Shape, load: Load) -> Bill:
    """Add up the memory that training a method takes, on a network without data.

    Args:
        name: of the method.
        method: may look at data before training; that is not done here.
        shape: the network.
        load: the batch.

    Raises:
        IncompatibleError: the method has no meaning on the network.

    """
    method.check(shape.family)
    backbone = shape.load("meta", load.dtype, "sdpa" if load.fused else "eager")
    count = backbone.parameter_count()
    with torch.device("meta"):
        model = Adapted(backbone, method, None if shape.writes else load.classes)
    model.to("meta").train()
    inputs = shape.inputs(load.batch, load.seq, "meta", load.dtype)

    tokens = (load.batch, load.seq) if shape.writes else (load.batch,)
    labels = torch.zeros(tokens, dtype=torch.long, device="meta")

    def forward() -> Tensor:
        return Row(name, model).losses(inputs, labels)

    with weightless(load.fused):
        activations, block = saved_bytes(model, forward), _largest_block(model, forward)
        model.checkpointing(True)
        checkpointed = saved_bytes(model, forward)
    counts = model.counts()
    found = Bill(
        name,
        *(counts["trainable"], counts["head"], count),
        *(_formats(model), allocated(model)),
        *(activations, checkpointed, block),
    )
    model.release()
    return found


def _size(tensors: Iterable[Tensor]) -> int:
    """Return bytes, each storage once."""
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())


def _formats(model: Adapted) -> dict[str, int]:
    """Count in the paper's formats."""
    entries = [e for e in model.delta if isinstance(e, Entries)]
    weights = [e for e in model.delta if isinstance(e, Weight)]
    k = sum(len(e.index) for e in entries)
    inside = k + sum(e.value.numel() for e in weights)
    width = next(iter(model.base.parameters())).element_size()
    beside = model.delta.parameter_count() - inside + model.counts()["head"]
    largest = max((e.tensor.numel() for e in entries), default=0)
    return {
        "weights": _size([*model.base.parameters(), *model.base.buffers()]),
        "added": FP32 * beside,
        "values": FP32 * k,
        "indices": INT32 * k,
        "kept": 0,
        "gradients": width * inside + FP32 * beside,
        "transient": width * largest,
        "optimizer": 2 * FP32 * (inside + beside),
    }


def allocated(model: Adapted) -> dict[str, int]:
    """Weigh the tensors of an attached model, and those that a training step adds."""
    entries = [e for e in model.delta if isinstance(e, Entries)]
    weights = [e for e in model.delta if isinstance(e, Weight)]
    values = [e.values for e in entries]
    apart = {id(t) for t in (*values, *(e.value for e in weights))}
    trained = list(model.trainable().values())
    steps = sum(p.numel() * p.element_size() for p in trained)
    largest = max((e.tensor.numel() * e.tensor.element_size() for e in entries), default=0)
    kept = sum(len(e.index) * e.tensor.element_size() for e in entries)
    return {
        "weights": _size([*model.base.parameters(), *model.base.buffers()]),
        "added": _size([p for p in trained if id(p) not in apart]),
        "values": _size(values),
        "indices": _size(model.delta.buffers()),
        "kept": kept + _size(e.value for e in weights),
        "gradients": steps,
        "transient": largest,
        "optimizer": 2 * steps,
    }


def _largest_block(model: Adapted, forward: Callable[[], Tensor]) -> int:
    """Return the most bytes that one block keeps for its backward pass."""
    own = {t.untyped_storage()._cdata for t in [*model.parameters(), *model.buffers()]}
    kept: dict[int, dict[int, int]] = {}
    now: list[int] = []
    handles = Handles()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if now and storage._cdata not in own:
            kept.setdefault(now[-1], {})[storage._cdata] = storage.nbytes()
        return tensor

    for number, block in enumerate(model.backbone.anatomy.blocks):
        handles.add(block.module.register_forward_pre_hook(_enters(now, number)))
        handles.add(block.module.register_forward_hook(lambda *_: now.clear()))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            loss = forward()
    finally:
        handles.remove()
    del loss
    return max((sum(sizes.values()) for sizes in kept.values()), default=0)


def _enters(now: list[int], number: int) -> Callable[..., None]:
    def enter(*_: object) -> None:
        now.append(number)

    return enter


def render(shape: Shape, load: Load, bills: Sequence[Bill]) -> str:
    """Return the table as text: a line per part, columns per method and account, in GiB."""
    heads = [f"{b.method}, {a}" for a in ("formats", "allocated") for b in bills]
    accounts = [(b, getattr(b, a), a) for a in ("formats", "allocated") for b in bills]
    lines = [
        f"{shape.title}: {bills[0].total:,} numbers, batch {load.batch}"
        + (f" x {load.seq} tokens" if shape.image is None else f" at {shape.image} pixels")
        + f", weights {str(load.dtype).removeprefix('torch.')}, GiB",
        *(f"{b.method} trains {b.trainable:,} numbers, {b.head:,} in a head" for b in bills),
        "",
        _line("part", heads),
    ]
    for part, words in PARTS.items():
        lines.append(_line(words, [f"{own[part] / GIB:.3f}" for _, own, _ in accounts]))
    batch = {
        "activations": [b.activations for b, _, _ in accounts],
        "total": [b.sums(a)[0] for b, _, a in accounts],
        "activations, checkpointed": [b.checkpointed for b, _, _ in accounts],
        "one block, recomputed": [b.block for b, _, _ in accounts],
        "total, checkpointed": [b.sums(a)[1] for b, _, a in accounts],
    }
    for words, sizes in batch.items():
        lines.append(_line(words, [f"{size / GIB:.3f}" for size in sizes]))
    return "\n".join(lines)


def _line(words: str, cells: Sequence[str]) -> str:
    return f"{words:<27}" + "".join(f"{cell:>20}" for cell in cells)
