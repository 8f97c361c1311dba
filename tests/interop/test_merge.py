"""Merging: what may be merged computes the same, in whatever order; the rest is refused by name."""

from dataclasses import dataclass

import pytest
import tiny
import torch
import torch.nn.functional as F

import peftbench
from peftbench.edits import (
    AddedBias,
    Dora,
    Entries,
    Factored,
    Factors,
    InputOp,
    InputScale,
    LinearSite,
    LowRank,
    OutputScale,
    ScaleShift,
    Weight,
)
from peftbench.errors import ExportError
from peftbench.files import sha256_tensors
from peftbench.interop import merge, write_peft
from peftbench.interop.compare import bound_for
from peftbench.methods import Method
from peftbench.methods.combo import Combo
from peftbench.methods.lora import Lora
from peftbench.methods.repadapter import GroupedBottleneck
from peftbench.train import Adapted

MERGES = (
    *("lora", "dora", "ia3", "bitfit", "layernorm", "full", "linear"),
    *("fact_tt", "fact_tk", "repadapter"),
)
USES = [u for u in tiny.USES if u not in ("roberta", "captioner")]
CASES = [
    (m, u) for u in USES for m in MERGES if not (m == "linear" and tiny.USES[u][1] is None)
] + [("ssf", "vit"), ("ssf", "bert"), ("ssf", "roberta")]


@pytest.mark.parametrize(("name", "use"), CASES)
def test_merged_equals_unmerged_and_base_comes_back(name, use, untouched):
    with tiny.adapted(tiny.method(name), use) as model:
        before = model(tiny.inputs(use)).logits.detach()
        tiny.perturb(model, 0.05)
        model.eval()
        with torch.no_grad():
            wanted = model(tiny.inputs(use)).logits
        assert (wanted - before).abs().max() > 1e-3
        merged = merge(model)
        assert not model.delta.attached
        assert tiny.traces(merged.network) == []
        found = merged.logits(tiny.inputs(use))
        assert (found - wanted).abs().max() <= 1e-5
        assert torch.equal(found.argmax(-1), wanted.argmax(-1))
        assert merged.difference.relative <= merged.bound == 1e-5
        assert merged.difference.argmax_agreement == 1.0
        assert len(merged.edits) == len(model.delta.edits)


@pytest.mark.parametrize("roles", [["q"], ["k"], ["q", "v"], ["q", "k", "v"], ["qkv"], ["all"]])
@pytest.mark.parametrize("rslora", [False, True])
def test_lora_roles_of_a_fused_layer(roles, rslora, untouched):
    with tiny.adapted(tiny.method("lora", roles=roles, rslora=rslora), "vit") as model:
        tiny.perturb(model, 0.1)
        assert merge(model).difference.relative <= 1e-5


@pytest.mark.parametrize("others", [("bitfit",), ("ssf",), ("ia3",)], ids=str)
def test_a_combination_of_what_merges_merges(others):
    made = Combo({name: tiny.method(name) for name in ("lora", *others)})
    with tiny.adapted(made, "vit") as model:
        tiny.perturb(model, 0.05)
        assert merge(model).difference.relative <= 1e-5


@pytest.mark.parametrize(
    ("name", "use", "kind", "where"),
    [
        ("adapter", "vit", "OpEdit", "encoder/0/mlp"),
        ("convpass", "vit", "GridEdit: a small network beside", "encoder/0/mlp"),
        ("compacter", "bert", "OpEdit", "encoder/0/attn"),
        ("vpt_shallow", "bert", "Tokens", "encoder/prompts"),
        ("prefix", "llama", "Prefix", "decoder/0/attn"),
        ("gist", "vit", "Tokens", "gist"),
        ("lst", "bert", "Ladder: a side network", "side"),
        ("combo", "vit", "OpEdit", "adapter/encoder/0/mlp"),
        ("ssf", "llama", "ScaleShift: the LlamaRMSNorm has no bias", "decoder/0/norm1"),
        ("ssf", "t5", "ScaleShift: the T5LayerNorm has no bias", "encoder/0/norm1"),
    ],
)
def test_what_cannot_merge_is_named(name, use, kind, where, untouched):
    with tiny.adapted(tiny.method(name), use) as model:
        with pytest.raises(ExportError) as caught:
            merge(model)
        assert kind in str(caught.value)
        assert where in str(caught.value)
        assert model.delta.attached, "a refusal leaves the adapted network as it was"


def test_bound_refuses_with_figures(untouched):
    with tiny.adapted(tiny.method("lora"), "vit") as model:
        tiny.perturb(model, 0.5)
        with pytest.raises(ExportError, match=r"max \|difference\| .*e-0.*bound: 1e-12"):
            merge(model, bound=1e-12)


def test_wrong_formula_is_caught(monkeypatch, untouched):
    monkeypatch.setattr(LowRank, "merged", lambda self, w, b: (w - self.weight_update(), b))
    with tiny.adapted(tiny.method("lora"), "vit") as model:
        tiny.perturb(model, 0.05)
        with pytest.raises(ExportError, match="computes something else"):
            merge(model)


def test_bf16_base_is_merged_in_fp32_and_held_to_its_own_bound():
    base = tiny.fresh("vit_tiny_random")
    base.model.to(torch.bfloat16)
    model = peftbench.attach(tiny.method("lora"), base, classes=3)
    tiny.perturb(model, 0.05)
    edit = model.delta.edits["encoder/0/q+v"]
    wanted = (edit.module.weight.float() + edit.weight_update()).to(torch.bfloat16)
    merged = merge(model, bound=0.05)  # what rounding does differs from machine to machine
    assert bound_for(merged.network) == 1e-2
    assert bound_for(tiny.backbone("vit_tiny_random").model) == 1e-5
    assert merged.network.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert torch.equal(merged.network.blocks[0].attn.qkv.weight, wanted)


