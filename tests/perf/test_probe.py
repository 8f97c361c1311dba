"""Later epochs of a linear probe read features that are known already."""

import pytest

from peftbench.perf.probe import probe_epochs


@pytest.mark.long
def test_later_epochs_cost_under_two_percent_of_the_first():
    cost = probe_epochs()
    assert cost.images == 800 and cost.size == 70
    assert cost.ratio < 0.02, cost.line()


def test_later_epochs_are_cheaper_at_a_small_size_too():
    cost = probe_epochs(images=64, epochs=3)
    assert cost.ratio < 0.1, cost.line()
    assert "64 images" in cost.line()
