"""Combinations: one part is that part, several are all of them, conflicts are refused."""

from dataclasses import dataclass, replace

import pytest
import tiny
import torch
import vits
from test_counts import B, anatomy

from peftbench.backbones.backbone import find_anatomy
from peftbench.edits import noise
from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.adapter import Adapter
from peftbench.methods.base import Output, ParamGroup
from peftbench.methods.bitfit import BitFit
from peftbench.methods.combo import Combo
from peftbench.methods.full import Full
from peftbench.methods.gist import Gist
from peftbench.methods.layernorm import LayerNorm
from peftbench.methods.linear import Linear
from peftbench.methods.lora import Lora
from peftbench.methods.lst import Lst
from peftbench.methods.prefix import Prefix
from peftbench.methods.ssf import Ssf
from peftbench.methods.vpt import Vpt
from peftbench.spec import build, to_spec

CIFAR100 = {  # the published subnet of NOAH
    "lora": [10, 1, 5, 5, 1, 10, 1, 1, 1, 10, 1, 1],
    "adapter": [5, 10, 10, 10, 5, 1, 1, 1, 10, 10, 10, 1],
    "prompts": [10, 5, 10, 1, 5, 1, 10, 1, 10, 5, 1, 10],
}
NOAH = {"lora": Lora(("qkv",), alpha=8.0), "adapter": Adapter(), "prompts": Vpt(8, deep=True)}


def trained(made, use, steps=3):
    """Return tensors and logits after some steps with dropout drawn by row."""
    with tiny.adapted(made, use) as model:
        optimizer = torch.optim.SGD(model.trainable().values(), lr=0.1)
        model.train()
        for step in range(steps):
            given = tiny.inputs(use, seed=step)
            with noise.rows(seed=0, step=step, start=0, total=tiny.BATCH):
                tiny.loss(model, model(given), tiny.labels(use, given)).backward()
            optimizer.step()
            optimizer.zero_grad()
            model.delta.sync()
        with torch.no_grad():
            logits = model.eval()(tiny.inputs(use)).logits
        return {n: t.clone() for n, t in model.tensors().items()}, logits, model.counts()


@pytest.mark.parametrize(
    ("name", "use"),
    [("lora", "llama"), ("gist", "vit"), ("vpt_deep", "bert"), ("full", "t5"), ("ssf", "vit")],
)
def test_a_combination_of_one_part_is_that_method(name, use):
    part = tiny.method(name)
    if isinstance(part, Lora):
        part = replace(part, dropout=0.3)
    tensors, logits, counts = trained(part, use)
    mine, my_logits, my_counts = trained(Combo({"only": part}), use)
    assert torch.equal(logits, my_logits) and counts == my_counts
    assert mine.keys() == tensors.keys()
    assert all(torch.equal(mine[n], tensors[n]) for n in tensors)


def test_parts_act_together_under_their_names():
    """LoRA and an adapter, in float64, against the network with both written out."""
    network = vits.vit().double().requires_grad_(False)
    images = vits.images()["image"].double()
    made = Combo({"low": Lora(("q", "v"), 2), "wide": Adapter("pfeiffer", 3)})
    delta = made.plan(find_anatomy(network), torch.Generator().manual_seed(1)).double()
    assert all(n.split("/")[0] in made.parts for n in delta.edits)
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in delta.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=g, dtype=p.dtype))
        delta.attach()
        found = network.forward_features(images)
        delta.detach()
        for i, block in enumerate(network.blocks):
            low = delta.edits[f"low/encoder/{i}/q+v"]
            for site in low.sites:
                rows = slice(*site.rows)
                block.attn.qkv.weight[rows] += low.scale * low.b[site.role] @ low.a[site.role]
            core = delta.edits[f"wide/encoder/{i}/mlp"].tuner
            block.mlp.register_forward_hook(lambda _, x, y, core=core: y + core(y))
        assert torch.allclose(found, network.forward_features(images), atol=1e-12, rtol=0)


