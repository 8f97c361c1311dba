"""Dropout in edits: the masks of a batch do not depend on how the batch is cut."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.edits import noise

TOTAL = 24


def masks(cuts, seed=0, step=3, name="a", p=0.4, shape=(3, 5)):
    edges = [0, *sorted(cuts), TOTAL]
    parts = []
    for start, stop in itertools.pairwise(edges):
        if stop > start:
            with noise.rows(seed, step, start, TOTAL):
                parts.append(noise.dropout(torch.ones(stop - start, *shape), p, True, name))
    return torch.cat(parts)


@settings(max_examples=50, deadline=None)
@given(st.sets(st.integers(0, TOTAL), max_size=8))
def test_any_cut_of_a_batch_draws_the_same_masks(cuts):
    assert torch.equal(masks(cuts), masks(()))


def test_every_name_step_seed_and_row_has_its_own_mask():
    whole = masks(())
    assert not torch.equal(whole, masks((), name="b"))
    assert not torch.equal(whole, masks((), step=4))
    assert not torch.equal(whole, masks((), seed=1))
    assert not torch.equal(whole[0], whole[1])


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("inside", [True, False])
def test_rate_and_scale(p, inside):
    x = torch.ones(200, 500)
    torch.manual_seed(0)
    if inside:
        with noise.rows(0, 0, 0, 200):
            y = noise.dropout(x, p, True, "a")
    else:
        y = noise.dropout(x, p, True, "a")
    kept = y != 0
    assert float(kept.float().mean()) == pytest.approx(1 - p, abs=0.01)
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - p)))
    assert float(y.mean()) == pytest.approx(1.0, abs=0.03)


def test_nothing_happens_in_eval_or_at_zero():
    x = torch.randn(4, 3)
    with noise.rows(0, 0, 0, 4):
        assert noise.dropout(x, 0.5, False, "a") is x
        assert noise.dropout(x, 0.0, True, "a") is x


def test_the_same_mask_again_and_the_global_stream_untouched():
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(masks(()), masks(()))
    assert torch.equal(torch.rand(3), wanted)


def test_blocks_nest_and_end():
    with noise.rows(0, 0, 0, TOTAL):
        outer = noise.dropout(torch.ones(TOTAL, 9), 0.5, True, "a")
        with noise.rows(0, 1, 0, TOTAL):
            inner = noise.dropout(torch.ones(TOTAL, 9), 0.5, True, "a")
        again = noise.dropout(torch.ones(TOTAL, 9), 0.5, True, "a")
    assert torch.equal(outer, again) and not torch.equal(outer, inner)
    with pytest.raises(RuntimeError, match="stop"), noise.rows(0, 0, 0, TOTAL):
        raise RuntimeError("stop")
    torch.manual_seed(0)
    first = noise.dropout(torch.ones(TOTAL, 9), 0.5, True, "a")
    second = noise.dropout(torch.ones(TOTAL, 9), 0.5, True, "a")
    assert not torch.equal(first, second)


def test_gradients_pass_the_kept_entries():
    x = torch.ones(TOTAL, 9, requires_grad=True)
    with noise.rows(0, 0, 0, TOTAL):
        y = noise.dropout(x, 0.5, True, "a")
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_seeds_of_streams_are_fixed_for_ever():
    assert noise.stream_seed(0, "init") == 8784609293862724968  # SHA-256 of "0|init", 63 bits
    assert len({noise.stream_seed(a, b) for a in range(10) for b in "xyz"}) == 30
    assert 0 <= noise.stream_seed("anything") < 2**63
