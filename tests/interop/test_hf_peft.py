"""PEFT folders: the real ``peft`` loads every tensor of them and computes the same logits."""

import copy
import json

import pytest
import tiny
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import peftbench
from peftbench.errors import ExportError, MissingAssetError
from peftbench.interop import check_peft, hf_peft, write_peft
from peftbench.interop.compare import adapted_logits, sample_inputs
from peftbench.interop.hf_peft import suffixes
from peftbench.train.artefact import describe, save_adapter

WEIGHTS = [u for u in tiny.USES if u != "captioner"]  # no one network in either library
SETTINGS = {
    "lora": ("lora", {}),
    "lora_rs": ("lora", {"rslora": True, "rank": 3, "alpha": 5.0}),
    "lora_all": ("lora", {"roles": ["all"], "rank": 2}),
    "lora_mixed": ("lora", {"roles": ["q", "v", "o", "down"], "rank": 2, "rslora": True}),
    "dora": ("dora", {}),
    "ia3": ("ia3", {}),
}


def export(folder, setting, use, **kept):
    """Attach, move every tensor, write; return model, inputs, wanted logits and difference."""
    name, changes = SETTINGS[setting]
    base = tiny.fresh(tiny.USES[use][0])
    classes = tiny.USES[use][1]
    digest = base.sha256
    model = peftbench.attach(tiny.method(name, **changes, **kept), base, classes=classes)
    tiny.perturb(model, 0.1)
    labels = [str(i) for i in range(classes)] if classes else None
    save_adapter(folder / "adapter", model, digest, labels, "t")
    model.eval()
    inputs = tiny.inputs(use)
    with torch.no_grad():
        wanted = model(inputs).logits
    _, difference = write_peft(model, describe(folder)[1], folder / "peft")
    assert not model.delta.attached
    return model, inputs, wanted, difference


def load(folder, use):
    """Load as the README of the folder says; return PEFT's model and its logits on inputs."""
    network = tiny.fresh(tiny.USES[use][0]).model
    if use == "vit":
        network.reset_classifier(tiny.CLASSES)
    return PeftModel.from_pretrained(network, str(folder / "peft")).eval()


@pytest.mark.parametrize("use", WEIGHTS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_peft_computes_the_same(setting, use, tmp_path, recwarn):
    model, inputs, wanted, difference = export(tmp_path, setting, use)
    loaded = load(tmp_path, use)
    assert not [w for w in recwarn if "missing" in str(w.message).lower()]
    with torch.no_grad():
        if use == "vit":
            found = loaded(inputs["image"])
        elif tiny.USES[use][1] is None:
            found = loaded(**inputs).logits
        else:
            features = model.backbone.anatomy.features(loaded.base_model.model, inputs)
            head = load_file(str(tmp_path / "peft" / "head.safetensors"))
            found = features @ head["weight"].T + head["bias"]
    assert (found - wanted).abs().max() <= 1e-5
    assert difference.relative <= 1e-5
    assert difference.argmax_agreement == 1.0
    readme = (tmp_path / "peft" / "README.md").read_text()
    has_file = (tmp_path / "peft" / "head.safetensors").is_file()
    assert has_file == (tiny.USES[use][1] is not None and use != "vit")
    assert ("## Classifier head" in readme) == has_file


@pytest.mark.parametrize("use", WEIGHTS)
@pytest.mark.parametrize("setting", ["lora", "ia3"])
def test_every_stored_tensor_is_loaded_and_none_is_empty(setting, use, tmp_path):
    """A wrong prefix loads with one warning and zero B: here it would be seen."""
    export(tmp_path, setting, use)
    stored = load_file(str(tmp_path / "peft" / "adapter_model.safetensors"))
    loaded = load(tmp_path, use)
    mine = {}
    for name, tensor in loaded.state_dict().items():
        if any(mark in name for mark in ("lora_", "ia3_", "modules_to_save")):
            mine[name.replace(".default", "").replace(".modules_to_save", "")] = tensor
    assert mine.keys() == stored.keys()
    for name, tensor in stored.items():
        assert torch.equal(mine[name], tensor), name
        if "lora_B" in name:
            assert tensor.abs().max() > 0.01, name
    layers = len([n for n in stored if "lora_B" in n or "ia3_l" in n])
    edits = tiny.USES[use]
    with tiny.adapted(tiny.method(setting), use) as model:
        assert layers == len(model.delta.edits), edits


def test_wrong_prefix_is_refused(tmp_path):
    model, inputs, wanted, _ = export(tmp_path, "lora", "llama")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    wrong = {n.replace("base_model.model.", "base_model."): t for n, t in load_file(path).items()}
    save_file(wrong, str(path))
    with pytest.raises(ExportError, match="peft"):
        check_peft(model, tmp_path / "peft", inputs, wanted)


def test_zeroed_b_is_refused(tmp_path):
    model, inputs, wanted, _ = export(tmp_path, "lora", "bert")
    path = tmp_path / "peft" / "adapter_model.safetensors"
    zeroed = {n: t * 0 if "lora_B" in n else t for n, t in load_file(path).items()}
    save_file(zeroed, str(path))
    with pytest.raises(ExportError, match="computes something else"):
        check_peft(model, tmp_path / "peft", inputs, wanted)


def test_rows_of_a_fused_layer_become_one_update_of_summed_rank(tmp_path):
    model, *_ = export(tmp_path, "lora", "vit")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (16, 32), "two roles of rank 8, alpha 16"
    assert config["target_modules"] == ["qkv"]
    assert config["modules_to_save"] == ["head"]
    stored = load_file(str(tmp_path / "peft" / "adapter_model.safetensors"))
    b_OR = stored["base_model.model.blocks.0.attn.qkv.lora_B.weight"]
    edit = model.delta.edits["encoder/0/q+v"]
    assert torch.equal(b_OR[:32, :8], edit.b["q"])
    assert torch.equal(b_OR[64:, 8:], edit.b["v"])
    for zero in (b_OR[:32, 8:], b_OR[32:64], b_OR[64:, :8]):
        assert not zero.any()
    assert "one update of rank 16" in (tmp_path / "peft" / "README.md").read_text()


def test_rslora_is_said_to_peft(tmp_path):
    export(tmp_path, "lora_rs", "llama")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["use_rslora"] is True
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (3, 5, "CAUSAL_LM")
    assert config["target_modules"] == ["q_proj", "v_proj"]


def test_classifier_on_t5_leaves_the_decoder_alone(tmp_path):
    export(tmp_path, "lora", "t5_classifier")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert all(path.startswith("encoder.") for path in config["target_modules"])


def test_suffixes_select_exactly_these_layers():
    network = tiny.fresh("bert_tiny_random").model
    every = [n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)]
    queries = [n for n in every if n.endswith("query")]
    assert suffixes(queries, network) == ["query"]
    assert suffixes(queries[:1], network) == queries[:1]
    outputs = [n for n in every if n.endswith("attention.output.dense")]
    assert suffixes(outputs, network) == ["attention.output.dense"]
    downs = [n for n in every if n.endswith("output.dense") and n not in outputs]
    assert suffixes(downs, network) == sorted(downs)


