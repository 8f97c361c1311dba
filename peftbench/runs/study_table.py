"""What a person sees of a sweep: the list of its runs, and one table of the study at its end."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any, get_args

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .process import is_main
from .states import State
from .table import REASON, console_for, figure


@dataclass(frozen=True)
class Entry:
    """What is shown of one run.

    Attributes:
        run_id: its identity.
        path: its directory.
        row: method and settings, a row of the table.
        data: task, a column.
        seed: its seed.
        source: whether it serves other runs alone.

    """

    run_id: str
    path: str
    row: str
    data: str
    seed: int
    source: bool


def show_states(
    entries: Sequence[Entry],
    states: Mapping[str, tuple[State, str]],
    left: str,
    file: IO[str] | None = None,
) -> None:
    """Print every run with its state, and the time that is left.

    Args:
        entries: the runs.
        states: by run id, with an error or a holder.
        left: the estimate in words.
        file: where to print; standard output by default.

    """
    if not is_main():
        return
    table = Table(box=SIMPLE_HEAD)
    for name in ("state", "run", "method", "data", "seed"):
        table.add_column(name, no_wrap=name in ("state", "run"))
    notes = []
    for entry in entries:
        state, note = states[entry.run_id]
        row = f"source {entry.row}" if entry.source else entry.row
        table.add_row(state, entry.run_id, row, entry.data, str(entry.seed))
        if note:
            notes.append(f"{entry.run_id}: {short(note)}")
    console = console_for(file)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(f"{counted(entries, states)}; time left: {left}", soft_wrap=True)


def show_study(
    entries: Sequence[Entry],
    results: Mapping[str, Mapping[str, Any]],
    file: IO[str] | None = None,
) -> None:
    """Print means over seeds, methods by tasks; what is missing is said to be.

    Args:
        entries: the runs.
        results: content of ``result.json`` by run id.
        file: where to print; standard output by default.

    """
    if not is_main():
        return
    shown = [entry for entry in entries if not entry.source]
    columns = list(dict.fromkeys(entry.data for entry in shown))
    seeds = sorted({entry.seed for entry in shown})
    over = f"mean over {len(seeds)} seeds" if len(seeds) > 1 else f"seed {seeds[0]}"
    table = Table(title=f"test, {over}", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("method", overflow="fold")
    names = {d: _metric(d, shown, results) for d in columns}
    for data in columns:
        table.add_column(f"{data}\n{names[data]}" if names[data] else data, justify="right")
    for row in dict.fromkeys(entry.row for entry in shown):
        cells = []
        for data in columns:
            here = [e for e in shown if (e.row, e.data) == (row, data)]
            cells.append(_cell(here, results, names[data]))
        table.add_row(row, *cells)
    console_for(file).print(table)


def _metric(
    data: str, entries: Sequence[Entry], results: Mapping[str, Mapping[str, Any]]
) -> str | None:
    found = (results[e.run_id] for e in entries if e.data == data and e.run_id in results)
    return next((str(result["primary"]["name"]) for result in found), None)


def _cell(
    entries: Sequence[Entry], results: Mapping[str, Mapping[str, Any]], name: str | None
) -> str:
    """Write the mean of a cell, and of how many of its runs where some are missing."""
    if not entries:
        return "-"
    values = [results[e.run_id]["primary"]["value"] for e in entries if e.run_id in results]
    if not values or name is None:
        return "missing"
    text = figure(name, statistics.mean(values))
    return text if len(values) == len(entries) else f"{text} ({len(values)} of {len(entries)})"


def counted(entries: Sequence[Entry], states: Mapping[str, tuple[State, str]]) -> str:
    """Return how many runs there are of each state: ``24 runs: 20 done, 4 to do``."""
    found = [states[entry.run_id][0] for entry in entries]
    counts = {state: found.count(state) for state in get_args(State)}
    parts = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return f"{runs(len(entries))}: {parts}"


def runs(count: int) -> str:
    """Write a number of runs."""
    return f"{count} run{'s' if count != 1 else ''}"


def short(text: str) -> str:
    """Return the first line of an error, cut to what a list has room for."""
    line = text.strip().partition("\n")[0]
    return line if len(line) <= REASON else f"{line[: REASON - 1].rstrip()}…"
