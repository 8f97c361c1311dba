"""Means with intervals, paired differences and tests.

All intervals are at 95%. Sources: Student's t for a mean of runs; the hierarchical bootstrap of
Davison & Hinkley, "Bootstrap Methods and their Application" (1997), section 3.8; Wilcoxon's
signed-rank test over data sets as in Demsar, JMLR 7 (2006), section 3.1.3; Holm, Scandinavian
Journal of Statistics 6 (1979).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
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


def mean_of_tasks(parts: Sequence[Mapping[int, float]], binomial: Sequence[float]) -> Estimate:
    """Return a mean of tasks over the seeds that every task has.

    Args:
        parts: per task, seed -> what the task adds to the mean (its weight included).
        binomial: per task, half the width of the binomial interval of the first such seed, weighted
            alike. With one seed the tasks' errors are independent, so their squares add up.

    Raises:
        ValueError: no seed has every task.

    """
    seeds = sorted(set.intersection(*(set(p) for p in parts)))
    if not seeds:
        raise ValueError("no seed has every task")
    totals = [math.fsum(p[seed] for p in parts) for seed in seeds]
    if len(totals) > 1:
        return t_interval(totals, "seeds")
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


def signed_rank(differences: Sequence[float]) -> float | None:
    """Return Wilcoxon's two-sided p over all pairs; None if fewer than two pairs differ.

    Equal pairs are left out. scipy chooses between the exact distribution and the normal one.
    """
    different = [d for d in differences if abs(d) > EQUAL]
    if len(different) < 2:
        return None
    return float(stats.wilcoxon(different).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by Holm's step-down rule, in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    out, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        out[i] = largest
    return out
