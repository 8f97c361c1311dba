"""FLOPs of every method are what it must cost; memory and shapes are read right."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from peftbench.backbones import Backbone
from peftbench.errors import IncompatibleError, MissingAssetError
from peftbench.perf.bench import Clock
from peftbench.perf.cost import necessary_flops, own_flops, saved_bytes
from peftbench.perf.rows import FLOOR, Row, make_rows, read_methods
from peftbench.perf.subjects import SUBJECTS, load, twin
from peftbench.spec import build
from peftbench.train.model import Adapted

CPU = torch.device("cpu")
METHODS = read_methods(Path(__file__).resolve().parents[2] / "configs" / "method")
WIDE = {"_target_": "peftbench.methods.lora.Lora", "roles": ["all"], "rank": 8}


@pytest.fixture(scope="module")
def small():
    """The bench's networks at full width with one sample, loaded once."""
    found = {}
    for name in ("vit_tiny", "llama_tiny", "vit_s", "llama"):
        subject = SUBJECTS[name]
        if name in ("vit_s", "llama"):
            subject = replace(subject, batch=1, tokens=min(subject.tokens, 16))
        found[name] = subject, load(subject, CPU, torch.float32)
    return found


def adapted(subject, backbone, settings):
    own = Backbone(backbone.name, twin(backbone.model), "random")
    return Adapted(own, build(settings), subject.classes).train()


@pytest.mark.parametrize("method", [*METHODS, "lora_all"])
@pytest.mark.parametrize("name", ["vit_tiny", "llama_tiny", "vit_s", "llama"])
def test_flops_are_floor_plus_what_the_parameters_must_cost(small, name, method):
    subject, backbone = small[name]
    settings = WIDE if method == "lora_all" else METHODS[method]
    try:
        model = adapted(subject, backbone, settings)
    except IncompatibleError:
        on_llama = name.startswith("llama") and method in ("convpass", "gist", "linear", "attempt")
        assert on_llama or method in ("pemt", "pemt_source")
        return
    except MissingAssetError:
        assert method in ("attempt", "spot")  # of untrained sources
        return
    clock = Clock(subject, CPU, torch.float32)
    Row(method, model).prepare(subject)
    found = clock.flops(Row(method, model))
    must = necessary_flops(
        model, lambda m: clock.one_pass(Row("", m)), lambda m: clock.forward(Row("", m))
    )
    assert found == pytest.approx(must, rel=0.02)
    assert model.delta.attached
    model.release()  # other tests read the same weights


def test_own_cost_is_counted_from_shapes(small):
    subject, backbone = small["vit_tiny"]
    clock = Clock(subject, CPU, torch.float32)

    def own(settings):
        model = adapted(subject, backbone, settings)
        found = own_flops(model, lambda: clock.forward(Row("", model)))
        model.release()
        return found

    rows = 4 * 17  # batch x (16 patches + class token); width 64, 2 blocks
    assert own(METHODS["lora"]) == 2 * 2 * 6 * rows * 8 * (64 + 64)
    assert own(METHODS["adapter"]) == 2 * 6 * rows * 2 * 64 * 8
    assert own(METHODS["ia3"]) == own(METHODS["ssf"]) == own(METHODS["bitfit"]) == 0
    layers = 2 * (12 * 64 * 64) * 2 * rows + 4 * 16 * (3 * 8 * 8 * 64) * 2
    assert own(METHODS["full"]) == layers
    assert own(METHODS["sift"]) == 2 * (4 * 64 * 64) * 2 * rows  # dense gradients of qkv and o
    assert own(METHODS["vpt_shallow"]) == 2 * (
        4 * 4 * 10 * 12 * 64 * 64 + 12 * 4 * 64 * (27**2 - 17**2)
    )
    assert own(METHODS["prefix"]) == 2 * 12 * rows * 10 * 64
    ways = 3 + 1 + 4 + 4  # tiles of 64 x 64 in qkv, o, up and down
    widths = (1 + 3) + (1 + 1) + (1 + 4) + (4 + 1)
    assert own(METHODS["fact_tt"]) == 2 * 6 * rows * (16 * widths * 64 + ways * 16 * 16)
    assert own(METHODS["adapter_plus"]) == own(METHODS["adapter"])
    assert own(METHODS["combo"]) == own(METHODS["lora"]) + own(METHODS["adapter"])
    block = 4 * 64 * 8 + 6 * (12 * 8 * 8) + 12 * 17 * 8  # a side network of width 8
    assert own(METHODS["lst"]) == rows * (2 * block + 4 * 64 * 8 + 6 * 64 * 8)


SIZED = {
    "_target_": "peftbench.methods.combo.Combo",
    "parts": {"a": METHODS["adapter"], "p": METHODS["vpt_deep"]},
    "sizes": {"p": {"tokens": [0, 3]}, "a": {"hidden": [2, 8]}},
}


def test_tokens_of_one_block_cost_there_alone(small):
    subject, backbone = small["vit_tiny"]
    model, clock = adapted(subject, backbone, SIZED), Clock(subject, CPU, torch.float32)
    own = own_flops(model, lambda: clock.forward(Row("", model)))
    rows = 6 * 2 * 64 * (4 * 17 * 2 + 4 * 20 * 8)
    assert own == rows + 4 * 4 * 3 * 12 * 64 * 64 + 12 * 4 * 64 * (20**2 - 17**2)
    must = necessary_flops(
        model, lambda m: clock.one_pass(Row("", m)), lambda m: clock.forward(Row("", m))
    )
    assert clock.flops(Row("", model)) == pytest.approx(must, rel=0.02)


def test_an_edit_without_a_formula_is_refused(small):
    subject, backbone = small["vit_tiny"]
    model = adapted(subject, backbone, METHODS["adapter"])
    for edit in model.delta:
        edit.tuner = torch.nn.Identity()
    with pytest.raises(IncompatibleError, match="Identity"):
        own_flops(model, lambda: model.features(Clock(subject, CPU, torch.float32).inputs))


def test_kept_bytes_count_each_storage_once_and_no_parameter():
    layer = torch.nn.Linear(6, 5).requires_grad_(False)
    x = torch.randn(3, 6, requires_grad=True)

    def forward():
        y = layer(x).exp()  # keeps its result; the layer keeps its weight, which does not count
        return (y[:, :2] * y[:, 2:4]).sum()  # two views of one storage

    assert saved_bytes(layer, forward) == 3 * 5 * 4


def test_twins_share_every_parameter(small):
    _, backbone = small["llama_tiny"]
    copy = twin(backbone.model)
    assert copy is not backbone.model
    mine, theirs = dict(copy.named_parameters()), dict(backbone.model.named_parameters())
    assert all(mine[n] is theirs[n] for n in theirs) and mine.keys() == theirs.keys()


def test_rows_name_every_method_of_the_folder(small):
    subject, backbone = small["llama_tiny"]
    rows = list(make_rows(subject, backbone, METHODS, peers=False))
    names = [r.name if isinstance(r, Row) else r.partition(":")[0] for r in rows]
    assert set(METHODS) <= set(names)
    left_out = [r.partition(":")[0] for r in rows if isinstance(r, str)]
    without_sources = ["attempt", "pemt", "pemt_source", "spot"]  # or refused on decoders
    assert sorted(left_out) == sorted([*without_sources, "convpass", "gist", "linear"])
    assert names.count(FLOOR) == 1
    (sift,) = (r for r in rows if isinstance(r, Row) and r.name == "sift")
    assert all(edit.chosen for edit in sift.model.delta)
    assert not any(p.requires_grad for p in backbone.model.parameters())
