"""Everything that some runs say about methods: scores, ranks, ties and costs.

Runs meet on a board: one backbone, one protocol and one suite or family of data. Methods of one
board are compared; nothing is averaged across boards, and nothing over a missing cell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from . import published
from .collect import Collection, Missing, Run
from .paired import mean_score
from .stats import (
    Estimate,
    bootstrap,
    holm,
    least_p,
    mean_ranks,
    seeds_or_binomial,
    signed_rank,
)
from .tradeoff import ppt, pscp
from .variants import Variant, renamed, variants

ALPHA = 0.05
"""A method whose corrected p is larger cannot be told from the best."""
COSTS = ("trained", "bytes", "train_s", "step_ms", "memory")
BEST, TIED, WORSE, UNTESTED = "best", "tied", "worse", "untested"


@dataclass(frozen=True)
class Cost:
    """Means over runs; None where no run has the figure.

    Attributes:
        trained: parameters of the method, heads not counted.
        bytes: size of the stored adapter.
        train_s: seconds of all fits.
        step_ms: median time of a step, milliseconds.
        memory: peak memory of training, bytes.

    """

    trained: float | None
    bytes: float | None
    train_s: float | None
    step_ms: float | None
    memory: float | None


@dataclass(frozen=True)
class Score:
    """One figure of one method, with what it cost.

    Attributes:
        estimate: the figure and its interval.
        unit: ``%`` or the metric's name.
        sign: 1 where more is better, -1 where less is.
        cost: of the runs behind it.
        runs: these runs.

    """

    estimate: Estimate
    unit: str
    sign: int
    cost: Cost
    runs: tuple[Run, ...]

    @property
    def ppt(self) -> float | None:
        """V-PETL Bench's score; None where the figure is no share or its cost is unknown."""
        if self.unit != "%" or self.cost.trained is None:
            return None
        return ppt(self.estimate.value / 100, self.cost.trained)

    @property
    def pscp(self) -> float | None:
        """PEFT-Bench's score without its factor for FLOPs; None as for :attr:`ppt`."""
        if self.unit != "%" or self.cost.trained is None or self.cost.memory is None:
            return None
        return pscp(self.estimate.value / 100, self.cost.trained, self.cost.memory, flops=0.0)


@dataclass
class Line:
    """One method on a board.

    Attributes:
        variant: its runs.
        cells: task -> score; None where no run is finished.
        means: name of a mean -> score; None where something is missing.
        lacking: name of a mean -> what is missing, in words.
        rank: mean rank over tasks; None if a task is missing.
        ranks: task -> rank among the methods that have every task.
        standing: against the best: best, tied, worse or untested (too few pairs to tell anything);
            empty without a mean.
        p_holm: of the paired test against the best, after Holm.

    """

    variant: Variant
    cells: dict[str, Score | None]
    means: dict[str, Score | None]
    lacking: dict[str, str]
    rank: Estimate | None = None
    ranks: dict[str, float] = field(default_factory=dict)
    standing: str = ""
    p_holm: float | None = None

    @property
    def label(self) -> str:
        """What the method is called."""
        return self.variant.label

    @property
    def complete(self) -> bool:
        """Whether every task has a score."""
        return None not in self.cells.values()


@dataclass(frozen=True)
class Board:
    """Methods that were run with one backbone, under one protocol, on one family of data.

    Attributes:
        backbone: its name.
        protocol: its name.
        data: suite or family.
        tasks: all tasks, in order.
        overall: name of the mean by which methods are ordered.
        lines: methods, the best first.
        holes: (method, task, seed) of the grid without a finished run, with the reason.

    """

    backbone: str
    protocol: str
    data: str
    tasks: tuple[str, ...]
    overall: str
    lines: tuple[Line, ...]
    holes: tuple[Missing, ...]

    @property
    def title(self) -> str:
        """The board in words."""
        return f"{self.data}, {self.backbone}, protocol {self.protocol}"

    @property
    def split(self) -> str:
        """The split that its scores are of; trials of a search never read test."""
        return "val" if self.protocol == "search" else "test"

    @property
    def views(self) -> tuple[str, ...]:
        """What the methods can be ordered by: the means, then every task."""
        names = dict.fromkeys(name for line in self.lines for name in line.means)
        return (*names, *(self.tasks if len(self.tasks) > 1 else ()))

    def score(self, line: Line, view: str) -> Score | None:
        """Return a method's score in a view."""
        return line.means[view] if view in line.means else line.cells[view]


