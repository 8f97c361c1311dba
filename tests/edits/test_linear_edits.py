"""Edits of linear layers: merged into plain weights they compute the same; fused layers."""

import pytest
import torch
from torch import nn

from peftbench.edits import (
    AddedBias,
    ChannelSite,
    Delta,
    Dora,
    InputScale,
    LinearSite,
    LowRank,
    OutputScale,
    ScaleShift,
    TensorRef,
)
from peftbench.errors import ConfigError

I, O = 6, 12  # noqa: E741
ROWS = {
    "whole": [("all", (0, O))],
    "fused": [("q", (0, 4)), ("v", (8, 12))],
    "late": [("k", (4, 8))],
}
KINDS = ["lora", "rslora", "dora", "output", "input", "bias"]


def layer(bias=True):
    torch.manual_seed(0)
    return nn.Linear(I, O, bias=bias)


def make(kind, linear, rows):
    sites = [LinearSite(f"x/{r}", r, linear, "layer", span) for r, span in ROWS[rows]]
    if kind in ("lora", "rslora", "dora"):
        cls = Dora if kind == "dora" else LowRank
        return cls("e", sites, rank=3, alpha=6.0, rslora=kind == "rslora")
    return {"output": OutputScale, "input": InputScale, "bias": AddedBias}[kind]("e", sites)


def disturb(edit):
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in edit.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g))


def data(*shape):
    return torch.randn(*shape, I, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 2, 2)])
def test_merged_equals_unmerged(kind, rows, bias, shape):
    linear, x = layer(bias), data(*shape)
    plain = linear(x)
    edit = make(kind, linear, rows)
    delta = Delta([edit]).attach()
    assert torch.equal(linear(x), plain)  # every one of these starts as no change
    disturb(edit)
    changed = linear(x)
    assert not torch.allclose(changed, plain, atol=1e-3)
    weight, b = edit.merged(linear.weight, linear.bias)
    delta.detach()
    assert torch.equal(linear(x), plain)
    merged = nn.functional.linear(x, weight, b)
    assert torch.allclose(changed, merged, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "dora", "output"])
@pytest.mark.parametrize("rows", ["fused", "late"])
def test_rows_of_other_roles_keep_their_bits(kind, rows):
    linear, x = layer(), data(4)
    plain = linear(x)
    edit = make(kind, linear, rows)
    delta = Delta([edit]).attach()
    disturb(edit)
    changed = linear(x)
    mine = torch.zeros(O, dtype=torch.bool)
    for _, (start, stop) in ROWS[rows]:
        mine[start:stop] = True
    assert torch.equal(changed[:, ~mine], plain[:, ~mine])
    assert not torch.isclose(changed[:, mine], plain[:, mine], atol=1e-6).any()
    delta.detach()


def test_a_fused_layer_computes_what_separate_layers_compute():
    linear, x = layer(), data(4)
    edit = make("lora", linear, "fused")
    disturb(edit)
    y = linear(x)
    wanted = y.clone()
    for role, (start, stop) in ROWS["fused"]:
        wanted[:, start:stop] += 2.0 * x @ edit.a[role].t() @ edit.b[role].t()
    assert torch.allclose(edit.change(x, y), wanted, atol=1e-6)


def test_roles_may_come_in_any_order():
    linear, x = layer(), data(4)
    first = make("lora", linear, "fused")
    second = LowRank("e", first.sites[::-1], rank=3, alpha=6.0)
    disturb(first)
    with torch.no_grad():
        for role in first.a:
            second.a[role].copy_(first.a[role])
            second.b[role].copy_(first.b[role])
    y = linear(x)
    assert torch.allclose(first.change(x, y), second.change(x, y), atol=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("rank", [1, 4, 16])
def test_scaling(rank, rslora):
    site = LinearSite("x/all", "all", layer(), "layer", (0, O))
    edit = LowRank("e", [site], rank=rank, alpha=8.0, rslora=rslora)
    assert edit.scale == pytest.approx(8.0 / (rank**0.5 if rslora else rank))


def test_dora_divides_by_the_exact_row_norm_without_its_gradient():
    linear, x = layer(), data(4)
    edit = make("dora", linear, "whole")
    disturb(edit)
    dense = linear.weight + 2.0 * edit.b["all"] @ edit.a["all"]
    norm = dense.norm(dim=1)
    assert torch.allclose(edit.row_norm(edit.sites[0]), norm, atol=1e-5)
    wanted = edit.m["all"] * (x @ dense.t()) / norm.detach() + linear.bias
    found = edit.change(x, linear(x))
    assert torch.allclose(found, wanted, atol=1e-5)
    tensors = [edit.m["all"], edit.a["all"], edit.b["all"]]
    mine = torch.autograd.grad(found.square().sum(), tensors)
    other = torch.autograd.grad(wanted.square().sum(), tensors)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(mine, other, strict=True))


