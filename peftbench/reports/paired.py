"""Methods against each other on the same tasks and seeds."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from .collect import Collection, Missing
from .stats import (
    EQUAL,
    Estimate,
    hierarchical,
    holm,
    mean_of_tasks,
    over_seeds,
    signed_rank,
    t_interval,
)
from .tables import MISSING, Table, difference, flat, score
from .variants import Variant, pick


@dataclass(frozen=True)
class Comparison:
    """One method minus the base.

    Attributes:
        label: the method.
        tasks: per task the mean difference over pairs of the same seed, percentage points; None
            where there is no pair.
        overall: over all tasks that have a pair; None if there is none.
        pairs: number of (task, seed) pairs.
        wins: pairs in which the method is better.
        ties: pairs that are equal.
        losses: pairs in which the base is better.
        p: Wilcoxon's signed-rank test over all pairs; None if it cannot be made.
        p_holm: ``p`` corrected for the number of comparisons of the report.

    """

    label: str
    tasks: dict[str, Estimate | None]
    overall: Estimate | None
    pairs: int
    wins: int
    ties: int
    losses: int
    p: float | None
    p_holm: float | None

    @property
    def covered(self) -> int:
        """Number of tasks with at least one pair."""
        return sum(e is not None for e in self.tasks.values())


@dataclass(frozen=True)
class Paired:
    """The whole report.

    Attributes:
        base: label of the base.
        tasks: all tasks, in order.
        seeds: all seeds.
        found: the variants, the base first.
        scores: label -> task -> mean over seeds, percent; None where no run is finished.
        means: label -> mean over all tasks of the seeds that have them all; None where one lacks.
        comparisons: all others against the base.
        missing: results that should be there.

    """

    base: str
    tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    found: tuple[Variant, ...]
    scores: dict[str, dict[str, Estimate | None]]
    means: dict[str, Estimate | None]
    comparisons: tuple[Comparison, ...]
    missing: tuple[Missing, ...]


def compare(collection: Collection, found: Sequence[Variant], base: str) -> Paired:
    """Compare every variant with one of them.

    Args:
        collection: all runs, for tasks, seeds and what is missing.
        found: the variants of these runs.
        base: label of the base, or a method's name if that is unique.

    Raises:
        ConfigError: there is no such base, or nothing to compare with it.

    """
    first = pick(found, base, "base")
    others = [v for v in found if v is not first]
    if not others:
        raise ConfigError(f"base: '{first.label}' is the only method of these runs")
    tasks = tuple(dict.fromkeys(r.task for r in sorted(collection.runs, key=lambda r: r.task)))
    seeds = tuple(sorted({r.seed for r in collection.runs}))
    ordered = (first, *others)
    made = [_against(first, other, tasks) for other in others]
    tested = [c for c in made if c.p is not None]
    corrected = dict(
        zip((c.label for c in tested), holm([c.p for c in tested if c.p is not None]), strict=True)
    )
    return Paired(
        first.label,
        tasks,
        seeds,
        ordered,
        {v.label: {t: task_score(v, t) for t in tasks} for v in ordered},
        {v.label: mean_score(v, tasks) for v in ordered},
        tuple(_with_holm(c, corrected.get(c.label)) for c in made),
        (*_unfinished(ordered), *collection.lost, *_never_run(ordered, tasks, seeds)),
    )


def task_score(variant: Variant, task: str) -> Estimate | None:
    """Return a variant's score on a task over its finished seeds, percent."""
    runs = list(variant.scores(task).values())
    return over_seeds([r.value for r in runs], runs[0].interval) if runs else None


