"""The memory of training, from networks without data: published counts and sizes."""

import importlib.util
import json
import sys

import pytest
import tiny
import torch

from peftbench.errors import ConfigError
from peftbench.methods.full import Full
from peftbench.methods.lora import Lora
from peftbench.methods.sift import Sift
from peftbench.perf.cost import saved_bytes
from peftbench.perf.memory import GIB, Load, allocated, bill
from peftbench.perf.peak import measured, train
from peftbench.perf.rows import Row
from peftbench.perf.shapes import SHAPES, Shape, find_shape
from peftbench.perf.weightless import weightless
from peftbench.train.model import Adapted

LLAMA = Sift(roles=("all",), rate=0.05)


def test_the_papers_table_of_llama_7b():
    load = Load(fused=False)
    full, sift = (bill(n, m, SHAPES["llama_7b"], load) for n, m in (("f", Full()), ("s", LLAMA)))
    assert (sift.trainable, full.trainable, sift.head) == (323_800_352, 6_738_415_616, 0)
    gib = {k: round(v / GIB, 3) for k, v in sift.formats.items()}
    assert (gib["weights"], gib["gradients"], gib["optimizer"]) == (12.551, 0.603, 2.413)
    assert (gib["values"], gib["indices"]) == (1.206, 1.206)
    assert sift.formats["transient"] == 4096 * 11008 * 2
    gib = {k: round(v / GIB, 2) for k, v in full.formats.items()}
    assert (gib["weights"], gib["gradients"], gib["optimizer"]) == (12.55, 12.55, 50.21)
    assert full.activations / GIB == pytest.approx(35.72, abs=0.1)  # as published
    assert full.checkpointed / GIB == pytest.approx(0.81, abs=0.01)
    assert sift.activations < full.activations  # its norms and embedding are frozen
    fused = bill("s", LLAMA, SHAPES["llama_7b"], Load())
    assert fused.activations < 0.5 * sift.activations


@pytest.mark.parametrize(
    "name, method, wanted",
    [
        ("roberta_large", Sift(), 806_208),
        ("roberta_base", Sift(), 226_848),
        ("llama_13b", Sift(roles=("all",), rate=0.04), 507_511_040),
        ("llama_33b", Sift(roles=("all",), rate=0.03), 963_064_920),
        ("llama_7b", Lora(roles=("all",), rank=128), 319_815_680),
    ],
)
def test_published_counts(name, method, wanted):
    shape = SHAPES[name]
    found = bill("m", method, shape, Load(seq=8))
    assert found.trainable == wanted
    assert (found.head > 0) is not shape.writes


@pytest.mark.parametrize(
    "name, millions",
    [("bert_base", 108.9), ("minilm", 22.6), ("t5_base", 222.9), ("llama_13b", 13015.9)],
)
def test_sizes_of_networks(name, millions):
    assert SHAPES[name].load().parameter_count() / 1e6 == pytest.approx(millions, abs=0.05)


def small(use):
    """Return a tiny network as a shape."""
    name, classes = tiny.USES[use]
    family = tiny.backbone(name).anatomy.family
    build = lambda attention: tiny.fresh(name).model  # noqa: E731
    encodes = name.startswith("t5")
    return Shape(name, "tiny", family, build, tiny.LENGTH, writes=classes is None, encodes=encodes)


def kept(use, device, checkpointing):
    """Return bytes that a pass keeps; every probability of attention among them."""
    shape = small(use)
    base = shape.load("cpu", torch.float32)
    base.model.set_attn_implementation("eager")
    base.model.to(device)
    with torch.device(device):
        model = Adapted(base, Sift(selection="magnitude"), None if shape.writes else 2)
    model.to(device).train()
    model.checkpointing(checkpointing)
    inputs = shape.inputs(2, 6, device, torch.float32)
    labels = torch.zeros((2, 6) if shape.writes else (2,), dtype=torch.long, device=device)
    with weightless(fused=False):
        return saved_bytes(model, lambda: Row("", model).losses(inputs, labels))


@pytest.mark.parametrize("use", ["bert", "llama", "t5"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_activations_without_data_are_those_of_a_real_pass(use, checkpointing):
    assert kept(use, "meta", checkpointing) == kept(use, "cpu", checkpointing)


@pytest.mark.parametrize("method", [Sift(), Full(), Lora()])
def test_what_is_allocated_is_what_a_step_leaves(method):
    with tiny.adapted(method, "roberta") as model:
        found = allocated(model)
        given = tiny.inputs("roberta")
        optimizer = torch.optim.AdamW(model.trainable().values())
        tiny.loss(model, model(given), tiny.labels("roberta", given)).backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert found["gradients"] == sum(4 * g.numel() for g in grads)
        optimizer.step()
        moments = [t for s in optimizer.state.values() for t in s.values() if t.dim()]
        assert found["optimizer"] == sum(4 * t.numel() for t in moments)
        own = sum(4 * p.numel() for p in {id(p): p for p in model.base.parameters()}.values())
        assert found["weights"] >= own


def test_a_training_step_of_a_shape_runs():
    load = Load(batch=2, seq=6, dtype=torch.float32)
    for checkpointing in (False, True):
        assert train(Sift(), small("bert"), load, "cpu", checkpointing) > 0


def test_a_measurement_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no CUDA device"):
        measured(Sift(), small("bert"), Load())


def test_an_unknown_architecture_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'llama_7b'"):
        find_shape("lama_7b")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("memory", tiny.ROOT / "scripts" / "memory.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["memory"] = module
    spec.loader.exec_module(module)
    return module


def test_the_command_prints_and_writes(script, capsys, tmp_path):
    words = ("backbone=minilm", "method=sift", "seq=16", f"json={tmp_path / 'm.json'}")
    assert script.main(words) == 0
    out = capsys.readouterr().out
    assert "sift, allocated" in out and "full, formats" in out and "one dense gradient" in out
    made = json.loads((tmp_path / "m.json").read_text())
    assert [m["method"] for m in made["methods"]] == ["full", "sift"] and made["published"] == []


@pytest.mark.parametrize(
    "words, says",
    [
        (("method=sift",), "backbone: a value is needed"),
        (("backbone=lama_7b",), "Did you mean 'llama_7b'"),
        (("backbone=minilm", "seq=1000"), "allowed: up to 512"),
        (("backbone=minilm", "batch=0"), "at least 1"),
        (("backbone=minilm", "method=sift", "method.rate=2"), "out of range"),
    ],
)
def test_slips(script, capsys, words, says):
    assert script.main(words) == 2
    assert says in capsys.readouterr().err