def test_lora_dropout_falls_on_the_input_of_a_only():
    linear, x = layer(), data(4)
    site = LinearSite("x/all", "all", linear, "layer", (0, O))
    edit = LowRank("e", [site], rank=3, alpha=6.0, dropout=0.5)
    y = linear(x)
    assert torch.equal(edit.train().change(x, y), y)  # B is zero: dropout changes nothing
    disturb(edit)
    assert not torch.equal(edit.train().change(x, y), edit.change(x, y))
    assert torch.equal(edit.eval().change(x, y), edit.change(x, y))


def test_two_edits_of_one_layer_add_up():
    linear, x = layer(), data(4)
    site = LinearSite("x/all", "all", linear, "layer", (0, O))
    one, two = (LowRank(n, [site], rank=2, alpha=2.0) for n in ("one", "two"))
    disturb(one)
    disturb(two)
    y = linear(x)
    delta = Delta([one, two]).attach()
    assert torch.allclose(linear(x), two.change(x, one.change(x, y)), atol=1e-6)
    delta.detach()


def test_names_of_edits():
    linear = layer()
    one = make("bias", linear, "whole")
    with pytest.raises(ConfigError, match="two edits"):
        Delta([one, make("bias", linear, "whole")])
    with pytest.raises(ConfigError, match="dot"):
        AddedBias("a.b", one.sites)


def channel(module, kind, features):
    return ChannelSite("x", kind, module, "m", TensorRef(module, "output"), features)


@pytest.mark.parametrize("bias", [True, False])
def test_scale_and_shift_merge_into_a_linear_layer(bias):
    linear, x = layer(bias), data(4)
    edit = ScaleShift("e", channel(linear, "linear", O))
    wanted = edit.change(linear(x))
    weight, b = edit.merged(linear.weight, linear.bias)
    assert torch.allclose(nn.functional.linear(x, weight, b), wanted, atol=1e-6)


def test_scale_and_shift_merge_into_a_norm_and_a_convolution():
    norm = nn.LayerNorm(I)
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
    x = data(4)
    edit = ScaleShift("e", channel(norm, "norm", I))
    weight, b = edit.merged(norm.weight, norm.bias)
    merged = nn.functional.layer_norm(x, (I,), weight, b)
    assert torch.allclose(merged, edit.change(norm(x)), atol=1e-6)
    conv, image = nn.Conv2d(3, I, 2, stride=2), torch.randn(2, 3, 4, 4)
    edit = ScaleShift("e", channel(conv, "embed", I))
    weight, b = edit.merged(conv.weight, conv.bias)
    merged = nn.functional.conv2d(image, weight, b, stride=2).flatten(2).transpose(1, 2)
    wanted = edit.change(conv(image).flatten(2).transpose(1, 2))
    assert torch.allclose(merged, wanted, atol=1e-6)


def test_scale_and_shift_start_near_the_identity():
    edit = ScaleShift("e", channel(nn.Linear(2, 20_000), "linear", 20_000))
    assert abs(float(edit.gamma.mean().detach()) - 1) < 1e-3
    assert abs(float(edit.beta.mean().detach())) < 1e-3
    assert float(edit.gamma.std().detach()) == pytest.approx(0.02, rel=0.05)
    assert float(edit.beta.std().detach()) == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_base_keeps_full_precision_masters(kind):
    linear = layer().to(torch.bfloat16)
    x = data(4).to(torch.bfloat16)
    plain = linear(x)
    edit = make(kind, linear, "whole")
    delta = Delta([edit]).attach()
    changed = linear(x)
    assert changed.dtype == torch.bfloat16
    assert torch.allclose(changed.float(), plain.float(), rtol=2e-2, atol=1e-2)
    changed.float().square().sum().backward()
    for p in edit.parameters():
        assert p.dtype == torch.float32 and p.grad.dtype == torch.float32
    delta.detach()
