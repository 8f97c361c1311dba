"""Ladder side-tuning against its formula in float64, and what it keeps out of the network."""

import pytest
import timm
import tiny
import torch
import torch.nn.functional as F
import vits

import peftbench
from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.combo import Combo
from peftbench.methods.gist import Gist
from peftbench.methods.linear import Linear
from peftbench.methods.lora import Lora
from peftbench.methods.lst import Lst
from peftbench.perf.cost import saved_bytes

ACTIVATION = {
    "vit": F.gelu,
    "bert": F.gelu,
    "t5": lambda x: F.gelu(x, approximate="tanh"),
    "llama": F.silu,
}


def linear(module, x):
    return x @ module.weight.T + (0 if module.bias is None else module.bias)


def norm(module, x):
    if module.bias is None:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * module.weight
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * module.weight
        + module.bias
    )


def attend(attn, x, memory, bias, heads, groups, scale):
    """Attention head by head; ``bias`` (B, H or 1, T, S) is added to the scores."""
    q, kv = linear(attn.q, x), linear(attn.kv, memory)
    e = q.shape[-1] // heads
    out = []
    for h in range(heads):
        g = h // (heads // groups)
        keys, values = (
            kv[..., g * e : (g + 1) * e],
            kv[..., (groups + g) * e : (groups + g + 1) * e],
        )
        scores = q[..., h * e : (h + 1) * e] @ keys.mT * (e**-0.5 if scale is None else scale)
        scores = scores + bias[:, h if bias.shape[1] > 1 else 0]
        out.append(scores.softmax(-1) @ values)
    return linear(attn.o, torch.cat(out, -1))


def side(stack, inputs, outputs, biases, act, heads, groups, scale=None, memory=None):
    """Return the side network's last output from the frozen stack's tensors."""
    s = linear(stack.first, inputs)
    for index, rung in stack.rungs.items():
        mu = torch.sigmoid(rung.alpha / 0.1)
        s = mu * s + (1 - mu) * linear(rung.down, outputs[int(index)])
        block = rung.block
        x = norm(block.norm_attn, s)
        s = s + attend(block.attn, x, x, biases["attn"], heads, groups, scale)
        if memory is not None:
            x = norm(block.norm_cross, s)
            s = s + attend(block.cross, x, memory, biases["cross"], heads, groups, scale)
        x = norm(block.norm_mlp, s)
        up = linear(block.up, x)
        hidden = act(up) if block.gate is None else act(linear(block.gate, x)) * up
        s = s + linear(block.down, hidden)
    return norm(stack.norm, s)


def recorded(model, given):
    """Return what enters the first block and leaves every block and the last norm, by stack."""
    found, handles = {}, []
    anatomy = model.backbone.anatomy
    for stack in (anatomy.for_features() if model.heads else anatomy).stacks:
        mine = found[stack.name] = {"outputs": []}
        sequence = stack.sequence
        handles.append(sequence.block_inputs[0].watch(lambda x, m=mine: m.update(inputs=x)))
        for block in stack.blocks:
            handles.append(block.ops["block"].output.watch(mine["outputs"].append))
        handles.append(sequence.leave.watch(lambda x, m=mine: m.update(leave=x)))
    (anatomy.features if model.heads else anatomy.logits)(model.base, given)
    for handle in handles:
        handle.remove()
    return found


def hidden_below(mask_BS):
    """Return a bias (B, 1, 1, S) that hides padding."""
    return torch.where(mask_BS.bool(), 0.0, float("-inf")).double()[:, None, None]


def causal(length):
    return torch.full((length, length), float("-inf")).double().triu(1)


