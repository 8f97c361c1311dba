"""Figures of loss landscapes: lines by direction, and planes by state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..reports.figures import COLOURS, new_figure, shape, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_lines(numbers: Mapping[str, Any], title: str) -> Figure:
    """Draw the loss along every direction, one panel each, a curve per state."""
    states = numbers["states"]
    ways = list(next(iter(states.values()))["lines"])
    rows, columns = shape(len(ways))
    with styled():
        figure = new_figure(0.8 + 2.5 * rows)
        grid: Any = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for i, axes in enumerate(grid.flat):
            if i >= len(ways):
                axes.set_axis_off()
                continue
            for j, (state, found) in enumerate(states.items()):
                losses = found["lines"][ways[i]]["losses"]
                axes.plot(numbers["steps"], losses, color=COLOURS[j], label=state)
            axes.set_title(ways[i], fontsize=9)
            axes.tick_params(labelbottom=True)
        grid[0][0].legend(fontsize=7)
        figure.supxlabel("step along the direction (1: as long as the weights)", fontsize=9)
        figure.supylabel(f"mean loss of {numbers['samples']} training samples", fontsize=9)
        figure.suptitle(f"Loss along lines, {numbers['head']} head: {title}", fontsize=10)
    return figure


def draw_plane(numbers: Mapping[str, Any], title: str) -> Figure:
    """Draw the loss over the plane of the first two directions, one panel per state."""
    states = numbers["states"]
    with styled():
        figure = new_figure(2.9, width=0.8 + 2.9 * len(states))
        grid: Any = figure.subplots(1, len(states), squeeze=False)
        for axes, (state, found) in zip(grid[0], states.items(), strict=True):
            side = len(found["plane"])
            at = [-1 + 2 * i / (side - 1) for i in range(side)]
            shown = axes.contourf(at, at, found["plane"], levels=24, cmap="viridis")
            axes.plot(0, 0, "+", color="white", markersize=9)
            axes.grid(False)
            axes.set_aspect("equal")
            figure.colorbar(shown, ax=axes, fraction=0.046)
            axes.set_title(state, fontsize=9)
            axes.set_xlabel("random 1")
        grid[0][0].set_ylabel("random 2")
        figure.suptitle(f"Loss over a plane, {numbers['head']} head: {title}", fontsize=10)
    return figure
