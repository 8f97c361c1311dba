"""Figures: one style, and the pictures of both reports. Needs matplotlib (extra ``report``).

No window system is touched: figures are drawn to files. Colours are Okabe and Ito's, which readers
with any colour vision tell apart; every colour goes with a marker of its own.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..files import replacing
from .compare import Beside, Block
from .paired import Paired
from .stats import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
GREY = "#777777"
INCHES = 8.0
DPI = 160
"""8 inches of 160 points make 1,280 pixels."""
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "savefig.dpi": DPI,
}


def need_matplotlib(key: str) -> None:
    """Refuse a figure where matplotlib is not installed; ``key`` is the setting that asked."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(
            f"{key}: figures need the package 'matplotlib', which is not installed\n"
            "  pip install 'peftbench[report]'"
        )


def check_path(path: str | None, key: str = "figure") -> None:
    """Refuse a name that is no PNG, or matplotlib missing, before anything is computed."""
    if path is None:
        return
    if not path.endswith(".png"):
        raise ConfigError(f"{key}: '{path}' must end in .png")
    need_matplotlib(key)


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this project's style inside the block."""
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


def new_figure(height: float, width: float = INCHES) -> Figure:
    """Return an empty figure of some inches that lays itself out."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save(figure: Figure, path: str | Path) -> None:
    """Write a PNG atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    with styled(), replacing(Path(path)) as temporary:
        figure.savefig(str(temporary), format="png")


