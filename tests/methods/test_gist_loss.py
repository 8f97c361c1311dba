"""GIST's loss: section 15 of its specification, properties 8-12, and the variants of section 11."""

import math

import pytest
import torch
import torch.nn.functional as F
from vits import images, over, vit

from peftbench.methods.base import Output
from peftbench.methods.gist import Gist, divergences

B, C = 6, 7
TARGET = torch.arange(B) % C


def logits(scale=3.0, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(B, C, generator=g)).to(dtype), (
        scale * torch.randn(B, C, generator=g)
    ).to(dtype)


def criterion(scores):
    return F.cross_entropy(scores.float(), TARGET, reduction="none")


def terms(s_c, s_g, **options):
    return Gist(**options).losses(Output(s_c, {"gist": s_g}), criterion)


def bkld(s_c, s_g, tau=3.0):
    forward, backward = divergences(s_c, s_g, tau)
    return forward + backward


def test_8_without_weights_the_loss_is_the_cross_entropy():
    s_c, s_g = logits()
    total = sum(terms(s_c, s_g, lambda_ce=0.0, mu_kl=0.0).values())
    assert torch.equal(total, criterion(s_c))


def test_8_defaults_are_those_of_the_release():
    s_c, s_g = logits()
    p, q = (s_c.double() / 3).softmax(-1), (s_g.double() / 3).softmax(-1)
    jeffreys = ((p - q) * (p.log() - q.log())).sum(-1)
    wanted = criterion(s_c) + 0.5 * criterion(s_g) + 0.75 * jeffreys
    found = terms(s_c, s_g)
    assert set(found) == {"task", "gist_ce", "kl_cls_gist", "kl_gist_cls"}
    assert torch.allclose(sum(found.values()).double(), wanted.double(), atol=1e-6)


@pytest.mark.parametrize("key", ["lambda_ce", "mu_kl"])
def test_8_the_loss_is_linear_in_its_weights(key):
    s_c, s_g = logits()
    at = [sum(terms(s_c, s_g, **{key: w}).values()) for w in (0.0, 1.0, 2.5)]
    assert torch.allclose(at[2] - at[0], 2.5 * (at[1] - at[0]), atol=1e-5)
    assert float((at[1] - at[0]).min()) > 0.0


def test_9_divergence_is_a_symmetric_distance_up_to_shifts():
    s_c, s_g = (t.double() for t in logits())
    value = bkld(s_c, s_g)
    assert float(value.min()) > 0
    assert torch.allclose(value, bkld(s_g, s_c), atol=1e-6)
    shift = torch.randn(B, 1, dtype=torch.float64)
    assert torch.equal(bkld(s_c, s_c), torch.zeros(B))
    assert float(bkld(s_c, s_c + shift).abs().max()) < 1e-6
    assert torch.allclose(bkld(s_c + shift, s_g - shift), value, atol=1e-5)


def test_10_closed_form_and_gradient():
    tau = 3.0
    s_c, s_g = logits()
    s_c.requires_grad_(True)
    s_g.requires_grad_(True)
    value = bkld(s_c, s_g, tau)
    value.sum().backward()
    p, q = (s.detach().double().div(tau).softmax(-1) for s in (s_c, s_g))
    assert torch.allclose(value.double(), ((p - q) * (p.log() - q.log())).sum(-1), atol=1e-6)
    for mine, one, other in ((s_c.grad, p, q), (s_g.grad, q, p)):
        ratio = (one / other).log()
        kl = (one * ratio).sum(-1, keepdim=True)
        wanted = (one * (ratio - kl) + one - other) / tau
        assert torch.allclose(mine.double(), wanted, atol=1e-6)
        assert float(mine.sum(-1).abs().max()) < 1e-6


