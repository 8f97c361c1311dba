"""Metrics of text tasks: classes, values, written answers; each with an interval.

All are fractions, correlations lie in -1..1. A prediction that could not be read is -1: it is wrong
for the accuracy, and the opposite class where two classes are counted (T5, arXiv:1910.10683).
Shapes: N samples, U units that are drawn (samples or groups), K classes, R rounds.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, pearsonr, rankdata, spearmanr
from sklearn.metrics import f1_score, matthews_corrcoef

from ..errors import unknown

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Answers = Sequence[str]
References = Sequence[tuple[str, ...]]
ROUNDS = 1000
CHUNK = 1 << 22
"""Numbers that a step of the bootstrap holds at a time."""

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = set(string.punctuation)
WORD = re.compile(r"[a-z0-9]+")


@dataclass(frozen=True)
class Metric:
    """A metric and what is known about it.

    Attributes:
        kind: what is compared: ``classes``, ``values`` or ``answers``.
        of: predictions, truth and groups (none: each stands for itself) in, number out.
        scores: predictions, truth and groups in, one score per unit out, of which the value is the
            mean; None: the value is no mean.
        counted: counts (R, K, K+1) of truth by prediction in, the last column unreadable, R values
            out; None: not made of counts.
        related: values (R, N) twice in, R values out; None: no relation of values.
        higher: whether more is better.
        binomial: whether it is a share of right units, with Wilson's interval.
        grouped: whether it has no meaning without groups.

    """

    kind: Literal["classes", "values", "answers"]
    of: Callable[..., float]
    scores: Callable[..., Floats] | None = None
    counted: Callable[[Floats], Floats] | None = None
    related: Callable[[Floats, Floats], Floats] | None = None
    higher: bool = True
    binomial: bool = False
    grouped: bool = False


def measure(name: str, predicted: Any, truth: Any, groups: Sequence[int] = ()) -> float:
    """Return a metric of a whole split.

    Args:
        name: one of ``METRICS``.
        predicted: (N,) int64 classes, (N,) values, or N answers; -1 where unreadable.
        truth: (N,) int64 labels, (N,) values, or the accepted answers of every sample.
        groups: (N,) samples that are counted together; empty: each stands for itself.

    Raises:
        ConfigError: there is no such metric.
        ValueError: there are no samples, or the lengths differ.

    """
    metric, predicted, truth = _checked(name, predicted, truth, groups)
    return float(metric.of(predicted, truth, groups))


def interval(
    name: str,
    predicted: Any,
    truth: Any,
    groups: Sequence[int] = (),
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the interval of a metric: Wilson's for a share, else a bootstrap's percentiles.

    The bootstrap draws samples (groups, where there are any) with replacement, ``ROUNDS`` times.

    Args:
        name: one of ``METRICS``.
        predicted: as for :func:`measure`.
        truth: as for :func:`measure`.
        groups: as for :func:`measure`.
        level: probability that the interval is to have.
        seed: of the draws.

    Raises:
        ConfigError: there is no such metric.
        ValueError: there are no samples, the lengths differ, or ``level`` is not between 0 and 1.

    """
    if not 0 < level < 1:
        raise ValueError(f"a level between 0 and 1 is needed, got {level}")
    metric, predicted, truth = _checked(name, predicted, truth, groups)
    rng = np.random.default_rng(seed)
    if metric.scores is not None:
        scores = metric.scores(predicted, truth, groups)
        if metric.binomial:
            found = binomtest(round(float(scores.sum())), len(scores)).proportion_ci(
                level, method="wilson"
            )
            return float(found.low), float(found.high)
        drawn = _over(rng, len(scores), lambda index: scores[index].mean(-1))
    elif metric.counted is not None:
        drawn = metric.counted(_confusions(rng, predicted, truth, groups))
    else:
        assert metric.related is not None  # a metric has one of the three
        related = metric.related
        drawn = _over(rng, len(truth), lambda index: related(predicted[index], truth[index]))
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap(
    of: Callable[[Ints], float], n: int, resamples: int = ROUNDS, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% percentile interval of any number that is made of rows.

    Args:
        of: rows (n,) in, with repeats, number out.
        n: how many samples there are.
        resamples: number of draws.
        seed: of the draws.

    """
    rng = np.random.default_rng(seed)
    found = [of(rng.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)


def _checked(
    name: str, predicted: Any, truth: Any, groups: Sequence[int]
) -> tuple[Metric, Any, Any]:
    if name not in METRICS:
        raise unknown("metric of text tasks", name, METRICS)
    metric = METRICS[name]
    sizes = {len(predicted), len(truth)} | ({len(groups)} if len(groups) else set())
    if sizes in ({0}, set()) or len(sizes) != 1:
        raise ValueError(
            f"{name} of {len(predicted)} predictions, {len(truth)} labels, {len(groups)} groups"
        )
    if metric.kind == "answers":
        return metric, list(predicted), list(truth)
    kind = np.int64 if metric.kind == "classes" else np.float64
    return metric, np.asarray(predicted, kind), np.asarray(truth, kind)


def _over(rng: np.random.Generator, units: int, value: Callable[[Ints], Floats]) -> Floats:
    """Return ``value`` of ``ROUNDS`` draws (r, U) of units, some rounds at a time."""
    step = max(1, min(ROUNDS, CHUNK // units))
    found = [
        value(rng.integers(0, units, (min(step, ROUNDS - start), units)))
        for start in range(0, ROUNDS, step)
    ]
    return np.concatenate(found)


def _confusions(
    rng: np.random.Generator, predicted: Ints, truth: Ints, groups: Sequence[int]
) -> Floats:
    """Return counts (R, K, K+1) of drawn units: truth by prediction, the last one unreadable."""
    predicted = _opposite(predicted, truth)
    size = max(2, int(max(truth.max(), predicted.max())) + 1)
    cells = truth * (size + 1) + np.where(predicted < 0, size, predicted)
    shape = (-1, size, size + 1)
    if not len(groups):
        shares = np.bincount(cells, minlength=size * (size + 1)) / len(truth)
        return rng.multinomial(len(truth), shares, ROUNDS).reshape(shape).astype(float)
    unit = np.unique(np.asarray(groups), return_inverse=True)[1]
    table = np.zeros((unit.max() + 1, size * (size + 1)))
    np.add.at(table, (unit, cells), 1)
    counts = _over(rng, len(table), lambda index: np.stack([table[i].sum(0) for i in index]))
    return counts.reshape(shape)


def _opposite(predicted: Ints, truth: Ints) -> Ints:
    """Replace what could not be read by the other class, where there are only classes 0 and 1."""
    if truth.max() > 1:
        return predicted
    return np.where(predicted < 0, 1 - truth, predicted)


def accuracy(predicted: Ints, labels: Ints, groups: Sequence[int] = ()) -> float:
    """Return the share of right classes; an unreadable one is wrong."""
    return float(_right(predicted, labels).mean())


def _right(predicted: Ints, labels: Ints, groups: Sequence[int] = ()) -> Floats:
    return (predicted == labels).astype(np.float64)


def f1(predicted: Ints, labels: Ints, groups: Sequence[int] = ()) -> float:
    """Return the F1 of class 1 (MultiRC: F1a); 0 when undefined."""
    return float(f1_score(labels, _opposite(predicted, labels), zero_division=0))


def macro_f1(predicted: Ints, labels: Ints, groups: Sequence[int] = ()) -> float:
    """Return the mean F1 of the classes that occur; an unreadable prediction is of none of them."""
    predicted = _opposite(predicted, labels)
    present = np.unique(np.concatenate([labels, predicted[predicted >= 0]]))
    return float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0))


def matthews(predicted: Ints, labels: Ints, groups: Sequence[int] = ()) -> float:
    """Return Matthews' correlation, -1..1; 0 when undefined."""
    return float(matthews_corrcoef(labels, _opposite(predicted, labels)))


def _f1_counted(counts: Floats) -> Floats:
    return _ratio(2 * counts[:, 1, 1], counts[:, 1].sum(-1) + counts[:, :, 1].sum(-1))


def _macro_f1_counted(counts: Floats) -> Floats:
    right = np.diagonal(counts, axis1=1, axis2=2)
    both = counts.sum(1)[:, :-1] + counts.sum(2)
    return _ratio(_ratio(2 * right, both).sum(-1), (both > 0).sum(-1))


def _matthews_counted(counts: Floats) -> Floats:
    """Gorodkin's form for any number of classes."""
    total = counts.sum((1, 2))
    right = np.diagonal(counts, axis1=1, axis2=2).sum(-1)
    true, said = counts.sum(2), counts.sum(1)
    above = right * total - (true * said[:, :-1]).sum(-1)
    below = (total**2 - (said**2).sum(-1)) * (total**2 - (true**2).sum(-1))
    return _ratio(above, np.sqrt(below))


def _ratio(above: Floats, below: Floats) -> Floats:
    return np.divide(above, below, out=np.zeros_like(above, dtype=np.float64), where=below > 0)


def group_match(predicted: Ints, labels: Ints, groups: Sequence[int]) -> float:
    """Return the share of groups with every class right (MultiRC: exact match per question)."""
    return float(_group_right(predicted, labels, groups).mean())


def _group_right(predicted: Ints, labels: Ints, groups: Sequence[int]) -> Floats:
    if not len(groups):
        raise ValueError("a metric of groups needs the groups")
    unit = np.unique(np.asarray(groups), return_inverse=True)[1]
    wrong = np.bincount(unit, weights=(predicted != labels).astype(float))
    return (wrong == 0).astype(np.float64)


def pearson(predicted: Floats, labels: Floats, groups: Sequence[int] = ()) -> float:
    """Return the linear correlation, -1..1; 0 when undefined."""
    return float(pearsonr(predicted, labels).statistic) if _vary(predicted, labels) else 0.0


def spearman(predicted: Floats, labels: Floats, groups: Sequence[int] = ()) -> float:
    """Return the correlation of ranks, -1..1; 0 when undefined."""
    return float(spearmanr(predicted, labels).statistic) if _vary(predicted, labels) else 0.0


def _vary(*values: Floats) -> bool:
    return all(np.ptp(v) > 0 for v in values)


def _pearson_related(predicted: Floats, labels: Floats) -> Floats:
    p = predicted - predicted.mean(-1, keepdims=True)
    t = labels - labels.mean(-1, keepdims=True)
    below = np.sqrt((p**2).sum(-1) * (t**2).sum(-1))
    varied = (np.ptp(predicted, -1) > 0) & (np.ptp(labels, -1) > 0)
    return _ratio((p * t).sum(-1), np.where(varied, below, 0.0))


def _spearman_related(predicted: Floats, labels: Floats) -> Floats:
    return _pearson_related(rankdata(predicted, axis=-1), rankdata(labels, axis=-1))


def normalised(answer: str) -> str:
    """Return an answer as SQuAD compares it: lower case, no punctuation, no articles."""
    kept = "".join(c for c in answer.lower() if c not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", kept).split())


def _best(one: Callable[[str, str], float]) -> Callable[..., Floats]:
    def scores(answers: Answers, references: References, groups: Sequence[int] = ()) -> Floats:
        """Return the best score over the references of each answer; without any it is 0."""
        return np.array(
            [
                max((one(said, reference) for reference in accepted), default=0.0)
                for said, accepted in zip(answers, references, strict=True)
            ]
        )

    return scores


def _same(said: str, reference: str) -> float:
    return float(normalised(said) == normalised(reference))


def _token_f1(said: str, reference: str) -> float:
    mine, theirs = normalised(said).split(), normalised(reference).split()
    if not mine or not theirs:
        return float(mine == theirs)
    return _f_measure(sum((Counter(mine) & Counter(theirs)).values()), len(mine), len(theirs))


def _rouge_l(said: str, reference: str) -> float:
    mine, theirs = WORD.findall(said.lower()), WORD.findall(reference.lower())
    if not mine or not theirs:
        return 0.0
    return _f_measure(_common(mine, theirs), len(mine), len(theirs))


def _f_measure(shared: int, mine: int, theirs: int) -> float:
    return 2 * shared / (mine + theirs)


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """Return the length of the longest common subsequence, by bits (Hyyro, 2004)."""
    places: dict[str, int] = {}
    for at, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << at
    mask = (1 << len(first)) - 1
    row = mask
    for word in second:
        match = row & places.get(word, 0)
        row = ((row + match) | (row - match)) & mask
    return len(first) - row.bit_count()


same_scores, token_f1_scores, rouge_l_scores = _best(_same), _best(_token_f1), _best(_rouge_l)


def exact_match(answers: Answers, references: References, groups: Sequence[int] = ()) -> float:
    """Return the share of answers that equal a reference, both normalised."""
    return float(same_scores(answers, references).mean())


def token_f1(answers: Answers, references: References, groups: Sequence[int] = ()) -> float:
    """Return the mean F1 of words, best reference each (Rajpurkar et al., arXiv:1606.05250)."""
    return float(token_f1_scores(answers, references).mean())


def rouge_l(answers: Answers, references: References, groups: Sequence[int] = ()) -> float:
    """Return the mean ROUGE-L (F measure, words of letters a-z and digits, no stemming; Lin 2004).

    Best reference each.
    """
    return float(rouge_l_scores(answers, references).mean())


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric("classes", accuracy, _right, binomial=True),
    "f1": Metric("classes", f1, counted=_f1_counted),
    "macro_f1": Metric("classes", macro_f1, counted=_macro_f1_counted),
    "matthews": Metric("classes", matthews, counted=_matthews_counted),
    "group_match": Metric("classes", group_match, _group_right, binomial=True, grouped=True),
    "pearson": Metric("values", pearson, related=_pearson_related),
    "spearman": Metric("values", spearman, related=_spearman_related),
    "exact_match": Metric("answers", exact_match, same_scores, binomial=True),
    "token_f1": Metric("answers", token_f1, token_f1_scores),
    "rouge_l": Metric("answers", rouge_l, rouge_l_scores),
}
"""Every metric by name."""
