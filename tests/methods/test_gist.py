"""GIST as a network: section 15 of its specification, properties 1-7 and 13-16."""

import pytest
import timm
import torch
import torch.nn.functional as F
from vits import CLASSES, HOST, disturb, images, over, vit

import peftbench
from peftbench.edits import GridEdit
from peftbench.methods.adapter import Adapter
from peftbench.methods.adaptformer import AdaptFormer
from peftbench.methods.bitfit import BitFit
from peftbench.methods.compacter import Compacter
from peftbench.methods.convpass import Convpass
from peftbench.methods.dora import Dora
from peftbench.methods.fact import Fact
from peftbench.methods.full import Full
from peftbench.methods.ia3 import IA3
from peftbench.methods.layernorm import LayerNorm
from peftbench.methods.linear import Linear
from peftbench.methods.lora import Lora
from peftbench.methods.prefix import Prefix
from peftbench.methods.repadapter import RepAdapter
from peftbench.methods.ssf import Ssf
from peftbench.methods.vpt import Vpt
from peftbench.train.config import Trainer
from peftbench.train.optim import make_optimizer

HOSTS = {
    "linear": Linear(),
    "adapter": Adapter(),
    "adapter_shared": HOST,
    "adaptformer": AdaptFormer(),
    "lora": Lora(),
    "dora": Dora(),
    "ia3": IA3(),
    "bitfit": BitFit(),
    "layernorm": LayerNorm(),
    "prefix": Prefix(length=3),
    "ssf": Ssf(),
    "full": Full(),
    "vpt_shallow": Vpt(tokens=3),
    "vpt_deep": Vpt(tokens=3, deep=True),
    "fact_tt": Fact("tt", rank=4, dropout=0.0),
    "fact_tk": Fact("tk", rank=4, dropout=0.0),
    "repadapter": RepAdapter(dropout=0.0),
    "convpass": Convpass(dropout=0.0),
    "compacter": Compacter(),
}
every_host = pytest.mark.parametrize("host", HOSTS)


def trainable(model):
    return {n: p.detach().clone() for n, p in model.trainable().items()}


@every_host
def test_1_disabled_is_exactly_the_host(host):
    network, given = vit(), images()
    with over(network, HOSTS[host], plain=True) as model:
        wanted, names = model(given), trainable(model)
        groups = model.method.param_groups(model.delta, model.heads)
    with over(network, HOSTS[host], enabled=False) as model:
        found = model(given)
        assert torch.equal(found.logits, wanted.logits) and found.extra == {}
        mine = trainable(model)
        assert list(mine) == list(names)
        assert all(torch.equal(mine[n], names[n]) for n in names)
        own = model.method.param_groups(model.delta, model.heads)
        assert [list(g.params) for g in own] == [list(g.params) for g in groups]
        terms = model.method.losses(found, lambda s: s.sum(-1))
        assert list(terms) == ["task"]
        assert torch.equal(model.method.scores(found), wanted.logits)


@every_host
@pytest.mark.parametrize("m", [1, 3])
def test_2_adds_exactly_m_d_numbers_once(host, m):
    network = vit()
    with over(network, HOSTS[host], plain=True) as model:
        before = model.counts()
        host_start = {n: p.detach().clone() for n, p in model.trainable().items()}
    with over(network, HOSTS[host], tokens=m) as model:
        after = model.counts()
        assert after["trainable"] - before["trainable"] == m * 32
        assert after["head"] == before["head"] == CLASSES * 33
        g = model.trainable()["delta.edits.gist.tokens"]
        for n, value in host_start.items():
            assert torch.equal(model.trainable()[n], value)  # the host starts as it does alone
        optimizer = make_optimizer(
            model.method.param_groups(model.delta, model.heads), Trainer(weight_decay=0.1)
        )
        owners = [o for o in optimizer.param_groups if any(p is g for p in o["params"])]
        assert len(owners) == 1 and sum(p is g for p in owners[0]["params"]) == 1
        assert owners[0]["weight_decay"] == 0.1
        everything = [id(p) for o in optimizer.param_groups for p in o["params"]]
        assert sorted(everything) == sorted(id(p) for p in model.trainable().values())


def test_tokens_start_uniform_within_a_half():
    with over(vit(), tokens=200) as model:
        g = model.trainable()["delta.edits.gist.tokens"].detach()
        assert float(g.abs().max()) <= 0.5 < float(g.abs().max()) + 0.01
        assert abs(float(g.mean())) < 0.02 and abs(float(g.std()) - 1 / 12**0.5) < 0.01


def test_decay_off_takes_the_tokens_out_of_the_decay():
    with over(vit(), decay=False) as model:
        groups = model.method.param_groups(model.delta, model.heads)
        optimizer = make_optimizer(groups, Trainer(weight_decay=0.1))
        g = model.trainable()["delta.edits.gist.tokens"]
        (own,) = [o for o in optimizer.param_groups if any(p is g for p in o["params"])]
        assert own["weight_decay"] == 0.0 and len(own["params"]) == 1