@dataclass(frozen=True)
class Summary:
    """All boards of some runs.

    Attributes:
        boards: by data, backbone and protocol.
        collection: the runs.
        superseded: runs that a newer one of the same method, task and seed replaces.
        lost: members of suites that never came to a run.

    """

    boards: tuple[Board, ...]
    collection: Collection
    superseded: tuple[Run, ...]
    lost: tuple[Missing, ...]


def summarise(collection: Collection, labels: Mapping[str, str] | None = None) -> Summary:
    """Put runs on boards and score them.

    Args:
        collection: the runs.
        labels: own label of a method -> label to show instead.

    Raises:
        ConfigError: no run is finished, or a label is on no board.

    """
    if not collection.finished:
        reasons = "\n".join(f"  {r.path}: {r.problem}" for r in collection.runs[:5])
        raise ConfigError(f"runs: none of the {len(collection.runs)} is finished\n{reasons}")
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in collection.runs:
        groups.setdefault(_place(run), []).append(run)
    superseded: list[Run] = []
    labels = labels or {}
    boards: list[Board] = []
    used: set[str] = set()
    for (data, backbone, protocol), runs in sorted(groups.items()):
        found = variants(runs, None, superseded)
        if named := {v.label: labels[v.label] for v in found if v.label in labels}:
            used |= set(named)
            found = renamed(found, named)
        boards.append(board(data, backbone, protocol, found))
    if unused := set(labels) - used:
        raise ConfigError(f"labels: no board has a method '{min(unused)}'")
    return Summary(tuple(boards), collection, tuple(superseded), collection.lost)


def _place(run: Run) -> tuple[str, str, str]:
    """Return data, backbone and protocol; sources of other runs are a family of their own."""
    names = run.config["names"]
    module = str(run.config["data"]["_target_"]).rpartition(".")[0]
    data = run.suite or module.rpartition(".")[2]
    if run.config.get("study") == "sources":
        data += ", sources of other runs"
    return data, str(names["backbone"]), str(run.config["protocol"]["name"])


def board(data: str, backbone: str, protocol: str, found: Sequence[Variant]) -> Board:
    """Score methods on the tasks that any of them has."""
    tasks = tuple(sorted({run.task for v in found for run in v.runs}))
    means = _means(data, tasks)
    lines = [_line(v, tasks, means) for v in found]
    overall = next(iter(means))
    whole = [line for line in lines if line.complete]
    _rank(whole, tasks)
    _test(whole, overall, tasks)
    lines.sort(key=lambda line: _order(line, overall))
    holes = tuple(_holes(found, tasks))
    return Board(backbone, protocol, data, tasks, overall, tuple(lines), holes)


def _means(data: str, tasks: Sequence[str]) -> dict[str, tuple[tuple[str, ...], list[float]]]:
    """Return name -> (tasks, weights) of every mean that these tasks can have."""
    if len(tasks) == 1:
        return {tasks[0]: (tuple(tasks), [1.0])}
    out = {f"mean of {len(tasks)} tasks": (tuple(tasks), [1 / len(tasks)] * len(tasks))}
    suite = published.suites().get(data)
    if suite is None or len(suite.groups) < 2:
        return out
    short = {task.rpartition("/")[2]: task for task in tasks}
    named = {suite.ours[name]: task for name, task in short.items() if name in suite.ours}
    if set(named) == set(suite.tasks):
        sizes = {key: len(members) for members in suite.groups.values() for key in members}
        weights = [1 / (len(suite.groups) * sizes[key]) for key in suite.tasks]
        out[f"mean of {len(suite.groups)} groups"] = (tuple(named[k] for k in suite.tasks), weights)
    for group, members in suite.groups.items():
        if len(members) > 1 and set(members) <= set(named):
            mine = tuple(named[key] for key in members)
            out[f"mean of {group}"] = (mine, [1 / len(mine)] * len(mine))
    return out


