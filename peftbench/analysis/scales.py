"""The learned scales of U-Tuning, layer by layer (arXiv 2303.00690, table 7 and figure 5)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..edits.sites import Handles
from ..edits.tuners import Gate, RowScale
from ..errors import IncompatibleError
from ..reports.figures import COLOURS, GREY, MARKERS, new_figure, shape, styled
from ..train.model import Adapted
from .opened import Opened, on_val

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def measure(opened: Opened) -> dict[str, Any]:
    """Read every gate of a run.

    Returns:
        ``gates``: per gate its stack, layer, site (attn, mlp, block), tuner, kind, its first value,
        and mean, standard deviation, least and greatest of the scale: over channels for a gate per
        channel, over images of val for a gate per image.

    Raises:
        IncompatibleError: the run's method has no learned scale.

    """
    accelerator = opened.accelerator()
    model = opened.model(accelerator)
    found = list(learned(model))
    if not found:
        model.release()
        raise IncompatibleError(
            f"run: method {opened.result['method']} has no learned scale; scales needs a run of "
            "U-Tuning whose gates are scalar, channel or input (lambda is a share of the softmax, "
            "and direct is fixed)"
        )
    per_image = [scale for scale in found if scale.gate is not None]
    if per_image:
        handles = Handles()
        for scale in per_image:
            assert scale.gate is not None
            handles.add(scale.gate.register_forward_hook(_keeper(scale.values)))
        on_val(opened, model, opened.task(), accelerator, lambda batch, output: None)
        handles.remove()
    model.release()
    return {**opened.about(), "gates": [_summary(scale) for scale in found]}


@dataclass
class Scale:
    """One learned scale.

    Attributes:
        edit: name of its edit (``encoder/0/attn/adapter``).
        of: what it scales, where that is not the tuner's output: ``keys`` or ``values``.
        kind: scalar, channel or input.
        start: its value at the start, None for a gate per image.
        values: its numbers.
        gate: the gate whose numbers have to be watched, where they depend on the image.

    """

    edit: str
    of: str
    kind: str
    start: float | None
    values: list[Tensor]
    gate: Gate | None = None


def learned(model: Adapted) -> Iterator[Scale]:
    """Return every learned scale of a model; gates per image are still without numbers."""
    for edit in model.delta:
        for module in edit.modules():
            if isinstance(module, Gate) and module.kind == "input":
                yield Scale(edit.name, "", "input", None, [], module)
            elif isinstance(module, Gate) and module.kind != "direct":
                yield Scale(edit.name, "", module.kind, module.start, [_numbers(module.scale)])
            elif isinstance(module, RowScale):
                for of, numbers in (("keys", module.key), ("values", module.value)):
                    kind = "scalar" if numbers.numel() == 1 else "channel"
                    yield Scale(edit.name, of, kind, module.start, [_numbers(numbers)])


def _numbers(scale: Tensor) -> Tensor:
    return scale.detach().float().flatten().cpu()


def _keeper(values: list[Tensor]) -> Any:
    def keep(gate: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(gate, Gate)
        values.append(_numbers(gate.values(args[0])))

    return keep


def _summary(scale: Scale) -> dict[str, Any]:
    stack, layer, site, tuner = scale.edit.split("/")[-4:]
    numbers = torch.cat(scale.values).double()
    return {
        "stack": stack,
        "layer": int(layer),
        "site": site,
        "tuner": f"{scale.of} of {tuner}" if scale.of else tuner,
        "kind": scale.kind,
        "start": scale.start,
        "count": len(numbers),
        "mean": float(numbers.mean()),
        "std": float(numbers.std(unbiased=False)),
        "least": float(numbers.min()),
        "greatest": float(numbers.max()),
    }


def draw(numbers: dict[str, Any], title: str) -> Figure:
    """Draw the mean scale over layers, one panel per tuner, with a band of a standard deviation."""
    lines: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for gate in numbers["gates"]:
        lines.setdefault((gate["stack"], gate["site"], gate["tuner"]), []).append(gate)
    several = len({stack for stack, _, _ in lines}) > 1
    rows, columns = shape(len(lines))
    with styled():
        figure = new_figure(0.6 + 2.9 * rows)
        grid: Any = figure.subplots(rows, columns, sharey=True, squeeze=False)
        for i, axes in enumerate(grid.flat):
            if i >= len(lines):
                axes.set_axis_off()
                continue
            (stack, site, tuner), group = list(lines.items())[i]
            _panel(axes, group, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)])
            words = f"{tuner} beside {site}, {group[0]['kind']} gate"
            axes.set_title(f"{stack}: {words}" if several else words, fontsize=8)
        grid[0][0].set_ylabel("scale s (band: one standard deviation)")
        figure.suptitle(f"Learned scales (dashed: at the start): {title}", fontsize=10)
    return figure


def _panel(axes: Axes, group: list[dict[str, Any]], colour: str, marker: str) -> None:
    layers = [g["layer"] + 1 for g in group]
    low, high = ([g["mean"] + sign * g["std"] for g in group] for sign in (-1, 1))
    axes.fill_between(layers, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(layers, [g["mean"] for g in group], color=colour, marker=marker, markersize=4)
    if group[0]["start"] is not None:
        axes.axhline(group[0]["start"], color=GREY, linestyle="--", linewidth=1)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("layer")
