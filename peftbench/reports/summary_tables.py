"""A summary as tables for a person, and as unrounded lines for a program."""

from __future__ import annotations

from typing import Any

from .collect import Run
from .paired import missing_notes
from .stats import Estimate
from .summary import ALPHA, BEST, TIED, UNTESTED, Board, Line, Score, Summary, cost
from .tables import MISSING, Table, flat, score

MARKS = {BEST: "best", TIED: "~", UNTESTED: "?"}
LISTED = 20
"""So many missing results are named one by one; the rest are counted."""


def tables(summary: Summary) -> list[Table]:
    """Return scores and costs of every board, then what is missing."""
    out = []
    for board in summary.boards:
        out += [_scores(board), _costs(board)]
    notes = missing_notes(summary.lost)
    notes += [f"left out, a newer run has its place: {run.path}" for run in summary.superseded]
    out[-1].notes += notes
    return out


def _scores(board: Board) -> Table:
    means = list(board.lines[0].means)
    tasks = [task for task in board.tasks if task not in means]
    table = Table(
        f"{board.title}: {board.split} scores{unit_note(board)}",
        ["method", "", *means, *(["mean rank"] if tasks else []), *tasks],
        words=[""],
    )
    for line in board.lines:
        cells = [mean_text(line, name) for name in means]
        cells += [rank_text(line)] if tasks else []
        cells += [MISSING if (s := line.cells[t]) is None else score_text(s) for t in tasks]
        table.rows.append([line.label, MARKS.get(line.standing, ""), *cells])
    table.notes = score_notes(board) + hole_notes(board)
    return table


def unit_note(board: Board) -> str:
    """Say in which unit a board's figures are, and where less is better."""
    found = {s.unit: s.sign for line in board.lines for s in line.cells.values() if s is not None}
    parts = [f"{unit}{'' if sign > 0 else ' (less is better)'}" for unit, sign in found.items()]
    return f", {', '.join(sorted(parts))}" if parts else ""


def score_notes(board: Board) -> list[str]:
    """Return what a reader must know of scores, marks and ranks."""
    whole = sum(line.complete for line in board.lines)
    notes = [
        "value [95% interval] (seeds): bootstrap over seeds; (b): one seed, binomial interval of "
        "its test samples"
    ]
    if whole > 1:
        notes.append(
            f"best: the best mean; ~: not told apart from it (paired Wilcoxon test over tasks and "
            f"seeds, p > {ALPHA:g} after Holm); ?: too few pairs for a test"
        )
    if len(board.tasks) > 1:
        notes.append(
            f"mean rank over {len(board.tasks)} tasks among the {whole} of {len(board.lines)} "
            "methods that have every task [95%, bootstrap of tasks and seeds]"
        )
    for line in board.lines:
        if line.variant.per_task:
            notes.append(f"{line.label}: set per task: {', '.join(line.variant.per_task)}")
        notes += [f"{line.label}: {text}" for text in line.variant.searched]
    return notes


def hole_notes(board: Board) -> list[str]:
    """Name what is missing: runs that failed or stopped first, then those never begun."""
    ordered = sorted(board.holes, key=lambda hole: hole.reason == "no run")
    notes = missing_notes(ordered[:LISTED])
    if len(ordered) > LISTED:
        notes.append(f"missing: {len(ordered) - LISTED} more of methods, tasks and seeds")
    return notes


def score_text(found: Score) -> str:
    """Write a score in its unit; shares with one digit, other figures with three."""
    if found.unit == "%":
        return score(found.estimate)
    return plain(found.estimate, 3)


def plain(estimate: Estimate, digits: int) -> str:
    """Write an estimate with some digits after the point."""
    text = f"{estimate.value:.{digits}f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{estimate.low:.{digits}f}, {estimate.high:.{digits}f}]"
    return f"{text} ({'b' if estimate.kind.startswith('binomial') else estimate.n})"


def mean_text(line: Line, name: str) -> str:
    """Write a mean, or what it lacks."""
    found = line.means[name]
    return line.lacking[name] if found is None else score_text(found)


def rank_text(line: Line) -> str:
    """Write a mean rank with its interval."""
    if line.rank is None:
        return MISSING
    return f"{line.rank.value:.1f} [{line.rank.low:.1f}, {line.rank.high:.1f}]"


