"""A summary as one HTML file: tables and plots that need no network and no other file.

Tables and plots are written here, so that they can be read and printed without a script; the script
(``static/page.js``) sorts, filters, switches views and shows the runs behind a figure.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..files import write_text
from . import page_board
from .collect import Run
from .commands import command
from .summary import Summary
from .summary_tables import LISTED
from .svg import esc
from .tables import MISSING

STATIC = Path(__file__).parent / "static"


def check_path(path: str | None) -> None:
    """Refuse a name that is no page before anything is computed."""
    if path is not None and not path.endswith(".html"):
        raise ConfigError(f"html: '{path}' must end in .html")


def write(summary: Summary, path: str | Path) -> None:
    """Write the page; its links to runs are relative to where it lies."""
    place = Path(path)
    try:
        write_text(place, render(summary, place.resolve().parent))
    except OSError as error:
        raise ConfigError(f"html: {place} cannot be written ({error.strerror or error})") from error


def render(summary: Summary, folder: Path) -> str:
    """Return the page as text.

    Args:
        summary: what it shows.
        folder: where the page will lie.

    """
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    script = (STATIC / "page.js").read_text(encoding="utf-8")
    boards = [page_board.section(board, i) for i, board in enumerate(summary.boards)]
    data = embeddable(embedded(summary, folder))
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{esc(_title(summary))}</title><style>{style}</style>",
        "<noscript><style>[hidden]{display:revert!important}.controls{display:none!important}"
        "</style></noscript></head><body>",
        _header(summary),
        _controls(summary),
        f"<main>{''.join(boards)}{_missing(summary)}</main>",
        '<dialog id="runs" aria-labelledby="runs-title"></dialog><div id="tip" hidden></div>',
        f'<script type="application/json" id="data">{data}</script>',
        f"<script>{script}</script></body></html>\n",
    ]
    return "\n".join(parts)


def embeddable(value: Any) -> str:
    """Return a value as JSON that cannot end a script element."""
    data = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def embedded(summary: Summary, folder: Path) -> dict[str, Any]:
    """Return what the script knows: boards, methods, tasks and every run with its command."""
    runs: list[list[Any]] = []
    boards = []
    for b, board in enumerate(summary.boards):
        boards.append(
            {
                "title": board.title,
                "methods": [line.label for line in board.lines],
                "tasks": list(board.tasks),
            }
        )
        for m, line in enumerate(board.lines):
            for run in sorted(line.variant.runs, key=lambda r: (r.task, r.seed)):
                runs.append([b, m, board.tasks.index(run.task), *_row(run, folder)])
    keys = ["board", "method", "task", "seed", "value", "low", "high", "unit", "state"]
    return {"boards": boards, "keys": [*keys, "path", "command"], "runs": runs}


def _row(run: Run, folder: Path) -> list[Any]:
    done = run.result is not None
    figures = [run.value, *run.interval, run.unit] if done else [None, None, None, ""]
    path = os.path.relpath(run.path.absolute(), folder)
    return [run.seed, *figures, run.problem or "finished", path, command(run)]


def _title(summary: Summary) -> str:
    names = dict.fromkeys(board.data for board in summary.boards)
    return f"{', '.join(list(names)[:3])}: {len(summary.collection.runs)} runs"


def _header(summary: Summary) -> str:
    runs = summary.collection.runs
    done = summary.collection.finished
    failed = sum(run.problem.startswith("failed") for run in runs)
    open_ = len(runs) - len(done) - failed
    results = [run.result for run in done if run.result is not None]
    places = [r["environment"] for r in results]
    whens = sorted(run.written for run in done)
    facts = {
        "runs": f"{len(runs):,}: {len(done):,} finished, {failed:,} failed, {open_:,} not finished",
        "methods": f"{len({run.method for run in runs}):,}",
        "tasks": f"{len({run.task for run in runs}):,}",
        "backbones": _names(board.backbone for board in summary.boards),
        "protocols": _names(board.protocol for board in summary.boards),
        "devices": _names(str(p.get("device", "")) for p in places),
        "number formats": _names(str(p.get("dtype", "")) for p in places),
        "systems": _names(str(p.get("platform", "")) for p in places),
        "torch": _names(str(p.get("torch", "")) for p in places),
        "code": _names(str(p.get("code", "")) for p in places),
        "finished": f"{day(whens[0])} to {day(whens[-1])}",
    }
    items = "".join(f"<div><dt>{k}</dt><dd>{esc(v)}</dd></div>" for k, v in facts.items() if v)
    return (
        f"<header><h1>{esc(_title(summary))}</h1>"
        "<p>Methods are compared within one backbone, protocol and family of data. Click a figure "
        "for the runs behind it, their folders and their command lines.</p>"
        f"<dl>{items}</dl></header>"
    )


def _names(values: Iterable[str]) -> str:
    found = sorted(set(values) - {""})
    return ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")


def day(seconds: float) -> str:
    """Return a time as people read it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _controls(summary: Summary) -> str:
    boards = summary.boards
    lists = {
        "task": sorted({task for board in boards for task in board.tasks}),
        "method": sorted({line.variant.method for board in boards for line in board.lines}),
        "backbone": sorted({board.backbone for board in boards}),
        "protocol": sorted({board.protocol for board in boards}),
    }
    out = [
        '<form class="controls" id="controls" role="search" aria-label="Filter">',
        '<label>Filter <input type="search" id="filter" placeholder="part of a name" '
        'autocomplete="off"></label>',
    ]
    for name, values in lists.items():
        options = "".join(f'<option value="{esc(v)}">{esc(v)}</option>' for v in values)
        out.append(
            f'<label>{name.capitalize()} <select id="by-{name}"><option value="">all</option>'
            f"{options}</select></label>"
        )
    out.append('<button type="reset">Reset</button><output id="shown"></output></form>')
    if len(boards) > 1:
        links = "".join(f'<a href="#board-{i}">{esc(b.title)}</a>' for i, b in enumerate(boards))
        out.append(f'<nav aria-label="Boards">{links}</nav>')
    return "".join(out)


def _missing(summary: Summary) -> str:
    """List what failed, was stopped or never came to a run, and what a newer run replaced."""
    rows = [
        (run.method, run.task, run.seed, run.problem)
        for run in summary.collection.runs
        if run.result is None
    ]
    rows += [(m.method, m.task, m.seed, m.reason) for m in summary.lost]
    rows += [
        (r.method, r.task, r.seed, f"left out: a newer run has its place ({r.path.name})")
        for r in summary.superseded
    ]
    if not rows:
        return ""
    body = "".join(
        "<tr>" + "".join(f"<td>{esc(cell)}</td>" for cell in row) + "</tr>"
        for row in rows[: 10 * LISTED]
    )
    more = f"<p>{len(rows) - 10 * LISTED:,} more</p>" if len(rows) > 10 * LISTED else ""
    return (
        f'<section class="missing"><h2>Without a result: {len(rows):,}</h2><div class="wide">'
        "<table><thead><tr><th>method</th><th>task</th><th>seed</th><th>reason</th></tr></thead>"
        f"<tbody>{body}</tbody></table></div>{more}<p>Such cells are shown as {MISSING}; no "
        "mean is taken over the rest.</p></section>"
    )
