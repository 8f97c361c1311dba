"""Wilson's interval against published values and its own definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.tasks import wilson
from peftbench.tasks.interval import Z_95


def test_published_examples():
    # Newcombe (1998), Statistics in Medicine 17, table I, method 3.
    for correct, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        found = wilson(correct, n)
        assert found == pytest.approx((low, high), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 5000), st.data())
def test_the_ends_are_where_the_score_test_turns(n, data):
    correct = data.draw(st.integers(0, n))
    low, high = wilson(correct, n)
    p = correct / n
    assert 0 <= low <= p <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            score = abs(p - end) / math.sqrt(end * (1 - end) / n)
            assert score == pytest.approx(Z_95, rel=1e-6)
    mirrored = wilson(n - correct, n)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-12)


@pytest.mark.parametrize(("correct", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_nonsense_is_refused(correct, n):
    with pytest.raises(ValueError, match="no interval"):
        wilson(correct, n)
