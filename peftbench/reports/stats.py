"""Means with intervals, paired differences and tests.

All intervals are at 95%. Sources: Student's t for a mean of runs; the hierarchical bootstrap of
Davison & Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8; Wilcoxon's
signed-rank test over data sets as in Demsar, JMLR 7 (2006), section 3.1.3; Holm, Scandinavian
Journal of Statistics 6 (1979). The bootstrap over a few seeds takes the wider percentiles of
Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69 (2015).
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
RANKINGS = 2_000
"""Draws for the interval of a mean rank."""
EQUAL = 1e-9
"""Two percentages closer than this are the same: both are counts over one number of samples."""


@dataclass(frozen=True)
class Estimate:
    """A figure and how sure it is.

    Attributes:
        value: the figure.
        low: lower end of the 95% interval, None if there is no interval.
        high: upper end.
        n: number of seeds or pairs behind it.
        kind: what the interval is, in words.

    """

    value: float
    low: float | None
    high: float | None
    n: int
    kind: str

    def holds(self, value: float) -> bool | None:
        """Whether a value lies inside the interval; None if there is none."""
        if self.low is None or self.high is None:
            return None
        return self.low <= value <= self.high


def t_interval(values: Sequence[float], what: str) -> Estimate:
    """Return the mean of values with Student's interval; one value has none.

    Args:
        values: at least one.
        what: plural of what the values are of, for example ``seeds``.

    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Estimate(mean, None, None, 1, f"one of the {what}, no interval")
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n, f"t over {n} {what}")


def over_seeds(values: Sequence[float], binomial: tuple[float, float]) -> Estimate:
    """Return a score over seeds: Student's interval, or the binomial one of the only seed.

    Args:
        values: one per seed.
        binomial: the interval that the first run gives for its own test samples.

    """
    if len(values) > 1:
        return t_interval(values, "seeds")
    return Estimate(values[0], *binomial, 1, "binomial, one seed")


@functools.lru_cache(maxsize=64)
def resamples(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return how often each of ``n`` values stands in a bootstrap sample, and how likely that is.

    Up to seven values give every sample that there is; more give draws with a fixed seed.

    Returns:
        Shares ``(samples, n)``, each row adding up to 1, and probabilities ``(samples,)``.

    """
    if n > 7:
        drawn = np.random.default_rng(n).multinomial(n, [1 / n] * n, RESAMPLES)
        return drawn / n, np.full(RESAMPLES, 1 / RESAMPLES)
    drawings = itertools.combinations_with_replacement(range(n), n)
    counts = np.stack([np.bincount(drawing, minlength=n) for drawing in drawings])
    ways = [math.factorial(n) / math.prod(math.factorial(int(k)) for k in row) for row in counts]
    return counts / n, np.asarray(ways) / n**n


def bootstrap(values: Sequence[float], what: str) -> Estimate:
    """Return the mean of values with its bootstrap interval; one value has none.

    Percentiles of the resampled means, set so wide that they allow for few values: the tail of
    Student's t times sqrt(n / (n - 1)), read as a normal one (Hesterberg 2015, expanded
    percentiles). Two or three values give their range.

    Args:
        values: at least one.
        what: plural of what the values are of, for example ``seeds``.

    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Estimate(mean, None, None, 1, f"one of the {what}, no interval")
    shares, chances = resamples(n)
    means = shares @ np.asarray(values, dtype=float)
    order = np.argsort(means)
    reached = np.cumsum(chances[order])
    tail = _tail(n)
    low = means[order[np.searchsorted(reached, tail)]]
    high = means[order[min(int(np.searchsorted(reached, 1 - tail)), len(order) - 1)]]
    return Estimate(mean, float(low), float(high), n, f"bootstrap over {n} {what}")


@functools.lru_cache(maxsize=64)
def _tail(n: int) -> float:
    wide = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * math.sqrt(n / (n - 1))
    return float(stats.norm.cdf(-wide))


def seeds_or_binomial(values: Sequence[float], binomial: tuple[float, float]) -> Estimate:
    """Return a score over seeds: bootstrap interval, or the binomial one of the only seed."""
    if len(values) > 1:
        return bootstrap(values, "seeds")
    return Estimate(values[0], *binomial, 1, "binomial, one seed")