def expected(model, use, given):
    """Return the sequence that the head is to read, written out."""
    made, delta = model.method, model.delta.edits["side"]
    seen, act = recorded(model, given), ACTIVATION[use.partition("_")[0]]
    heads = 4
    if use == "vit":
        stack, biases = "encoder", {"attn": torch.zeros(1, 1, 1, 1).double()}
        out = side(delta.sides[stack], **_part(seen[stack]), biases=biases, act=act, **_all(heads))
    elif use == "bert":
        stack, biases = "encoder", {"attn": hidden_below(given["attention_mask"])}
        out = side(delta.sides[stack], **_part(seen[stack]), biases=biases, act=act, **_all(heads))
    elif use == "llama":
        stack = "decoder"
        rows = hidden_below(given["attention_mask"]) + causal(given["input_ids"].shape[1])
        biases = {"attn": rows}
        out = side(
            delta.sides[stack], **_part(seen[stack]), biases=biases, act=act, heads=4, groups=2
        )
    else:
        stack = "decoder" if use == "t5" else "encoder"
        padding = hidden_below(given["attention_mask"])
        tables = {}
        for name in seen:
            attention = getattr(model.base, name).block[0].layer[0].SelfAttention
            length = seen[name]["inputs"].shape[1]
            tables[name] = attention.compute_bias(length, length)
        common = {"act": act, "scale": 1.0, **_all(heads)}
        out = side(
            delta.sides["encoder"],
            **_part(seen["encoder"]),
            biases={"attn": tables["encoder"] + padding},
            **common,
        )
        if use == "t5":
            rows = tables["decoder"] + causal(tables["decoder"].shape[-1])
            biases = {"attn": rows, "cross": padding}
            last = _part(seen["decoder"])
            out = side(delta.sides["decoder"], **last, biases=biases, memory=out, **common)
    mapped = linear(delta.up, out)
    return mapped if made.combine == "replace" else seen[stack]["leave"] + mapped


def _part(seen):
    return {"inputs": seen["inputs"], "outputs": seen["outputs"]}


def _all(heads):
    return {"heads": heads, "groups": heads}


USES = ["vit", "bert", "t5", "t5_classifier", "llama"]


@pytest.mark.parametrize("combine", ["replace", "add"])
@pytest.mark.parametrize("use", USES)
def test_it_is_the_formula(use, combine):
    network = tiny.fresh(tiny.USES[use][0])
    network.model.double()
    given = {k: v.double() if v.is_floating_point() else v for k, v in tiny.inputs(use).items()}
    classes = 3 if use == "t5_classifier" else (None if use in ("t5", "llama") else 3)
    model = peftbench.attach(Lst(reduction=4, combine=combine), network, classes=classes)
    model.double().eval()
    tiny.perturb(model, 0.3)
    read = []
    part = model.backbone.anatomy if classes is None else model.backbone.anatomy.for_features()
    handle = part.stacks[-1].sequence.leave.watch(read.append)
    with torch.no_grad():
        model(given)
        handle.remove()
        model.delta.detach()
        wanted = expected(model, use, given)
    keep = torch.ones_like(wanted[..., 0], dtype=torch.bool)
    if "attention_mask" in given and use != "t5":
        keep = given["attention_mask"].bool()
    assert torch.allclose(read[0][keep], wanted[keep], atol=1e-10, rtol=1e-9)


@pytest.mark.parametrize("use", ["vit", "bert", "t5", "llama"])
@pytest.mark.parametrize("combine", ["replace", "add"])
def test_nothing_in_the_frozen_network_has_a_gradient(use, combine):
    given = tiny.inputs(use)
    with tiny.adapted(Lst(combine=combine), use) as model:
        tiny.perturb(model)
        tensors, handles = [], []
        for block in model.backbone.anatomy.blocks:
            for module in block.module.modules():
                hook = module.register_forward_hook(lambda m, a, y: tensors.append(y))
                handles.append(hook)
        tiny.loss(model.train(), model(given), tiny.labels(use, given)).backward()
        for handle in handles:
            handle.remove()
        flat = [t for y in tensors for t in (y if isinstance(y, tuple) else (y,))]
        found = [t for t in flat if isinstance(t, torch.Tensor)]
        assert len(found) > 10 and not any(t.requires_grad for t in found)
        assert all(p.grad is not None for p in model.trainable().values())


