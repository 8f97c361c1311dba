"""Cost scores against published tables, and Pareto fronts."""

import math

import pytest

from peftbench.reports.tradeoff import front, ppt, pscp


@pytest.mark.parametrize(
    "score, trained, printed",
    [(79.32, 0, 0.79), (89.10, 0.85e6, 0.86), (71.70, 2.38e6, 0.65), (84.78, 0.77e6, 0.82)],
)
def test_ppt_gives_the_benchmarks_own_columns(score, trained, printed):
    """Linear probing and VPT-Deep on FGVC, LST on VTAB, LoRA on FGVC in V-PETL Bench's tables."""
    assert round(ppt(score / 100, trained), 2) == printed


def test_pscp_by_hand():
    """Every cost at its reference halves the score; a weight of 2 takes a quarter."""
    assert pscp(0.8, 5e8, 94e9, 1e13) == pytest.approx(0.8 / 8)
    assert pscp(0.8, 5e8, 94e9, 1e13, beta=2) == pytest.approx(0.8 / 64)
    assert pscp(0.8, 0, 0, 0) == 0.8


def test_front_keeps_what_nothing_beats():
    points = [(10, 0.7), (5, 0.6), (20, 0.7), (1, 0.1), (5, 0.5), (30, 0.9), (1, 0.1)]
    assert front(points) == [3, 6, 1, 0, 5]  # equal points both stay
    assert front([]) == []
    assert front([(math.inf, 1.0)]) == [0]