@every_host
@pytest.mark.parametrize("m", [1, 2])
def test_3_sequence_length_and_logits(host, m):
    network, lengths = vit(), []
    handles = [
        b.attn.register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
        for b in network.blocks
    ]
    prompts = 3 if host.startswith("vpt") else 0
    with over(network, HOSTS[host], tokens=m) as model:
        output = model.train()(images())
        assert output.logits.shape == (3, CLASSES)
        assert set(output.extra) == {"gist"} and output.extra["gist"].shape == (3, CLASSES)
        output = model.eval()(images())
        assert output.extra == {} and output.logits.shape == (3, CLASSES)
        assert model.delta.taps == {}
    assert lengths == [16 + 1 + m + prompts] * 4
    for h in handles:
        h.remove()


def test_4_a_zero_token_changes_the_class_logits():
    network, given = vit(), images()
    with over(network, plain=True) as model:
        host = model(given).logits
    with over(network) as model:
        model.eval()
        with torch.no_grad():
            model.trainable()["delta.edits.gist.tokens"].zero_()
        assert float((model(given).logits - host).detach().abs().max()) > 1e-4


@pytest.mark.parametrize("m", [1, 2])
def test_5_unseen_tokens_leave_the_hosts_class_logits(m, monkeypatch):
    network, given = vit(), images()
    with over(network, plain=True) as model:
        disturb(model)
        host = model(given).logits
        start = trainable(model)
    attention = F.scaled_dot_product_attention

    def blind(q, k, v, attn_mask=None, **rest):
        t = q.shape[-2]
        seen = torch.ones(t, t, dtype=torch.bool)
        seen[:, 1 : 1 + m] = False
        seen[1 : 1 + m] = True  # the tokens' own queries see everything
        return attention(q, k, v, attn_mask=seen, **rest)

    with over(network, tokens=m) as model:
        model.eval()
        with torch.no_grad():
            for name, value in start.items():
                model.trainable()[name].copy_(value)
        assert not torch.allclose(model(given).logits, host, atol=1e-4)
        monkeypatch.setattr(F, "scaled_dot_product_attention", blind)
        for size in (0.0, 1.0, 30.0):
            with torch.no_grad():
                model.trainable()["delta.edits.gist.tokens"].normal_().mul_(size)
            assert torch.allclose(model(given).logits, host, atol=1e-5)