def mean_of_tasks(
    parts: Sequence[Mapping[int, float]],
    binomial: Sequence[float],
    interval: Callable[[Sequence[float], str], Estimate] = t_interval,
) -> Estimate:
    """Return a mean of tasks over the seeds that every task has.

    Args:
        parts: per task, seed -> what the task adds to the mean (its weight included).
        binomial: per task, half the width of the binomial interval of the first such seed, weighted
            alike. With one seed the tasks' errors are independent, so their squares add up.
        interval: of several seeds: :func:`t_interval` or :func:`bootstrap`.

    Raises:
        ValueError: no seed has every task.

    """
    seeds = sorted(set.intersection(*(set(p) for p in parts)))
    if not seeds:
        raise ValueError("no seed has every task")
    totals = [math.fsum(p[seed] for p in parts) for seed in seeds]
    if len(totals) > 1:
        return interval(totals, "seeds")
    half = math.sqrt(math.fsum(b * b for b in binomial))
    return Estimate(totals[0], totals[0] - half, totals[0] + half, 1, "binomial, one seed")


def hierarchical(differences: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Return the mean over tasks of mean differences, with a two-level bootstrap interval.

    Tasks are drawn with replacement, then pairs within each drawn task (Davison & Hinkley 1997,
    section 3.8); the interval is that of percentiles. It speaks of tasks like these, so with few
    tasks it is wide and still rather too narrow than too wide. One task alone gives Student's
    interval over its pairs.

    Args:
        differences: per task, one difference per pair; no task is empty.
        seed: of the draws, so that a report can be repeated.

    """
    if len(differences) == 1:
        return t_interval(differences[0], "pairs")
    means = [statistics.fmean(d) for d in differences]
    rng = np.random.default_rng(seed)
    tasks, total = len(differences), np.zeros(RESAMPLES)
    drawn = rng.integers(0, tasks, (RESAMPLES, tasks))
    for place in range(tasks):
        for task, values in enumerate(differences):
            rows = np.flatnonzero(drawn[:, place] == task)
            pairs = rng.integers(0, len(values), (len(rows), len(values)))
            total[rows] += np.asarray(values)[pairs].mean(axis=1)
    edge = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(total / tasks, [edge, 100 - edge])
    n = sum(len(d) for d in differences)
    kind = f"bootstrap of {tasks} tasks and their pairs"
    return Estimate(statistics.fmean(means), float(low), float(high), n, kind)


def mean_ranks(
    scores: Sequence[Sequence[Sequence[float]]], seed: int = 0
) -> list[tuple[Estimate, list[float]]]:
    """Rank methods on every task by their mean score, and average the ranks over tasks.

    The interval is a bootstrap that draws tasks and, within them, seeds; methods with equally many
    seeds on a task draw the same ones. Equal scores share a rank (Demsar 2006, section 3.2.2).

    Args:
        scores: by method, task and seed; more is better; no task of a method is empty.
        seed: of the draws.

    Returns:
        Per method its mean rank (1 is best) and its rank on every task.

    """
    means = np.array([[statistics.fmean(seeds) for seeds in tasks] for tasks in scores])
    plain = stats.rankdata(-means, axis=0)
    rng, tasks = np.random.default_rng(seed), means.shape[1]
    drawn = np.empty((len(scores), tasks, RANKINGS))
    for t in range(tasks):
        place = rng.random((RANKINGS, max(len(by_task[t]) for by_task in scores)))
        for m, by_task in enumerate(scores):
            n = len(by_task[t])
            drawn[m, t] = np.asarray(by_task[t])[(place[:, :n] * n).astype(int)].mean(axis=1)
    ranks = stats.rankdata(-np.round(drawn, 9), axis=0)
    shares = rng.multinomial(tasks, [1 / tasks] * tasks, RANKINGS) / tasks
    edge = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(np.einsum("mtr,rt->mr", ranks, shares), [edge, 100 - edge], axis=1)
    kind = f"bootstrap of {tasks} tasks and their seeds"
    return [
        (
            Estimate(float(plain[m].mean()), float(low[m]), float(high[m]), tasks, kind),
            [float(r) for r in plain[m]],
        )
        for m in range(len(scores))
    ]


def signed_rank(differences: Sequence[float]) -> float | None:
    """Return Wilcoxon's two-sided p over all pairs; None if fewer than two pairs differ.

    Equal pairs are left out. scipy chooses between the exact distribution and the normal one.
    """
    different = [d for d in differences if abs(d) > EQUAL]
    if len(different) < 2:
        return None
    return float(stats.wilcoxon(different).pvalue)


def least_p(differences: Sequence[float]) -> float:
    """Return the least p that :func:`signed_rank` can have: all pairs that differ agree in sign."""
    return min(1.0, 2.0 ** (1 - sum(abs(d) > EQUAL for d in differences)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down rule, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        out[i] = largest
    return out