COST_HEAD = ("trained", "adapter", "train s", "step ms", "memory", "PPT", "PSCP")


def _costs(board: Board) -> Table:
    table = Table(
        f"{board.title}: cost",
        ["method", *COST_HEAD, "finished runs"],
        notes=[
            "means over the runs of every task, none where one is missing; "
            "trained: parameters without heads; memory: peak of training; times "
            "compare only on one machine with equal load",
            f"PPT (V-PETL Bench), PSCP (PEFT-Bench, weights 1, without its factor for added FLOPs, "
            f"which runs do not record): of {board.overall}",
        ],
    )
    for line in board.lines:
        done = f"{len(line.variant.finished)} of {len(line.variant.runs)}"
        found = line.means[board.overall]
        cells = cost_texts(found)
        table.rows.append([line.label, *cells, done])
    return table


def cost_texts(found: Score | None) -> list[str]:
    """Write the columns of :data:`COST_HEAD`; a figure that no run has is ``-``."""
    if found is None:
        return ["-"] * len(COST_HEAD)
    spent = found.cost
    return [
        "-" if spent.trained is None else f"{spent.trained:,.0f}",
        "-" if spent.bytes is None else size(spent.bytes),
        "-" if spent.train_s is None else f"{spent.train_s:,.1f}",
        "-" if spent.step_ms is None else f"{spent.step_ms:,.1f}",
        "-" if spent.memory is None else size(spent.memory),
        "-" if found.ppt is None else f"{found.ppt:.3f}",
        "-" if found.pscp is None else f"{found.pscp:.3f}",
    ]


def size(count: float) -> str:
    """Write a number of bytes with three digits."""
    units = ["B", "KB", "MB", "GB", "TB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.3g} {units[0]}"


def records(summary: Summary) -> list[dict[str, Any]]:
    """Return every figure unrounded: a line per mean, per cell and per run."""
    out: list[dict[str, Any]] = []
    for board in summary.boards:
        where = {"data": board.data, "backbone": board.backbone, "protocol": board.protocol}
        for line in board.lines:
            for name, found in line.means.items():
                own = {"rank": "" if line.rank is None else line.rank.value}
                own |= {"standing": line.standing} if name == board.overall else {}
                own |= {"p_holm": _or_empty(line.p_holm)} if name == board.overall else {}
                out.append(_record("mean", where, line, name, found) | own)
            for task, found in line.cells.items():
                own = {"rank": line.ranks.get(task, "")}
                out.append(_record("cell", where, line, task, found) | own)
            out += [_run(where, line, run) for run in line.variant.runs]
    return out


def _record(
    what: str, where: dict[str, str], line: Line, task: str, found: Score | None
) -> dict[str, Any]:
    spent = None if found is None else found.cost
    return {
        "what": what,
        **where,
        "method": line.label,
        "task": task,
        "seed": "",
        "metric": "" if found is None else found.runs[0].metric,
        "unit": "" if found is None else found.unit,
        "higher_is_better": "" if found is None else found.sign > 0,
        **flat(None if found is None else found.estimate),
        "rank": "",
        "standing": "",
        "p_holm": "",
        "trained": "" if spent is None else _or_empty(spent.trained),
        "artefact_bytes": "" if spent is None else _or_empty(spent.bytes),
        "train_s": "" if spent is None else _or_empty(spent.train_s),
        "step_ms": "" if spent is None else _or_empty(spent.step_ms),
        "peak_memory_bytes": "" if spent is None else _or_empty(spent.memory),
        "ppt": "" if found is None else _or_empty(found.ppt),
        "pscp": "" if found is None else _or_empty(found.pscp),
        "state": "finished" if found is not None else MISSING,
        "path": "",
    }


def _run(where: dict[str, str], line: Line, run: Run) -> dict[str, Any]:
    found = None
    if run.result is not None:
        alone = Estimate(run.value, *run.interval, 1, "binomial, one seed")
        found = Score(alone, run.unit, run.sign, cost([run]), (run,))
    return _record("run", where, line, run.task, found) | {
        "seed": run.seed,
        "state": run.problem or "finished",
        "path": str(run.path),
    }


def _or_empty(value: Any) -> Any:
    return "" if value is None else value
