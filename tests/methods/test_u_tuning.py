"""U-Tuning: start, counts, placement, gradients, gates, storage, GIST around it, refusals."""

from dataclasses import fields

import pytest
import tiny
import torch
import torch.nn.functional as F
import vits
from test_counts import B, L, S, count
from u_nets import (
    DUAL,
    DUALS,
    GATES,
    KINDS,
    OPS,
    SINGLE,
    TRIS,
    double,
    label,
    pictures,
    plan,
    stir,
    worst,
)

from peftbench.backbones.backbone import find_anatomy
from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.gist import Gist
from peftbench.methods.u_tuning import AdapterTuner, PrefixTuner, PromptTuner, UTuning, named
from peftbench.spec import build
from peftbench.train.artefact import load_adapter, save_adapter


@pytest.fixture
def network():
    return double()


# 1, 2: what has no effect


@pytest.mark.parametrize("tuners", [*SINGLE, *DUALS, *TRIS], ids=label)
def test_zero_scales_are_the_frozen_network_bit_for_bit(tuners):
    network, x = vits.vit(), vits.images()["image"]
    before = network(x)
    delta = stir(plan(network, **tuners))
    assert not torch.equal(network(x), before)
    with torch.no_grad():
        for edit in delta:
            for name, p in edit.named_parameters():
                if name.endswith("gate.scale"):
                    p.zero_()
    assert torch.equal(network(x), before)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("kind", ["adapter", "prefix"])
@pytest.mark.parametrize("init", ["zero", "xavier"])
def test_start(op, kind, init):
    network, x = vits.vit(), vits.images()["image"]
    before = network(x)
    delta = plan(network, **{op: KINDS[kind](init=init)})
    assert delta.identity == (init == "zero") == torch.equal(network(x), before)


def test_starting_scale_zero_and_the_bounds_of_xavier():
    network, x = vits.vit(), vits.images()["image"]
    before = network(x)
    delta = plan(network, attn=PromptTuner(scale=0.0), block=PrefixTuner(scale=0.0, init="xavier"))
    assert delta.identity and torch.equal(network(x), before)
    wanted = (6 / (32 * 11)) ** 0.5
    for name, p in delta.named_parameters():
        if name.endswith(("key", "value", "prompt")):
            assert 0.9 * wanted < float(p.detach().abs().max()) <= wanted


# 3: counts


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("name", "d", "n"), [(S, 384, 12), (B, 768, 12), (L, 1024, 24)])
def test_counts(gate, name, d, n):
    sigma = {"direct": 0, "scalar": 1, "channel": d, "input": d + 1}[gate]
    for op in OPS:
        assert count(UTuning({op: AdapterTuner(gate, hidden=7)}), name) == n * (
            2 * d * 7 + 7 + d + sigma
        )
        assert count(UTuning({op: PrefixTuner(gate, length=6)}), name) == n * (12 * d + sigma)
        assert count(UTuning({op: PromptTuner(gate, length=6)}), name) == n * (6 * d + sigma)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (UTuning({"attn": AdapterTuner()}), 202_872),
        (UTuning({"attn": PrefixTuner()}), 193_536),
        (UTuning({"attn": PromptTuner()}), 101_376),
        (UTuning({"attn": PrefixTuner("direct")}), 184_320),
        (UTuning({"attn": PromptTuner("lambda")}), 92_160),
        (UTuning({"attn": AdapterTuner(), "mlp": AdapterTuner()}), 405_744),
        (UTuning(), 516_408),
        (UTuning(blocks="first"), 43_034),
        (UTuning({**DUAL, "block": PrefixTuner(length=4)}), 599_352),
        (UTuning({"attn": AdapterTuner(hidden=4), "mlp": AdapterTuner(hidden=4)}), 184_416),
    ],
    ids=str,
)
def test_counts_of_the_table(made, wanted):
    assert count(made) == wanted


# 9: placement