def shape(panels: int) -> tuple[int, int]:
    """Return lines and columns for some panels: at most three columns, as few gaps as may be."""
    lines = -(-panels // 3)
    return lines, -(-panels // lines)


def draw_paired(report: Paired) -> Figure:
    """Draw the differences to the base with intervals: over all tasks, then task by task."""
    labels = [c.label for c in report.comparisons]
    panels: list[tuple[str, list[Estimate | None]]] = [
        (f"all {len(report.tasks)} tasks", [c.overall for c in report.comparisons])
    ]
    if len(report.tasks) > 1:
        panels += [(t, [c.tasks[t] for c in report.comparisons]) for t in report.tasks]
    else:
        panels[0] = (report.tasks[0], panels[0][1])
    lines, columns = shape(len(panels))
    with styled():
        figure = new_figure(0.9 + lines * (0.75 + 0.24 * len(labels)))
        grid: Any = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for i, axes in enumerate(grid.flat):
            if i >= len(panels):
                axes.set_axis_off()
                continue
            title, estimates = panels[i]
            _differences(axes, title, estimates, labels, 1 if i == 0 else 0)
        for y, c in enumerate(report.comparisons):
            if c.overall is not None and c.covered < len(c.tasks):
                words = f"{c.covered} of {len(c.tasks)}"
                grid[0][0].text(c.overall.value, y - 0.2, words, ha="center", color=GREY, size=7)
        figure.suptitle(f"test accuracy minus that of {report.base}: paired by task and seed")
        figure.supxlabel(
            "difference, percentage points (mean and 95% interval; hollow: one pair)", fontsize=9
        )
    return figure


def _differences(
    axes: Axes, title: str, estimates: Sequence[Estimate | None], labels: Sequence[str], colour: int
) -> None:
    axes.set_title(title)
    axes.axvline(0, color=GREY, linewidth=1)
    for y, estimate in enumerate(estimates):
        if estimate is None:
            axes.text(0, y, " missing", va="center", color=GREY)
            continue
        _with_interval(axes, estimate, y, COLOURS[colour], MARKERS[colour])
    axes.tick_params(labelbottom=True)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def _with_interval(axes: Axes, estimate: Estimate, y: float, colour: str, marker: str) -> Any:
    """Draw a dot, with its interval where it has one; a hollow dot has none."""
    if estimate.low is None or estimate.high is None:
        return axes.plot(estimate.value, y, marker, color=colour, markerfacecolor="white")[0]
    axes.plot([estimate.low, estimate.high], [y, y], color=colour, linewidth=1.5)
    return axes.plot(estimate.value, y, marker, color=colour, markersize=5)[0]


def draw_published(report: Beside) -> Figure:
    """Draw our scores with intervals beside the published ones, one panel per method.

    Without a method (no runs, and none asked for), the published means alone.
    """
    if not report.blocks:
        return _draw_means(report)
    lines, columns = shape(len(report.blocks))
    keys = report.keys
    with styled():
        figure = new_figure(1.2 + lines * (0.7 + 0.19 * max(4, len(keys))))
        grid: Any = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
        for i, axes in enumerate(grid.flat):
            if i >= len(report.blocks):
                axes.set_axis_off()
                continue
            _scores(axes, report.blocks[i], keys, len(report.suite.tasks))
        has = any(block.sources for block in report.blocks)
        other = "beside published" if has else "(nothing is published)"
        figure.suptitle(f"{report.suite.title}: top-1, ours with 95% interval {other}")
        figure.supxlabel("top-1 on test, %", fontsize=9)
    return figure


def _scores(axes: Axes, block: Block, keys: Sequence[str], tasks: int) -> None:
    axes.set_title(block.title)
    drawn = []
    if block.ours:
        for y, key in enumerate(keys):
            estimate = block.ours.scores[key]
            if estimate is not None:
                drawn = [_with_interval(axes, estimate, y, COLOURS[0], MARKERS[0])]
                continue
            place: Any = {"transform": axes.get_yaxis_transform(), "va": "center", "color": GREY}
            axes.text(0.02, y, "ours: missing", size=7, **place)
        if drawn:
            drawn[0].set_label("ours")
        else:
            axes.plot([], [], " ", label="ours: missing")
    for i, source in enumerate(block.sources):
        style = 1 + i % (len(MARKERS) - 1)
        shift = 0.5 * (i + 1) / (len(block.sources) + 1) - 0.25  # equal values stay visible
        name = source.about.paper.partition(" (")[0] + f", {source.about.table}"
        axes.plot(
            [source.rows[k].value for k in keys if k in source.rows],
            [y + shift for y, k in enumerate(keys) if k in source.rows],
            MARKERS[style],
            color=COLOURS[style],
            markerfacecolor="none",
            markersize=5,
            label=name if source.comparable else f"{name} (not comparable)",
        )
    if tasks < len(keys):
        axes.axhline(tasks - 0.5, color=GREY, linewidth=0.8)
    axes.tick_params(labelbottom=True)
    axes.set_yticks(range(len(keys)), keys)
    axes.set_ylim(len(keys) - 0.4, -0.6)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.07 - 0.9 / len(keys)))


def _draw_means(report: Beside) -> Figure:
    """Draw what is published for the widest mean of the suite (or its only task)."""
    key = (list(report.suite.means) or list(report.suite.tasks))[-1]
    kept = [s for s in report.everything if key in s.rows]
    if not kept:
        raise ConfigError(f"figure: there is nothing to draw for suite={report.suite.name}")
    kept.sort(key=lambda s: -s.rows[key].value)
    papers = list(dict.fromkeys(s.about.paper for s in kept))
    methods = list(dict.fromkeys(s.about.method for s in kept))
    with styled():
        figure = new_figure(1.4 + 0.19 * len(methods))
        axes = figure.subplots()
        for i, paper in enumerate(papers):
            mine = [s for s in kept if s.about.paper == paper]
            axes.plot(
                [s.rows[key].value for s in mine],
                [methods.index(s.about.method) for s in mine],
                MARKERS[i % len(MARKERS)],
                color=COLOURS[i % len(COLOURS)],
                markerfacecolor="none",
                label=paper,
            )
        axes.set_yticks(range(len(methods)), methods)
        axes.set_ylim(len(methods) - 0.4, -0.6)
        axes.set_xlabel("top-1 on test, %")
        axes.set_title(f"{report.suite.title}: published, {key} (ours: missing)")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return figure
