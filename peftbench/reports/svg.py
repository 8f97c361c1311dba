"""Plots as inline SVG text: axes, ticks and marks, coloured by the page's style sheet.

Lengths are units of the view box; a page scales a plot to the width that it has.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WIDTH = 440
COLOURS = 8
"""Number of colours in the style sheet (``.c0`` to ``.c7``)."""
SHAPES = (
    "M-4.5 0A4.5 4.5 0 1 0 4.5 0A4.5 4.5 0 1 0-4.5 0Z",
    "M-4-4H4V4H-4Z",
    "M0-5.5L5 4H-5Z",
    "M0-5.8L5.8 0L0 5.8L-5.8 0Z",
    "M0 5.5L5-4H-5Z",
    "M-1.8-5H1.8V-1.8H5V1.8H1.8V5H-1.8V1.8H-5V-1.8H-1.8Z",
    "M-5-3L-3-5L0-2L3-5L5-3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
)
"""Outlines of marks around the origin; with eight colours, 56 methods look different."""


def esc(text: object) -> str:
    """Return text for HTML, quotes included."""
    return html.escape(str(text))


def number(value: float) -> str:
    """Return a coordinate with one digit after the point."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")


@dataclass
class Scale:
    """Places of values along an axis.

    Attributes:
        low: smallest value of the axis.
        high: largest value.
        start: place of ``low``.
        end: place of ``high``.
        log: whether equal ratios take equal room.
        zero: place of the value 0 on a logarithmic axis, None if no value is 0.

    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    zero: float | None = None

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        if self.log and value <= 0:
            return self.start if self.zero is None else self.zero
        low, high, x = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (x - low) / (high - low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return round values inside the axis."""
        if not self.log:
            return steps(self.low, self.high, count)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        tens = [10.0**k for k in range(first, last + 1)]
        fine = [t * f for t in tens for f in (1, 2, 5)]
        if self.high < 6 * self.low:
            return steps(self.low, self.high, count - 1)
        inside = [t for t in tens if self.low <= t <= self.high]
        many = inside if len(inside) > 2 else [t for t in fine if self.low <= t <= self.high]
        return many[:: max(1, math.ceil(len(many) / (count + 1)))]


def steps(low: float, high: float, count: int) -> list[float]:
    """Return round values from ``low`` to ``high``, about ``count`` of them."""
    raw = (high - low) / count
    base: float = 10.0 ** math.floor(math.log10(raw))
    step = next(base * f for f in (1, 2, 5, 10) if base * f >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 10) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def linear(values: Sequence[float], start: float, end: float, pad: float = 0.06) -> Scale:
    """Return an axis that holds all values with some room around them."""
    low, high = min(values), max(values)
    room = (high - low) * pad or max(abs(high) * pad, 0.5)
    return Scale(low - room, high + room, start, end)


def logarithmic(values: Sequence[float], start: float, end: float) -> Scale:
    """Return a logarithmic axis that holds all values; 0 has a place of its own at its start."""
    above = [v for v in values if v > 0] or [1.0]
    zero = start + 8 if any(v <= 0 for v in values) else None
    low, high = min(above) / 1.4, max(above) * 1.4
    return Scale(low, high, start + (34 if zero is not None else 0), end, True, zero)


def short(value: float) -> str:
    """Write a number for a tick: 1.2k, 3M."""
    for unit, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.4g}"


@dataclass
class Plot:
    """One plot with two axes.

    Attributes:
        title: for those who cannot see it.
        height: of the view box.
        x: horizontal axis.
        y: vertical axis.
        left: room for the numbers of the vertical axis.
        body: marks, in order of drawing.

    """

    title: str
    height: float
    x: Scale
    y: Scale
    left: float = 42
    body: list[str] = field(default_factory=list)

    def frame(self, x_name: str, y_name: str, x_text: Callable[[float], str] = short) -> None:
        """Draw grid lines, numbers and names of both axes."""
        top, bottom = self.y.end, self.y.start
        for tick in self.y.ticks():
            place = number(self.y(tick))
            self.body.append(f'<path class="grid" d="M{number(self.left)} {place}H{WIDTH - 8}"/>')
            self.text(self.left - 6, self.y(tick) + 4, short(tick), "end")
        for tick in self.x.ticks():
            place = number(self.x(tick))
            self.body.append(f'<path class="grid" d="M{place} {number(top)}V{number(bottom)}"/>')
            self.text(self.x(tick), bottom + 16, x_text(tick), "middle")
        if self.x.zero is not None:
            self.text(self.x.zero, bottom + 16, "0", "middle")
        self.text((self.left + WIDTH) / 2, bottom + 33, x_name, "middle", "name")
        self.text(4, top - 8, y_name, "start", "name")

    def text(
        self, x: float, y: float, text: str, anchor: str = "start", style: str = "tick"
    ) -> None:
        """Write text."""
        self.body.append(
            f'<text class="{style}" x="{number(x)}" y="{number(y)}" text-anchor="{anchor}">'
            f"{esc(text)}</text>"
        )

    def render(self, extra: str = "") -> str:
        """Return the SVG."""
        return (
            f'<svg viewBox="0 0 {WIDTH} {number(self.height)}" role="img" '
            f'aria-label="{esc(self.title)}"{extra}>{"".join(self.body)}</svg>'
        )


def mark(x: float, y: float, place: int, about: str) -> str:
    """Return a mark of method number ``place`` that says what it is."""
    return (
        f'<path class="mark c{place % COLOURS}" data-m="{place}" tabindex="0" role="img" '
        f'aria-label="{esc(about)}" data-tip="{esc(about)}" data-x="{number(x)}" '
        f'data-y="{number(y)}" transform="translate({number(x)} {number(y)})" '
        f'd="{SHAPES[place % len(SHAPES)]}"/>'
    )


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return a line through points as path data."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