def mean_score(
    variant: Variant,
    tasks: Sequence[str],
    weights: Sequence[float] | None = None,
    interval: Callable[[Sequence[float], str], Estimate] = t_interval,
) -> Estimate | None:
    """Return the mean over tasks of the seeds that have every one of them; None if none has.

    Figures of different units (percent, loss, perplexity) have no mean.

    Args:
        variant: whose runs.
        tasks: of the mean.
        weights: of the tasks, adding up to 1; None weighs them alike.
        interval: of several seeds.

    """
    shares = weights or [1 / len(tasks)] * len(tasks)
    scores = [variant.scores(task) for task in tasks]
    if len({run.unit for by_seed in scores for run in by_seed.values()}) > 1:
        return None
    whole = set.intersection(*(set(s) for s in scores))
    if not whole:
        return None
    first = min(whole)
    halves = [(s[first].interval[1] - s[first].interval[0]) / 2 for s in scores]
    return mean_of_tasks(
        [
            {seed: share * run.value for seed, run in s.items()}
            for s, share in zip(scores, shares, strict=True)
        ],
        [share * half for half, share in zip(halves, shares, strict=True)],
        interval,
    )


def _against(base: Variant, other: Variant, tasks: Sequence[str]) -> Comparison:
    by_task: dict[str, list[float]] = {}
    for task in tasks:
        mine, theirs = other.scores(task), base.scores(task)
        by_task[task] = [mine[s].value - theirs[s].value for s in sorted(mine.keys() & theirs)]
    present = [d for d in by_task.values() if d]
    signs = {t: next(iter(base.scores(t).values())).sign for t, d in by_task.items() if d}
    units = {run.unit for t in signs for run in base.scores(t).values()}
    every = [signs[t] * x for t, d in by_task.items() for x in d]
    return Comparison(
        other.label,
        {t: t_interval(d, "pairs") if d else None for t, d in by_task.items()},
        hierarchical(present) if len(units) == 1 else None,
        len(every),
        sum(x > EQUAL for x in every),
        sum(abs(x) <= EQUAL for x in every),
        sum(x < -EQUAL for x in every),
        signed_rank(every),
        None,
    )


def _with_holm(comparison: Comparison, p: float | None) -> Comparison:
    return Comparison(**{**vars(comparison), "p_holm": p})


def _unfinished(found: Sequence[Variant]) -> list[Missing]:
    return [
        Missing(v.label, r.task, r.seed, r.problem) for v in found for r in v.runs if not r.result
    ]


def _never_run(
    found: Sequence[Variant], tasks: Sequence[str], seeds: Sequence[int]
) -> list[Missing]:
    """Return the places of the grid of methods, tasks and seeds where no run was begun."""
    return [
        Missing(v.label, task, seed, "no run")
        for v in found
        for task in tasks
        for seed in seeds
        if not any((r.task, r.seed) == (task, seed) for r in v.runs)
    ]


def tables(report: Paired) -> list[Table]:
    """Return scores, differences and costs for a person."""
    return [_scores(report), *_differences(report), cost_table(report.found)]


def _scores(report: Paired) -> Table:
    count = len(report.tasks)
    table = Table(
        f"test scores in %, seeds {', '.join(map(str, report.seeds))}",
        ["method", *report.tasks, *([f"mean of {count} tasks"] if count > 1 else [])],
        notes=[
            "value [95% interval] (number of seeds; b: one seed, binomial interval of its test "
            "samples)"
        ],
    )
    for label, by_task in report.scores.items():
        cells = [MISSING if e is None else score(e) for e in by_task.values()]
        mean = report.means[label]
        done = sum(e is not None for e in by_task.values())
        lacking = (
            f"{MISSING} ({done} of {count})" if done < count else f"{MISSING} (no seed has all)"
        )
        if count > 1:
            cells.append(lacking if mean is None else score(mean))
        table.rows.append([label, *cells])
    table.notes += missing_notes(report.missing)
    for variant in report.found:
        if variant.per_task:
            table.notes.append(f"{variant.label}: set per task: {', '.join(variant.per_task)}")
    return table


def missing_notes(missing: Sequence[Missing]) -> list[str]:
    """Return one line per result that is missing."""
    return [f"missing: {m.method}, {m.task}, seed {m.seed}: {m.reason}" for m in missing]