def test_what_is_kept_for_the_backward_pass_is_a_small_part():
    network = vits.vit(embed_dim=128, depth=6, num_heads=4, img_size=64)
    given = vits.images(2, size=64)
    kept = {}
    for name, made in (("lst", Lst()), ("few", Lst(every=2)), ("lora", Lora())):
        model = peftbench.attach(made, network, classes=3).train()
        kept[name] = saved_bytes(model, lambda m=model: m(given).logits.sum())
        network = model.release().model
    assert kept["lst"] < kept["lora"] / 3
    assert kept["few"] < 0.65 * kept["lst"]


def test_gates_start_at_one_half_and_weigh_by_the_temperature():
    with tiny.adapted(Lst(temperature=0.1), "vit") as model, torch.no_grad():
        rung = model.delta.edits["side"].sides["encoder"].rungs["0"]
        s, h = torch.randn(2, 3, 4), torch.randn(2, 3, 32)
        down = linear(rung.down, h)
        assert torch.allclose(rung.mixed(s, h, 0.1), (s + down) / 2)
        rung.alpha.fill_(0.1)
        mu = torch.sigmoid(torch.tensor(1.0))
        assert torch.allclose(rung.mixed(s, h, 0.1), mu * s + (1 - mu) * down)


@pytest.mark.parametrize(
    ("every", "keep", "wanted"),
    [(1, 1, "012345"), (2, 1, "135"), (3, 2, "1245"), (4, 3, "1235"), (6, 1, "5")],
)
def test_which_blocks_have_a_side_block(every, keep, wanted):
    model = peftbench.attach(Lst(every=every, keep=keep), vits.vit(depth=6), classes=3)
    assert "".join(model.delta.edits["side"].sides["encoder"].rungs) == wanted


def largest(sizes, count):
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    return sorted(order[:count])


def test_the_pruned_start_is_the_largest_weights_of_the_frozen_blocks():
    """Kept channels found one by one on ViT; heads have 8 numbers each, of which 2 are kept."""
    network = vits.vit().requires_grad_(False)
    blocks = list(network.blocks)
    model = peftbench.attach(Lst(reduction=4), network, classes=3)
    written = [
        sum(
            float(layer.weight[i].abs().sum())
            for block in blocks
            for layer in (block.attn.proj, block.mlp.fc2)
        )
        for i in range(32)
    ]
    keep = largest(written, 8)
    for index, block in enumerate(blocks):
        mine = model.delta.edits["side"].sides["encoder"].rungs[str(index)].block
        q, k, v = block.attn.qkv.weight[:, keep].split(32)
        q_bias, k_bias, v_bias = block.attn.qkv.bias.split(32)
        out = block.attn.proj.weight[keep]
        for head in range(4):
            rows = range(8 * head, 8 * head + 8)
            qk = [float(q[r].abs().sum() + k[r].abs().sum()) for r in rows]
            vo = [float(v[r].abs().sum() + out[:, r].abs().sum()) for r in rows]
            qk = [8 * head + i for i in largest(qk, 2)]
            vo = [8 * head + i for i in largest(vo, 2)]
            own = slice(2 * head, 2 * head + 2)
            assert torch.equal(mine.attn.q.weight[own], q[qk])
            assert torch.equal(mine.attn.q.bias[own], q_bias[qk])
            assert torch.equal(mine.attn.kv.weight[:8][own], k[qk])
            assert torch.equal(mine.attn.kv.bias[:8][own], k_bias[qk])
            assert torch.equal(mine.attn.kv.weight[8:][own], v[vo])
            assert torch.equal(mine.attn.kv.bias[8:][own], v_bias[vo])
            assert torch.equal(mine.attn.o.weight[:, own], out[:, vo])
        up, down = block.mlp.fc1, block.mlp.fc2
        sizes = up.weight[:, keep].abs().sum(1) + down.weight[keep].abs().sum(0)
        feed = largest(sizes.tolist(), 32)
        assert torch.equal(mine.up.weight, up.weight[feed][:, keep])
        assert torch.equal(mine.down.weight, down.weight[keep][:, feed])
        assert torch.equal(mine.down.bias, down.bias[keep])
        assert torch.equal(mine.norm_attn.weight, block.norm1.weight[keep])
        assert torch.equal(mine.norm_mlp.bias, block.norm2.bias[keep])


