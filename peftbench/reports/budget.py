"""Scores against the number of trained parameters: one line per method, or per value of a setting.

The score of a point is the mean over seeds with Student's interval. Test figures are shown; nothing
is chosen here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from .collect import Collection, Missing, Run
from .figures import COLOURS, GREY, MARKERS, new_figure, shape, styled
from .paired import missing_notes
from .stats import Estimate, over_seeds
from .tables import Table, flat, score

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """Runs of one line that train equally many parameters.

    Attributes:
        series: name of the line.
        task: of the runs.
        trained: parameters of the method, a classifier head not counted.
        score: percent.
        runs: the runs, one per seed.

    """

    series: str
    task: str
    trained: int
    score: Estimate
    runs: tuple[Run, ...]


def points(
    runs: Collection, by: Sequence[str] = (), labels: Mapping[str, str] | None = None
) -> list[Point]:
    """Return a point per line, task and number of trained parameters.

    Args:
        runs: to show; those without a result are left out (:meth:`Collection.missing` has them).
        by: settings whose values make lines of their own, for example ``method.selection``.
        labels: own name of a line -> name to show instead.

    Raises:
        ConfigError: no run is finished, or two runs of one seed fall on one point.

    """
    found: dict[tuple[str, str, int], dict[int, Run]] = {}
    for run in runs.finished:
        assert run.result is not None
        name = _series(run, by)
        key = ((labels or {}).get(name, name), run.task, int(run.result["params"]["trainable"]))
        other = found.setdefault(key, {}).setdefault(run.seed, run)
        if other is not run:
            raise ConfigError(
                f"runs: {other.path} and {run.path} train equally many parameters as '{key[0]}' on "
                f"{run.task} with seed {run.seed}; by=SETTING tells them apart"
            )
    if not found:
        raise ConfigError("runs: none of them is finished")
    return [
        Point(
            *key,
            over_seeds(
                [run.value for run in places.values()], next(iter(places.values())).interval
            ),
            tuple(places.values()),
        )
        for key, places in sorted(found.items())
    ]


def _series(run: Run, by: Sequence[str]) -> str:
    values = [value for key in by if (value := _at(run.config, key)) is not None]
    return " ".join([run.method, *map(str, values)])


def _at(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key, None where a run has no such setting."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def table(found: Sequence[Point], missing: Sequence[Missing] = ()) -> Table:
    """Return all points for a person to read, and what has no result."""
    made = Table(
        "test score [95% interval] against trained parameters, percent",
        ["method", "task", "trained", "score (seeds)"],
        notes=[
            "trained: parameters of the method; heads are not counted",
            *missing_notes(missing),
        ],
        words=["task"],
    )
    for point in found:
        made.rows.append([point.series, point.task, f"{point.trained:,}", score(point.score)])
    return made


def records(found: Sequence[Point]) -> list[dict[str, Any]]:
    """Return every figure unrounded, with the run directories behind it."""
    return [
        {"method": p.series, "task": p.task, "trained": p.trained, **flat(p.score)}
        | {"runs": " ".join(str(run.path) for run in p.runs)}
        for p in found
    ]


def draw(found: Sequence[Point]) -> Figure:
    """Draw one panel per task, parameters on a logarithmic axis; lines of one point are levels."""
    tasks = sorted({p.task for p in found})
    series = sorted({p.series for p in found})
    lines, columns = shape(len(tasks))
    with styled():
        figure = new_figure(0.6 + 3.6 * lines)
        grid: Any = figure.subplots(lines, columns, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(tasks):
                axes.set_axis_off()
                continue
            own = [p for p in found if p.task == tasks[place]]
            _panel(axes, tasks[place], own, series)
        grid[0][0].legend(fontsize=8)
        figure.supxlabel("trained parameters (heads not counted)", fontsize=9)
        figure.supylabel("test score, % (mean and 95% interval over seeds)", fontsize=9)
    return figure


def _panel(axes: Axes, title: str, found: Sequence[Point], series: Sequence[str]) -> None:
    axes.set_title(title)
    axes.set_xscale("log")
    for number, name in enumerate(series):
        own = [p for p in found if p.series == name]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        if not own:
            continue
        if own[0].trained == 0:  # a head alone has no place on a logarithmic axis
            axes.axhline(own[0].score.value, color=GREY, linestyle="--", linewidth=1, label=name)
            continue
        below = [p.score.value - (p.score.low or p.score.value) for p in own]
        above = [(p.score.high or p.score.value) - p.score.value for p in own]
        axes.errorbar(
            [p.trained for p in own],
            [p.score.value for p in own],
            yerr=[below, above],
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.2,
            elinewidth=0.8,
            capsize=2,
            label=name,
        )