@dataclass(frozen=True)
class Stacked(Method):
    """Several edits of one layer, in a given order."""

    order: tuple = ()

    def edits(self, anatomy, generator):
        site = next(anatomy.blocks).linears["down"]
        assert isinstance(site, LinearSite)
        channel = next(c for c in anatomy.channels if c.module is site.module)
        kinds = {
            "lora": lambda n: LowRank(n, [site], rank=2, alpha=4, generator=generator),
            "dora": lambda n: Dora(n, [site], rank=2, alpha=4, generator=generator),
            "out": lambda n: OutputScale(n, [site]),
            "in": lambda n: InputScale(n, [site]),
            "bias": lambda n: AddedBias(n, [site]),
            "ssf": lambda n: ScaleShift(n, channel, generator),
            "weight": lambda n: Weight(n, [(site.module, "weight")]),
            "entries": lambda n: Entries(n, (site.module, "weight"), torch.tensor([0, 7, 40])),
        }
        return [kinds[k](f"{i}/{k}") for i, k in enumerate(self.order)]


ORDERS = [
    ("lora", "out"),
    ("out", "lora"),
    ("in", "lora"),
    ("lora", "in", "ssf"),
    ("ssf", "in", "lora", "out", "bias"),
    ("bias", "ssf", "lora"),
    ("dora", "bias"),
    ("bias", "dora"),
    ("out", "dora"),
    ("ssf", "dora", "in"),
    ("lora", "weight"),
    ("weight", "dora", "out"),
    ("entries", "in", "ssf"),
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
@pytest.mark.parametrize("use", ["vit", "llama"])
def test_order_of_edits_at_one_layer(order, use, untouched):
    with tiny.adapted(Stacked(order), use) as model:
        tiny.perturb(model, 0.3)
        assert merge(model).difference.relative <= 1e-5


@dataclass(frozen=True)
class Fronted(Method):
    """Adapters in front of the MLP, and edits of a layer that reads them, in a given order."""

    order: tuple = ()

    def edits(self, anatomy, generator):
        block = next(anatomy.blocks)
        site = block.linears["up"]
        readers = [s.module for r, s in block.linears.items() if r in ("up", "gate")]
        factors = Factors(32, 3, False, generator)
        kinds = {
            "front": lambda n: InputOp(n, block.ops["mlp"], readers, grouped(n, generator)),
            "fact": lambda n: Factored(n, [site], factors, 1.0, generator=generator),
            "dora": lambda n: Dora(n, [site], rank=2, alpha=4, generator=generator),
            "out": lambda n: OutputScale(n, [site]),
            "in": lambda n: InputScale(n, [site]),
        }
        return [kinds[k](f"{i}/{k}") for i, k in enumerate(self.order)]


def grouped(name, generator):
    return GroupedBottleneck(32, 4, 2, 1.0, 0.0, name, generator)


@pytest.mark.parametrize(
    "order",
    [
        ("front", "dora"),
        ("fact", "front", "in"),
        ("front", "front"),
        ("in", "front", "out", "front", "fact"),
    ],
    ids="-".join,
)
@pytest.mark.parametrize("use", ["vit", "llama"])
def test_order_of_adapters_in_front(order, use, untouched):
    with tiny.adapted(Fronted(order), use) as model:
        tiny.perturb(model, 0.3)
        assert merge(model).difference.relative <= 1e-5


def test_tied_tensors_stay_tied_when_merged(untouched):
    with tiny.adapted(tiny.method("full"), "t5") as model:
        tiny.perturb(model)
        network = merge(model).network
        assert network.encoder.embed_tokens.weight is network.shared.weight
        assert network.shared.weight is network.decoder.embed_tokens.weight


def test_merging_twice_is_refused(untouched):
    with tiny.adapted(tiny.method("lora"), "vit") as model:
        merge(model)
        with pytest.raises(ExportError, match="not attached"):
            merge(model)


def test_checkpointed_network_merges_without_its_wrappers(untouched):
    with tiny.adapted(tiny.method("lora"), "vit") as model:
        model.checkpointing(True)
        network = merge(model).network
        assert tiny.traces(network) == []


def test_merged_weight_is_the_hand_made_one(untouched):
    with tiny.adapted(tiny.method("ssf"), "vit") as model:
        tiny.perturb(model, 0.1)
        edits = model.delta.edits
        embed, norm = edits["encoder/patch"], edits["encoder/0/norm1"]
        digest = sha256_tensors(model.base.state_dict())
        network = merge(model).network
        frozen, new = model.base.patch_embed.proj, network.patch_embed.proj
        image = torch.randn(2, 3, 32, 32)
        wanted = F.conv2d(image, frozen.weight, frozen.bias, stride=8)
        wanted = wanted * embed.gamma[:, None, None] + embed.beta[:, None, None]
        torch.testing.assert_close(new(image), wanted, atol=1e-5, rtol=1e-5)
        old = model.base.blocks[0].norm1
        assert torch.equal(network.blocks[0].norm1.weight, norm.gamma * old.weight)
        assert torch.equal(network.blocks[0].norm1.bias, norm.gamma * old.bias + norm.beta)
        assert sha256_tensors(model.base.state_dict()) == digest


def test_the_export_of_a_captioner_is_refused_before_anything_is_written(tmp_path):
    """It is two networks and a map between them; no library holds these as one."""
    for write in (merge, lambda model: write_peft(model, {}, tmp_path / "out")):
        model = Adapted(tiny.fresh("captioner_tiny_random"), Lora(), None)
        with pytest.raises(ExportError, match="a trained map and a decoder"):
            write(model)
        model.release()
    assert not (tmp_path / "out").exists()