def test_a_random_start_copies_nothing():
    copied, fresh = (
        peftbench.attach(Lst(init=init), tiny.fresh("t5_tiny_random"), classes=None)
        for init in ("pruned", "random")
    )
    frozen = copied.base.decoder.block[0].layer[1].EncDecAttention.q.weight
    mine = copied.delta.edits["side"].sides["decoder"].rungs["0"].block.cross.q.weight
    assert all(any(x == y for y in frozen.flatten()) for x in mine.flatten())
    other = fresh.delta.edits["side"].sides["decoder"].rungs["0"].block.cross.q.weight
    assert mine.shape == other.shape
    assert not any(x == y for x in other.flatten() for y in frozen.flatten())


def test_added_to_the_frozen_output_it_starts_as_no_change():
    given = tiny.inputs("bert")
    with tiny.adapted(Linear(), "bert") as model, torch.no_grad():
        before = model.eval()(given).logits
    with tiny.adapted(Lst(combine="add"), "bert") as model, torch.no_grad():
        assert torch.equal(model.eval()(given).logits, before)


@pytest.mark.parametrize("use", ["t5", "llama"])
def test_generation_without_a_cache_is_step_by_step_and_with_one_is_refused(use):
    given = tiny.inputs(use)
    given = {k: v[:1, :6] for k, v in given.items() if k != "decoder_input_ids"}
    with tiny.adapted(Lst(), use) as model, torch.no_grad():
        tiny.perturb(model, 0.2)
        model.eval()
        options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        found = model.base.generate(**given, use_cache=False, **options)
        key = "decoder_input_ids" if use == "t5" else "input_ids"
        length = found.shape[1] - 4
        ids = found[:, :length]
        for _ in range(4):
            step = {**given, key: ids}
            if use == "llama":
                step["attention_mask"] = torch.ones_like(ids)
            logits = model(step).logits[0, -1]
            logits[model.base.generation_config.eos_token_id or []] = float("-inf")
            ids = torch.cat([ids, logits.argmax()[None, None]], 1)
        assert torch.equal(found, ids)
        with pytest.raises(IncompatibleError, match="use_cache=False"):
            model.base.generate(**given, use_cache=True, **options)


def test_a_pass_that_broke_off_leaves_nothing_behind():
    given = tiny.inputs("vit")
    with tiny.adapted(Lst(), "vit") as model, torch.no_grad():
        wanted = model.eval()(given).logits
        broken = model.base.blocks[1].mlp.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(tiny.inputs("vit", seed=4))
        broken.remove()
        assert torch.equal(model(given).logits, wanted)


@pytest.mark.parametrize(
    "made", [Gist(inner=Lst()), Combo({"a": Lst(), "b": Lora()})], ids=["gist", "combo"]
)
def test_no_edit_inside_the_network_goes_with_it(made):
    with pytest.raises(IncompatibleError, match="no gradient passes"), tiny.adapted(made, "vit"):
        pass


def test_it_may_stand_in_a_combination_alone():
    with tiny.adapted(Combo({"side": Lst(), "probe": Linear()}), "vit") as model:
        tiny.train(model, "vit")


@pytest.mark.parametrize(
    "wrong",
    [{"reduction": 0}, {"every": 0}, {"keep": 2}, {"every": 2, "keep": 0}, {"temperature": 0.0}],
    ids=str,
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="method"):
        Lst(**wrong)


@pytest.mark.parametrize(
    ("made", "text"),
    [(Lst(reduction=64), "64 leaves nothing of width 32"), (Lst(every=9), "encoder of vit has 2")],
    ids=["reduction", "every"],
)
def test_what_leaves_no_side_network_is_refused(made, text):
    with pytest.raises(IncompatibleError, match=text), tiny.adapted(made, "vit"):
        pass


def test_a_gate_in_the_same_layer_as_the_upward_map_is_refused():
    network = timm.create_model(
        "vit_giant_patch14_dinov2", img_size=28, embed_dim=32, depth=1, num_heads=4, num_classes=0
    )
    with pytest.raises(IncompatibleError, match="SwiGLU"):
        peftbench.attach(Lst(), network, classes=2)