@pytest.mark.parametrize("kind", KINDS)
def test_placement(network, kind):
    block, x = network.blocks[0], torch.randn(2, 5, 32, dtype=torch.float64)
    middle = []
    block.norm2.register_forward_pre_hook(lambda _, args: middle.append(args[0]))
    plain = block(x)
    moved = {}
    for op in OPS:
        delta = stir(plan(network, **{op: KINDS[kind]()}))
        out = block(x)
        delta.detach()
        moved[op] = worst(middle[-1], middle[0]) > 1e-3, worst(out, plain) > 1e-3
    assert moved == {"attn": (True, True), "mlp": (False, True), "block": (False, True)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", OPS)
def test_tuners_by_hand_beside_silent_operations(network, kind, op):
    """With MHA and MLP zeroed, a block is x + T(x), whatever the operation."""
    block, x = network.blocks[0], torch.randn(2, 5, 32, dtype=torch.float64)
    for layer in (block.attn.proj.bias, block.mlp.fc2.weight, block.mlp.fc2.bias):
        layer.zero_()
    heads = lambda t: t.unflatten(-1, (4, 8)).transpose(-2, -3)  # noqa: E731
    norm = block.norm2 if op == "mlp" else block.norm1
    weight, bias = (p.chunk(3) for p in (block.attn.qkv.weight, block.attn.qkv.bias))
    delta = stir(plan(network, **{op: KINDS[kind]()}))
    p = {n.rpartition(".")[2]: t for n, t in next(iter(delta)).named_parameters()}
    if kind == "adapter":
        hidden = F.gelu(x @ p["down_weight"].T + p["down_bias"])
        wanted = hidden @ p["up_weight"].T + p["up_bias"]
    else:
        if kind == "prompt":
            seen = block.norm1(p["prompt"])
            keys, values = (seen @ weight[i].T + bias[i] for i in (1, 2))
        else:
            keys, values = p["key"], p["value"]
        q = heads(norm(x) @ weight[0].T + bias[0])
        mixed = (q @ heads(keys).mT / 8**0.5).softmax(-1) @ heads(values)
        wanted = mixed.transpose(1, 2).flatten(2) @ block.attn.proj.weight.T
    before = x
    if op == "attn":  # its own attention stays; take it from the frozen block
        found = block(x)
        delta.detach()
        before = block(x)
    else:
        silent = block.attn.register_forward_hook(lambda m, a, out: torch.zeros_like(out))
        found = block(x)
        silent.remove()
    assert worst(found, before + p["scale"] * wanted) < 1e-12


# 10: gradients


@pytest.mark.parametrize("tuners", [*SINGLE, *TRIS, {"attn": PrefixTuner("lambda")}], ids=label)
def test_every_tensor_gets_a_gradient_away_from_the_start(tuners):
    network = vits.vit()
    with vits.over(network, UTuning(tuners), plain=True) as model:
        vits.disturb(model)
        model(vits.images()).logits.square().sum().backward()
        assert all(float(p.grad.abs().max()) > 0 for p in model.trainable().values())
        assert all(p.grad is None for p in network.parameters())


def test_at_a_zero_start_only_the_up_projection_moves():
    with vits.over(vits.vit(), UTuning(), plain=True) as model:
        model(vits.images()).logits.square().sum().backward()
        for name, p in model.delta.named_parameters():
            assert (float(p.grad.abs().max()) > 0) == (".up_" in name)


# 11: gates


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", OPS)
def test_gates_that_coincide(network, kind, op):
    x, found = pictures(), {}
    for gate, value in [("direct", 1.0), ("channel", 1.0), ("scalar", 0.7), ("channel", 0.7)]:
        delta = plan(network, **{op: KINDS[kind](gate, value)})
        for name, p in delta.named_parameters():
            if not name.endswith("scale"):
                g = torch.Generator().manual_seed(p.numel())
                p.data.copy_(torch.randn(p.shape, generator=g, dtype=p.dtype))
        found[gate, value] = network(x)
        delta.detach()
    assert torch.equal(found["direct", 1.0], found["channel", 1.0])
    assert torch.equal(found["scalar", 0.7], found["channel", 0.7])
    assert worst(found["direct", 1.0], found["scalar", 0.7]) > 1e-3


def test_the_input_gate_is_one_number_per_image(network):
    delta = stir(plan(network, mlp=AdapterTuner("input", init="xavier")))
    s = next(iter(delta)).tuner.gate.values(torch.randn(3, 17, 32, dtype=torch.float64))
    assert s.shape == (3, 1, 1) and float(s.detach().min()) > 0 and float(s.detach().max()) < 1
    assert len(set(s.flatten().tolist())) == 3


# 12, 13, 14, 15


def test_first_block_only():
    delta = UTuning(blocks="first").plan(find_anatomy(vits.vit()), torch.Generator())
    assert [e.name for e in delta] == ["encoder/0/attn/adapter", "encoder/0/mlp/adapter"]


@pytest.mark.parametrize("tuners", [*SINGLE, *DUALS, *TRIS], ids=label)
def test_every_placement_trains_and_is_stored_without_the_backbone(tuners, tmp_path):
    network, given = vits.vit(), vits.images()
    tokens = []
    network.norm.register_forward_hook(lambda m, a, out: tokens.append(out.shape[1]))
    with vits.over(network, UTuning(tuners), plain=True) as model:
        vits.disturb(model)
        model(given).logits.square().sum().backward()
        wanted = model.eval()(given).logits.detach()
        assert {n.split(".")[0] for n in model.tensors()} <= {"delta", "heads"}
        stored = sum(t.numel() for t in model.tensors().values())
        assert stored == sum(p.numel() for p in model.trainable().values())
        save_adapter(tmp_path, model, model.backbone.sha256, list("abcde"), "random")
        kept = model.backbone
    assert set(tokens) == {17}
    again = load_adapter(tmp_path, kept)
    assert torch.equal(again.eval()(given).logits, wanted)
    again.release()


def test_gist_passes_through_all_tuners():
    made = UTuning({**DUAL, "block": PrefixTuner(length=4)})
    assert count(Gist(inner=made)) == 599_352 + 768
    widths = []
    with vits.over(vits.vit(), made, dropout=0.0) as model:
        vits.disturb(model)
        for edit in model.delta:
            tuner = getattr(edit, "tuner", None)
            if tuner is not None:
                tuner.register_forward_hook(lambda m, a, out: widths.append(out.shape[1]))
        model.train()(vits.images())
    assert widths == [18] * 6


# special cases, names, refusals


def test_post_norm_reads_behind_the_norm(network):
    delta = stir(plan(network, mlp=AdapterTuner(reads="post_norm")))
    block, x = network.blocks[0], torch.randn(2, 5, 32, dtype=torch.float64)
    tuner, out = next(iter(delta)).tuner, block(x)
    delta.detach()
    middle = x + block.attn(block.norm1(x))
    assert worst(out, block(x) + tuner.gate(tuner.core(block.norm2(middle)))) < 1e-13


@pytest.mark.parametrize("name", ["adapter", "P-Adapter", "U-Adapter", "u_adapter", "p-adapter"])
def test_both_spellings(name):
    assert named(name) == AdapterTuner()
    assert UTuning({"mha": name}) == UTuning({"attn": AdapterTuner()})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UTuning({"attn": "P-Adaptor"}), "P-Adapter"),
        (lambda: UTuning({"attention": AdapterTuner()}), "attn"),
        (lambda: UTuning({}), "at least one"),
        (lambda: UTuning({"attn": AdapterTuner(), "mha": AdapterTuner()}), "already"),
        (lambda: UTuning({"attn": AdapterTuner("lambda")}), "only prefix and prompt on attn"),
        (lambda: UTuning({"mlp": PrefixTuner("lambda")}), "only prefix and prompt on attn"),
        (lambda: PrefixTuner("lambda", 0.5), "computes its scale"),
        (lambda: PromptTuner(init="zero"), "no zero start"),
        (lambda: AdapterTuner(hidden=0), "too small"),
        (lambda: PrefixTuner(length=0), "too small"),
    ],
)
def test_what_has_no_meaning_is_refused_with_the_reason(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_the_input_gate_is_for_images():
    made = UTuning({"mlp": AdapterTuner("input")})
    assert len(list(plan(vits.vit(), **made.tuners))) == 2
    for use in ("bert", "t5", "llama"):
        with pytest.raises(IncompatibleError, match="padding would count"), tiny.adapted(made, use):
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_tuner_file_lists_every_setting_with_its_default(kind):
    listed = tiny.config("tuner", f"p_{kind}")
    assert set(listed) == {"_target_", *(f.name for f in fields(KINDS[kind]))}
    assert build(listed) == KINDS[kind]()


@pytest.mark.parametrize("gate", ["scalar", "channel"])
def test_a_whole_number_is_a_scale(gate):
    made = UTuning(
        {
            "attn": AdapterTuner(gate=gate, scale=2),
            "mlp": PrefixTuner(gate=gate, scale=2, scale_on="kv"),
        }
    )
    delta = made.plan(tiny.backbone("vit_tiny_random").anatomy, torch.Generator())
    scales = [p for n, p in delta.named_parameters() if ".scale" in n]
    assert scales and all(bool((p == 2).all()) for p in scales)
