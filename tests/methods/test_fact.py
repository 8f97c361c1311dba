"""FacT against dense increments of every weight, in float64; factors are there once."""

import math

import pytest
import tiny
import torch
import torch.nn.functional as F
from plain import assert_same, features, leaves, moved
from torch.func import functional_call
from vits import images, vit

from peftbench.edits import Delta, Factored, Factors, LinearSite, noise
from peftbench.errors import ConfigError
from peftbench.methods.fact import Fact
from peftbench.train.config import Trainer
from peftbench.train.optim import make_optimizer

FORMS = ["tt", "tk"]
S = 0.7


def increment(u, v, cube, core, shape):
    """Return the dense increment of a weight, every number by itself, from the paper's formula."""
    width, (out, into) = u.shape[1], shape
    rows = [divmod(n, width) for n in range(out)]
    columns = [divmod(n, width) for n in range(into)]
    cores = core if cube is None else torch.einsum("oik,kab->oiab", core, cube)
    per_tile = torch.einsum("ra,oiab,bc->oirc", v, cores, u)
    o, r = (torch.tensor(x) for x in zip(*rows, strict=True))
    i, c = (torch.tensor(x) for x in zip(*columns, strict=True))
    return S * per_tile[o[:, None], i[None], r[:, None], c[None]]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("roles", [("all",), ("q", "v", "down")], ids=str)
def test_a_vit_computes_the_dense_increments(form, roles):
    network, image = vit(), images()["image"].double()
    model = moved(Fact(form, rank=3, scale=S, roles=roles), network)
    tensors = leaves(model)
    third = network.blocks[0].attn.qkv.out_features // 3
    rows = {"q": 0, "k": third, "v": 2 * third}

    def get(part):
        return next((t for n, t in tensors.items() if n.endswith(part)), None)

    u, v, cube = get("factors.u"), get("factors.v"), get("factors.cube")
    assert (cube is None) == (form == "tt")
    places = {"qkv": "attn.qkv", "o": "attn.proj", "up": "mlp.fc1", "down": "mlp.fc2"}

    def wanted():
        weights = dict(network.named_parameters())
        for name, core in tensors.items():
            if ".core." not in name:
                continue
            index, role = name.split("/")[1], name.rpartition(".")[2]
            key = f"blocks.{index}.{places['qkv' if role in rows else role]}.weight"
            old = weights[key]
            size = (third if role in rows else len(old), old.shape[1])
            change = increment(u, v, cube, core, size)
            at = rows.get(role, 0)
            weights[key] = old + F.pad(change, (0, 0, at, len(old) - at - len(change)))
        network_of = _Features(network)
        return functional_call(network_of, {f"network.{n}": w for n, w in weights.items()}, image)

    assert_same(model, image, tensors, wanted)


class _Features(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return features(self.network, image)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("out", "into"), [(4, 6), (10, 4), (3, 9), (8, 8), (11, 3)])
def test_tiles_that_a_layer_does_not_fill(form, out, into):
    layer = torch.nn.Linear(into, out).double().requires_grad_(False)
    site = LinearSite("x/all", "all", layer, "layer", (0, out))
    factors = Factors(4, 3, form == "tk")
    edit = Factored("e", [site], factors, S, tiles=5).double()
    with torch.no_grad():
        factors.v.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(2, 5, into, dtype=torch.float64, requires_grad=True)
    delta = Delta([edit]).attach()
    change = increment(factors.u, factors.v, factors.cube, edit.core["all"], (out, into))
    dense = F.linear(x, layer.weight + change, layer.bias)
    found = layer(x)
    torch.testing.assert_close(found, dense, rtol=1e-9, atol=1e-9)
    of = [x, *edit.parameters()]
    for mine, other in zip(
        torch.autograd.grad(found.square().sum(), of),
        torch.autograd.grad(dense.square().sum(), of),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    merged, bias = edit.merged(layer.weight, layer.bias)
    torch.testing.assert_close(merged, layer.weight + change, rtol=1e-9, atol=1e-9)
    assert bias is layer.bias
    delta.detach()


@pytest.mark.parametrize("form", FORMS)
def test_shared_factors_are_one_tensor_everywhere(form):
    shared = {"u", "v"} | ({"cube"} if form == "tk" else set())
    with tiny.adapted(tiny.method(f"fact_{form}"), "t5") as model:
        assert len({id(e.factors) for e in model.delta}) == 1 and len(model.delta.edits) > 10
        for names in (model.trainable(), model.tensors()):
            found = [n.rpartition(".")[2] for n in names if ".factors." in n]
            assert sorted(found) == sorted(shared)
        groups = model.method.param_groups(model.delta, model.heads)
        optimizer = make_optimizer(groups, Trainer())
        held = [id(p) for group in optimizer.param_groups for p in group["params"]]
        assert len(held) == len(set(held)) == len(model.trainable())
        other = {n: t + 1 for n, t in model.tensors().items()}
        model.load_tensors(other)
        u = model.delta.edits["decoder/1/down"].factors.u
        assert torch.equal(u, next(t for n, t in other.items() if n.endswith("factors.u")))


def test_start_is_that_of_the_authors():
    site = LinearSite("x/all", "all", torch.nn.Linear(256, 64), "layer", (0, 64))
    tt, tk = Factors(64, 16, False), Factors(64, 16, True)
    for factors in (tt, tk):
        assert factors.v.abs().max() == 0
        assert 0.99 / 8 < factors.u.abs().max() <= 1 / 8  # 1 / sqrt(D)
    core = Factored("e", [site], tt, 1.0).core["all"]
    assert core.shape == (1, 4, 16, 16) and 0.98 / 8 < core.abs().max() <= 1 / 8  # 4 tiles in
    assert 0.99 * 3**0.5 / 16 < tk.cube.abs().max() <= 3**0.5 / 16
    core, bound = Factored("e", [site], tk, 1.0, tiles=144).core["all"], math.sqrt(6 / (16 + 144))
    assert core.shape == (1, 4, 16) and 0.9 * bound < core.abs().max() <= bound


def test_dropout_stands_behind_the_core(monkeypatch):
    seen = []

    def spy(x, p, training, name):
        seen.append((tuple(x.shape[2:]), p, name))
        return 0 * x

    with tiny.adapted(tiny.method("fact_tt", rank=3, dropout=0.25), "vit") as model:
        tiny.perturb(model, 0.3)
        changed = model.train()(tiny.inputs("vit")).logits
        monkeypatch.setattr(noise, "dropout", spy)
        nothing = model(tiny.inputs("vit")).logits
        model.delta.detach()
        assert torch.equal(model(tiny.inputs("vit")).logits, nothing)
        assert not torch.allclose(changed, nothing, atol=1e-3)
    assert seen[:4] == [
        ((9,), 0.25, "encoder/0/qkv/qkv"),
        ((3,), 0.25, "encoder/0/o/o"),
        ((12,), 0.25, "encoder/0/up/up"),
        ((3,), 0.25, "encoder/0/down/down"),
    ]


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"dropout": 1.0}, {"roles": ("x",)}], ids=str)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"method\."):
        Fact(**wrong)
