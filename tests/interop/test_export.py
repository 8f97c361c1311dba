"""The export command on run folders, and the folders loaded by timm and transformers alone."""

import json
import os
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file

import peftbench
from peftbench.errors import ExportError
from peftbench.interop.folder import new_folder
from peftbench.train.artefact import save_adapter

SCRIPT = str(tiny.ROOT / "scripts" / "export.py")


def run_folder(folder, name, use, **changes):
    """Store an adapter with every tensor moved; return its inputs and logits."""
    base = tiny.fresh(tiny.USES[use][0])
    classes, digest = tiny.USES[use][1], base.sha256
    model = peftbench.attach(tiny.method(name, **changes), base, classes=classes)
    tiny.perturb(model, 0.05)
    labels = [f"class {i}" for i in range(classes)] if classes else None
    save_adapter(folder / "adapter", model, digest, labels, "a task")
    inputs = tiny.inputs(use)
    model.eval()
    with torch.no_grad():
        return inputs, model(inputs).logits


def command(*words):
    """Run the script; return its exit code, output and errors."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, words)], capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def script(monkeypatch, capsys):
    """The script's main function in this process."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("export_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "export_script", module)
    spec.loader.exec_module(module)

    def call(*words):
        code = module.main([str(w) for w in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.mark.parametrize("name", ["lora", "ssf", "linear"])
def test_merged_vit_loads_with_timm_alone(name, tmp_path, script):
    import timm

    inputs, wanted = run_folder(tmp_path / "run", name, "vit")
    out = tmp_path / "merged"
    code, said, errors = script(f"run={tmp_path / 'run'}", "to=merged", f"out={out}")
    assert (code, errors) == (0, "")
    assert "max |difference|" in said
    facts = json.loads((out / "merged.json").read_text())
    assert facts["base"]["name"] == "vit_tiny_patch16_224"
    assert facts["base"]["sha256"] == tiny.fresh("vit_tiny_random").sha256
    assert facts["labels"] == ["class 0", "class 1", "class 2"]
    assert facts["difference"]["relative"] <= facts["difference"]["bound"] == 1e-5
    spec = tiny.config("backbone", "vit_tiny_random")
    by_hand = timm.create_model(
        spec["model"],
        num_classes=3,
        img_size=32,
        checkpoint_path=str(out / "model.safetensors"),
        **spec["arch"],
    )
    by_folder = timm.create_model(f"local-dir:{out}", pretrained=True)
    pixels = timm.data.resolve_model_data_config(by_folder)
    assert (pixels["crop_mode"], pixels["crop_pct"]) == ("squash", 1.0)
    assert list(pixels["mean"]) == facts["preprocess"]["mean"]
    for network in (by_hand, by_folder):
        with torch.no_grad():
            found = network.eval()(inputs["image"])
        assert (found - wanted).abs().max() <= 1e-5
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged", "run"]


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("lora", "llama"),
        ("bitfit", "llama"),
        ("ia3", "t5"),
        ("full", "t5"),
        ("ssf", "bert"),
        ("dora", "llama_classifier"),
    ],
)
def test_merged_text_network_loads_with_transformers_alone(name, use, tmp_path, script):
    inputs, wanted = run_folder(tmp_path / "run", name, use)
    out = tmp_path / "merged"
    code, _, errors = script(f"run={tmp_path / 'run'}", "to=merged", f"out={out}")
    assert (code, errors) == (0, "")
    base = tiny.backbone(tiny.USES[use][0])
    network = type(base.model).from_pretrained(out).eval()
    with torch.no_grad():
        if tiny.USES[use][1] is None:
            found = network(**inputs).logits
        else:
            head = load_file(out / "head.safetensors")
            found = base.anatomy.features(network, inputs) @ head["weight"].T + head["bias"]
    assert (found - wanted).abs().max() <= 1e-5
    assert "Classifier head" in (out / "README.md").read_text() or tiny.USES[use][1] is None


def test_peft_in_a_process_of_its_own(tmp_path):
    from peft import PeftModel

    inputs, wanted = run_folder(tmp_path / "run", "lora", "bert")
    code, said, errors = command(f"run={tmp_path / 'run'}", "to=peft", f"out={tmp_path / 'peft'}")
    assert code == 0, errors
    assert "max |difference|" in said
    assert "head.safetensors" in said
    loaded = PeftModel.from_pretrained(tiny.fresh("bert_tiny_random").model, tmp_path / "peft")
    head = load_file(tmp_path / "peft" / "head.safetensors")
    with torch.no_grad():
        hidden = loaded.eval()(**inputs).last_hidden_state[:, 0]
    assert (hidden @ head["weight"].T + head["bias"] - wanted).abs().max() <= 1e-5


def test_fused_rows_are_said_aloud(tmp_path, script):
    run_folder(tmp_path / "run", "lora", "vit")
    _, said, _ = script(f"run={tmp_path / 'run'}", "to=peft", f"out={tmp_path / 'peft'}")
    assert "note: The roles q, v are rows of one fused layer" in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["to=merged", "out=o"], "run: a value is needed here"),
        (["run=RUN", "to=mergd", "out=o"], "Did you mean 'merged'?"),
        (["rum=RUN", "to=merged", "out=o"], "Did you mean 'run'?"),
        (["run=RUN", "to=merged", "out=o", "merged"], "'merged' is not KEY=VALUE"),
        (["run=RUN", "run=RUN", "to=merged", "out=o"], "run: given twice"),
        (["run=RUN", "to=peft", "out=o", "bound=0.1"], "bound: a number above 0, with to=merged"),
        (["run=RUN", "to=merged", "out=o", "bound=tight"], "bound: expected float, got 'tight'"),
        (["run=RUN", "to=merged", "out=RUN"], "is there already"),
        (["run=nowhere", "to=merged", "out=o"], "nowhere holds no adapter"),
        (["run=RUN", "to=merged", "out=o", "bound=1e-12"], "bound: 1e-12 relative"),
    ],
)
def test_mistakes_are_told_and_leave_nothing(words, text, tmp_path, script, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_folder(tmp_path / "RUN", "lora", "vit")
    code, said, errors = script(*words)
    assert (code, said) == (2, "")
    assert text in errors
    assert "Traceback" not in errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["RUN"]


@pytest.mark.parametrize(
    ("name", "use", "to", "text"),
    [
        ("adapter", "vit", "merged", "OpEdit: a small network beside or behind"),
        ("adapter", "vit", "peft", "Exported are LoRA, DoRA and IA3"),
        ("bitfit", "t5", "merged", "transformers has no place in T5ForConditionalGeneration"),
    ],
)
def test_what_has_no_form_is_refused_with_the_reason(name, use, to, text, tmp_path, script):
    run_folder(tmp_path / "run", name, use)
    code, _, errors = script(f"run={tmp_path / 'run'}", f"to={to}", f"out={tmp_path / 'out'}")
    assert code == 2
    assert text in errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]


def test_help(script):
    assert script("--help")[0] == 0
    assert "to=merged" in script("--help")[1]
    assert script()[0] == 2


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ExportError, match="cannot be made"), new_folder(tmp_path / "file" / "out"):
        pass