@pytest.mark.parametrize(
    ("name", "use", "reason"),
    [
        ("adapter", "vit", "OpEdit"),
        ("prefix", "bert", "Prefix"),
        ("ssf", "vit", "ScaleShift"),
        ("gist", "vit", "Tokens"),
        ("full", "llama", "Weight"),
        ("linear", "bert", "adds no edit"),
    ],
)
def test_what_has_no_form_is_refused_and_nothing_is_written(name, use, reason, tmp_path):
    with tiny.adapted(tiny.method(name), use) as model:
        save_adapter(tmp_path / "adapter", model, "0" * 64, None, "t")
        with pytest.raises(ExportError, match=reason):
            write_peft(model, describe(tmp_path)[1], tmp_path / "peft")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]


def test_ia3_scale_of_input_and_output_of_one_layer_is_refused(tmp_path):
    with pytest.raises(ExportError, match=r"'blocks.0.mlp.fc2' has both"):
        export(tmp_path, "ia3", "vit", outputs=["down"])


def test_without_peft_the_folder_says_that_it_was_not_compared(tmp_path, monkeypatch):
    def absent(*_):
        raise MissingAssetError("peft is not installed")

    monkeypatch.setattr(hf_peft, "check_peft", absent)
    *_, difference = export(tmp_path, "lora", "vit")
    assert difference is None
    assert "Not compared" in (tmp_path / "peft" / "README.md").read_text()


def test_adapted_network_must_be_released_before_the_check(tmp_path):
    model, inputs, wanted, _ = export(tmp_path, "lora", "vit")
    model.delta.attach()
    with pytest.raises(ExportError, match="still attached"):
        check_peft(model, tmp_path / "peft", inputs, wanted)


@pytest.mark.long
@pytest.mark.parametrize("name", ["lora", "ia3"])
def test_packaged_dinov2_small(name, tmp_path):
    from peftbench.interop import merge, write_merged

    base = peftbench.spec.build(tiny.config("backbone", "dinov2_small"), "backbone").load()
    digest = base.sha256
    model = peftbench.attach(tiny.method(name), base, classes=10)
    tiny.perturb(model, 0.02)
    save_adapter(tmp_path / "adapter", model, digest, [str(i) for i in range(10)], "t")
    inputs = sample_inputs(model)
    wanted = adapted_logits(model, inputs)
    description = describe(tmp_path)[1]
    _, difference = write_peft(model, description, tmp_path / "peft")
    assert difference.relative <= 1e-5
    model.delta.attach()
    merged = merge(model, inputs)
    write_merged(merged, base, description, tmp_path / "merged")
    assert (copy.deepcopy(merged).logits(inputs) - wanted).abs().max() <= 1e-5
