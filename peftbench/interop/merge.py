"""Merge edits into plain weights: a copy of the base that computes what base and delta compute.

Weights are merged in fp32 (or wider) and stored in the base's own number format.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..edits import (
    Bank,
    Delta,
    Edit,
    Entries,
    InputOp,
    InputScale,
    LinearEdit,
    LinearTuner,
    Mixture,
    OpEdit,
    Prefix,
    Router,
    ScaleShift,
    Tokens,
    Weight,
)
from ..edits.side import Ladder
from ..errors import ExportError
from ..train.model import Adapted
from .compare import (
    Difference,
    adapted_logits,
    bound_for,
    compare,
    plain_logits,
    sample_inputs,
)
from .folder import main_head

REASONS: dict[type[Edit], str] = {
    OpEdit: "a small network beside or behind a frozen operation is not linear",
    InputOp: "a small network in front of a frozen operation is not linear",
    Tokens: "learned tokens stand in the sequence, not in a weight",
    Prefix: "learned keys and values stand in attention, not in a weight",
    Bank: "the copy that acts is chosen at each call (context=NAME exports one)",
    Router: "it tells which context a token has",
    Mixture: "the gate that mixes the experts reads each input",
    LinearTuner: "a small network beside a linear layer is not linear",
    Ladder: "a side network stands beside the frozen one, not in its weights",
}
SHOWN = 3


@dataclass
class Merged:
    """A network without edits that computes what the adapted one computed.

    Attributes:
        network: copy of the base; its parameters may be trained or stored like any network's.
        head: classifier head; None where the network's language-model head is used.
        anatomy: of the base; its functions work on the copy.
        edits: names of what was merged.
        difference: to the adapted network, on sample inputs.
        bound: relative difference above which merging is refused.

    """

    network: nn.Module
    head: nn.Linear | None
    anatomy: Anatomy
    edits: tuple[str, ...]
    difference: Difference
    bound: float

    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return logits, as ``adapted(inputs).logits`` did."""
        return plain_logits(self.anatomy, self.network, self.head, inputs)


def merge(
    model: Adapted, inputs: Mapping[str, Tensor] | None = None, bound: float | None = None
) -> Merged:
    """Merge every edit of an adapted network into a copy of its base.

    Afterwards the delta is detached and the base is what it was before it was adapted.

    Args:
        model: the adapted network, attached.
        inputs: what to compare the two networks on; None draws random inputs.
        bound: largest difference of logits in parts of their scale; None is 1e-5 for an fp32
            base and 1e-2 for a base in a 16-bit format.

    Raises:
        ExportError: an edit cannot be merged (all such are named), or the merged network differs
            from the adapted one by more than ``bound`` (with the figures).

    """
    if not model.delta.attached:
        raise ExportError("the delta is not attached; merge takes an adapted network")
    refuse_unmergeable(model.delta)
    inputs = sample_inputs(model) if inputs is None else inputs
    reference = adapted_logits(model, inputs)
    plain = plain_tensors(model.delta)
    backbone = model.release()
    network = transplant(backbone.model, plain)
    head = copy.deepcopy(main_head(model))
    found = plain_logits(backbone.anatomy, network, head, inputs)
    difference = compare(found, reference)
    limit = bound_for(network) if bound is None else bound
    difference.require(limit, "the merged network", hint="to allow more: bound=NUMBER")
    names = tuple(edit.name for edit in model.delta)
    return Merged(network, head, backbone.anatomy, names, difference, limit)


def refuse_unmergeable(delta: Delta) -> None:
    """Raise :class:`ExportError` naming every edit that has no form as a plain weight."""
    reasons: dict[str, list[str]] = {}
    for edit in delta:
        reason = why_not(edit)
        if reason:
            reasons.setdefault(f"{type(edit).__name__}: {reason}", []).append(edit.name)
    if reasons:
        lines = [f"  {reason} ({_some(names)})" for reason, names in reasons.items()]
        raise ExportError("edits that cannot be merged into weights:\n" + "\n".join(lines))


