"""Scores of captions against golden values of the official scorers; result files."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocotools.coco import COCO

from peftbench.errors import CorruptAssetError, MissingAssetError
from peftbench.tasks import caption_metrics
from peftbench.tasks.caption_metrics import check, score, scores, table
from peftbench.tasks.caption_results import coco_results, read_results, score_results
from peftbench.tasks.ptb import tokens

ROOT = Path(__file__).parents[2]
REFERENCES = {
    1: (
        "a man riding a wave on top of a surfboard",
        "a surfer rides a large wave in the ocean",
        "a person surfing on a big wave",
        "a man is surfing in the sea",
        "a guy on a surfboard riding a wave",
    ),
    2: (
        "a cat sitting on a wooden table",
        "a black cat sits on top of a table",
        "a cat is on the table looking at the camera",
        "the cat is resting on a desk",
        "a small cat on a wooden desk",
    ),
    3: (
        "two dogs playing with a red frisbee in the grass",
        "a pair of dogs run after a frisbee",
        "dogs chasing a frisbee on a field",
        "two dogs in a park with a frisbee",
        "the dogs are playing in the yard",
    ),
}
CANDIDATES = {
    1: "a man riding a wave on a surfboard",
    2: "a cat sitting on top of a table",
    3: "a dog is catching a frisbee in a field",
}
BLEU = [0.8400000, 0.8290191, 0.7125114, 0.6068784]
TWO = {1: ["a cat sits here now"], 2: ["a dog runs over there"]}
LONG = "a cat sits here now in the big sunny garden with friends"
EDGES = {  # candidates, references, BLEU-1..4, ROUGE-L, CIDEr-D of each image
    "one image": ({1: "a cat"}, {1: ["a cat"]}, [1, 1, 0.01, 0.001], 1, [0]),
    "equal": ({k: v[0] for k, v in TWO.items()}, TWO, [1, 1, 1, 1], 1, [10, 10]),
    "repeated": (
        {1: "cat cat cat cat cat", 2: TWO[2][0]},
        TWO,
        [0.6, 0.547723, 0.531329, 0.523318],
        0.6,
        [0.25, 10],
    ),
    "too long": (
        {1: LONG, 2: TWO[2][0]},
        TWO,
        [0.588235, 0.560112, 0.525113, 0.479023],
        0.817708,
        [2.81671, 10],
    ),
    "empty": (
        {1: "", 2: "a dog runs"},
        {1: ["a cat sits"], 2: ["a dog runs"]},
        [0.367879, 0.367879, 0.367879, 0.011633],
        0.5,
        [0, 7.5],
    ),
}


def near(value):
    return pytest.approx(value, abs=1.1e-7)  # seven digits, and what their rounding leaves


def test_the_toy_set_to_seven_digits():
    found = scores(CANDIDATES, REFERENCES, meteor=False)
    assert [found.values[name] for name in caption_metrics.BLEU] == near(BLEU)
    assert found.values["ROUGE-L"] == near(0.7491105)
    assert found.each["ROUGE-L"] == near([0.8714286, 0.8643725, 0.5115304])
    assert found.values["CIDEr-D"] == near(2.0265088)
    assert found.each["CIDEr-D"] == near([2.7361959, 2.3630507, 0.9802797])


@pytest.mark.parametrize("case", EDGES)
def test_edge_cases(case):
    candidates, references, bleu, rouge, cider = EDGES[case]
    found = scores(candidates, references, meteor=False)
    assert [found.values[name] for name in caption_metrics.BLEU] == pytest.approx(bleu, abs=6e-7)
    assert found.values["ROUGE-L"] == pytest.approx(rouge, abs=6e-7)
    assert found.each["CIDEr-D"] == pytest.approx(cider, abs=6e-6)


def test_words_are_counted_and_not_signs():
    plain = {1: "a man's t-shirt", 2: "two dogs"}
    marked = {1: " A man's t-shirt... ", 2: '"Two" dogs!'}
    references = {1: ["A man's red t-shirt."], 2: ["Two dogs, running."]}
    assert scores(plain, references, False) == scores(marked, references, False)


def test_more_images_change_the_weights_of_words():
    """CIDEr-D of an image depends on the others: scores of parts may not be averaged."""
    part = {k: CANDIDATES[k] for k in (1, 2)}
    assert scores(part, REFERENCES, False).each["CIDEr-D"] != near([2.7361959, 2.3630507])


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("java"), reason="METEOR 1.5 is a Java program")
def test_meteor_is_the_official_program():
    found = scores(CANDIDATES, REFERENCES)
    assert found.values["METEOR"] == near(0.3850112)
    assert found.each["METEOR"] == near([0.4497196, 0.4350522, 0.2497620])


def test_without_java_meteor_is_not_available(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = score(CANDIDATES, REFERENCES)
    assert list(found) == list(caption_metrics.NAMES) and found["METEOR"] is None
    assert found["CIDEr-D"] == near(2.0265088)
    lines = table(found).splitlines()
    assert lines[0].split() == ["BLEU-1", "84.00"] and lines[-1].split() == ["METEOR", "n/a"]


def test_a_java_that_does_not_run_is_named(monkeypatch, tmp_path):
    java = tmp_path / "java"
    java.write_text("#!/bin/sh\necho no memory >&2\nexit 1\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(MissingAssetError, match="METEOR's program does not run"):
        score(CANDIDATES, REFERENCES)


def test_without_the_scorers_the_command_that_installs_them_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingAssetError, match=r"pip install 'peftbench\[captions\]'"):
        check()


def test_captions_and_references_must_fit():
    with pytest.raises(CorruptAssetError, match="image 4: a caption without references"):
        score({4: "a dog"}, REFERENCES)
    with pytest.raises(CorruptAssetError, match="image 4 and 1 more"):
        score({4: "a dog", 5: "a cat"}, REFERENCES | {5: ()})
    with pytest.raises(CorruptAssetError, match="no caption to score"):
        score({}, REFERENCES)


@pytest.fixture
def files(tmp_path):
    """An annotation file of COCO's form and our result file."""
    numbered = [(i, c) for i, said in REFERENCES.items() for c in said]
    value = {
        "info": {},
        "licenses": [],
        "type": "captions",
        "images": [{"id": i, "file_name": f"{i:012}.jpg"} for i in REFERENCES],
        "annotations": [
            {"id": n, "image_id": i, "caption": f" {c.capitalize()}.\n"}
            for n, (i, c) in enumerate(numbered)
        ],
    }
    annotations, results = tmp_path / "captions_val2017.json", tmp_path / "results.json"
    annotations.write_text(json.dumps(value))
    coco_results(results, {i: f"{c.capitalize()}.\n" for i, c in CANDIDATES.items()})
    return results, annotations


