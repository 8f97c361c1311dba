"""The plots of the page: scores against cost, differences, learning curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .curves import Curve
from .summary import Board, Score
from .summary_tables import score_text, size
from .svg import COLOURS, WIDTH, Plot, Scale, esc, linear, logarithmic, mark, number, path, short
from .tradeoff import front

AXES: dict[str, tuple[str, Callable[[float], str]]] = {
    "trained": ("trained parameters (heads not counted)", short),
    "train_s": ("training time, seconds", short),
    "memory": ("peak memory of training", size),
}
"""Costs that scores are drawn against: name and how a tick is written."""
HEIGHT = 290.0


def scatter(board: Board, view: str, what: str) -> str:
    """Draw scores against a cost with intervals and the Pareto front; empty without any cost."""
    found = [(i, board.score(line, view)) for i, line in enumerate(board.lines)]
    points = [(i, s, value) for i, s in found if s and (value := getattr(s.cost, what)) is not None]
    if not points:
        return ""
    ends = [v for _, s, _ in points for v in _ends(s)]
    plot = Plot(
        f"{view} against {AXES[what][0]}",
        HEIGHT,
        logarithmic([cost for _, _, cost in points], 42, WIDTH - 10),
        linear(ends, HEIGHT - 42, 26),
    )
    unit = points[0][1].unit
    plot.frame(AXES[what][0], f"{view}, {unit}", AXES[what][1])
    best = front([(cost, s.sign * s.estimate.value) for _, s, cost in points])
    places = [(plot.x(cost), plot.y(s.estimate.value)) for _, s, cost in points]
    plot.body.append(f'<path class="front" d="{path([places[i] for i in best])}"/>')
    for k, (i, s, cost) in enumerate(points):
        x, y = places[k]
        low, high = _ends(s)[0], _ends(s)[-1]
        whisker = f"M{number(x)} {number(plot.y(low))}V{number(plot.y(high))}"
        about = f"{board.lines[i].label}: {score_text(s)}, {AXES[what][1](cost)}"
        about += ", on the Pareto front" if k in best else ""
        plot.body.append(f'<path class="whisker c{i % COLOURS}" data-m="{i}" d="{whisker}"/>')
        plot.body.append(mark(x, y, i, about))
    return plot.render(f' class="scatter" data-sign="{points[0][1].sign}"')


def _ends(found: Score) -> list[float]:
    known = (found.estimate.low, found.estimate.value, found.estimate.high)
    return sorted(v for v in known if v is not None)


@dataclass(frozen=True)
class Gap:
    """A difference to draw.

    Attributes:
        label: what is compared with what.
        value: the difference.
        low: lower end of its interval, None if there is none.
        high: upper end.
        text: the figures in words.
        method: number of the method on its board.
        faint: whether it says little (zero lies inside, or it is not comparable).

    """

    label: str
    value: float
    low: float | None
    high: float | None
    text: str
    method: int
    faint: bool


ROW = 36.0


def gaps(title: str, found: Sequence[Gap], axis: str) -> str:
    """Draw differences as one row each, around zero."""
    ends = [v for gap in found for v in (gap.low, gap.value, gap.high, 0.0) if v is not None]
    height = ROW * len(found) + 46
    scale = linear(ends, 12, WIDTH - 12)
    plot = Plot(title, height, scale, Scale(0, 1, height - 40, 4), left=12)
    for tick in scale.ticks():
        x = number(scale(tick))
        style = "zero" if abs(tick) < 1e-12 else "grid"
        plot.body.append(f'<path class="{style}" d="M{x} 4V{number(height - 40)}"/>')
        plot.text(scale(tick), height - 24, f"{tick:+.4g}" if tick else "0", "middle")
    plot.text(WIDTH / 2, height - 6, axis, "middle", "name")
    for k, gap in enumerate(found):
        y = ROW * k + 16
        room = int((WIDTH - 30 - 6.6 * len(gap.text)) / 7)
        name = gap.label if len(gap.label) <= room else gap.label[: room - 1] + "…"
        plot.body.append(f'<g data-m="{gap.method}"{" class=faint" if gap.faint else ""}>')
        plot.text(12, y, name, "start", "label")
        plot.text(WIDTH - 12, y, gap.text, "end", "tick")
        if gap.low is not None and gap.high is not None:
            line = f"M{number(scale(gap.low))} {number(y + 11)}H{number(scale(gap.high))}"
            plot.body.append(f'<path class="whisker c{gap.method % COLOURS}" d="{line}"/>')
        about = f"{gap.label}: {gap.text}"
        plot.body += [mark(scale(gap.value), y + 11, gap.method, about), "</g>"]
    return plot.render(' class="gaps"')


def curves(title: str, found: Sequence[tuple[int, str, Curve]], y_name: str) -> str:
    """Draw one line per run: (number of the method, label, points)."""
    xs = [x for _, _, curve in found for x in curve.steps]
    ys = [y for _, _, curve in found for y in curve.values]
    plot = Plot(title, HEIGHT, linear(xs, 42, WIDTH - 10, 0.02), linear(ys, HEIGHT - 42, 26))
    plot.frame("step", y_name)
    for place, label, curve in found:
        points = [(plot.x(x), plot.y(y)) for x, y in zip(curve.steps, curve.values, strict=True)]
        if len(points) == 1:
            plot.body.append(mark(*points[0], place, label))
            continue
        plot.body.append(
            f'<path class="curve c{place % COLOURS}" data-m="{place}" data-tip="{esc(label)}" '
            f'd="{path(points)}"/>'
        )
    return plot.render(' class="curves"')