def test_11_no_hidden_temperature_factor():
    s_c, s_g = logits()
    assert torch.allclose(bkld(s_c, s_g, 3.0), bkld(2 * s_c, 2 * s_g, 6.0), atol=1e-6)
    tau = 300.0
    delta = (s_c - s_g).double()
    variance = (delta - delta.mean(-1, keepdim=True)).pow(2).mean(-1)
    forward, backward = divergences(s_c, s_g, tau)
    limit = (forward + backward).double() * tau**2
    assert torch.allclose(limit, variance, rtol=2e-2)


def test_12_finite_for_large_logits_in_half_precision():
    s_c = torch.zeros(B, C, dtype=torch.float16)
    s_g = torch.zeros(B, C, dtype=torch.float16)
    s_c[:, 0], s_g[:, 1] = 1e4, 1e4
    s_c.requires_grad_(True)
    s_g.requires_grad_(True)
    total = sum(terms(s_c, s_g).values())
    assert torch.isfinite(total).all()
    total.sum().backward()
    assert torch.isfinite(s_c.grad).all() and torch.isfinite(s_g.grad).all()


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("both", {"kl_cls_gist", "kl_gist_cls"}),
        ("cls_to_gist", {"kl_cls_gist"}),
        ("gist_to_cls", {"kl_gist_cls"}),
        ("none", set()),
    ],
)
def test_modes_choose_directions(mode, names):
    s_c, s_g = logits()
    found = terms(s_c, s_g, kl_mode=mode)
    assert set(found) - {"task", "gist_ce"} == names
    p, q = (s_c.double() / 3).softmax(-1), (s_g.double() / 3).softmax(-1)
    wanted = {
        "kl_cls_gist": 0.75 * (p * (p / q).log()).sum(-1),
        "kl_gist_cls": 0.75 * (q * (q / p).log()).sum(-1),
    }
    for name in names:
        assert torch.allclose(found[name].double(), wanted[name], atol=1e-6)


def test_nothing_is_detached_by_default_and_teachers_are_on_request():
    for detach in ("none", "teacher"):
        s_c, s_g = (t.requires_grad_(True) for t in logits())
        found = terms(s_c, s_g, detach=detach)
        for name, teacher, student in (("kl_cls_gist", s_c, s_g), ("kl_gist_cls", s_g, s_c)):
            grads = torch.autograd.grad(
                found[name].sum(), (teacher, student), retain_graph=True, allow_unused=True
            )
            assert float(grads[1].abs().max()) > 0
            if detach == "teacher":
                assert grads[0] is None or float(grads[0].abs().max()) == 0
            else:
                assert float(grads[0].abs().max()) > 0


@pytest.mark.parametrize("tau", [1.0, 3.0, 10.0])
def test_squared_temperature_only_on_request(tau):
    s_c, s_g = logits()
    plain, squared = terms(s_c, s_g, tau=tau), terms(s_c, s_g, tau=tau, tau_squared=True)
    for name in ("kl_cls_gist", "kl_gist_cls"):
        assert torch.allclose(squared[name], tau**2 * plain[name], rtol=1e-6)
    assert torch.equal(plain["gist_ce"], squared["gist_ce"])


def test_three_loss_settings_of_the_ablation_train_differently():
    """Token only, token and cross entropy, all: different gradients at the host."""
    network, given, grads = vit(), images(), []
    target = torch.tensor([0, 3, 1])
    for lambda_ce, mu_kl in ((0.0, 0.0), (0.5, 0.0), (0.5, 0.75)):
        with over(network, lambda_ce=lambda_ce, mu_kl=mu_kl, dropout=0.0) as model:
            output = model.train()(given)
            found = model.method.losses(
                output, lambda s: F.cross_entropy(s, target, reduction="none")
            )
            torch.stack([t.mean() for t in found.values()]).sum().backward()
            name = "delta.edits.encoder/0/attn+mlp.tuner.up_weight"
            grads.append(model.trainable()[name].grad.clone())
    assert not torch.allclose(grads[0], grads[1], atol=1e-7)
    assert not torch.allclose(grads[1], grads[2], atol=1e-7)
    assert all(math.isfinite(float(g.sum())) for g in grads)
