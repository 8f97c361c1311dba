"""What a pass costs by torch's counter, and what it would have to cost.

The rule: a method's FLOPs are those of the frozen network down to its lowest trainable tensor, plus
what its own parameters must cost. The first part is measured with a trainable vector in the place
of every edit (no matrix product of its own); the second is written here, from shapes.
Shape legend: N rows (all leading axes flattened), I and O widths of a layer, R rank, T tokens,
M tokens or rows added, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..backbones import Anatomy, Backbone, Stack
from ..edits import (
    AddedBias,
    ContextBank,
    Dora,
    Edit,
    Entries,
    Factored,
    InputOp,
    InputScale,
    LinearTuner,
    LowRank,
    Mixture,
    OpEdit,
    OpSite,
    OutputScale,
    Prefix,
    PromptView,
    Router,
    ScaleShift,
    TensorRef,
    Tokens,
    Weight,
)
from ..edits.side import Ladder
from ..edits.sites import Handles
from ..edits.tuners import Branch, Gated, QueryTuner
from ..errors import IncompatibleError
from ..methods import Method
from ..train.model import Adapted
from .cost_branches import below, branch_flops
from .cost_prompts import made_flops, mixture_flops
from .cost_side import side_flops
from .cost_tuners import factored_flops, tuner_flops
from .rows import AddedVector, bottom
from .subjects import twin


def counted_flops(run: Callable[[], object]) -> float:
    """Return FLOPs of ``run`` by torch's counter.

    Attention runs as plain matrix products while it is counted, the same on every device: two
    forward and four backward. Fused kernels recompute one more, which is theirs to decide.
    """
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Return bytes that a forward pass keeps for its backward pass.

    Each storage counts once; parameters and buffers do not count. Works on the meta device too.
    """
    own = {t.untyped_storage()._cdata for t in model.state_dict().values()}
    own |= {b.untyped_storage()._cdata for b in model.buffers()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        loss = forward()
        total = sum(kept.values())
    del loss
    return total


@dataclass(frozen=True)
class Probes(Method):
    """A trainable vector at every place where another method's edits act.

    Attributes:
        plan_of: (anatomy) -> the edits of the other method.

    """

    plan_of: Callable[[Anatomy], list[Edit]] = lambda anatomy: []

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One vector per distinct place."""
        places: dict[tuple[int, str], TensorRef] = {}
        for edit in self.plan_of(anatomy):
            for place in _places(edit, anatomy):
                places.setdefault((id(place.module), place.side), place)
        return [AddedVector(f"probe{i}", place, 1) for i, place in enumerate(places.values())]


def _places(edit: Edit, anatomy: Anatomy) -> list[TensorRef]:
    """Return where a vector must stand so that gradients reach as far down as the edit needs."""
    if isinstance(edit, InputScale):
        return [TensorRef(edit.module, "input", 0)]
    if isinstance(edit, LowRank | LinearTuner | Factored | OutputScale | AddedBias):
        return [TensorRef(edit.module, "output")]
    if isinstance(edit, Mixture):
        return [edit.place]
    if isinstance(edit, ContextBank):
        return _places(edit.each[0], anatomy)
    if isinstance(edit, PromptView | Router):
        return []
    if isinstance(edit, AddedVector):
        return [edit.place]
    if isinstance(edit, ScaleShift):
        return [edit.site.output]
    if isinstance(edit, OpEdit):
        return [site.output for site in edit.sites]
    if isinstance(edit, InputOp):
        return [edit.site.input]
    if isinstance(edit, QueryTuner):
        return [edit.site.output]
    if isinstance(edit, Ladder):
        return [list(edit.rails.values())[-1].leave]
    if isinstance(edit, Tokens):
        local = edit.site.enter == edit.site.block_inputs[0]
        return [edit.site.enter if local else bottom(anatomy)]
    if isinstance(edit, Prefix):
        for block in anatomy.blocks:
            for kind, site in block.attentions.items():
                if site is edit.site or site.module is edit.site.module:
                    lead = "" if kind == "attn" else "cross_"
                    return [TensorRef(block.linears[f"{lead}v"].module, "output")]
    if isinstance(edit, Entries):
        return [TensorRef(edit.owner[0], "output")]
    if isinstance(edit, Weight):
        module = edit.owners[0][0]
        leaf = not any(True for _ in module.children()) and not isinstance(module, nn.Embedding)
        return [TensorRef(module, "output") if leaf else bottom(anatomy)]
    raise IncompatibleError(f"no cost is written down for the edit {type(edit).__name__}")


class Shapes:
    """Rows N of each layer, (B, T) of each stack and block, seen in one forward pass."""

    def __init__(self, model: Adapted, forward: Callable[[], object]) -> None:
        self.rows: dict[int, int] = {}
        self.sequences: dict[str, tuple[int, int]] = {}
        self.blocks: dict[int, tuple[int, int]] = {}
        handles = Handles()
        anatomy = model.backbone.anatomy
        for module in model.base.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                handles.add(module.register_forward_hook(self._see))
        for stack in anatomy.stacks:
            handles.add(stack.sequence.block_inputs[0].watch(self._sequence(stack.name)))
            for block, place in zip(stack.blocks, stack.sequence.block_inputs, strict=True):
                handles.add(place.watch(self._block(id(block.module))))
                for op in block.ops.values():
                    handles.add(op.output.watch(self._operation(op.name)))
        self.operations: dict[str, int] = {}
        with torch.no_grad():
            forward()
        handles.remove()

    def _see(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        weight = module.weight
        assert isinstance(weight, Tensor)
        self.rows[id(module)] = output.numel() // weight.shape[0]

    def _sequence(self, name: str) -> Callable[[Tensor], None]:
        def see(x_BTD: Tensor) -> None:
            self.sequences[name] = (x_BTD.shape[0], x_BTD.shape[1])

        return see

    def _block(self, key: int) -> Callable[[Tensor], None]:
        def see(x_BTD: Tensor) -> None:
            self.blocks[key] = (x_BTD.shape[0], x_BTD.shape[1])

        return see

    def _operation(self, name: str) -> Callable[[Tensor], None]:
        def see(x_BTD: Tensor) -> None:
            self.operations[name] = x_BTD.shape[:-1].numel()

        return see


def own_flops(model: Adapted, forward: Callable[[], object]) -> float:
    """Return FLOPs that a method's own parameters must cost in a forward and backward pass."""
    shapes, anatomy = Shapes(model, forward), model.backbone.anatomy
    edits = list(model.delta)
    total = sum(_own(edit, shapes, anatomy, edits) for edit in edits)
    tokens = [edit for edit in edits if isinstance(edit, Tokens)]
    return float(total + sum(_token_rows(tokens, stack, shapes) for stack in anatomy.stacks))


def _own(edit: Edit, shapes: Shapes, anatomy: Anatomy, edits: Sequence[Edit]) -> int:
    if isinstance(edit, LowRank):  # A and B: forward, and twice that backward
        rows, width = shapes.rows[id(edit.module)], edit.module.in_features
        total = sum(6 * rows * edit.rank * (width + s.out_features) for s in edit.sites)
        if isinstance(edit, Dora):  # W A^T, A A^T and B (A A^T), no gradient
            total += sum(
                2 * edit.rank * (s.out_features * width + edit.rank * (width + s.out_features))
                for s in edit.sites
            )
        return total
    if isinstance(edit, ContextBank):  # one copy at each token
        return _own(edit.each[0], shapes, anatomy, edits)
    if isinstance(edit, OpEdit):
        tuner = edit.tuner.core if isinstance(edit.tuner, Gated) else edit.tuner
        if isinstance(tuner, Branch):
            rows = shapes.operations[edit.sites[0].name]
            return branch_flops(tuner, rows, True, below(edit.sites[0], anatomy, edits))
        return sum(_beside(tuner, site, shapes) for site in edit.sites)
    if isinstance(edit, InputOp):
        return _beside(edit.tuner, edit.site, shapes)
    if isinstance(edit, LinearTuner):
        return tuner_flops(edit.tuner, shapes.rows[id(edit.module)], 1)
    if isinstance(edit, Mixture):
        batch = shapes.sequences[edit.stack][0]
        return mixture_flops(edit, shapes.rows[id(edit.site.module)], batch)
    if isinstance(edit, Tokens):
        return made_flops(edit, shapes.blocks[_first_block(edit, anatomy)][0])
    if isinstance(edit, Factored):
        return factored_flops(edit, shapes.rows[id(edit.module)])
    if isinstance(edit, Ladder):
        return side_flops(edit, shapes.sequences)
    if isinstance(edit, QueryTuner):
        rows = shapes.operations[edit.site.name]
        return branch_flops(edit.branch, rows, False, below(edit.site, anatomy, edits))
    if isinstance(edit, Prefix):  # scores and mixtures over M more keys: two products, then four
        block = next(b for b in anatomy.blocks if edit.site in b.attentions.values())
        lead = "" if block.attentions.get("attn") == edit.site else "cross_"
        rows = shapes.rows[id(block.linears[f"{lead}o"].module)]
        return 12 * rows * edit.length * block.linears[f"{lead}o"].in_features
    if isinstance(edit, Weight):  # the gradient of each layer's weight
        return sum(
            2 * shapes.rows[id(module)] * edit.value.numel()
            for module, _ in edit.owners
            if id(module) in shapes.rows and edit.value.dim() > 1
        )
    if isinstance(edit, Entries) and edit.tensor.dim() > 1:  # the dense gradient, of which k remain
        return 2 * shapes.rows[id(edit.owner[0])] * edit.tensor.numel()
    return 0  # element-wise, or counted per stack (tokens)


def _beside(tuner: nn.Module, site: OpSite, shapes: Shapes) -> int:
    batch = shapes.sequences[site.name.partition("/")[0]][0]
    return tuner_flops(tuner, shapes.operations[site.name], batch)


def _token_rows(tokens: Sequence[Tokens], stack: Stack, shapes: Shapes) -> int:
    """Return what more rows cost in the blocks where they stand, forward and to the inputs."""
    total = 0
    for block, place in zip(stack.blocks, stack.sequence.block_inputs, strict=True):
        count = sum(e.count for e in tokens if place in e.site.block_inputs)
        batch, length = shapes.blocks[id(block.module)]
        layers = {id(s.module): s.module for s in block.linears.values()}
        total += sum(4 * batch * count * layer.weight.numel() for layer in layers.values())
        width = block.linears["o"].in_features
        total += 12 * batch * width * (length**2 - (length - count) ** 2)
        if stack.sequence.memory is not None:  # rows that stay in what another stack gives
            kept = sum(e.count for e in tokens if e.stay)
            maps = sum(block.linears[r].module.weight.numel() for r in ("cross_k", "cross_v"))
            width = block.linears["cross_o"].in_features
            total += 4 * batch * kept * maps + 12 * batch * width * length * kept
    return total


def _first_block(edit: Tokens, anatomy: Anatomy) -> int:
    """Return the identity of the first block that tokens enter."""
    return next(id(b.module) for b in anatomy.blocks if edit.passes(b.module))


def necessary_flops(
    model: Adapted, run: Callable[[Adapted], object], forward: Callable[[Adapted], object]
) -> float:
    """Return the FLOPs that a pass of ``model`` must cost: its floor, and its own parameters.

    Args:
        model: attached; its network is shared with a twin that carries probes in its place.
        run: one forward and backward pass of a model.
        forward: one forward pass of a model.

    """
    method, own = model.method, own_flops(model, lambda: forward(model))

    def plan(anatomy: Anatomy) -> list[Edit]:
        return method.edits(anatomy, torch.Generator().manual_seed(0))

    classes = model.heads["main"].out_features if model.heads else None
    backbone = model.release()
    try:  # what the method trains inside the network must not train in the twin
        twin_base = Backbone(backbone.name, twin(backbone.model), backbone.source)
        device = next(twin_base.model.parameters()).device
        probe = Adapted(twin_base, Probes(plan), classes).to(device).train()  # type: ignore[arg-type]
        floor = counted_flops(lambda: run(probe))
    finally:
        model.delta.attach()
    return floor + own
