"""The adapter folder: loads back bit for bit in a fresh process, or says what does not fit."""

import json
import os
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

import peftbench
from peftbench.errors import ArtefactError
from peftbench.files import sha256_tensors
from peftbench.train.artefact import DESCRIPTION, TENSORS, load_adapter, save_adapter

READ = """
import sys
from pathlib import Path
for absent in ("hydra", "omegaconf", "wandb", "datasets"):
    sys.modules[absent] = None
import torch
from safetensors.torch import load_file, save_file
torch.set_num_threads(1)
import peftbench
for folder in map(Path, sys.argv[1:]):
    inputs = load_file(str(folder / "inputs.safetensors"))
    with torch.no_grad():
        logits = peftbench.load(folder)(inputs).logits
    save_file({"logits": logits.contiguous()}, str(folder / "found.safetensors"))
"""
ROUND = [
    ("lora", "vit"),
    ("gist", "vit"),
    ("full", "llama"),
    ("prefix", "t5"),
    ("ssf", "bert"),
    ("dora", "t5_classifier"),
]


def save(folder, name, use, **changes):
    """Write an adapter whose every tensor was moved; return its logits on random inputs."""
    base = tiny.fresh(tiny.USES[use][0])
    digest = base.sha256
    classes = tiny.USES[use][1]
    model = peftbench.attach(tiny.method(name, **changes), base, classes=classes, seed=3)
    tiny.perturb(model, 0.05)
    labels = [f"class {i}" for i in range(classes)] if classes else None
    size = save_adapter(folder / "adapter", model, digest, labels, "a task")
    assert size == sum(f.stat().st_size for f in (folder / "adapter").iterdir())
    model.eval()
    with torch.no_grad():
        return model(tiny.inputs(use)).logits


def test_round_trip_in_a_fresh_process_is_bit_equal(tmp_path):
    wanted = {}
    for name, use in ROUND:
        folder = tmp_path / f"{name}-{use}"
        wanted[folder] = save(folder, name, use)
        save_file(tiny.inputs(use), str(folder / "inputs.safetensors"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tiny.ROOT)}
    command = [sys.executable, "-c", READ, *map(str, wanted)]
    subprocess.run(command, check=True, env=environment, timeout=300)
    for folder, logits in wanted.items():
        found = load_file(str(folder / "found.safetensors"))["logits"]
        assert torch.equal(found, logits), folder.name


@pytest.fixture
def stored(tmp_path):
    """A LoRA adapter on the tiny ViT."""
    save(tmp_path, "lora", "vit")
    return tmp_path


def refused(stored, base=None):
    """Load into a fresh network; return the error's text after checking that nothing stayed."""
    base = tiny.fresh("vit_tiny_random") if base is None else base
    digest = sha256_tensors(base.model.state_dict())
    with pytest.raises(ArtefactError) as caught:
        load_adapter(stored, base)
    assert tiny.traces(base.model) == []
    assert sha256_tensors(base.model.state_dict()) == digest
    with tiny.adapted(tiny.method("lora"), "vit", base=tiny.fresh("vit_tiny_random")) as model:
        assert model(tiny.inputs("vit")).logits.shape == (tiny.BATCH, tiny.CLASSES)
    return str(caught.value)


def edit_json(stored, change):
    path = stored / "adapter" / DESCRIPTION
    description = json.loads(path.read_text())
    change(description)
    path.write_text(json.dumps(description))


def edit_tensors(stored, change):
    path = stored / "adapter" / TENSORS
    tensors = load_file(str(path))
    change(tensors)
    save_file(tensors, str(path))


def first(stored):
    return min(load_file(str(stored / "adapter" / TENSORS)))


def test_network_with_other_weights(stored):
    other = tiny.fresh("vit_tiny_random")
    with torch.no_grad():
        other.model.cls_token[0, 0, 0] += 1
    text = refused(stored, other)
    assert "vit_tiny" in text
    assert "right shapes, but the network's weights are others" in text


def test_network_of_another_width_names_the_first_tensor(stored):
    spec = {**tiny.config("backbone", "vit_tiny_random")}
    spec["arch"] = {**spec["arch"], "embed_dim": 48}
    text = refused(stored, tiny.build(spec, "backbone").load())
    assert f"'{first(stored)}', (8, 32) stored, (8, 48) here" in text


def test_network_of_another_family(stored):
    text = refused(stored, tiny.fresh("bert_tiny_random"))
    assert f"first difference: '{first(stored)}' is stored only" in text


def test_other_rank_names_the_first_tensor(stored):
    edit_json(stored, lambda d: d["method"].update(rank=4))
    text = refused(stored)
    assert f"'{first(stored)}' is (8, 32) in the stored adapter and (4, 32) here" in text


def test_missing_tensor(stored):
    name = first(stored)
    edit_tensors(stored, lambda t: t.pop(name))
    assert f"lacks tensor '{name}'" in refused(stored)


def test_extra_tensor(stored):
    edit_tensors(stored, lambda t: t.update({"delta.extra": torch.zeros(1)}))
    assert "unknown tensor 'delta.extra'" in refused(stored)


def test_head_of_another_size(stored):
    edit_json(stored, lambda d: d["labels"].append("one more"))
    assert "'heads.main.bias' is (3,) in the stored adapter and (4,) here" in refused(stored)


def test_rounded_tensor(stored):
    name = first(stored)
    edit_tensors(stored, lambda t: t.update({name: t[name].half()}))
    assert f"'{name}' is torch.float16 in the stored adapter and torch.float32" in refused(stored)


def test_newer_schema(stored):
    edit_json(stored, lambda d: d.update(schema_version=99))
    assert "schema 99 is not known here" in refused(stored)


@pytest.mark.parametrize("part", ["method", "backbone", "labels"])
def test_description_without_a_part(stored, part):
    edit_json(stored, lambda d: d.pop(part))
    assert f"lacks '{part}'" in refused(stored)


def test_method_with_an_unknown_setting(stored):
    edit_json(stored, lambda d: d["method"].update(rnk=4))
    assert "Did you mean 'rank'?" in refused(stored)


def test_description_is_no_json(stored):
    path = stored / "adapter" / DESCRIPTION
    path.write_text(path.read_text()[:-20])
    assert "is not JSON" in refused(stored)


@pytest.mark.parametrize("keep", [0, 5, 100, -4])
def test_truncated_tensors(stored, keep):
    path = stored / "adapter" / TENSORS
    path.write_bytes(path.read_bytes()[:keep])
    assert TENSORS in refused(stored)


def test_no_tensors(stored):
    (stored / "adapter" / TENSORS).unlink()
    assert TENSORS in refused(stored)


def test_no_adapter(tmp_path):
    assert "holds no adapter" in refused(tmp_path)


def test_network_given_by_a_program_is_asked_for(stored):
    edit_json(stored, lambda d: d["backbone"].update(spec={}))
    with pytest.raises(ArtefactError, match="pass the same network as 'backbone'"):
        load_adapter(stored)
    load_adapter(stored, tiny.fresh("vit_tiny_random").model).release()


def test_pickle_is_refused(stored):
    torch.save({"delta.x": torch.zeros(1)}, stored / "adapter" / TENSORS)
    assert "cannot be read" in refused(stored)
