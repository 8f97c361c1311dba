"""The same numbers when computed another way: checkpointing, bf16 autocast, one compiled graph."""

import pytest
import tiny
import torch
from pairs import IDS, WORKS

from peftbench.edits import noise

every_pair = pytest.mark.parametrize(("name", "use"), WORKS, ids=IDS)
BF16_BOUND = 0.05  # of the logits' scale: eight bits of mantissa through two or four blocks

SPREAD = [
    *[(name, use) for name, use in WORKS if use == "vit"],
    *[
        (name, use)
        for use in ("bert", "t5", "llama")
        for name in ("lora", "ia3", "adapter", "vpt_deep", "prefix")
    ],
    *[(name, "captioner") for name in ("lora", "context", "prefix")],
    ("gist", "roberta"),
    ("full", "t5"),
    ("lora", "llama_classifier"),
    ("dora", "llama"),
    ("ssf", "t5_classifier"),
    ("lst", "bert"),
    ("lst", "t5"),
    ("lst", "llama"),
    ("prompt_tuning", "t5"),
    ("prompt_tuning", "llama"),
    ("context", "llama"),
    ("context", "t5"),
    *[(name, use) for name in ("pemt_source", "pemt") for use in ("t5", "bert")],
]
SLOW = {
    ("context", "t5"),
    ("lora", "t5"),
    ("adapter", "t5"),
    ("ia3", "t5"),
    ("full", "t5"),
    ("prompt_tuning", "t5"),
    ("pemt_source", "t5"),
    ("pemt", "t5"),
    ("pemt_source", "bert"),
    ("lst", "t5"),
    ("lst", "llama"),
    ("lst", "bert"),
}


def assert_close(first, second, tolerance):
    assert first.keys() == second.keys()
    for name in first:
        scale = max(1.0, float(first[name].abs().max()))
        worst = float((first[name] - second[name]).abs().max())
        assert worst <= tolerance * scale, f"{name}: {worst}"


@every_pair
def test_checkpointing_gives_the_same_loss_and_gradients(name, use):
    given = tiny.inputs(use)
    target = tiny.labels(use, given)
    with tiny.adapted(tiny.method(name), use) as model:
        tiny.perturb(model)
        model.train()
        with noise.rows(seed=0, step=1, start=0, total=tiny.BATCH):
            plain, plain_gradients = tiny.step_gradients(model, use, given, target)
            model.checkpointing(True)
            assert all("forward" in vars(b.module) for b in model.backbone.anatomy.blocks)
            saved, saved_gradients = tiny.step_gradients(model, use, given, target)
        assert abs(float(plain - saved)) <= 1e-6
        assert_close(plain_gradients, saved_gradients, 1e-6)


@pytest.mark.parametrize("use", ["vit", "bert", "t5", "llama"])
@pytest.mark.parametrize("inside", [True, False])
def test_checkpointing_repeats_dropout_inside_blocks(use, inside):
    given = tiny.inputs(use)
    target = tiny.labels(use, given)
    with tiny.adapted(tiny.method("lora", dropout=0.5), use) as model:
        tiny.perturb(model)
        model.train()
        found = []
        for on in (False, True):
            model.checkpointing(on)
            torch.manual_seed(3)
            if inside:
                with noise.rows(seed=0, step=1, start=0, total=tiny.BATCH):
                    found.append(tiny.step_gradients(model, use, given, target))
            else:
                found.append(tiny.step_gradients(model, use, given, target))
        assert abs(float(found[0][0] - found[1][0])) <= 1e-6
        assert_close(found[0][1], found[1][1], 1e-6)


@every_pair
def test_bf16_autocast_is_near_fp32(name, use):
    given = tiny.inputs(use)
    target = tiny.labels(use, given)
    with tiny.adapted(tiny.method(name), use) as model:
        tiny.perturb(model)
        model.eval()
        with torch.no_grad():
            exact = model(given).logits
            with torch.autocast("cpu", dtype=torch.bfloat16):
                near = model(given).logits.float()
        assert not torch.equal(exact, near)
        scale = float(exact.abs().max())
        assert float((exact - near).abs().max()) <= BF16_BOUND * scale
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = tiny.loss(model, model(given), target)
        value.backward()
        for p in model.trainable().values():
            assert p.grad.dtype == p.dtype == torch.float32
            assert torch.isfinite(p.grad).all()


def compiled_equals_eager(name, use, backend, tolerance):
    torch.compiler.reset()
    given = tiny.inputs(use)
    target = tiny.labels(use, given)
    settings = tiny.config("method", name)
    noisy = ("dropout", "drop_path", "correlation_dropout")
    changes = {key: 0.0 for key in noisy if key in settings}
    with tiny.adapted(tiny.method(name, **changes), use) as model:
        tiny.perturb(model)
        model.train()
        eager, eager_gradients = tiny.step_gradients(model, use, given, target)
        for p in model.trainable().values():
            p.grad = None
        runner = torch.compile(model, fullgraph=True, backend=backend)
        output = runner(given)
        value = tiny.loss(model, output, target)
        value.backward()
        gradients = {n: p.grad.clone() for n, p in model.trainable().items()}
        assert abs(float(eager - value.detach())) <= tolerance
        assert_close(eager_gradients, gradients, tolerance)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("name", "use"),
    [pytest.param(*p, marks=[pytest.mark.long] if p in SLOW else []) for p in SPREAD],
    ids=[f"{m}-{u}" for m, u in SPREAD],
)
def test_one_compiled_graph_equals_eager(name, use):
    compiled_equals_eager(name, use, "aot_eager", 1e-6)


@pytest.mark.long
@pytest.mark.parametrize("use", ["vit", "bert", "t5", "llama"])
def test_inductor_equals_eager(use):
    compiled_equals_eager("lora", use, "inductor", 1e-5)
