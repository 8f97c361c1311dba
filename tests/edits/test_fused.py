"""The fused low-rank form computes what the composed one does."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from peftbench.edits import Delta, LinearSite, LowRank, OutputScale, fused


def make(roles, bias=True, width=12, out=18):
    torch.manual_seed(0)
    layer = nn.Linear(width, out, bias=bias).requires_grad_(False)
    sites = [LinearSite(f"x/{n}", n, layer, "layer", rows) for n, rows in roles.items()]
    edit = LowRank("edit", sites, rank=3, alpha=5.0)
    for b in edit.b.values():
        nn.init.normal_(b)
    return layer, edit


def results(layer, edit, x):
    x = x.clone().requires_grad_(True)
    y = layer(x)
    loss = (y * torch.linspace(-1, 1, y.numel()).view_as(y)).sum()
    grads = torch.autograd.grad(loss, [x, *edit.parameters()])
    return [y.detach(), *grads]


WHOLE = {"o": (0, 18)}
TWO = {"v": (12, 18), "q": (0, 6)}
TOUCHING = {"q": (0, 6), "k": (6, 12), "v": (12, 18)}
MIDDLE = {"k": (6, 12)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("roles", [WHOLE, TWO, TOUCHING, MIDDLE])
def test_fused_equals_composed_and_the_formula(roles, bias, monkeypatch):
    layer, edit = make(roles, bias)
    x = torch.randn(2, 5, 12)
    delta = Delta([edit]).attach()
    calls = []
    real = fused.FusedLowRank.apply
    monkeypatch.setattr(fused.FusedLowRank, "apply", lambda *a: calls.append(1) or real(*a))
    mine = results(layer, edit, x)
    assert calls
    monkeypatch.setattr(fused, "fits", lambda *_: False)
    composed = results(layer, edit, x)
    assert len(calls) == 1
    for a, b in zip(mine, composed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    weight, _ = edit.merged(layer.weight, layer.bias)
    torch.testing.assert_close(mine[0], nn.functional.linear(x, weight, layer.bias))
    delta.detach()
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_zero_update_leaves_every_bit():
    layer, edit = make(TWO)
    x = torch.randn(4, 7, 12)
    before = layer(x)
    for b in edit.b.values():
        nn.init.zeros_(b)
    Delta([edit]).attach()
    assert torch.equal(layer(x), before)


@pytest.mark.parametrize("first", ["scale", "update"])
def test_edits_of_one_layer_act_in_the_order_of_attachment(first):
    layer, update = make(WHOLE)
    scale = OutputScale("scale", update.sites)
    nn.init.normal_(scale.scale["o"])
    x = torch.randn(3, 12)
    y, moved = layer(x), update.change(x, layer(x))
    order = [scale, update] if first == "scale" else [update, scale]
    Delta(order).attach()
    expected = update.change(x, scale.change(x, y)) if first == "scale" else scale.change(x, moved)
    torch.testing.assert_close(layer(x), expected)


def test_two_updates_of_one_layer_both_count():
    layer, first = make(WHOLE)
    second = LowRank("second", first.sites, rank=2, alpha=2.0)
    nn.init.normal_(second.b["o"])
    x = torch.randn(3, 12)
    expected = layer(x) + nn.functional.linear(x, first.weight_update() + second.weight_update())
    Delta([first, second]).attach()
    torch.testing.assert_close(layer(x), expected)


def test_torchs_counter_sees_every_product():
    layer, edit = make(WHOLE)
    Delta([edit]).attach()
    x = torch.randn(5, 12, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 4 * 5 * 12 * 18 + 6 * 5 * 3 * (12 + 18)


def test_a_frozen_input_needs_no_gradient_and_a_training_weight_gets_one():
    layer, edit = make(TWO)
    Delta([edit]).attach()
    x = torch.randn(3, 12)
    layer(x).sum().backward()
    assert all(p.grad is not None for p in edit.parameters())
    layer.weight.requires_grad_(True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("roles", [WHOLE, TWO])
def test_autocast_double_precision_and_compilation(roles):
    layer, edit = make(roles)
    x = torch.randn(2, 5, 12)
    Delta([edit]).attach()
    eager = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        low = layer(x)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), eager, rtol=5e-2, atol=5e-2)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    torch.testing.assert_close(compiled, eager)
    torch.testing.assert_close(layer.double()(x.double()).float(), eager, rtol=1e-5, atol=1e-5)