def test_parts_act_in_the_order_of_their_names_however_they_are_written():
    one, other = Adapter("pfeiffer", 2), Adapter("pfeiffer", 3)
    first, second = Combo({"b": one, "a": other}), Combo({"a": other, "b": one})
    names = [e.name for e in first.edits(anatomy(B), torch.Generator())]
    assert names[0] == "a/encoder/0/mlp" and names[12] == "b/encoder/0/mlp" and len(names) == 24
    assert first == second and list(to_spec(first)["parts"]) == ["a", "b"]
    assert names == [e.name for e in second.edits(anatomy(B), torch.Generator())]


@dataclass(frozen=True)
class Fast(Lora):
    """LoRA with multipliers and a loss of its own."""

    def losses(self, output, criterion):
        return {**super().losses(output, criterion), "extra": output.logits.square().mean(-1)}

    def param_groups(self, delta, heads):
        (group,) = super().param_groups(delta, heads)
        return [ParamGroup(group.params, lr=4.0, weight_decay=0.0)]


def test_losses_count_the_task_once_and_every_other_term():
    calls = []

    def criterion(logits):
        calls.append(1)
        return logits.sum(-1)

    output = Output(torch.randn(3, 5), {"gist": torch.randn(3, 5)})
    parts = {"a": Fast(), "b": Gist(Linear()), "c": Fast(), "d": BitFit()}
    terms = Combo(parts).losses(output, criterion)
    assert list(terms) == ["task", "extra", "gist_ce", "kl_cls_gist", "kl_gist_cls", "c/extra"]
    assert torch.equal(terms["task"], output.logits.sum(-1))
    assert len(calls) == 2  # the class token and the Gist token, once each


def test_every_part_keeps_its_multipliers():
    parts = {"slow": Adapter(), "fast": Fast(), "gist": Gist(Linear(), decay=False)}
    with tiny.adapted(Gist(inner=Combo({**parts, "gist": Linear()}), decay=False), "vit") as model:
        outer = model.method.param_groups(model.delta, model.heads)
        held = [n for g in outer for n in g.params]
        assert sorted(held) == sorted(model.trainable())
    with tiny.adapted(Combo(parts), "vit") as model:
        groups = model.method.param_groups(model.delta, model.heads)
        held = [n for g in groups for n in g.params]
        assert sorted(held) == sorted(model.trainable())
        assert all(model.trainable()[n] is p for g in groups for n, p in g.params.items())
        by_name = {n: (g.lr, g.weight_decay) for g in groups for n in g.params}
    assert by_name["heads.main.weight"] == (1.0, 1.0)
    assert by_name["delta.edits.gist/gist.tokens"] == (1.0, 0.0)
    fast = [v for n, v in by_name.items() if n.startswith("delta.edits.fast/")]
    assert fast and set(fast) == {(4.0, 0.0)}


def test_gist_wraps_a_combination():
    parts = {"lora": Lora(), "adapter": Adapter()}
    alone, both = Combo(parts), Gist(inner=Combo(parts))
    with tiny.adapted(alone, "vit") as model:
        counts, names = model.counts(), list(model.delta.edits)
    with tiny.adapted(both, "vit") as model:
        assert model.counts()["trainable"] == counts["trainable"] + 32
        assert list(model.delta.edits) == [*names, "gist"]
        output = model(tiny.inputs("vit"))
        assert set(output.extra) == {"gist"}
        assert set(both.losses(output, lambda x: x.sum(-1))) >= {"task", "gist_ce"}


def test_a_part_that_says_what_predicts_is_heard():
    output = Output(torch.randn(3, 5), {"gist": torch.randn(3, 5)})
    parts = {"lora": Lora(), "g": Gist(Linear(), inference="gist")}
    assert torch.equal(Combo(parts).scores(output), output.extra["gist"])
    assert torch.equal(Combo({"lora": Lora()}).scores(output), output.logits)


