"""The rows of ``metrics.jsonl``: all figures of one step together, as trackers want them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """The figures of one step.

    Attributes:
        step: optimiser steps done, over all phases of the run.
        epoch: epochs done, within the phase.
        seconds: since the attempt began that logged it.
        values: figure by ``split/name``.

    """

    step: int
    epoch: float
    seconds: float
    values: Mapping[str, float]

    def with_more(self, other: Row) -> Row:
        """Return this row with the figures of another one of the same step."""
        return dataclasses.replace(other, values={**self.values, **other.values})


def history(path: Path) -> Iterator[Row]:
    """Yield the rows of a ``metrics.jsonl`` in order; nothing where there is no such file.

    A torn last line, as a killed writer leaves it, is left out.
    """
    held: Row | None = None
    for line in path.read_text(encoding="utf-8").split("\n") if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        value = entry["value"]
        figure = float(entry["non_finite"] if value is None else value)
        name = f"{entry['split']}/{entry['name']}"
        row = Row(entry["step"], entry["epoch"], entry["seconds"], {name: figure})
        if held is not None and held.step != row.step:
            yield held
            held = None
        held = row if held is None else held.with_more(row)
    if held is not None:
        yield held
