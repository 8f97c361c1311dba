"""Uncertainty of an accuracy measured on a finite test set."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson(correct: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, as fractions 0..1.

    Wilson (1927): centre (p + z^2/2n) / (1 + z^2/n),
    half width z sqrt(p(1-p)/n + z^2/4n^2) / (1 + z^2/n), with p = correct / n.

    Raises:
        ValueError: ``n`` < 1, or ``correct`` outside 0..n.

    """
    if n < 1 or not 0 <= correct <= n:
        raise ValueError(f"no interval for {correct} correct out of {n}")
    p = correct / n
    scale = 1 + Z_95**2 / n
    centre = (p + Z_95**2 / (2 * n)) / scale
    half = Z_95 * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n * n)) / scale
    low = 0.0 if correct == 0 else max(0.0, centre - half)
    high = 1.0 if correct == n else min(1.0, centre + half)
    return low, high
