"""Metrics of text tasks (temporary core)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.metrics import matthews_corrcoef


@dataclass(frozen=True)
class Metric:
    """One metric."""

    kind: Literal["classes", "values", "answers"]
    of: Callable[[Any, Any], float]
    higher: bool = True
    binomial: bool = False


METRICS = {
    "accuracy": Metric("classes", lambda a, b: float(np.mean(a == b)), binomial=True),
    "matthews": Metric("classes", lambda a, b: float(matthews_corrcoef(b, a))),
    "pearson": Metric("values", lambda a, b: float(np.corrcoef(a, b)[0, 1])),
    "exact_match": Metric(
        "answers", lambda a, b: float(np.mean([x in y for x, y in zip(a, b, strict=True)]))
    ),
}


def bootstrap(
    of: Callable[[np.ndarray], float], n: int, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95% percentile interval over resampled rows."""
    rng = np.random.default_rng(seed)
    found = [of(rng.integers(0, n, n)) for _ in range(resamples)]
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