@pytest.mark.parametrize("use", ["vit", "bert", "t5", "llama"])
def test_parts_in_some_blocks_only(use):
    made = Combo({"a": Lora(), "b": Ssf(), "c": Full()}, {"a": (1,), "b": (0,), "c": (1,)})
    with tiny.adapted(made, use) as model:
        places = {tuple(n.split("/")[:3]) for n in model.delta.edits if not n.startswith("c/")}
        stacks = [s.name for s in model.backbone.anatomy.stacks]
        wanted = {("a", s, "1") for s in stacks} | {("b", s, "0") for s in stacks}
        assert places == wanted
        blocks = [s.blocks[1].module for s in model.backbone.anatomy.stacks]
        numbers = sum(p.numel() for b in blocks for p in b.parameters())
        full = [p for n, p in model.delta.named_parameters() if n.startswith("edits.c/")]
        assert sum(p.numel() for p in full) == numbers
        given = tiny.inputs(use)
        tiny.loss(model, model(given), tiny.labels(use, given)).backward()
        assert all(p.grad is not None for p in model.trainable().values())
    assert build(to_spec(made)) == made


def test_a_published_noah_subnet():
    """Sizes per block as published; numbers by hand: qkv LoRA, adapter, prompts of ViT-B/16."""
    sizes = {
        "lora": {"rank": tuple(CIFAR100["lora"]), "alpha": tuple(CIFAR100["lora"])},
        "adapter": {"hidden": tuple(CIFAR100["adapter"])},
        "prompts": {"tokens": tuple(CIFAR100["prompts"])},
    }
    made = Combo(NOAH, sizes=sizes)
    d = 768
    wanted = sum(4 * d * r for r in CIFAR100["lora"])
    wanted += sum(2 * d * h + h + d for h in CIFAR100["adapter"])
    wanted += sum(d * m for m in CIFAR100["prompts"])
    delta = made.plan(anatomy(B), torch.Generator())
    assert delta.parameter_count() == wanted == 320_330
    assert {e.scale for n, e in delta.edits.items() if n.startswith("lora/")} == {1.0}
    assert build(to_spec(made)) == made


def test_prompts_of_own_number_in_every_block_against_the_network_written_out():
    network = vits.vit(depth=3).double().requires_grad_(False)
    images = vits.images()["image"].double()
    numbers = (2, 0, 3)
    made = Combo({"p": Vpt(1, deep=True)}, sizes={"p": {"tokens": numbers}})
    delta = made.plan(find_anatomy(network), torch.Generator().manual_seed(1)).double().attach()
    with torch.no_grad():
        found = network.forward_features(images)
        delta.detach()
        prompts = [e.tokens[0] for e in delta]
        assert [len(p) for p in prompts] == [2, 3]
        x = network._pos_embed(network.patch_embed(images))
        for block, m in zip(network.blocks, numbers, strict=True):
            if m:
                mine = prompts.pop(0).expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], mine, x[:, 1:]], 1)
            x = block(x)
            x = torch.cat([x[:, :1], x[:, 1 + m :]], 1)
        assert torch.allclose(found, network.norm(x), atol=1e-12, rtol=0)


