"""One board of the page: leaderboard, plots against cost, heat map, differences, curves."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import ConfigError
from . import compare, plots, published
from .collect import Collection
from .curves import POINTS, RUNS, Curve, chosen, read
from .plots import Gap
from .stats import hierarchical
from .summary import BEST, TIED, UNTESTED, WORSE, Board, Line, Score
from .summary_tables import (
    COST_HEAD,
    cost_texts,
    hole_notes,
    mean_text,
    rank_text,
    score_notes,
    score_text,
    unit_note,
)
from .svg import COLOURS, SHAPES, esc
from .tables import MISSING

STANDINGS = {
    BEST: ("best", "the best mean"),
    TIED: ("≈ best", "not told apart from the best"),
    WORSE: ("", "worse than the best"),
    UNTESTED: ("?", "too few pairs for a test"),
}


def section(board: Board, number: int) -> str:
    """Return a board as a section of the page."""
    views = "".join(_view(board, number, v, view) for v, view in enumerate(board.views))
    options = "".join(f'<option value="{v}">{esc(n)}</option>' for v, n in enumerate(board.views))
    chooser = (
        f'<label class="controls">Show <select data-views="{number}">{options}</select></label>'
        if len(board.views) > 1
        else ""
    )
    notes = "".join(f"<li>{esc(note)}</li>" for note in score_notes(board) + hole_notes(board))
    tasks = "|".join(("", *board.tasks, ""))
    return (
        f'<section class="board" id="board-{number}" data-b="{number}" '
        f'data-backbone="{esc(board.backbone)}" data-protocol="{esc(board.protocol)}" '
        f'data-tasks="{esc(tasks)}"><h2>{esc(board.title)}</h2>'
        f'<p class="sub">{len(board.lines)} methods, '
        f"tasks: {len(board.tasks)}{unit_note(board)}</p>"
        f"{chooser}{views}{_heat(board, number)}<div class='pair'>{_differences(board)}"
        f"{_published(board)}{_curves(board, number)}</div><details>"
        "<summary>How to read this, and what is missing</summary>"
        f"<ul>{notes}</ul></details></section>"
    )


def _view(board: Board, number: int, place: int, view: str) -> str:
    """Return leaderboard and plots of one mean or task."""
    charts = [plots.scatter(board, view, what) for what in plots.AXES]
    figures = "".join(
        f"<figure>{chart}<figcaption>{esc(view)} against {esc(plots.AXES[what][0])}; the line is "
        "the Pareto front</figcaption></figure>"
        for what, chart in zip(plots.AXES, charts, strict=True)
        if chart
    )
    return (
        f'<div class="view" data-view="{place}" data-name="{esc(view)}"'
        f'{"" if place == 0 else " hidden"}><div class="wide">{_leaderboard(board, number, view)}'
        f'</div><div class="figures">{figures}</div></div>'
    )


def _leaderboard(board: Board, number: int, view: str) -> str:
    means = list(board.lines[0].means)
    first = view == board.overall
    others = [name for name in means[1:] if name.endswith("groups")] if first else []
    ranked = len(board.tasks) > 1
    head = ["method", view, "vs best" if first else "", *others]
    head += ["mean rank" if first else "rank"] if ranked else []
    head += [*COST_HEAD, "runs"]
    titles = [h for h in head if h]
    cells = "".join(
        f'<th scope="col" aria-sort="none"><button type="button">{esc(h)}</button></th>'
        for h in titles
    )
    ordered = sorted(range(len(board.lines)), key=lambda i: _key(board, i, view))
    rows = "".join(_row(board, number, i, view, others, ranked) for i in ordered)
    return (
        f'<table class="leaders"><caption>{esc(view)}</caption><thead><tr>{cells}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _key(board: Board, i: int, view: str) -> tuple[bool, float, int]:
    found = board.score(board.lines[i], view)
    return found is None, 0 if found is None else -found.sign * found.estimate.value, i


def _row(board: Board, number: int, i: int, view: str, others: Sequence[str], ranked: bool) -> str:
    line = board.lines[i]
    found = board.score(line, view)
    first = view == board.overall
    task = board.tasks.index(view) if view in board.tasks else -1
    out = [f'<th scope="row">{_name(line, i)}</th>']
    text = mean_text(line, view) if view in line.means else _task_text(line, view)
    out.append(_cell(_figure(number, i, task, text), _value(found)))
    if first:
        word, about = STANDINGS.get(line.standing, ("", ""))
        p = "" if line.p_holm is None else f", p = {line.p_holm:.2g} after Holm"
        order = list(STANDINGS).index(line.standing) if line.standing in STANDINGS else 9
        chip = f'<span class="chip {line.standing}" title="{esc(about + p)}">{word}</span>'
        out.append(_cell(chip if word else "", order))
    for name in others:
        out.append(_cell(_figure(number, i, -1, mean_text(line, name)), _value(line.means[name])))
    if ranked and first:
        out.append(_cell(esc(rank_text(line)), None if line.rank is None else line.rank.value))
    elif ranked:
        rank = line.ranks.get(view)
        out.append(_cell(MISSING if rank is None else f"{rank:g}", rank))
    out += [_cell(esc(t), v) for t, v in zip(cost_texts(found), _costs(found), strict=True)]
    runs = [r for r in line.variant.runs if task < 0 or r.task == view]
    done = sum(r.result is not None for r in runs)
    out.append(_cell(_figure(number, i, task, f"{done} of {len(runs)}"), done))
    return f'<tr data-m="{i}" data-method="{esc(line.variant.method)}">{"".join(out)}</tr>'


def _task_text(line: Line, task: str) -> str:
    found = line.cells[task]
    return MISSING if found is None else score_text(found)


def _costs(found: Score | None) -> list[float | None]:
    if found is None:
        return [None] * len(COST_HEAD)
    spent = found.cost
    own = [spent.trained, spent.bytes, spent.train_s, spent.step_ms, spent.memory]
    return [*own, found.ppt, found.pscp]


def _value(found: Score | None) -> float | None:
    return None if found is None else found.estimate.value


def _cell(content: str, value: float | None) -> str:
    return f'<td data-v="{"" if value is None else repr(float(value))}">{content}</td>'


def _figure(board: int, method: int, task: int, text: str) -> str:
    """Return a figure that leads to its runs; task -1 stands for all tasks."""
    return (
        f'<button type="button" class="figure" data-b="{board}" data-m="{method}" data-t="{task}">'
        f"{esc(text)}</button>"
    )


def _name(line: Line, place: int) -> str:
    shape = f'<path class="c{place % COLOURS}" d="{SHAPES[place % len(SHAPES)]}"/>'
    return (
        f'<svg class="key" viewBox="-7 -7 14 14" aria-hidden="true">{shape}</svg>'
        f'<span title="{esc(line.label)}">{esc(line.label)}</span>'
    )


def _heat(board: Board, number: int) -> str:
    """Return methods by tasks, each column coloured from its worst to its best."""
    if len(board.tasks) < 2:
        return ""
    head = "".join(f'<th scope="col">{esc(task)}</th>' for task in board.tasks)
    spans = {task: _span(board, task) for task in board.tasks}
    rows = []
    for i, line in enumerate(board.lines):
        cells = [f'<th scope="row">{_name(line, i)}</th>']
        for t, task in enumerate(board.tasks):
            cells.append(_heat_cell(line, task, spans[task], _figure(number, i, t, "{}")))
        rows.append(
            f'<tr data-m="{i}" data-method="{esc(line.variant.method)}">{"".join(cells)}</tr>'
        )
    return (
        '<h3>Tasks and methods</h3><div class="wide"><table class="heat"><thead><tr>'
        f'<th scope="col">method</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        "</div>"
        '<p class="scale"><span>worst of the task</span><i></i><span>best of the task</span></p>'
    )


def _span(board: Board, task: str) -> tuple[float, float]:
    found = [s.sign * s.estimate.value for line in board.lines if (s := line.cells[task])]
    return (min(found), max(found)) if found else (0.0, 0.0)


def _heat_cell(line: Line, task: str, span: tuple[float, float], button: str) -> str:
    found = line.cells[task]
    if found is None:
        return f'<td class="none">{button.replace("{}", MISSING)}</td>'
    low, high = span
    own = found.sign * found.estimate.value
    warmth = 0.5 if high == low else (own - low) / (high - low)
    rank = f", rank {line.ranks[task]:g}" if task in line.ranks else ""
    text = f"{found.estimate.value:.{1 if found.unit == '%' else 3}f}"
    about = esc(f"{line.label}, {task}: {score_text(found)}{rank}")
    return f'<td style="--t:{warmth:.2f}" data-tip="{about}">{button.replace("{}", text)}</td>'


def _differences(board: Board) -> str:
    """Return the paired differences of every method to the best one."""
    found = [line for line in board.lines if line.complete]
    best = next((line for line in found if line.standing == BEST), None)
    units = {s.unit for line in found for s in line.cells.values() if s is not None}
    if best is None or len(units) != 1:
        return ""
    rows = []
    for i, line in enumerate(board.lines):
        if line is best or not line.complete:
            continue
        pairs = [_pairs(best, line, task) for task in board.tasks]
        if not all(pairs):
            continue
        gap = hierarchical(pairs)
        text = f"{gap.value:+.2f}"
        if gap.low is not None and gap.high is not None:
            text += f" [{gap.low:+.2f}, {gap.high:+.2f}]"
        text += "" if line.p_holm is None else f", p {line.p_holm:.2g}"
        faint = line.standing != WORSE
        rows.append(Gap(line.label, gap.value, gap.low, gap.high, text, i, faint))
    if not rows:
        return ""
    unit = "percentage points" if units == {"%"} else units.pop()
    title = f"difference to {best.label}, {unit}"
    return (
        f'<div><h3>Differences to the best</h3><figure class="tall">'
        f"{plots.gaps(title, rows, title)}"
        "<figcaption>pairs of one task and seed; interval: bootstrap of tasks and their pairs, for "
        "one task Student's t over pairs; p: Wilcoxon signed rank, after Holm; faint: not told "
        "apart</figcaption></figure></div>"
    )


def _pairs(best: Line, other: Line, task: str) -> list[float]:
    mine, theirs = other.variant.scores(task), best.variant.scores(task)
    return [mine[s].value - theirs[s].value for s in sorted(mine.keys() & theirs)]


def _published(board: Board) -> str:
    """Return differences to what is published, where a comparison means something."""
    if board.data not in published.suites() or not published.find(board.data):
        return ""
    runs = tuple(run for line in board.lines for run in line.variant.runs)
    try:
        own = Collection(runs).of_suite(board.data)
    except ConfigError as error:
        return f"<div><h3>Beside published figures</h3><p>{esc(error)}</p></div>"
    report = compare.beside(board.data, [line.variant for line in board.lines], own)
    keys = [k for k, kind in report.suite.means.items() if kind in ("tasks", "groups")]
    keys = keys or list(report.suite.tasks)
    rows: list[Gap] = []
    odd: dict[str, None] = {}
    for i, block in enumerate(report.blocks):
        for source in block.sources:
            if not source.comparable:
                odd[f"{block.title}: {source.standing}"] = None
            for key in keys:
                rows += _published_gap(report, block, source, key, i)
    if not rows and not odd:
        return ""
    title = "ours minus published, percentage points"
    plot = f'<figure class="tall">{plots.gaps(title, rows, title)}</figure>' if rows else ""
    notes = "".join(f"<li>{esc(text)}</li>" for text in odd)
    return (
        f"<div><h3>Beside published figures</h3>{plot}<p>Interval: ours, Student's t over "
        "seeds (one seed: binomial). Faint: the published figure lies inside it. Every "
        f"figure with its source: report.py published suite={esc(board.data)}.</p>"
        f"<ul>{notes}</ul></div>"
    )


def _published_gap(
    report: compare.Beside,
    block: compare.Block,
    source: compare.Source,
    key: str,
    place: int,
) -> list[Gap]:
    ours = block.ours.scores[key] if block.ours else None
    word = compare.verdict(block.ours, source, key)
    if ours is None or key not in source.rows or word == "not comparable":
        return []
    theirs = source.rows[key].value
    low = None if ours.low is None else ours.low - theirs
    high = None if ours.high is None else ours.high - theirs
    text = f"{ours.value - theirs:+.2f} ({ours.value:.1f} against {theirs:.2f})"
    label = f"{block.title}, {key}: {source.about.paper}"
    return [Gap(label, ours.value - theirs, low, high, text, place, word == "inside")]


def _curves(board: Board, number: int) -> str:
    """Return a plot of learning curves per task and logged figure, one shown at a time."""
    finished = [run for line in board.lines for run in line.variant.runs]
    places = {run.path: i for i, line in enumerate(board.lines) for run in line.variant.runs}
    panels: dict[tuple[str, str], list[tuple[int, str, Curve]]] = {}
    shown = chosen(finished)
    for run in shown:
        place = places[run.path]
        for name, curve in read(run).items():
            label = f"{board.lines[place].label}, seed {run.seed}"
            panels.setdefault((run.task, name), []).append((place, label, curve))
    if not panels:
        return ""
    figures = "".join(
        f'<figure data-task="{esc(task)}" data-name="{esc(name)}"{"" if k == 0 else " hidden"}>'
        f"{plots.curves(f'{name} on {task}', found, name)}"
        f"<figcaption>{esc(name)} on {esc(task)}, one line per run</figcaption></figure>"
        for k, ((task, name), found) in enumerate(panels.items())
    )
    lists = [list(dict.fromkeys(key[k] for key in panels)) for k in (0, 1)]
    choosers = "".join(
        f'<label class="controls">{word} <select data-curves="{number}" data-of="{of}">'
        + "".join(f'<option value="{esc(v)}">{esc(v)}</option>' for v in values)
        + "</select></label>"
        for word, of, values in (("Task", "task", lists[0]), ("Figure", "name", lists[1]))
    )
    total = sum(run.result is not None for run in finished)
    rule = (
        f" Curves of {len(shown)} of {total} runs: the lowest seeds first, {RUNS} at most."
        if len(shown) < total
        else ""
    )
    return (
        f'<div><h3>Learning curves</h3><div class="choosers">{choosers}</div>'
        f'<div class="curve-set" data-b="{number}">{figures}</div><p class="sub">'
        f"Up to {POINTS} points of a run, evenly chosen."
        f"{rule}</p></div>"
    )
