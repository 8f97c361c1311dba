"""Compacter against Kronecker products written out, in float64; the rule is there once."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from plain import assert_same, features, leaves, moved
from vits import images, vit

from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.compacter import START, Compacter, PhmLinear, Rule


def phm(rule, tensors, lead, x):
    """Return x W + b with W a sum of Kronecker products."""
    left, right = tensors[lead + "left"], tensors[lead + "right"]
    weight = sum(
        torch.kron(a, torch.outer(s, t)) for a, s, t in zip(rule, left, right, strict=True)
    )
    return x @ weight + tensors[lead + "bias"]


@pytest.mark.parametrize("division", [1, 2, 4])
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_a_vit_computes_the_kronecker_products(placement, division):
    network, image = vit(), images()["image"].double()
    model = moved(Compacter(placement, hidden=8, division=division), network)
    tensors = leaves(model)
    rules = [n for n in tensors if n.endswith(".rule.a")]
    assert len(rules) == 1 and tensors[rules[0]].shape == (division,) * 3

    def behind(index, kind, y):
        lead = f"encoder/{index}/{kind}.tuner."
        if lead + "down.bias" not in tensors:
            return y
        h = phm(tensors[rules[0]], tensors, lead + "down.", y)
        h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
        return y + phm(tensors[rules[0]], tensors, lead + "up.", h)

    assert_same(model, image, tensors, lambda: features(network, image, behind=behind))


def test_the_rule_is_one_tensor_everywhere():
    with tiny.adapted(tiny.method("compacter"), "t5") as model:
        layers = [m for m in model.delta.modules() if isinstance(m, PhmLinear)]
        assert len(layers) == 16 and len({id(m.rule.a) for m in layers}) == 1
        for names in (model.trainable(), model.tensors()):
            assert sum(n.endswith("rule.a") for n in names) == 1
        assert model.counts()["trainable"] == sum(t.numel() for t in model.tensors().values())


def test_start_is_that_of_the_authors():
    rule = Rule(4, torch.Generator().manual_seed(0))
    assert rule.a.std().item() == pytest.approx(START, rel=0.3)
    layer = PhmLinear(rule, 64, 24, torch.Generator().manual_seed(0))
    for tensor, length in ((layer.left, 16), (layer.right, 6)):
        bound = 2**0.5 * (6 / (length + 1)) ** 0.5
        assert tensor.shape == (4, length)
        assert 0.8 * bound < tensor.abs().max() <= bound
    assert layer.bias.abs().max() == 0
    x = torch.randn(3, 64)
    assert torch.allclose(F.linear(x, layer.weight()), layer(x))


def test_norms_train_too_when_asked_for():
    with tiny.adapted(tiny.method("compacter", norms=True), "vit") as model:
        names = [n for n in model.trainable() if "norm" in n]
        assert len(names) == 2 * 5 and model.counts()["trainable"] == 736 + 5 * 64


def test_wrong_settings_are_refused():
    for wrong in ({"hidden": 0}, {"division": 0}):
        with pytest.raises(ConfigError, match=r"method\."):
            Compacter(**wrong)
    with pytest.raises(ConfigError, match="multiple of division=4; nearest: 24"):
        Compacter(hidden=26)
    with pytest.raises(ConfigError, match="nearest: 4"):
        Compacter(hidden=3)
    anatomy = tiny.backbone("vit_tiny_random").anatomy
    with pytest.raises(IncompatibleError, match="does not divide the width 32"):
        Compacter(hidden=24, division=3).plan(anatomy, torch.Generator())