@pytest.mark.parametrize("host", ["adapter_shared", "lora", "ssf", "vpt_deep", "vpt_shallow"])
def test_6_the_place_of_the_token_does_not_matter(host):
    network, given, found = vit(), images(), []
    for place in ("after_cls", "end"):
        with over(network, HOSTS[host], insert=place, inference="gist", tokens=2) as model:
            disturb(model)
            output = model.eval()(given)
            found.append((output.logits, output.extra["gist"]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    assert torch.allclose(found[0][1], found[1][1], atol=1e-5)


@pytest.mark.parametrize(("place", "index"), [("after_cls", 1), ("end", 17)])
def test_the_token_stands_where_it_should(place, index):
    network, seen = vit(), []
    handle = network.blocks[0].norm1.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
    with over(network, insert=place) as model:
        model.eval()(images())
        g = model.trainable()["delta.edits.gist.tokens"]
        assert torch.equal(seen[0][:, index], g[0, 0].expand(3, -1))  # no position is added
    handle.remove()


def test_7_dropout_is_the_only_randomness():
    network, given = vit(), images(batch=64)
    with over(network, dropout=0.1) as model:
        model.train()
        first, second = model(given), model(given)
        assert not torch.equal(first.logits, second.logits)
        edit = model.delta.edits["gist"]
        like = torch.zeros(64, 17, 32)
        masked = edit._inserted(0, like)
        kept = masked != 0
        assert 0.85 < float(kept.float().mean()) < 0.95
        whole = (edit.tokens[0] / 0.9).expand(64, -1, -1)
        assert torch.allclose(masked[kept], whole[kept])
        assert not torch.equal(kept[0], kept[1])  # each sample has its own mask
        model.eval()
        assert torch.equal(model(given).logits, model(given).logits)
    with over(network, dropout=0.0) as model:
        assert torch.equal(model.train()(given).logits, model.eval()(given).logits)


@every_host
def test_13_gradients_flow_both_ways(host):
    network, given = vit(), images()
    target = torch.tensor([0, 3, 1])

    def criterion(logits):
        return F.cross_entropy(logits, target, reduction="none")

    with over(network, HOSTS[host], lambda_ce=0.0, mu_kl=0.0) as model:
        disturb(model)
        output = model.train()(given)
        sum(t.sum() for t in model.method.losses(output, criterion).values()).backward()
        assert float(model.trainable()["delta.edits.gist.tokens"].grad.abs().max()) > 1e-6
        for p in model.trainable().values():
            p.grad = None
        criterion(model(given).extra["gist"]).sum().backward()
        for name, p in model.trainable().items():
            assert p.grad is not None and float(p.grad.abs().max()) > 0, name
        assert host == "full" or all(
            p.grad is None for p in network.parameters() if not own(model, p)
        )


def own(model, parameter):
    return any(p is parameter for p in model.trainable().values())


def test_14_one_head_reads_both():
    network, given = vit(), images()
    with over(network, inference="gist") as model:
        model.eval()
        assert [n for n in model.tensors() if n.startswith("heads.")] == [
            "heads.main.weight",
            "heads.main.bias",
        ]
        before = model(given).extra["gist"]
        with torch.no_grad():
            model.heads["main"].weight.mul_(2)
        assert torch.allclose(model(given).extra["gist"], before * 2, atol=1e-6)


def test_a_separate_head_adds_its_own_numbers():
    network, given = vit(), images()
    with over(network, inference="gist", head_sharing="separate") as model:
        model.eval()
        assert model.counts()["head"] == 2 * CLASSES * 33
        before = model(given)
        with torch.no_grad():
            model.heads["main"].weight.mul_(2)
        after = model(given)
        assert torch.equal(before.extra["gist"], after.extra["gist"])
        assert not torch.equal(before.logits, after.logits)
        assert not torch.equal(model.heads["main"].weight, 2 * model.heads["gist"].weight)


@pytest.mark.parametrize("m", [1, 2])
def test_15_deep_prompts_do_not_overwrite_the_gist_slot(m):
    network, seen = vit(depth=3), []
    handles = [
        b.norm1.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
        for b in network.blocks
    ]
    outputs = [
        b.register_forward_hook(lambda _, a, y: seen.append(y.detach())) for b in network.blocks
    ]
    with over(network, Vpt(tokens=3, deep=True), tokens=m) as model:
        with torch.no_grad():
            for layer in range(3):
                model.trainable()["delta.edits.encoder/prompts.tokens"][layer] = 100.0 + layer
        model.eval()(images())
    entered, left = seen[0::2], seen[1::2]
    for layer, x in enumerate(entered):
        assert bool((x[:, 1 + m : 4 + m] == 100.0 + layer).all())
        assert bool((x[:, : 1 + m].abs() < 99).all()) and bool((x[:, 4 + m :].abs() < 99).all())
        if layer:  # class, Gist and patches come from the block before, untouched
            assert torch.equal(x[:, : 1 + m], left[layer - 1][:, : 1 + m])
            assert torch.equal(x[:, 4 + m :], left[layer - 1][:, 4 + m :])
    for h in handles + outputs:
        h.remove()


@every_host
def test_the_readout_comes_from_the_gist_position(host):
    """After the final norm, and after what the host does to it (SSF's last scale and shift)."""
    network, given = vit(), images()
    with over(network, HOSTS[host], inference="gist", tokens=2) as model:
        disturb(model)
        model.eval()
        output = model(given)
        with torch.no_grad():
            sequence = forward_by_hand(network, model, given["image"])
        s_c = model.heads["main"](sequence[:, 0])
        s_g = model.heads["main"](sequence[:, 1:3].mean(1))
    assert torch.allclose(output.logits, s_c, atol=1e-5)
    assert torch.allclose(output.extra["gist"], s_g, atol=1e-5)


def forward_by_hand(network, model, image):
    """Run the network with the tokens put in by hand, the host attached and GIST's hooks not."""
    host, delta = model.method.inner, model.delta
    gist = delta.edits["gist"].tokens.detach()
    delta.detach()
    stored = {n: t for n, t in model.delta.tensors().items() if not n.startswith("gist.")}
    alone = peftbench.attach(host, network, classes=CLASSES)
    try:
        tensors = {f"delta.{n}": t for n, t in stored.items()}
        alone.load_tensors({**alone.tensors(), **tensors})
        alone.eval()
        for edit in alone.delta:
            if isinstance(edit, GridEdit):  # it counts what other edits insert, not a test's hook
                edit.tuner.front += len(gist[0])
        taken = []

        def insert(_, args):
            x = args[0]
            return (torch.cat([x[:, :1], gist.expand(len(x), -1, -1), x[:, 1:]], 1),)

        first = network.blocks[0].register_forward_pre_hook(insert)
        prompts = dict(alone.delta.edits.items()).get("encoder/prompts")
        if prompts is not None:  # its slots stand one Gist token further back
            prompts.offset += gist.shape[1]
            prompts.site.leave.module._forward_hooks.clear()
        last = network.norm.register_forward_hook(lambda _, a, y: taken.append(y))
        network.forward_features(image)
        first.remove()
        last.remove()
        return taken[0]
    finally:
        alone.release()
        model.delta.attach()


def test_16_the_artefact_holds_g_host_and_head_only():
    torch.manual_seed(0)
    network = timm.create_model("vit_base_patch16_224", pretrained=False, num_classes=0)
    with over(network, classes=100) as model:
        assert model.counts() == {
            "trainable": 83_760,
            "head": 76_900,
            "total": 85_798_656 + 83_760 + 76_900,
        }
        stored = model.tensors()
        assert sum(t.numel() for t in stored.values()) == 160_660
        kinds = {n.split(".")[0] + "." + n.split(".")[1].split("/")[0] for n in stored}
        assert kinds == {"delta.encoder", "delta.gist", "heads.main"}
