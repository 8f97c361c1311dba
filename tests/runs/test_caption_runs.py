"""``data=coco`` from a command on a small tree: trains, writes captions, scores as COCO does."""

import json
from types import SimpleNamespace

import caption_layouts as layouts
import hydra
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocotools.coco import COCO

from peftbench.runs import cli
from peftbench.tasks.ptb import tokens

from .conftest import ROOT

PARTS = (
    dict.fromkeys(range(1, 13), "train")
    | dict.fromkeys(range(101, 103), "restval")
    | dict.fromkeys(range(103, 107), "val")
    | dict.fromkeys(range(107, 112), "test")
)


@pytest.fixture
def tree(tmp_path):
    root = layouts.coco(tmp_path / "coco", 2014, range(1, 13), range(101, 112))
    layouts.karpathy(root / "dataset_coco.json", PARTS)
    return root


@pytest.fixture
def command(tmp_path, tree, monkeypatch, capsys):
    """Do in this process what ``train.py`` does, with the project's own configurations."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))
    decorate = hydra.main(
        version_base="1.3", config_path=str(ROOT / "configs"), config_name="config"
    )

    def run(*arguments):
        common = [
            *("backbone=captioner_tiny_random", "data=coco", f"data.root={tree}"),
            *("trainer.epochs=1", "trainer.warmup_epochs=0", "trainer.batch_size=8"),
        ]
        code = cli.guard(decorate(cli.job), [*common, *arguments])
        return SimpleNamespace(code=code, **capsys.readouterr()._asdict())

    return run


def finished(tmp_path):
    (path,) = tmp_path.glob("outputs/default/*/result.json")
    return path.parent, json.loads(path.read_text())


@pytest.mark.parametrize("method", ["context", "lora", "linear", "full"])
def test_a_method_trains_on_coco_from_one_command(command, tmp_path, method):
    done = command(f"method={method}", "data.written=6")
    assert done.code == 0, done.err
    run, result = finished(tmp_path)
    assert result["primary"]["name"] == "perplexity"
    low, high = result["primary"]["ci95"]
    assert 1 < low <= result["primary"]["value"] <= high
    assert not result["primary"]["higher_is_better"]
    assert {"BLEU-4", "ROUGE-L", "CIDEr-D"} <= set(result["metrics"]["val"])
    assert result["params"]["head"] == 33 * 32
    assert (run / "captions" / "test.json").is_file()
    assert (run / "adapter" / "adapter.safetensors").is_file()


def test_the_result_file_scores_to_our_numbers_in_the_official_reader(command, tmp_path, tree):
    assert command("method=context", "data.written=6").code == 0
    run, result = finished(tmp_path)
    annotations = tree / "annotations" / "captions_val2014.json"
    truth = COCO(str(annotations))
    read = truth.loadRes(str(run / "captions" / "test.json"))
    wanted, given = {}, {}
    for image in sorted(read.getImgIds()):
        references = [a["caption"] for a in truth.imgToAnns[image]]
        wanted[image] = [" ".join(tokens(text)) for text in references]
        given[image] = [" ".join(tokens(a["caption"])) for a in read.imgToAnns[image]]
    assert sorted(given) == [i for i, part in PARTS.items() if part == "test"]
    ours = result["metrics"]["test"]
    official = dict(
        zip(
            (f"BLEU-{n}" for n in range(1, 5)),
            Bleu(4).compute_score(wanted, given, 0)[0],
            strict=True,
        )
    )
    official["ROUGE-L"] = Rouge().compute_score(wanted, given)[0]
    official["CIDEr-D"] = Cider().compute_score(wanted, given)[0]
    for name, value in official.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name


def test_a_missing_image_is_named_and_nothing_is_left_as_done(command, tmp_path, tree):
    lost = tree / "train2014" / "COCO_train2014_000000000003.jpg"
    lost.unlink()
    done = command("method=lora")
    assert done.code == 2 and lost.name in done.err and "Traceback" not in done.err
    assert not list(tmp_path.glob("outputs/default/*/result.json"))


def test_an_image_without_captions_and_a_duplicate_are_named(command, tree):
    path = tree / "dataset_coco.json"
    whole = json.loads(path.read_text())
    for change, told in (
        (lambda images: images[2].update(sentences=[], sentids=[]), str(3)),
        (lambda images: images.append({**images[4], "split": "test"}), str(5)),
    ):
        changed = json.loads(json.dumps(whole))
        change(changed["images"])
        path.write_text(json.dumps(changed))
        done = command("method=lora")
        assert done.code == 2 and told in done.err, done.err


def test_a_network_that_does_not_see_is_refused(command):
    done = command("method=lora", "backbone=llama_tiny_random")
    assert done.code == 2
    assert "backbone=llama_tiny_random reads text, and data=coco is captions" in done.err
