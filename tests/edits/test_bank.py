"""Banks: an index per token or sample picks one copy; weights mix."""

import pytest
import torch
from torch import nn

from peftbench.edits import Bank, Delta, LinearSite, LowRank, OutputScale
from peftbench.errors import ConfigError

B, T, I, O, K = 2, 5, 4, 6, 3  # noqa: E741


def layer():
    torch.manual_seed(0)
    return nn.Linear(I, O)


def copies(linear, count=K):
    site = LinearSite("x/all", "all", linear, "layer", (0, O))
    made = [
        LowRank(f"copy{k}", [site], rank=2, alpha=4.0, generator=torch.Generator().manual_seed(k))
        for k in range(count)
    ]
    g = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for p in (p for c in made for p in c.parameters()):
            p.add_(torch.randn(p.shape, generator=g))
    return made


def data():
    return torch.randn(B, T, I, generator=torch.Generator().manual_seed(1))


def run(linear, bank, x, selection, key="context"):
    delta = Delta([bank]).attach()
    delta.context[key] = selection
    try:
        return linear(x)
    finally:
        delta.detach()


def outputs(linear, made, x):
    y = linear(x)
    return torch.stack([c.change(x, y) for c in made])


def test_an_index_per_token_picks_each_copy():
    linear, x = layer(), data()
    made = copies(linear)
    index = torch.randint(0, K, (B, T), generator=torch.Generator().manual_seed(2))
    assert len(index.unique()) == K
    each = outputs(linear, made, x)
    found = run(linear, Bank("bank", made), x, index)
    for b in range(B):
        for t in range(T):
            assert torch.equal(found[b, t], each[index[b, t], b, t])


def test_an_index_per_sample_picks_each_copy():
    linear, x = layer(), data()
    made = copies(linear)
    each = outputs(linear, made, x)
    found = run(linear, Bank("bank", made), x, torch.tensor([2, 0]))
    assert torch.equal(found[0], each[2, 0]) and torch.equal(found[1], each[0, 1])


@pytest.mark.parametrize("shape", [(K,), (B, K), (B, T, K)])
def test_weights_mix(shape):
    linear, x = layer(), data()
    made = copies(linear)
    weights = torch.rand(shape, generator=torch.Generator().manual_seed(3)).softmax(-1)
    each = outputs(linear, made, x)
    full = weights.view(*shape[:-1], *[1] * (3 - len(shape)), K).expand(B, T, K)
    wanted = torch.einsum("btk,kbto->bto", full, each)
    found = run(linear, Bank("bank", made), x, weights)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_one_hot_weight_is_the_index():
    linear, x = layer(), data()
    made = copies(linear)
    index = torch.tensor([[0, 1, 2, 1, 0], [2, 2, 0, 1, 1]])
    chosen = run(linear, Bank("bank", made), x, index)
    mixed = run(linear, Bank("bank", made), x, nn.functional.one_hot(index, K).float())
    assert torch.allclose(chosen, mixed, atol=1e-6)


def test_one_copy_is_the_edit_itself():
    linear, x = layer(), data()
    (one,) = made = copies(linear, 1)
    wanted = one.change(x, linear(x))
    index = torch.zeros(B, T, dtype=torch.long)
    assert torch.equal(run(linear, Bank("bank", made), x, index), wanted)
    assert torch.equal(run(linear, Bank("bank", made), x, torch.ones(1)), wanted)


def test_gradients_reach_only_chosen_copies():
    linear, x = layer(), data()
    made = copies(linear)
    index = torch.tensor([[0, 2, 2, 0, 0], [2, 2, 0, 0, 0]])
    run(linear, Bank("bank", made), x, index).square().sum().backward()
    sizes = [max(float(p.grad.abs().max()) for p in c.parameters()) for c in made]
    assert sizes[0] > 0 and sizes[1] == 0 and sizes[2] > 0


def test_weights_receive_gradients():
    linear, x = layer(), data()
    weights = torch.full((B, T, K), 1 / K, requires_grad=True)
    run(linear, Bank("bank", copies(linear)), x, weights).square().sum().backward()
    assert float(weights.grad.abs().min()) > 0


def test_a_bank_of_scales_starts_as_no_change():
    linear, x = layer(), data()
    site = LinearSite("x/all", "all", linear, "layer", (0, O))
    bank = Bank("bank", [OutputScale(f"c{k}", [site]) for k in range(K)])
    assert bank.identity
    plain = linear(x)
    assert torch.equal(run(linear, bank, x, torch.randint(0, K, (B, T))), plain)


def test_mistakes_are_named():
    one, two = layer(), layer()
    with pytest.raises(ConfigError, match="one and the same layer"):
        Bank("bank", [*copies(one, 1), *copies(two, 1)])
    delta = Delta([Bank("bank", copies(one), select="gate")]).attach()
    with pytest.raises(ConfigError, match="gate"):
        one(data())
    delta.detach()
    assert run(one, Bank("bank", copies(one), select="gate"), data(), torch.ones(K), "gate").shape
