"""Scales of keys and values in place of one of the output. U-Tuning, section 4.2."""

import pytest
import torch
from u_nets import KINDS, OPS, double, pictures, plan, stir, worst

from peftbench.errors import ConfigError


def scaled(delta):
    return [(edit, module) for edit in delta for module in edit.modules()
            if type(module).__name__ == "Branch"]  # fmt: skip


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("gate", ["scalar", "channel"])
def test_scaled_rows_are_rows(op, gate):
    """Scaled keys and values give what an unscaled prefix of the products gives."""
    image, network, twin = pictures(), double(), double()
    twin.load_state_dict(network.state_dict())
    prefix = KINDS["prefix"]
    mine = stir(plan(network, **{op: prefix(gate=gate, scale_on="kv", init="xavier", length=3)}))
    plain = plan(twin, **{op: prefix(gate="direct", init="xavier", length=3)})
    with torch.no_grad():
        for (_, a), (_, b) in zip(scaled(mine), scaled(plain), strict=True):
            keys, values = a.scale(*a.rows())
            b.rows.key.copy_(keys.transpose(0, 1).flatten(1))
            b.rows.value.copy_(values.transpose(0, 1).flatten(1))
    assert worst(network(image), twin(image)) < 1e-12
    mine.detach()
    bare = network(image)
    plain.detach()
    assert worst(twin(image), bare) == 0


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_counts_and_gradients(kind):
    network = double()
    d = network.embed_dim
    for gate, extra in (("scalar", 2), ("channel", 2 * d)):
        delta = plan(network, attn=KINDS[kind](gate=gate, scale_on="kv", init="xavier", length=3))
        rows = (2 if kind == "prefix" else 1) * 3 * d
        blocks = len(network.blocks)
        assert sum(p.numel() for p in delta.parameters()) == blocks * (rows + extra)
        network(pictures()).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in delta.parameters())
        delta.detach()


@pytest.mark.parametrize("gate", ["direct", "input", "lambda"])
def test_a_gate_without_a_learned_scale_is_refused(gate):
    with pytest.raises(ConfigError, match="scale_on"):
        KINDS["prefix"](gate=gate, scale_on="kv")
