"""U-Tuning's exact identities: lambda, prefix, deep prompt, AdaptFormer; other ways to compute."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from u_nets import OPS, double, pictures, plan, stir, worst

from peftbench.backbones.backbone import find_anatomy
from peftbench.edits import Delta, Prefix, Tokens
from peftbench.edits.tuners import LambdaTuner, own_scores, share
from peftbench.errors import ConfigError
from peftbench.methods.adaptformer import AdaptFormer
from peftbench.methods.prefix import Prefix as PrefixMethod
from peftbench.methods.u_tuning import AdapterTuner, PrefixTuner, PromptTuner, UTuning


@pytest.fixture
def network():
    return double()


# 4 to 8: the identities


@pytest.mark.parametrize("options", [{}, {"init_values": 0.3}, {"qk_norm": True}], ids=str)
def test_lambda_prefix_is_prefix_tuning(options):
    network, x = double(**options), pictures()
    plain = network(x)
    mine = stir(plan(network, attn=PrefixTuner("lambda", length=5)))
    found = network(x)
    sites = [b.attentions["attn"] for b in find_anatomy(network).blocks]
    theirs = Delta([Prefix(f"p{i}", s, 5) for i, s in enumerate(sites)]).double()
    with torch.no_grad():
        for edit, other in zip(mine, theirs, strict=True):
            other.key.copy_(edit.branch.rows.key)
            other.value.copy_(edit.branch.rows.value)
    mine.detach()
    theirs.attach()
    assert worst(found, network(x)) < 1e-12
    assert worst(found, plain) > 1e-2
    theirs.detach()
    assert torch.equal(network(x), plain)


@pytest.mark.parametrize("options", [{}, {"init_values": 0.3}, {"qk_norm": True}], ids=str)
def test_lambda_prompt_in_every_block_is_deep_prompting(options):
    network, x = double(**options), pictures()
    plain = network(x)
    mine = stir(plan(network, attn=PromptTuner("lambda", length=5)))
    found = network(x)
    theirs = Tokens("t", find_anatomy(network).stacks[0].sequence, 5, 1.0, deep=True).double()
    with torch.no_grad():
        for i, edit in enumerate(mine):
            theirs.tokens[i].copy_(edit.branch.rows.prompt)
    mine.detach()
    delta = Delta([theirs]).attach()
    assert worst(found, network(x)) < 1e-10
    assert worst(found, plain) > 1e-2
    delta.detach()


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("gate", ["channel", "lambda"])
def test_a_prompt_is_the_prefix_of_its_keys_and_values(network, op, gate):
    if gate == "lambda" and op != "attn":
        with pytest.raises(ConfigError, match="lambda is the share"):
            UTuning({op: PromptTuner(gate)})
        return
    x = pictures()
    prompts = stir(plan(network, **{op: PromptTuner(gate)}))
    found = network(x)
    prompts.detach()
    prefixes = plan(network, **{op: PrefixTuner(gate)})

    def parts(edit):
        inside = edit if hasattr(edit, "branch") else edit.tuner
        return getattr(inside, "branch", None) or inside.core, getattr(inside, "gate", None)

    with torch.no_grad():
        for a, b in zip(prompts, prefixes, strict=True):
            (branch, scale), (other, other_scale) = parts(a), parts(b)
            keys, values = branch.rows.forward()
            other.rows.key.copy_(keys.transpose(0, 1).flatten(1))
            other.rows.value.copy_(values.transpose(0, 1).flatten(1))
            if scale is not None:
                other_scale.scale.copy_(scale.scale)
    assert worst(found, network(x)) < 1e-12
    prefixes.detach()


def test_lambda_lies_between_and_vanishes(network):
    delta = stir(plan(network, attn=PrefixTuner("lambda", length=3)))
    edit = next(iter(delta))
    assert isinstance(edit, LambdaTuner)
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64)
    lam = share(edit.branch.attend(q)[1], own_scores(q, k))
    assert lam.shape == (2, 4, 7, 1)
    assert float(lam.detach().min()) > 0 and float(lam.detach().max()) < 1
    own = F.scaled_dot_product_attention(q, k, v)
    far = torch.full((2, 4, 7, 3), -1e4, dtype=torch.float64)
    assert torch.equal(share(far, own_scores(q, k)), torch.zeros(2, 4, 7, 1, dtype=torch.float64))
    steady = q.abs() + 0.1
    with torch.no_grad():
        edit.branch.rows.key.fill_(-1e5)
    assert torch.equal(edit.attend(steady, k, v), F.scaled_dot_product_attention(steady, k, v))
    assert worst(edit.attend(q, k, v), own) > 0
    delta.detach()


@pytest.mark.parametrize("mask", ["causal", "bool", "float"])
def test_lambda_keeps_masks(network, mask):
    edit = next(iter(stir(plan(network, attn=PrefixTuner("lambda", length=3)))))
    q, k, v = torch.randn(3, 2, 4, 7, 8, dtype=torch.float64)
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    hidden = torch.zeros(7, 7, dtype=torch.float64).masked_fill(~seen, torch.finfo(q.dtype).min)
    options = {
        "causal": {"is_causal": True},
        "bool": {"attn_mask": seen},
        "float": {"attn_mask": hidden},
    }[mask]
    keys, values = (t.expand(2, -1, -1, -1) for t in edit.branch.rows.forward())
    wide = torch.cat([torch.ones(7, 3, dtype=torch.bool), seen], 1)
    wanted = F.scaled_dot_product_attention(
        q, torch.cat([keys, k], 2), torch.cat([values, v], 2), attn_mask=wide
    )
    assert worst(edit.attend(q, k, v, **options), wanted) < 1e-13


def test_weights_sum_to_one_and_rows_have_no_order(network):
    delta = stir(plan(network, attn=PrefixTuner(), mlp=PrefixTuner(), block=PrefixTuner()))
    x = pictures()
    before = network(x)
    branch = next(iter(delta)).branch
    q = torch.randn(2, 4, 7, 8, dtype=torch.float64)
    out, scores = branch.attend(q)
    assert scores.shape == (2, 4, 7, 10)
    with torch.no_grad():
        kept = branch.rows.value.clone()
        branch.rows.value.fill_(1.0)
        assert worst(branch.attend(q)[0], torch.ones_like(out)) < 1e-14
        branch.rows.value.copy_(kept)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
        for name, p in delta.named_parameters():
            if name.endswith(("key", "value")):
                p.copy_(p[order])
    assert worst(before, network(x)) < 1e-13


def test_adaptformer_is_a_special_case(network):
    x, anatomy = pictures(), find_anatomy(network)
    theirs = stir(AdaptFormer(8, 0.1).plan(anatomy, torch.Generator()).double().attach())
    wanted = network(x)
    theirs.detach()
    mine = plan(network, mlp=AdapterTuner("direct", 0.1, hidden=8, activation="relu"))
    with torch.no_grad():
        for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
            p.copy_(q)
    assert worst(network(x), wanted) < 1e-13


@pytest.mark.parametrize(
    ("use", "tuners"),
    [
        ("vit", {"attn": PrefixTuner("lambda"), "block": PromptTuner("input")}),
        ("bert", {"attn": PromptTuner("lambda"), "mlp": PrefixTuner("scalar")}),
        ("t5", {"attn": PrefixTuner("lambda"), "block": PromptTuner()}),
        ("llama", {"attn": PromptTuner("lambda"), "mlp": PrefixTuner()}),
        ("llama", {"attn": PrefixTuner()}),
    ],
    ids=["vit", "bert", "t5", "llama", "llama-queries"],
)
def test_one_compiled_graph_and_checkpointing_equal_eager(use, tuners):
    given = tiny.inputs(use)
    target = tiny.labels(use, given)
    torch.compiler.reset()
    with tiny.adapted(UTuning(tuners), use) as model:
        tiny.perturb(model)
        wanted, gradients = tiny.step_gradients(model, use, given, target)
        model.checkpointing(True)
        again, others = tiny.step_gradients(model, use, given, target)
        assert abs(float(wanted - again)) < 1e-6
        assert all(worst(gradients[n], others[n]) < 1e-6 for n in gradients)
        model.checkpointing(False)
        runner = torch.compile(model, fullgraph=True, backend="aot_eager")
        compiled = tiny.loss(model, runner(given), target)
        assert abs(float(wanted - compiled.detach())) < 1e-6
    torch.compiler.reset()


@pytest.mark.parametrize("use", ["bert", "t5", "llama"])
def test_lambda_prefix_is_prefix_tuning_on_text(use):
    """Padding, causal masks, relative positions, grouped keys."""
    given, made = tiny.inputs(use), PrefixMethod(length=5, cross=False)
    network = tiny.backbone(tiny.USES[use][0])
    with tiny.adapted(UTuning({"attn": PrefixTuner("lambda", length=5)}), use) as model:
        tiny.perturb(model, size=0.5)
        rows = [(e.branch.rows.key.clone(), e.branch.rows.value.clone()) for e in model.delta]
        found = model.eval()(given).logits.detach()
    with tiny.adapted(made, use, base=network) as model, torch.no_grad():
        for p in model.heads.parameters():
            p.zero_()
        for edit, (key, value) in zip(model.delta, rows, strict=True):
            edit.key.copy_(key)
            edit.value.copy_(value)
        if tiny.USES[use][1] is None:
            assert worst(model.eval()(given).logits, found) < 1e-5
            return
        features = model.features(given)
    with tiny.adapted(UTuning({"attn": PrefixTuner("lambda", length=5)}), use) as model:
        tiny.perturb(model, size=0.5)
        assert worst(model.eval().features(given), features) < 1e-5
