"""Adapter+ against its formula in float64, its start, its chance, and the paper's counts."""

import pytest
import tiny
import torch
import vits
from u_nets import double, pictures

from peftbench.backbones.backbone import find_anatomy
from peftbench.edits import noise
from peftbench.errors import ConfigError
from peftbench.methods.adapter_plus import AdapterPlus


def naive(network, delta, images):
    """x + g * (W_up GELU(W_down x + b) + b) behind every block, written out."""
    x = network._pos_embed(network.patch_embed(images))
    for i, block in enumerate(network.blocks):
        x = block(x)
        core, gate = delta.edits[f"encoder/{i}/block"].tuner.core, 1.0
        if delta.edits[f"encoder/{i}/block"].tuner.gate.kind != "direct":
            gate = delta.edits[f"encoder/{i}/block"].tuner.gate.scale
        h = torch.nn.functional.gelu(x @ core.down_weight.T + core.down_bias)
        x = x + gate * (h @ core.up_weight.T + core.up_bias)
    return network.norm(x)


@pytest.mark.parametrize("gate", ["channel", "scalar", "direct"])
def test_it_is_the_formula(gate):
    network, images = double(), pictures()
    delta = AdapterPlus(3, gate=gate).plan(find_anatomy(network), torch.Generator().manual_seed(1))
    delta = delta.double().eval()
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in delta.parameters():
            p.add_(0.5 * torch.randn(p.shape, generator=g, dtype=p.dtype))
        wanted, plain = naive(network, delta, images), network.forward_features(images)
        delta.attach()
        found = network.forward_features(images)
        delta.detach()
    assert torch.allclose(found, wanted, atol=1e-12, rtol=0)
    assert not torch.allclose(found, plain, atol=1e-3)


def test_it_starts_near_the_frozen_network_as_the_paper_says():
    made = AdapterPlus(32).plan(find_anatomy(vits.vit(embed_dim=64)), torch.Generator())
    for edit in made:
        core, gate = edit.tuner.core, edit.tuner.gate
        for weight in (core.down_weight, core.up_weight):
            assert weight.abs().max() <= 0.02 and 0.008 < weight.std() < 0.0095
        assert torch.equal(gate.scale, torch.ones(64))
        assert not core.down_bias.any() and not core.up_bias.any()
    assert not made.identity


@pytest.mark.parametrize("init", ["houlsby", "lora"])
def test_other_starts_are_no_change(init):
    network, images = vits.vit().requires_grad_(False), vits.images()["image"]
    with torch.no_grad():
        before = network.forward_features(images)
        delta = AdapterPlus(init=init).plan(find_anatomy(network), torch.Generator()).attach()
        assert delta.identity and torch.equal(before, network.forward_features(images))
        delta.detach()


def test_stochastic_depth_drops_whole_samples_in_training_only():
    x = torch.ones(4000, 2, 3)
    with noise.rows(seed=0, step=1, start=0, total=4000):
        kept = noise.drop_path(x, 0.1, True, "a")
        assert torch.equal(kept, noise.drop_path(x, 0.1, True, "a"))
        assert not torch.equal(kept, noise.drop_path(x, 0.1, True, "b"))
    with noise.rows(seed=0, step=1, start=1000, total=4000):  # the same rows, cut otherwise
        assert torch.equal(kept[1000:2000], noise.drop_path(x[:1000], 0.1, True, "a"))
    assert all(row.unique().numel() == 1 for row in kept)
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.9)]
    assert 0.08 < float((kept[:, 0, 0] == 0).float().mean()) < 0.12
    assert noise.drop_path(x, 0.1, False, "a") is x


def test_a_dropped_sample_goes_without_the_adapter():
    given = tiny.inputs("vit", batch=16)
    with tiny.adapted(AdapterPlus(drop_path=0.5), "vit") as model, torch.no_grad():
        tiny.perturb(model, 0.1)
        model.delta.detach()
        plain = model(given).logits
        model.delta.attach()
        full = model.eval()(given).logits
        model.train()
        with noise.rows(seed=0, step=1, start=0, total=16):
            found = model(given).logits
    without = (found - plain).abs().amax(1) == 0
    assert 1 <= int(without.sum()) <= 10  # a quarter of them goes without both
    assert not torch.allclose(found, full)


@pytest.mark.parametrize("wrong", [{"hidden": 0}, {"drop_path": 1.0}, {"drop_path": -0.1}], ids=str)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="method"):
        AdapterPlus(**wrong)
