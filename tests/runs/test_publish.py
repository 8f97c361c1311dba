"""A run as a folder that loads elsewhere, with a card that says what the result says."""

import json
import shutil

import pytest
import tiny
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file

import peftbench
from peftbench.errors import ArtefactError
from peftbench.runs.settings import Settings

from .conftest import load_fakes
from .test_sync import script


def write_run(folder, method, use, plain, **told):
    """Write a finished run of a tiny network; return its logits on random inputs."""
    digest = tiny.fresh(tiny.USES[use][0]).sha256
    classes = tiny.USES[use][1]
    method = tiny.staged(method, use)
    model = peftbench.attach(method, tiny.fresh(tiny.USES[use][0]), classes=classes, seed=3)
    tiny.perturb(model, 0.05)
    labels = [f"class {i}" for i in range(classes)] if classes else None
    from peftbench.train.artefact import save_adapter

    save_adapter(folder / "adapter", model, digest, labels, "digits")
    result = load_fakes().result_of(Settings.of(plain), folder.name)
    result["data_manifest"] |= {"title": "digits", "source": {"hub": "me/digits", "licence": "CC0"}}
    result["primary"]["selection"] = "last epoch"
    (folder / "result.json").write_text(json.dumps({**result, **told}))
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(Settings.of(plain).plain)))
    model.eval()
    with torch.no_grad():
        return model(tiny.inputs(use)).logits


def logits(model, use):
    with torch.no_grad():
        return model(tiny.inputs(use)).logits


def call(capsys, *words):
    code = script("publish").main(words)
    said = capsys.readouterr()
    return code, said.out + said.err


@pytest.fixture
def run(tmp_path):
    return tmp_path / "out" / "study" / "0123456789ab"


def test_a_published_folder_loads_and_its_card_says_what_the_result_says(
    fakes, plain, run, tmp_path, capsys
):
    wanted = write_run(run, tiny.method("lora"), "vit", plain)
    to = tmp_path / "shared"
    code, said = call(capsys, f"run={run}", f"to={to}", "licence=mit")
    assert code == 0 and f'peftbench.load("{to}")' in said
    assert sorted(p.name for p in to.iterdir()) == [
        "README.md", "adapter.json", "adapter.safetensors",
    ]  # fmt: skip
    shutil.rmtree(run)
    assert torch.equal(logits(peftbench.load(to), "vit"), wanted)
    card = ModelCard.load(to / "README.md")
    data = card.data.to_dict()
    assert (data["library_name"], data["license"], data["datasets"]) == (
        "peftbench", "mit", ["me/digits"],
    )  # fmt: skip
    assert data["pipeline_tag"] == "image-classification" and "lora" in data["tags"]
    assert "base_model" not in data  # random weights are nobody's
    figures = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert figures["accuracy"] == 0.9 and card.data.eval_results[0].dataset_split == "test"
    for part in ("90.0 %", "88.0 to 92.0", "12,345", "The adapter: mit.", "CC0", "rank: "):
        assert part in card.text, part
    assert str(tmp_path) not in (to / "README.md").read_text() + (to / "adapter.json").read_text()
    assert call(capsys, f"run={run}", f"to={to}")[0] == 2  # the run is gone


def test_a_card_says_that_an_epoch_was_chosen_on_test(fakes, plain, run, tmp_path, capsys):
    write_run(run, tiny.method("lora"), "vit", plain, protocol="paper")
    assert call(capsys, f"run={run}", f"to={tmp_path / 'shared'}")[0] == 0
    text = (tmp_path / "shared" / "README.md").read_text()
    assert "too good" in text and "No licence is stated" in text


def test_sources_come_along_and_are_found_where_the_folder_lies(
    fakes, plain, run, tmp_path, capsys
):
    method = tiny.method("pemt")
    wanted = write_run(run, method, "t5", plain)
    to = tmp_path / "shared"
    assert call(capsys, f"run={run}", f"to={to}")[0] == 0
    library = json.loads((to / "adapter.json").read_text())["method"]["library"]
    assert [s["folder"] for s in library.values()] == [f"sources/{i}" for i in range(len(library))]
    moved = tmp_path / "elsewhere"
    shutil.move(to, moved)
    assert torch.equal(logits(peftbench.load(moved), "t5"), wanted)
    first = next(iter(library.values()))
    assert load_file(moved / first["folder"] / "adapter.safetensors")


def test_a_local_weight_file_is_not_named(fakes, plain, run, tmp_path, capsys):
    write_run(run, tiny.method("lora"), "vit", plain)
    path = run / "adapter" / "adapter.json"
    description = json.loads(path.read_text())
    description["backbone"]["spec"]["weights"] = "/home/me/secret.npz"
    description["backbone"]["source"] = "/home/me/secret.npz"
    path.write_text(json.dumps(description))
    assert call(capsys, f"run={run}", f"to={tmp_path / 'shared'}")[0] == 0
    assert "secret" not in "".join(
        (tmp_path / "shared" / name).read_text() for name in ("README.md", "adapter.json")
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=RUN", "to=hub:name"], "not hub:owner/name"),
        (["run=RUN", "to=hub:me/x@main"], "not hub:owner/name"),
        (["run=RUN", "to=FULL"], "holds other files"),
        (["run=nowhere", "to=x"], "no finished run"),
        (["run=RUN", "too=x"], "Did you mean 'to'"),
        (["run=RUN", "to=hub:me/x"], "hf auth login"),
    ],
)
def test_slips_are_told(fakes, plain, run, tmp_path, capsys, monkeypatch, words, told):
    write_run(run, tiny.method("lora"), "vit", plain)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letters.txt").write_text("mine")
    places = {"RUN": str(run), "FULL": str(full)}
    given = [f"{w.partition('=')[0]}={places.get(w.partition('=')[2], w.partition('=')[2])}"
             for w in words]  # fmt: skip
    code, said = call(capsys, *given)
    assert code == 2 and told in said
    assert [p.name for p in full.iterdir()] == ["letters.txt"]


def test_a_name_that_is_no_folder_and_no_repository_is_told(tmp_path):
    with pytest.raises(ArtefactError, match="holds no adapter"):
        peftbench.load(tmp_path / "none")