def test_a_result_file_is_read_by_the_official_reader_and_scores_the_same(files):
    results, annotations = files
    coco = COCO(str(annotations))
    mine = coco.loadRes(str(results))
    wanted = {i: [" ".join(tokens(a["caption"])) for a in coco.imgToAnns[i]] for i in REFERENCES}
    found = {i: [" ".join(tokens(a["caption"])) for a in mine.imgToAnns[i]] for i in REFERENCES}
    ours = score_results(*files, meteor=False).values
    totals, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    assert [ours[name] for name in caption_metrics.BLEU] == totals == near(BLEU)
    assert ours["ROUGE-L"] == Rouge().compute_score(wanted, found)[0]
    assert ours["CIDEr-D"] == Cider().compute_score(wanted, found)[0] == near(2.0265088)


@pytest.fixture(scope="module")
def script():
    path = ROOT / "scripts" / "score_captions.py"
    spec = importlib.util.spec_from_file_location("score_captions", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["score_captions"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_script_prints_the_table(files, script, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    results, annotations = files
    kept = tmp_path / "scores.json"
    words = [f"results={results}", f"annotations={annotations}", f"json={kept}"]
    assert script.main(words) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "3 images" and out[6].split() == ["CIDEr-D", "202.65"]
    assert json.loads(kept.read_text())["CIDEr-D"] == near(2.0265088)
    assert script.main([*words[:1], f"annotations={tmp_path / 'none.json'}"]) == 2
    assert "there is no file" in capsys.readouterr().err


def test_references_of_karpathys_file_by_part(files, tmp_path):
    images = [
        {
            "filepath": "val2014",
            "filename": f"COCO_val2014_{i:012}.jpg",
            "cocoid": i,
            "imgid": n,
            "split": "test" if i < 3 else "restval",
            "sentences": [{"raw": c, "tokens": c.split()} for c in said],
        }
        for n, (i, said) in enumerate(REFERENCES.items())
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"dataset": "coco", "images": images}))
    assert score_results(files[0], path, meteor=False).values["CIDEr-D"] == near(2.0265088)
    with pytest.raises(CorruptAssetError, match=r"image 3: unknown to .*dataset_coco"):
        score_results(files[0], path, "test")
    coco_results(files[0], {i: CANDIDATES[i] for i in (1, 2)})
    both = score_results(files[0], path, "test", meteor=False).values
    assert both == score({i: CANDIDATES[i] for i in (1, 2)}, REFERENCES, meteor=False)


def test_what_does_not_fit_is_named(files):
    results, annotations = files
    coco_results(results, {i: CANDIDATES[i] for i in (1, 2)})
    with pytest.raises(CorruptAssetError, match=r"image 3: without a caption .*\n.*partial=true"):
        score_results(results, annotations)
    assert len(score_results(results, annotations, "", True, False).each["CIDEr-D"]) == 2
    for text, reason in (
        ('[{"image_id": 1, "caption": "a"}, {"image_id": 1, "caption": "b"}]', "two captions"),
        ('[{"image_id": 1}]', "entry 0 is"),
        ("{}", "is no result file"),
        ("[", "is no result file"),
    ):
        results.write_text(text)
        with pytest.raises(CorruptAssetError, match=reason):
            read_results(results)
    with pytest.raises(MissingAssetError, match="there is no file"):
        read_results(results.with_name("none.json"))
