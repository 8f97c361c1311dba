"""``scripts/analyze.py`` as a user meets it."""

import importlib.util
import json
import sys

import pytest
import tiny
from PIL import Image


@pytest.fixture(scope="module")
def analyze():
    path = tiny.ROOT / "scripts" / "analyze.py"
    spec = importlib.util.spec_from_file_location("script_analyze", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["script_analyze"] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module


def run(analyze, capsys, *words):
    code = analyze.main([str(w) for w in words])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    "name, files",
    [
        ("similarity", ["similarity.json", "similarity.png"]),
        ("attention", ["attention.json", "attention.png", "attention_maps.png"]),
    ],
)
def test_numbers_and_figures_are_written(analyze, capsys, tmp_path, gist_run, name, files):
    code, out, err = run(analyze, capsys, name, f"run={gist_run.path}", f"out={tmp_path}")
    assert (code, err) == (0, "")
    assert [line.rpartition("/")[2] for line in out.splitlines()] == files
    assert json.loads((tmp_path / files[0]).read_text())["run_id"] == gist_run.path.name
    for figure in files[1:]:
        with Image.open(tmp_path / figure) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20  # not an empty page


TINY = ("backbone=vit_tiny_random", "data=digits", "method=sift", "trainer.batch_size=8")


def test_an_analysis_without_a_run_takes_the_words_of_a_training(analyze, capsys, tmp_path):
    code, out, err = run(analyze, capsys, "sparsity", *TINY, "batches=1", f"out={tmp_path}")
    assert (code, err) == (0, "")
    files = ["sparsity.json", "sparsity.csv", "sparsity.png", "sparsity_map.png"]
    assert [line.rpartition("/")[2] for line in out.splitlines()[-4:]] == files
    assert out.startswith("state ") and "C2(0.8%)" in out
    lines = (tmp_path / "sparsity.csv").read_text().splitlines()
    assert lines[0].startswith("state,average,tensor") and len(lines) == 1 + 2 * 2 * 9
    for figure in files[2:]:
        with Image.open(tmp_path / figure) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20


def test_an_analysis_of_a_run_writes_into_it(analyze, capsys, sift_run):
    code, out, _ = run(analyze, capsys, "sparsity", f"run={sift_run.path}", "batches=1")
    assert code == 0 and "tuned" in out
    numbers = json.loads((sift_run.path / "analysis" / "sparsity.json").read_text())
    assert numbers["run_id"] == sift_run.path.name


def test_overlap_and_landscape_write_their_files(analyze, capsys, tmp_path):
    out = f"out={tmp_path}"
    more = ("trainer.max_steps=2", "every=1")
    assert run(analyze, capsys, "overlap", *TINY, *more, out)[0] == 0
    small = ("points=3", "directions=2", "grid=3", "samples=8")
    code, text, err = run(analyze, capsys, "landscape", *TINY, *small, out)
    assert (code, err) == (0, "") and "negative gradient" in text
    names = ["landscape.json", "landscape.png", "landscape_plane.png"]
    assert [line.rpartition("/")[2] for line in text.splitlines()[-3:]] == names
    for stem in ("overlap", "landscape", "landscape_plane"):
        with Image.open(tmp_path / f"{stem}.png") as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert run(analyze, capsys, "landscape", *TINY, *small[:2], "samples=8", "grid=0", out)[0] == 0


def test_several_runs_make_one_table(analyze, capsys, tmp_path, sift_run, full_run):
    both = f"run={full_run.path},{sift_run.path}"
    words = ("samples=8", "draws=1", f"out={tmp_path}")
    code, _, err = run(analyze, capsys, "pac_bayes", both, *words)
    assert (code, err) == (0, "")
    assert len((tmp_path / "pac_bayes.csv").read_text().splitlines()) == 5
    code, _, err = run(analyze, capsys, "sparsity", both, f"out={tmp_path}")
    assert code == 2 and "looks at one run" in err


def test_the_run_directory_is_where_files_go(analyze, capsys, tuner_run):
    code, out, _ = run(analyze, capsys, "scales", f"run={tuner_run.path}")
    assert code == 0
    assert out.splitlines()[0] == str(tuner_run.path / "analysis" / "scales.json")


def test_a_fit_that_does_not_repeat_is_said(analyze, capsys, tmp_path, gist_run, monkeypatch):
    from peftbench.analysis import similarity

    monkeypatch.setattr(similarity, "_difference", lambda path, epochs: 0.015)
    words = ("similarity", f"run={gist_run.path}", f"out={tmp_path}")
    assert "differs from the record by 1.50 points" in run(analyze, capsys, *words)[2]


@pytest.mark.parametrize(
    "words, says",
    [
        (("similar", "run=x"), "Did you mean 'similarity'"),
        (("scales",), "run: a value is needed here"),
        (("scales", "run=nowhere"), "no run directory"),
        (("scales", "run=x", "images=3"), "unknown setting 'images'"),
        (("attention", "run=x", "images=many"), "images: expected int"),
        (("sparsity", *TINY, "batches=0"), "batches: 0 must be at least 1"),
        (("sparsity", *TINY, "batch=4"), "unknown setting 'batch'"),
        (("sparsity", "run=nowhere"), "no run directory"),
        (("pac_bayes", *TINY), "pac_bayes needs finished runs"),
        (("landscape", *TINY, "head=trained"), "without a run the head is random"),
        (("landscape", *TINY, "points=4"), "must be odd"),
        (("sparsity", "run=nowhere", "data=digits"), "everything is as in that run"),
    ],
)
def test_slips_exit_2_with_a_message(analyze, capsys, words, says):
    code, out, err = run(analyze, capsys, *words)
    assert (code, out) == (2, "")
    assert says in err and "Traceback" not in err


def test_help(analyze, capsys):
    assert run(analyze, capsys, "-h")[0] == 0
    assert run(analyze, capsys)[0] == 2
