"""Figures of gradient quasi-sparsity: curves, and a map over layers and modules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from ..reports.figures import COLOURS, GREY, new_figure, styled
from .sparsity import ALL, CURVES, MEAN

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ONE_PERCENT = 0.01
WORDS = {"random": "random weights", "pretrained": "pretrained", "tuned": "tuned"}


def gaussian(x: float) -> float:
    """Return C2(x) of independent Gaussian entries: sqrt(x + 2 z phi(z)), z the 1 - x/2 quantile.

    The energy beyond z of a standard normal is 2 (z phi(z) + 1 - Phi(z)).
    """
    if x >= 1:
        return 1.0
    z = NormalDist().inv_cdf(1 - x / 2)
    return math.sqrt(x + 2 * z * NormalDist().pdf(z))


def draw_curves(numbers: Mapping[str, Any], title: str) -> Figure:
    """Draw C2 over the share of entries of all tensors together, by state."""
    xs = [100 * x for x in numbers["shares"]]
    with styled():
        figure = new_figure(3.8)
        axes = figure.subplots()
        for i, (state, averages) in enumerate(numbers["states"].items()):
            for average, dash in ((MEAN, "-"), (CURVES, "--")):
                own = averages[average][ALL]
                if own is not None:
                    label = f"{WORDS[state]}, {average}"
                    axes.plot(xs, own["c2"], dash, color=COLOURS[i], label=label)
        normal = [gaussian(x) for x in numbers["shares"]]
        axes.plot(xs, normal, ":", color=GREY, label="independent Gaussian entries")
        axes.axvline(1, color=GREY, linewidth=0.8)
        axes.set_xscale("log")
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("share of the entries, largest first, %")
        axes.set_ylabel("share of the gradient's norm, C2")
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        words = f"{numbers['batches']} batches of {numbers['batch_size']}"
        axes.set_title(f"Quasi-sparsity of the gradient: {title} ({words})", fontsize=9)
    return figure


def draw_map(numbers: Mapping[str, Any], title: str) -> Figure:
    """Draw C2(1%) of every weight matrix, layers by modules, one panel per state."""
    at = numbers["shares"].index(ONE_PERCENT)
    states = list(numbers["states"])
    names = [n for n in numbers["states"][states[0]][MEAN] if n.endswith("/weight")]
    places = [n.removesuffix("/weight").rpartition("/")[::2] for n in names]
    layers = list(dict.fromkeys(layer for layer, _ in places))
    modules = list(dict.fromkeys(module for _, module in places))
    with styled():
        figure = new_figure(max(2.4, 1.3 + 0.26 * len(layers)))
        grid: Any = figure.subplots(1, len(states), sharey=True, squeeze=False)
        for axes, state in zip(grid[0], states, strict=True):
            cells = [[math.nan] * len(modules) for _ in layers]
            for name, (layer, module) in zip(names, places, strict=True):
                own = numbers["states"][state][MEAN][name]
                value = own["c2"][at] if own is not None else math.nan
                cells[layers.index(layer)][modules.index(module)] = value
            shown = axes.imshow(cells, aspect="auto", cmap="viridis", vmin=0, vmax=1)
            for y, line in enumerate(cells):
                for x, value in enumerate(line):
                    if not math.isnan(value):
                        colour = "black" if value > 0.6 else "white"
                        place: Any = {"ha": "center", "va": "center", "fontsize": 7}
                        axes.text(x, y, f"{value:.2f}", color=colour, **place)
            axes.grid(False)
            axes.set_title(WORDS[state], fontsize=9)
            axes.set_xticks(range(len(modules)), modules)
            axes.set_yticks(range(len(layers)), [_layer(name) for name in layers])
        figure.colorbar(shown, ax=grid[0].tolist(), label="C2(1%)")
        figure.suptitle(f"Norm held by the largest 1% of the entries: {title}", fontsize=10)
    return figure


def _layer(name: str) -> str:
    """Name a layer as people count: ``encoder/0`` is ``encoder 1``."""
    stack, _, index = name.rpartition("/")
    return f"{stack} {int(index) + 1}" if index.isdigit() else name