def why_not(edit: Edit) -> str | None:
    """Return why an edit cannot be merged, None if it can."""
    if isinstance(edit, Weight | Entries):
        return None
    if isinstance(edit, ScaleShift):
        if getattr(edit.module, "weight", None) is None:
            return f"the {type(edit.module).__name__} has no weight that could take the scale"
        if not hasattr(edit.module, "bias"):
            return f"the {type(edit.module).__name__} has no bias that could take the shift"
        return None
    linear = isinstance(edit, LinearEdit) and type(edit).merged is not LinearEdit.merged
    if linear or (isinstance(edit, InputOp) and hasattr(edit.tuner, "affine")):
        kinds = {layer.weight.dtype for layer in layers_of(edit)}
        odd = [k for k in kinds if not k.is_floating_point]
        return f"the layer's weight is stored as {odd[0]}" if odd else None
    for kind, reason in REASONS.items():
        if isinstance(edit, kind):
            return reason
    return "it has no merged form"


def plain_tensors(delta: Delta) -> dict[nn.Module, dict[str, Tensor | None]]:
    """Return, per module and attribute, the tensors that do what an attached delta does.

    Edits of one layer apply in the order in which they are attached, but what changes the layer's
    input acts before the layer and all that reads its input, so it is merged last: a scale on the
    input, then adapters in front of the operation, from the nearest to the farthest.
    """
    by_layer: dict[nn.Module, list[LinearEdit | ScaleShift | InputOp]] = {}
    plain: dict[nn.Module, dict[str, Tensor | None]] = {}
    for edit in delta:
        if isinstance(edit, Weight):
            value = edit.value.detach()
            for module, attribute in edit.owners:
                plain.setdefault(module, {})[attribute] = value
        elif isinstance(edit, Entries):
            module, attribute = edit.owner
            plain.setdefault(module, {})[attribute] = edit.tensor.detach().clone()
        else:
            for layer in layers_of(edit):
                by_layer.setdefault(layer, []).append(edit)
    with torch.no_grad():
        for module, edits in by_layer.items():
            plain.setdefault(module, {}).update(_merge_layer(module, edits))
    return plain


def layers_of(edit: Any) -> list[Any]:
    """Return the layers into which an edit is merged."""
    return list(edit.readers) if isinstance(edit, InputOp) else [edit.module]


def _merge_layer(
    module: Any, edits: list[LinearEdit | ScaleShift | InputOp]
) -> dict[str, Tensor | None]:
    kind = module.weight.dtype
    wide = torch.promote_types(kind, torch.float32)
    weight, bias = module.weight.to(wide), module.bias
    bias = None if bias is None else bias.to(wide)
    scales = [e for e in edits if isinstance(e, InputScale)]
    adapters = [e for e in reversed(edits) if isinstance(e, InputOp)]
    others = [e for e in edits if not isinstance(e, InputScale | InputOp)]
    for edit in [*others, *scales, *adapters]:
        weight, bias = edit.merged(weight, bias)
    return {"weight": weight.to(kind), "bias": None if bias is None else bias.to(kind)}


def transplant(
    network: nn.Module, plain: Mapping[nn.Module, Mapping[str, Tensor | None]]
) -> nn.Module:
    """Return a copy of ``network`` with the given tensors as parameters; tied ones stay tied."""
    memo: dict[int, Any] = {}
    twin = copy.deepcopy(network, memo)
    made: dict[int, nn.Parameter] = {}
    for module, tensors in plain.items():
        for attribute, tensor in tensors.items():
            if tensor is None:
                continue
            if id(tensor) not in made:
                made[id(tensor)] = nn.Parameter(tensor.clone(), requires_grad=False)
            setattr(memo[id(module)], attribute, made[id(tensor)])
    return twin


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown}, ... {len(names)} in all"