def _line(
    variant: Variant,
    tasks: Sequence[str],
    means: Mapping[str, tuple[tuple[str, ...], list[float]]],
) -> Line:
    cells = {task: cell(variant.scores(task)) for task in tasks}
    line = Line(variant, cells, {}, {})
    for name, (members, weights) in means.items():
        scores = [cells[task] for task in members]
        done = [score for score in scores if score is not None]
        line.means[name] = None
        if len(done) < len(members):
            line.lacking[name] = f"missing ({len(done)} of {len(members)} tasks)"
        elif len({(score.unit, score.sign) for score in done}) > 1:
            line.lacking[name] = "none: tasks have different units"
        elif len(members) == 1:
            line.means[name] = done[0]
        elif (mean := mean_score(variant, members, weights, bootstrap)) is None:
            line.lacking[name] = "missing (no seed has all tasks)"
        else:
            runs = tuple(run for score in done for run in score.runs)
            line.means[name] = Score(mean, done[0].unit, done[0].sign, cost(runs), runs)
    return line


def cell(scores: Mapping[int, Run]) -> Score | None:
    """Return the score of some seeds on one task, None if there is none."""
    if not scores:
        return None
    runs = tuple(scores.values())
    found = seeds_or_binomial([run.value for run in runs], runs[0].interval)
    return Score(found, runs[0].unit, runs[0].sign, cost(runs), runs)


def cost(runs: Iterable[Run]) -> Cost:
    """Return what runs cost on average."""
    results: list[Mapping[str, Any]] = [run.result for run in runs if run.result is not None]

    def mean(group: str, key: str) -> float | None:
        values = [(r.get(group) or {}).get(key) if group else r.get(key) for r in results]
        known = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
        return statistics.fmean(known) if known else None

    return Cost(
        mean("params", "trainable"),
        mean("", "artefact_bytes"),
        mean("cost", "train_s"),
        mean("cost", "step_ms_median"),
        mean("cost", "peak_memory_bytes"),
    )


def _rank(whole: Sequence[Line], tasks: Sequence[str]) -> None:
    """Give every complete method its ranks."""
    if not whole:
        return
    scores = [
        [[s.sign * run.value for run in s.runs] for s in line.cells.values() if s is not None]
        for line in whole
    ]
    for line, (mean, ranks) in zip(whole, mean_ranks(scores), strict=True):
        line.rank, line.ranks = mean, dict(zip(tasks, ranks, strict=True))


def _test(whole: Sequence[Line], overall: str, tasks: Sequence[str]) -> None:
    """Test every complete method against the best one over pairs of task and seed.

    Where a corrected p could not be small enough even if all pairs agreed, nothing is tested.
    """
    if not whole:
        return
    best = min(whole, key=lambda line: _order(line, overall))
    best.standing = BEST
    others = [line for line in whole if line is not best]
    pairs = [_differences(best, line, tasks) for line in others]
    p_values = [signed_rank(d) for d in pairs]
    found = [
        (line, d, p) for line, d, p in zip(others, pairs, p_values, strict=True) if p is not None
    ]
    corrected, least = holm([p for *_, p in found]), holm([least_p(d) for _, d, _ in found])
    for line in others:
        line.standing = UNTESTED
    for (line, *_), p, reachable in zip(found, corrected, least, strict=True):
        line.p_holm = p
        if reachable <= ALPHA:
            line.standing = TIED if p > ALPHA else WORSE


def _differences(best: Line, other: Line, tasks: Sequence[str]) -> list[float]:
    out = []
    for task in tasks:
        mine, theirs = best.variant.scores(task), other.variant.scores(task)
        out += [mine[s].sign * (mine[s].value - theirs[s].value) for s in mine.keys() & theirs]
    return out


def _order(line: Line, overall: str) -> tuple[int, float, str]:
    """The best mean first, then by mean rank, then what is incomplete."""
    score = line.means[overall]
    if score is not None:
        return 0, -score.sign * score.estimate.value, line.label
    if line.rank is not None:
        return 1, line.rank.value, line.label
    return 2, -sum(cell is not None for cell in line.cells.values()), line.label


def _holes(found: Sequence[Variant], tasks: Sequence[str]) -> list[Missing]:
    seeds = sorted({run.seed for v in found for run in v.runs})
    out = []
    for variant in found:
        states = {(run.task, run.seed): run for run in variant.runs}
        for task in tasks:
            for seed in seeds:
                run = states.get((task, seed))
                if run is None or run.result is None:
                    reason = "no run" if run is None else run.problem
                    out.append(Missing(variant.label, task, seed, reason))
    return out