def _differences(report: Paired) -> list[Table]:
    tasks = Table(
        f"difference to {report.base}, percentage points, pairs of the same task and seed",
        ["method", *report.tasks],
        notes=["mean [95% t-interval] (number of pairs)"],
    )
    overall = Table(
        f"difference to {report.base} over all tasks, percentage points",
        ["method", "mean", "tasks", "wins/ties/losses", "p", "p (Holm)"],
        notes=[
            "mean, tasks alike [95% interval, bootstrap of tasks and pairs] (number of pairs)",
            "p: Wilcoxon signed rank over all pairs, none where fewer than two pairs differ; Holm: "
            f"corrected for {sum(c.p is not None for c in report.comparisons)} comparisons",
        ],
    )
    for c in report.comparisons:
        cells = [MISSING if e is None else difference(e) for e in c.tasks.values()]
        tasks.rows.append([c.label, *cells])
        overall.rows.append(
            [
                c.label,
                MISSING if c.overall is None else difference(c.overall),
                f"{c.covered} of {len(c.tasks)}",
                f"{c.wins}/{c.ties}/{c.losses}",
                "none" if c.p is None else f"{c.p:.2g}",
                "none" if c.p_holm is None else f"{c.p_holm:.2g}",
            ]
        )
    return [tasks, overall]


def cost_table(found: Sequence[Variant]) -> Table:
    """Return what each method trains and how long that took."""
    head = ["method", "trained", "with heads", "training s", "step ms", "finished runs", "device"]
    table = Table(
        "cost",
        head,
        notes=[
            "trained: parameters of the method; with heads: range over tasks; training s and step "
            "ms: mean over runs of the time of all fits and of the median step; times compare only "
            "on one machine with equal load"
        ],
        words=["device"],
    )
    for variant in found:
        spent = costs(variant)
        own, heads, seconds, steps = spent.values()
        done = f"{len(own)} of {len(variant.runs)}"
        if not own:
            table.rows.append([variant.label, *[MISSING] * 4, done, ""])
            continue
        whole = [a + b for a, b in zip(own, heads, strict=True)]
        times = [f"{statistics.fmean(x):.1f}" for x in (seconds, steps)]
        devices = sorted({r.result["environment"]["device"] for r in variant.finished if r.result})
        cells = [span(own), span(whole), *times, done, ", ".join(devices)]
        table.rows.append([variant.label, *cells])
    return table


def span(numbers: Sequence[float]) -> str:
    """Write the smallest and the largest of whole numbers, or the one that they all are."""
    return " to ".join(f"{int(n):,}" for n in dict.fromkeys((min(numbers), max(numbers))))


def records(report: Paired) -> list[dict[str, Any]]:
    """Return every figure unrounded: scores, differences per task and over all tasks."""
    out = []
    for label, by_task in report.scores.items():
        for task, estimate in [*by_task.items(), ("mean_of_tasks", report.means[label])]:
            out.append(_record("score", label, "", task, estimate))
    for c in report.comparisons:
        for task, estimate in c.tasks.items():
            out.append(_record("difference", c.label, report.base, task, estimate))
        last = _record("difference", c.label, report.base, "all_tasks", c.overall)
        tests = {"p": c.p, "p_holm": c.p_holm}
        counts = {"tasks": c.covered, "wins": c.wins, "ties": c.ties, "losses": c.losses}
        out.append(last | counts | {k: "" if v is None else v for k, v in tests.items()})
    for variant in report.found:
        for what, values in costs(variant).items():
            kind = f"none; mean over {len(values)} runs"
            mean = statistics.fmean(values) if values else 0.0
            estimate = Estimate(mean, None, None, len(values), kind) if values else None
            out.append(_record(what, variant.label, "", "all_tasks", estimate))
    return out


def costs(variant: Variant) -> dict[str, list[float]]:
    """Return what finished runs trained and took: parameters, seconds, milliseconds a step."""
    results = [r.result for r in variant.finished if r.result is not None]
    return {
        "trained_parameters": [r["params"]["trainable"] for r in results],
        "head_parameters": [r["params"]["head"] for r in results],
        "training_seconds": [r["cost"]["train_s"] for r in results],
        "step_ms_median": [r["cost"]["step_ms_median"] for r in results],
    }


def _record(
    what: str, label: str, base: str, task: str, estimate: Estimate | None
) -> dict[str, Any]:
    empty = dict.fromkeys(("tasks", "wins", "ties", "losses", "p", "p_holm"), "")
    return {"what": what, "method": label, "base": base, "task": task, **flat(estimate), **empty}