def test_a_gist_token_stays_in_its_place_beside_prompts_that_come_and_go():
    parts = {"p": Vpt(1, deep=True), "a": Adapter()}
    made = Gist(inner=Combo(parts, sizes={"p": {"tokens": (2, 3)}}), dropout=0.0, inference="gist")
    given = tiny.inputs("vit")
    with tiny.adapted(made, "vit") as model, torch.no_grad():
        tiny.perturb(model)
        found = model.eval()(given)
        network, delta = model.base, model.delta
        prompts = [delta.edits[f"p/encoder/{i}/prompts"].tokens[0] for i in range(2)]
        gist = delta.edits["gist"].tokens[0]
        core = [delta.edits[f"a/encoder/{i}/mlp"].tuner for i in range(2)]
        delta.detach()
        x = network._pos_embed(network.patch_embed(given["image"]))
        x = torch.cat([x[:, :1], gist.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block, mine, adapter in zip(network.blocks, prompts, core, strict=True):
            x = torch.cat([x[:, :1], mine.expand(len(x), -1, -1), x[:, 1:]], 1)
            x = x + block.attn(block.norm1(x))
            y = block.mlp(block.norm2(x))
            x = x + y + adapter(y)
            x = torch.cat([x[:, :1], x[:, 1 + len(mine) :]], 1)
        x = network.norm(x)
        assert torch.allclose(found.logits, model.heads["main"](x[:, 0]), atol=1e-5)
        assert torch.allclose(found.extra["gist"], model.heads["main"](x[:, 1]), atol=1e-5)


REFUSED = [
    ({"parts": {}}, "parts: at least one"),
    ({"parts": {"a.b": Lora()}}, "'a.b' is no name"),
    ({"parts": {"a": Combo()}}, r"parts\.a: a combo"),
    ({"parts": {"a": Gist(), "b": Gist(Lora())}}, "'a' hands out 'gist' too"),
    ({"blocks": {"lroa": (0,)}}, "Did you mean 'lora'"),
    ({"blocks": {"lora": ()}}, "must name blocks"),
    ({"parts": {"g": Gist()}, "blocks": {"g": (0,)}}, r"blocks\.g: .* behind the last norm"),
    ({"blocks": {"lora": (1, 1)}}, "each once"),
    ({"sizes": {"lora": {"rnk": (1, 2)}}}, r"method\.sizes\.lora\.rnk.*Did you mean 'rank'"),
    ({"sizes": {"lora": {"rank": (1, 2), "alpha": (1.0,)}}}, "as many for"),
    ({"sizes": {"lora": {"rank": ()}}}, "one number for each block"),
    ({"sizes": {"lora": {}}}, "one number for each block"),
    ({"sizes": {"lora": {"rank": (0, 0)}}}, "no block has a size"),
    ({"sizes": {"lora": {"rank": (1.5, 2)}}}, r"sizes\.lora\.rank: expected int"),
    ({"blocks": {"lora": (0,)}, "sizes": {"lora": {"rank": (1, 2)}}}, "names its blocks already"),
]


@pytest.mark.parametrize(("wrong", "text"), REFUSED, ids=[t for _, t in REFUSED])
def test_wrong_settings_are_refused(wrong, text):
    with pytest.raises(ConfigError, match=text):
        Combo(**wrong)


DEEP = Vpt(2, deep=True)
LOCAL = {"a": (1,)}
CONFLICTS = [
    (Combo({"a": Full(), "b": BitFit()}), "vit", "'a' and 'b' both train"),
    (Combo({"a": BitFit(), "b": LayerNorm()}), "vit", "both train the network's own tensor"),
    (Combo({"a": Lora(), "b": Ssf()}, {"a": (7,)}), "vit", r"blocks\.a: encoder of vit has no"),
    (Combo(sizes={"lora": {"rank": (1, 2, 3)}}), "t5", "3 numbers, and encoder of t5 has 2"),
    (Combo({"a": Lst()}, LOCAL), "vit", r"blocks\.a: this part stands beside the whole network"),
    (Combo({"a": DEEP}, LOCAL), "bert", r"blocks\.a: on bert the attention mask is made"),
    (Combo({"a": DEEP, "b": DEEP}, {"b": (1,)}), "vit", "places would be mixed up"),
    (Combo({"a": DEEP, "b": DEEP}, {"a": (0, 1), "b": (1,)}), "vit", "places would be mixed up"),
    (Combo({"a": Lora(), "b": Gist()}), "llama", "no class token"),
]


@pytest.mark.parametrize(("made", "use", "text"), CONFLICTS, ids=[t for *_, t in CONFLICTS])
def test_what_has_no_meaning_on_a_network_is_refused(made, use, text):
    with pytest.raises(IncompatibleError, match=text), tiny.adapted(made, use):
        pass


def test_tokens_in_blocks_with_a_gap_are_refused():
    made = Combo({"a": Vpt(2, deep=True)}, {"a": (0, 2)})
    with pytest.raises(IncompatibleError, match=r"\[0, 2\] has gaps"):
        made.edits(anatomy(B), torch.Generator())


def test_parts_that_train_different_tensors_go_together():
    made = Combo({"a": BitFit(), "b": Prefix(2), "c": Lora()})
    with tiny.adapted(made, "vit") as model:
        tiny.train(model, "vit")
