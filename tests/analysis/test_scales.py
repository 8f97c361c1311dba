"""Learned scales of U-Tuning, layer by layer."""

import pytest
import tiny
import torch
from safetensors.torch import load_file
from small_runs import ADAPTER, train

from peftbench.analysis.scales import draw, learned, measure
from peftbench.errors import IncompatibleError
from peftbench.spec import build


@pytest.fixture(scope="module")
def numbers(tuner_run):
    return measure(tuner_run)


def gate(numbers, layer, site):
    (found,) = [g for g in numbers["gates"] if (g["layer"], g["site"]) == (layer, site)]
    return found


def test_every_tuner_of_every_layer_is_there(numbers):
    kinds = {(g["layer"], g["site"]): (g["tuner"], g["kind"]) for g in numbers["gates"]}
    sites = {"attn": "channel", "mlp": "scalar", "block": "input"}
    assert kinds == {(i, s): ("adapter", k) for i in (0, 1) for s, k in sites.items()}


def test_stored_scales_are_read(tuner_run, numbers):
    stored = load_file(str(tuner_run.path / "adapter" / "adapter.safetensors"))
    for layer in (0, 1):
        channel = stored[f"delta.encoder/{layer}/attn/adapter.tuner.gate.scale"].double()
        found = gate(numbers, layer, "attn")
        assert found["count"] == 32 and found["std"] > 0 and found["start"] == 1.0
        assert found["mean"] == pytest.approx(float(channel.mean()))
        assert found["std"] == pytest.approx(float(channel.std(unbiased=False)))
        assert found["least"] == pytest.approx(float(channel.min()))
        scalar = stored[f"delta.encoder/{layer}/mlp/adapter.tuner.gate.scale"]
        found = gate(numbers, layer, "mlp")
        assert (found["count"], found["std"]) == (1, 0)
        assert found["mean"] == pytest.approx(float(scalar))


def test_gates_per_image_are_means_over_val(tuner_run, numbers):
    """The first block's tuner reads the embedded image, which no other edit has changed."""
    stored = load_file(str(tuner_run.path / "adapter" / "adapter.safetensors"))
    t = {
        n.removeprefix("delta.encoder/0/block/adapter.tuner."): x
        for n, x in stored.items()
        if n.startswith("delta.encoder/0/block/adapter.")
    }
    backbone = tuner_run.backbone()
    model, images = backbone.model.eval(), tuner_run.task().split("val").inputs["image"]
    streams = []
    model.blocks[0].register_forward_pre_hook(lambda m, args: streams.append(args[0]))
    with torch.no_grad():
        model.forward_features(backbone.preprocess(images))
        (u,) = streams
        h = torch.nn.functional.gelu(u @ t["core.down_weight"].T + t["core.down_bias"])
        y = h @ t["core.up_weight"].T + t["core.up_bias"]
        s = torch.sigmoid(y @ t["gate.weight"].T + t["gate.bias"]).mean(1).flatten().double()
    found = gate(numbers, 0, "block")
    assert (found["count"], found["start"]) == (200, None)
    assert found["mean"] == pytest.approx(float(s.mean()), rel=1e-5)
    assert found["std"] == pytest.approx(float(s.std(unbiased=False)), rel=1e-3, abs=1e-7)


def test_scales_of_keys_and_values_are_read():
    tuner = {"_target_": "peftbench.methods.u_tuning.PrefixTuner", "scale_on": "kv"}
    made = build(
        {
            "_target_": "peftbench.methods.u_tuning.UTuning",
            "tuners": {"attn": {**tuner, "gate": "channel", "scale": 2.0}},
        }
    )
    with tiny.adapted(made, "vit") as model:
        found = list(learned(model))
    assert [(s.edit, s.of, s.kind, s.start) for s in found] == [
        (f"encoder/{i}/attn/prefix", of, "channel", 2.0)
        for i in (0, 1)
        for of in ("keys", "values")
    ]
    assert all(s.values[0].tolist() == [2.0] * 32 for s in found)


def test_the_figure_has_a_panel_per_tuner(numbers):
    figure = draw(numbers, "a run")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "adapter beside attn, channel gate",
        "adapter beside mlp, scalar gate",
        "adapter beside block, input gate",
    ]
    assert {axes.get_xlabel() for axes in figure.axes} == {"layer"}
    assert "scale s" in figure.axes[0].get_ylabel()
    mean, start = figure.axes[0].lines
    assert list(mean.get_xdata()) == [1, 2]
    assert list(mean.get_ydata()) == [gate(numbers, i, "attn")["mean"] for i in (0, 1)]
    assert list(start.get_ydata()) == [1.0, 1.0]
    assert len(figure.axes[2].lines) == 1  # a gate per image has no value at the start


@pytest.mark.parametrize("gating", ["direct", None])
def test_methods_without_learned_scales_are_refused(tmp_path, gating):
    method = {"_target_": "peftbench.methods.u_tuning.UTuning"}
    method["tuners"] = {"mlp": {**ADAPTER, "gate": gating}}
    if gating is None:
        method = tiny.config("method", "bitfit")
    run = train(tmp_path, method, max_steps=1)
    with pytest.raises(IncompatibleError, match="no learned scale"):
        measure(run)
