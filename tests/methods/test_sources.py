"""Sources of a transfer: stages, the library, and every way in which it can be wrong."""

import json
from dataclasses import replace
from pathlib import Path

import pemt_nets as nets
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from peftbench.errors import ArtefactError, ConfigError, MissingAssetError
from peftbench.files import sha256_file
from peftbench.methods.combo import Combo
from peftbench.methods.gist import Gist
from peftbench.methods.lora import Lora
from peftbench.methods.pemt import Pemt
from peftbench.methods.pemt_source import PemtSource
from peftbench.methods.sources import Source, Sources
from peftbench.methods.spot import Spot


def test_a_stage_per_source_in_order():
    tasks = {"b": {"_target_": "somewhere"}, "a": 2, "c": None}
    made = Pemt(sources=Sources(tasks, "trainer"), rank=8, b_init="kaiming")
    stages = made.stages()
    assert [(s.name, s.data, s.trainer) for s in stages] == [
        ("b", {"_target_": "somewhere"}, "trainer"),
        ("a", 2, "trainer"),
        ("c", None, "trainer"),
    ]
    assert {s.method for s in stages} == {PemtSource(rank=8, b_init="kaiming")}
    assert [s.name for s in replace(made, subset=("c", "b")).stages()] == ["b", "c"]


def test_names_that_do_not_exist():
    with pytest.raises(ConfigError, match="Did you mean 'second'"):
        nets.made(subset=["secund"])
    with pytest.raises(ConfigError, match=r"method\.expert"):
        nets.made(gates="one_hot", expert="thrid")
    with pytest.raises(ConfigError, match="one_hot"):
        nets.made(expert="first")
    with pytest.raises(ConfigError, match="'first' has no trained adapter"):
        nets.made().staged({"second": Path("somewhere")})
    with pytest.raises(MissingAssetError, match="'first'"):
        nets.made(("first",)).staged({"first": Path("nowhere")})


def test_without_trained_sources():
    anatomy = tiny.backbone("t5_tiny_random").anatomy
    with pytest.raises(MissingAssetError, match="that are trained first"):
        nets.made().plan(anatomy, torch.Generator())


@pytest.fixture
def stored(tmp_path):
    """Return PEMT over one source that a test may spoil, and the source's folder."""
    made = tiny.staged(nets.made(("first",)), "t5")
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in Path(made.library["first"].folder).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return made.staged({"first": tmp_path}), folder


def plan(made, **changes):
    return replace(made, **changes).plan(
        tiny.backbone("t5_tiny_random").anatomy, torch.Generator().manual_seed(0)
    )


def test_a_run_folder_is_as_good_as_its_adapter_folder(stored):
    made, folder = stored
    assert made.library["first"].folder == str(folder)
    assert made.staged({"first": folder}).library == made.library
    assert plan(made).parameter_count() > 0


def rewrite(folder, change):
    """Change the stored tensors, and return the hash of the new file."""
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")
    return {"library": {"first": Source(str(folder), sha256_file(folder / "adapter.safetensors"))}}


def described(folder, change):
    description = json.loads((folder / "adapter.json").read_text())
    change(description)
    (folder / "adapter.json").write_text(json.dumps(description))


def test_what_is_not_as_it_was_is_refused(stored):
    made, folder = stored
    with pytest.raises(ArtefactError, match=r"trained with rank=64, and method\.rank is 32"):
        plan(made, rank=32)
    with pytest.raises(ArtefactError, match="source_adapter=lora"):
        plan(made, source_adapter="bottleneck")
    lacking = rewrite(folder, lambda t: t.pop("delta.decoder/1/down.a.down"))
    with pytest.raises(ArtefactError, match=r"lacks the tensor 'decoder/1/down\.a\.down'"):
        plan(made, **lacking)
    with pytest.raises(ArtefactError, match="is not what it was"):
        plan(made)
    other = rewrite(folder, lambda t: t.update({"delta.decoder/1/down.a.down": torch.ones(3, 64)}))
    with pytest.raises(ArtefactError, match=r"\(3, 64\), and here it must be \(64, 64\)"):
        plan(made, **other)


def test_another_network_or_method_is_refused(stored):
    made, folder = stored
    anatomy = replace(tiny.backbone("t5_tiny_random").anatomy, fingerprint=lambda: "0" * 64)
    with pytest.raises(ArtefactError, match="this network has 000000000000"):
        made.plan(anatomy, torch.Generator())
    described(folder, lambda d: d["method"].update(_target_="peftbench.methods.lora.Lora"))
    with pytest.raises(ArtefactError, match=r"is of peftbench\.methods\.lora\.Lora"):
        plan(made)
    described(folder, lambda d: d.pop("backbone"))
    with pytest.raises(ArtefactError, match="cannot be read"):
        plan(made)
    (folder / "adapter.safetensors").unlink()
    with pytest.raises(MissingAssetError, match="is gone"):
        plan(made)


def test_a_wrapper_and_a_combination_hand_on_stages():
    inner = nets.made()
    gist = Gist(inner=inner)
    assert gist.stages() == inner.stages()
    made = tiny.staged(gist, "bert")
    assert list(made.inner.library) == ["first", "second"]
    assert made.on_task((5, 1)).inner.description == (5, 1)
    with tiny.adapted(made, "bert") as model:
        assert nets.prompt(model).count == len(tiny.DESCRIPTION)
        output = model.train()(tiny.inputs("bert"))
        terms = made.losses(output, lambda x: x.sum(-1))
        assert {"task", "sparsity", "gist_ce"} <= set(terms)
    one = Combo({"pemt": inner, "lora": Lora()})
    assert [s.name for s in one.stages()] == ["first", "second"]
    assert tiny.staged(one, "t5").parts["pemt"].library.keys() == {"first", "second"}
    two = Combo({"pemt": inner, "start": Spot(Sources({"first": None}))})
    names = [s.name for s in two.stages()]
    assert names == ["pemt.first", "pemt.second", "start.first"]
    made = tiny.staged(two, "t5")
    assert made.parts["start"].library["first"] != made.parts["pemt"].library["first"]
    assert two.on_task((5, 1)).parts["pemt"].description == (5, 1)
