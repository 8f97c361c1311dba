"""Intervals and tests against computations by hand."""

import math

import numpy as np
import pytest

from peftbench.reports.stats import (
    Estimate,
    bootstrap,
    hierarchical,
    holm,
    mean_of_tasks,
    mean_ranks,
    over_seeds,
    resamples,
    seeds_or_binomial,
    signed_rank,
    t_interval,
)

T2, T1 = 4.302652729911275, 12.706204736174694  # Student's 97.5 % points, 2 and 1 degrees


def test_student_interval_of_three_values():
    found = t_interval([80.0, 82.0, 84.0], "seeds")
    assert found.value == 82.0
    assert found.high - 82.0 == pytest.approx(T2 * 2 / math.sqrt(3))
    assert 82.0 - found.low == pytest.approx(T2 * 2 / math.sqrt(3))
    assert (found.n, found.kind) == (3, "t over 3 seeds")


def test_one_value_has_no_interval_of_its_own():
    found = t_interval([80.0], "pairs")
    assert (found.low, found.high, found.holds(80.0)) == (None, None, None)


def test_one_seed_takes_the_binomial_interval_and_says_so():
    found = over_seeds([80.0], (77.0, 82.5))
    assert (found.low, found.high, found.kind) == (77.0, 82.5, "binomial, one seed")
    assert over_seeds([80.0, 82.0], (77.0, 82.5)).high == pytest.approx(81 + T1)


def test_inside_and_outside():
    found = Estimate(80.0, 78.0, 82.0, 3, "")
    assert found.holds(78.0) and found.holds(82.0) and not found.holds(82.01)


def test_a_mean_of_tasks_takes_the_seeds_that_have_all():
    halves = [{0: 40.0, 1: 41.0, 2: 45.0}, {0: 30.0, 1: 31.0}]  # half of each task's score
    found = mean_of_tasks(halves, [1.0, 1.0])
    assert (found.value, found.n) == (71.0, 2)
    assert found.high == pytest.approx(71 + T1 * math.sqrt(2) / math.sqrt(2))
    with pytest.raises(ValueError):
        mean_of_tasks([{0: 1.0}, {1: 1.0}], [1.0, 1.0])


def test_errors_of_tasks_add_up_in_squares():
    found = mean_of_tasks([{0: 40.0}, {0: 30.0}], [3.0, 4.0])
    assert (found.value, found.low, found.high) == (70.0, 65.0, 75.0)


def test_bootstrap_of_tasks_that_agree_and_that_do_not():
    same = hierarchical([[2.0, 2.0], [2.0, 2.0]])
    assert (same.value, same.low, same.high, same.n) == (2.0, 2.0, 2.0, 4)
    apart = hierarchical([[0.0, 0.0], [10.0, 10.0]])  # draws: 0, 5 or 10; 0 in a quarter
    assert (apart.value, apart.low, apart.high) == (5.0, 0.0, 10.0)


def test_bootstrap_weighs_tasks_alike():
    assert hierarchical([[0.0] * 9, [10.0]]).value == 5.0


def test_bootstrap_draws_pairs_within_tasks():
    """With equal tasks the spread comes from pairs alone: near 1.96 sqrt(1 / (20 x 8))."""
    pairs = [-1.0, 1.0] * 10
    found = hierarchical([pairs] * 8)
    assert found.value == 0.0
    assert found.high == pytest.approx(1.96 / math.sqrt(20 * 8), rel=0.05)
    assert found == hierarchical([pairs] * 8)  # the same draws again


def test_bootstrap_of_many_tasks_comes_near_the_normal_interval():
    tasks = [[float(i)] for i in range(40)]
    spread = math.sqrt(sum((i - 19.5) ** 2 for i in range(40)) / 40 / 40)
    assert hierarchical(tasks).high == pytest.approx(19.5 + 1.96 * spread, rel=0.02)


def test_one_task_has_students_interval():
    assert hierarchical([[1.0, 2.0, 3.0]]) == t_interval([1.0, 2.0, 3.0], "pairs")


def test_signed_rank_by_counting_signs():
    """Five positive differences: only one of 2^5 sign patterns is as extreme, on either side."""
    assert signed_rank([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 32)
    assert signed_rank([1.0, 2.0, -3.0, 0.0]) == pytest.approx(signed_rank([1.0, 2.0, -3.0]))
    assert signed_rank([0.0, 0.0, 1.0]) is None


def test_holm_by_hand():
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, and 0.04 raised to it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_every_bootstrap_sample_of_two_values():
    shares, chances = resamples(2)
    assert sorted(zip(shares[:, 0], chances, strict=True)) == [(0.0, 0.25), (0.5, 0.5), (1.0, 0.25)]
    for n in (3, 7, 12):
        shares, chances = resamples(n)
        assert chances.sum() == pytest.approx(1) and np.allclose(shares.sum(axis=1), 1)


def test_bootstrap_of_few_seeds_gives_their_range_and_of_many_the_normal_interval():
    found = bootstrap([80.0, 84.0, 82.0], "seeds")
    assert (found.value, found.low, found.high) == (82.0, 80.0, 84.0)
    assert (found.n, found.kind) == (3, "bootstrap over 3 seeds")
    values = [float(i) for i in range(60)]
    spread = math.sqrt((60**2 - 1) / 12 / 59)  # of a mean of 60, by the corrected variance
    many = bootstrap(values, "seeds")
    assert many.high - 29.5 == pytest.approx(2.0 * spread, rel=0.05)
    assert bootstrap([80.0], "seeds").low is None
    assert seeds_or_binomial([80.0], (77.0, 82.5)).kind == "binomial, one seed"
    assert seeds_or_binomial([80.0, 82.0], (77.0, 82.5)).kind == "bootstrap over 2 seeds"


def test_ranks_of_methods_that_always_agree():
    (best, own), (worst, last) = mean_ranks([[[3.0], [5.0, 5.1]], [[1.0], [2.0, 2.2]]])
    assert (best.value, best.low, best.high, own) == (1.0, 1.0, 1.0, [1.0, 1.0])
    assert (worst.value, worst.low, worst.high, last) == (2.0, 2.0, 2.0, [2.0, 2.0])


def test_ranks_that_depend_on_task_and_seed_have_an_interval():
    found = mean_ranks([[[1.0, 4.0], [9.0, 9.0]], [[2.0, 3.0], [8.0, 8.0]], [[0.0], [0.0]]])
    mean, ranks = found[0]
    assert ranks == [1.5, 1.0]  # equal means share ranks 1 and 2
    assert mean.value == 1.25 and mean.low == 1.0 and mean.high == 2.0
    assert found[2][0].low == found[2][0].high == 3.0
