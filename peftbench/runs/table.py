"""What a person sees at the end of a run: a table of the result."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from .process import is_main

WIDTH = 80
UNSCALED = ("loss", "perplexity")
"""Metrics that are no shares of one."""
REASON = 160  # characters of an error in a table


def console_for(file: IO[str] | None = None) -> Console:
    """Return a console that is plain and ``WIDTH`` columns wide unless it is a terminal.

    Text is shown as it is: brackets in a message are no markup.
    """
    file = file or sys.stdout
    width = None if file.isatty() else WIDTH
    return Console(file=file, width=width, highlight=False, markup=False)


def show_result(result: Mapping[str, Any], path: Path, file: IO[str] | None = None) -> None:
    """Print the table of one ``result.json`` from the main process.

    Args:
        result: the content of ``result.json``.
        path: the run directory, printed under the table in one piece.
        file: where to print; standard output by default.

    """
    if not is_main():
        return
    title = f"{result['method']} on {result['backbone']}, {result['data']}, seed {result['seed']}"
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right")
    table.add_column()
    for row in (*_scores(result), *_deviations(result), *_costs(result)):
        table.add_row(*row)
    console = console_for(file)
    console.print(table)
    console.print(f"run directory: {path}", soft_wrap=True)


def _scores(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return rows of the primary metric on val and test."""
    name = result["primary"]["name"]
    rows = []
    for split in ("val", "test"):
        value = result["metrics"].get(split, {}).get(name)
        if value is None:
            continue
        bounds = interval_of(result, split, name)
        note = ""
        if bounds:
            note = f"95% interval {figure(name, bounds[0])} to {figure(name, bounds[1])}"
        if split == "test" and result["protocol"] == "paper":
            note += "; best epoch, chosen on test"
        rows.append((f"{name} {split}", with_unit(name, value), note))
    return rows


def _deviations(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return rows on what the data differ in from the published task."""
    found = deviations_of(result)
    return [("" if i else "not the published data", "", text) for i, text in enumerate(found)]


def deviations_of(result: Mapping[str, Any]) -> list[str]:
    """Return in what a run's data differ from the published task."""
    manifest = result["data_manifest"]
    return list(manifest.get("deviations", ())) if isinstance(manifest, Mapping) else []


def _costs(result: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return rows of parameters, bytes and time."""
    params, cost = result["params"], result["cost"]
    share = params["trainable"] / params["total"] if params["total"] else 0.0
    return [
        ("parameters trained", f"{params['trainable']:,}", f"method ({100 * share:.3f} % of all)"),
        ("", f"{params['head']:,}", "head"),
        ("adapter size", size(result["artefact_bytes"]), ""),
        ("time per step", f"{cost['step_ms_median']:.1f} ms", "median"),
        ("training time", f"{cost['train_s']:.1f} s", f"{cost['samples_per_s']:.0f} samples/s"),
    ]


def interval_of(result: Mapping[str, Any], split: str, name: str) -> Sequence[float] | None:
    """Return the 95% interval of a metric: as stored, else Wilson's from the manifest's count.

    Only the accuracy is a share of a count; any other metric without a stored interval has none.
    """
    stored: Sequence[float] | None = result.get("intervals", {}).get(split, {}).get(name)
    if stored is not None:
        return stored
    primary = result["primary"]
    if (primary["split"], primary["name"]) == (split, name):
        bounds: Sequence[float] = primary["ci95"]
        return bounds
    manifest = result["data_manifest"]
    if name != "accuracy" or not isinstance(manifest, Mapping):
        return None
    count = manifest.get("splits", {}).get(split, {}).get("count")
    if not count:
        return None
    from ..tasks.interval import wilson

    return wilson(round(result["metrics"][split][name] * count), count)


def show_suite(summary: Mapping[str, Any], path: Path, file: IO[str] | None = None) -> None:
    """Print the table of one ``suite.json`` from the main process."""
    if not is_main():
        return
    title = (
        f"{summary['method']} on {summary['backbone']}, {summary['suite']}, seed {summary['seed']}"
    )
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("task", no_wrap=True)
    table.add_column("result", justify="right")
    table.add_column("95% interval or reason", overflow="fold")
    for name, line in summary["tasks"].items():
        if "value" in line:
            low, high = line["ci95"]
            note = "; not the published data" if line.get("deviations") else ""
            own = line.get("name", "")
            bounds = f"{figure(own, low)} to {figure(own, high)}{note}"
            table.add_row(name, with_unit(own, line["value"]), bounds)
        else:
            table.add_row(name, "missing", _short(line.get("error", "")))
    table.add_section()
    for group, entry in summary["groups"].items():
        label = f"mean of {group}{_part(len(entry['tasks']), entry.get('of'))}"
        table.add_row(label, _mean(entry["mean"]), "")
    chosen = _part(len(summary["tasks"]), summary.get("of"))
    lacking = summary.get("missing", ())
    reason = (
        summary.get("reason", "") if len(lacking) < 4 else f"no result for {len(lacking)} tasks"
    )
    means = ("mean_of_groups", "mean_of_tasks") if summary["groups"] else ("mean_of_tasks",)
    for key in means:
        table.add_row(f"{key.replace('_', ' ')}{chosen}", _mean(summary[key]), reason)
    console = console_for(file)
    console.print(table)
    console.print(f"suite: {path}", soft_wrap=True)


def _part(chosen: int, of: int | None) -> str:
    """Say that a mean is not over all of its tasks, so that it is not taken for the usual one."""
    return f" ({chosen} of {of})" if of is not None and chosen < of else ""


def _short(error: str) -> str:
    """Return the beginning of an error that was printed in full above: no class, one sentence."""
    text = error.partition(": ")[2] or error
    return text if len(text) <= REASON else f"{text[: REASON - 1].rstrip()}…"


def _mean(value: float | None) -> str:
    return "missing" if value is None else f"{percent(value)} %"


def figure(name: str, value: float) -> str:
    """Write a metric: a share (or a correlation) in percent, a loss as it is."""
    return f"{value:.3f}" if name in UNSCALED else percent(value)


def with_unit(name: str, value: float) -> str:
    """Write a metric with its unit."""
    return figure(name, value) if name in UNSCALED else f"{percent(value)} %"


def percent(share: float) -> str:
    """Write a share of one as percent with one decimal."""
    return f"{100 * share:.1f}"


def size(count: int) -> str:
    """Write a number of bytes in the largest unit that leaves at least one."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
