"""Learning curves: the lines of ``metrics.jsonl``, thinned out for a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..runs.store import RunDir
from .collect import PERCENT, Run

RUNS = 300
"""A page shows the curves of so many runs at most: low seeds before high ones."""
POINTS = 60
"""A curve shows so many points at most: evenly chosen, the first and the last among them."""
WANTED = (("val", ""), ("val", "loss"), ("train", "loss"))
"""Split and name of what is shown; an empty name is the primary figure."""


@dataclass(frozen=True)
class Curve:
    """One logged figure of one run.

    Attributes:
        steps: optimiser steps, never falling.
        values: the figure at each, as it was logged.

    """

    steps: tuple[float, ...]
    values: tuple[float, ...]


def chosen(runs: Sequence[Run]) -> list[Run]:
    """Return the runs whose curves are shown: the lowest seeds of every method and task first."""
    finished = [run for run in runs if run.result is not None]
    return sorted(finished, key=lambda run: (run.seed, run.task, run.path.name))[:RUNS]


def read(run: Run) -> dict[str, Curve]:
    """Return the curves of a run by ``split name``; none of a run without a readable log.

    Lines that are torn or hold no finite value are left out. The steps of a final fit follow
    those of the first. The primary figure is in the unit of :attr:`Run.unit`.
    """
    wanted = dict.fromkeys((split, name or run.metric) for split, name in WANTED)
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        text = RunDir(run.path).metrics.read_text(encoding="utf-8")
    except OSError:
        return {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
            key = (entry["split"], entry["name"])
            if key in wanted and entry["value"] is not None:
                found.setdefault(key, []).append((float(entry["step"]), float(entry["value"])))
        except (ValueError, KeyError, TypeError):
            continue
    scale = PERCENT if run.unit == "%" else 1.0
    return {
        f"{key[0]} {key[1]}": _thin(
            [(x, y * (scale if key[1] == run.metric else 1.0)) for x, y in found[key]]
        )
        for key in wanted
        if key in found
    }


def _thin(points: Sequence[tuple[float, float]]) -> Curve:
    last = len(points) - 1
    places = sorted({round(k * last / (POINTS - 1)) for k in range(POINTS)})
    kept = [points[i] for i in places]
    return Curve(tuple(p[0] for p in kept), tuple(p[1] for p in kept))
