"""Our rows beside published ones: what is set against what, and what is judged."""

import csv
import io

import pytest
from stored import write_run

from peftbench.errors import ConfigError
from peftbench.reports import published
from peftbench.reports.collect import Collection, collect
from peftbench.reports.compare import beside, records, verdict
from peftbench.reports.compare_tables import tables
from peftbench.reports.figures import draw_published
from peftbench.reports.tables import render
from peftbench.reports.variants import variants

VTAB = published.suite("vtab1k")
OURS = {key: name for name, key in VTAB.ours.items() if name != "kitti_dist"}


def write_suite(study, value=lambda i, seed: 0.70, seeds=(0,), leave_out=(), **more):
    for i, key in enumerate(VTAB.tasks):
        for seed in seeds:
            if (key, seed) not in leave_out:
                task = next(n for n, k in VTAB.ours.items() if k == key)
                write_run(study, "lora", task, seed, value(i, seed), suite="vtab1k", **more)


def report(study, suite="vtab1k", method=None):
    found = collect([study]).of_suite(suite)
    return beside(suite, variants(found.runs), found, method)


def source(block, paper):
    (found,) = [s for s in block.sources if s.about.paper.startswith(paper)]
    return found


def test_a_score_beside_each_table_that_has_the_method(tmp_path):
    write_run(tmp_path, "lora", "dtd", 0, 0.70, 0.02, suite="vtab1k")
    made = report(tmp_path)
    (block,) = made.blocks
    papers = {s.about.paper.partition(" ")[0] for s in block.sources}
    assert papers == {"V-PETL", "NOAH", "Convpass"}
    petl = source(block, "V-PETL")
    assert petl.rows["dtd"].value == 69.4
    assert verdict(block.ours, petl, "dtd") == "inside"  # 68.0 to 72.0
    assert "checkpoint" in petl.standing and petl.comparable
    noah = source(block, "NOAH")
    assert verdict(block.ours, noah, "dtd") == "not comparable"
    assert "another checkpoint" in noah.standing
    text = render(tables(made), [], "text")
    assert "69.40 (+0.60 in)" in text
    assert "70.0 [68.0, 72.0] (b)" in text
    assert "figures/table1.jpg of github.com/ZhangYuanhan-AI/NOAH" in " ".join(text.split())


def test_outside_is_said(tmp_path):
    write_run(tmp_path, "lora", "dtd", 0, 0.80, 0.02, suite="vtab1k")
    (block,) = report(tmp_path).blocks
    assert verdict(block.ours, source(block, "V-PETL"), "dtd") == "outside"
    assert "69.40 (+10.60 OUT)" in render(tables(report(tmp_path)), [], "markdown")


def test_the_original_checkpoint_meets_the_tables_made_with_it(tmp_path):
    write_run(tmp_path, "lora", "dtd", 0, 0.70, suite="vtab1k", backbone="vit_b16_orig")
    (block,) = report(tmp_path).blocks
    assert (source(block, "NOAH").standing, source(block, "NOAH").comparable) == ("", True)


def test_a_packaged_derivative_is_never_judged(tmp_path):
    write_run(tmp_path, "lora", "dtd", 0, 0.70, suite="vtab1k", backbone="dinov2_small")
    made = report(tmp_path)
    (block,) = made.blocks
    assert block.sources and not any(s.comparable for s in block.sources)
    text = " ".join(render(tables(made), [], "text").split())
    assert "not comparable: dinov2_small is no network of the published tables" in text
    assert " in)" not in text and "OUT)" not in text


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"changed": {"image_size": 112}}, "backbone.image_size=112, there 224"),
        ({"changed": {"init": "random"}}, "backbone.init=random, there pretrained"),
    ],
)
def test_another_network_under_the_name_is_not_comparable(tmp_path, changed, words):
    write_run(tmp_path, "lora", "dtd", 0, 0.70, suite="vtab1k", **changed)
    (block,) = report(tmp_path).blocks
    assert words in source(block, "V-PETL").standing
    assert not source(block, "V-PETL").comparable


def test_data_that_are_not_the_published_ones_are_not_judged(tmp_path):
    write_run(tmp_path, "lora", "dtd", 0, 0.70, suite="vtab1k", deviations=["test: 12 images"])
    write_run(tmp_path, "lora", "pets", 0, 0.90, suite="vtab1k")
    made = report(tmp_path)
    (block,) = made.blocks
    petl = source(block, "V-PETL")
    assert verdict(block.ours, petl, "dtd") == "not comparable"
    assert verdict(block.ours, petl, "pets") == "inside"
    assert block.ours.odd["mean_19_tasks"] == block.ours.odd["mean_natural"] == "of dtd"
    assert "mean_structured" not in block.ours.odd
    text = " ".join(render(tables(made), [], "text").split())
    assert "dtd is not the published data, so not comparable: test: 12 images" in text


def test_local_weights_and_the_paper_protocol_are_labelled_and_kept_apart(tmp_path):
    write_run(tmp_path, "lora", "dtd", 0, 0.70, suite="vtab1k", protocol="paper")
    write_run(tmp_path, "lora", "dtd", 0, 0.69, suite="vtab1k", changed={"weights": "w.npz"})
    made = {b.title: b.ours.made for b in report(tmp_path).blocks}
    assert len(made) == 2
    (paper,) = [m for label, m in made.items() if "protocol=paper" in label]
    assert "best epoch on test (the epoch is chosen on the test split)" in paper
    (honest,) = [m for label, m in made.items() if "protocol=honest" in label]
    assert "weights from a local file" in honest


def test_means_need_every_task(tmp_path):
    write_suite(tmp_path, leave_out=[("dtd", 0), ("dmlab", 0)])
    (block,) = report(tmp_path).blocks
    assert block.ours.scores["mean_19_tasks"] is None
    assert block.ours.lacking["mean_19_tasks"] == "missing (17 of 19)"
    assert block.ours.lacking["mean_natural"] == "missing (6 of 7)"
    assert block.ours.scores["mean_specialized"].value == pytest.approx(70)
    assert "missing (17 of 19)" in render(tables(report(tmp_path)), [], "text")


def test_means_are_those_of_the_field(tmp_path):
    write_suite(tmp_path, value=lambda i, seed: (50 + i + seed) / 100, seeds=(0, 1))
    (block,) = report(tmp_path).blocks
    scores = block.ours.scores
    assert scores["mean_natural"].value == pytest.approx(53.5)  # 50..56, and one more
    assert scores["mean_specialized"].value == pytest.approx(59.0)
    assert scores["mean_structured"].value == pytest.approx(65.0)
    assert scores["mean_19_tasks"].value == pytest.approx(59.5)
    assert scores["mean_3_groups"].value == pytest.approx((53.5 + 59 + 65) / 3)
    assert scores["mean_19_tasks"].high == pytest.approx(59.5 + 12.706204736174694 / 2)
    assert source(block, "V-PETL").rows["mean_19_tasks"].value == 72.25
    assert verdict(block.ours, source(block, "V-PETL"), "mean_19_tasks") == "outside"


def test_a_mean_of_one_seed_adds_errors_in_squares(tmp_path):
    write_suite(tmp_path, half=0.04)
    (block,) = report(tmp_path).blocks
    mean = block.ours.scores["mean_specialized"]
    assert mean.high == pytest.approx(70 + 4 / 4**0.5)
    assert mean.kind == "binomial, one seed"


def test_a_mean_takes_no_seed_that_lacks_a_task(tmp_path):
    write_suite(tmp_path, value=lambda i, s: 0.6 + 0.1 * s, seeds=(0, 1), leave_out=[("svhn", 1)])
    (block,) = report(tmp_path).blocks
    mean = block.ours.scores["mean_19_tasks"]
    assert (mean.value, mean.n) == (pytest.approx(60), 1)
    write_suite(tmp_path / "b", seeds=(0, 1), leave_out=[("svhn", 1), ("dtd", 0)])
    (block,) = report(tmp_path / "b").blocks
    assert block.ours.lacking["mean_19_tasks"] == "missing (no seed has all 19)"


def test_published_rows_alone(tmp_path):
    made = beside("vtab1k", [], Collection(()))
    text = render(tables(made), [], "text")
    assert "72.25" in text and "ours: missing" in text
    assert "gain over Adapter under the traditional framework: +2.25" in " ".join(text.split())
    lines = list(csv.DictReader(io.StringIO(render([], records(made), "csv"))))
    kept = [r for r in published.rows() if r.dataset.startswith("vtab1k/") and not r.is_difference]
    assert len(lines) == len(kept)
    assert all(line["source"] and line["value"] == "missing" for line in lines)


@pytest.mark.parametrize("name", ["lora", "LoRA"])
def test_one_method_of_the_tables(name):
    made = beside("vtab1k", [], Collection(()), name)
    (block,) = made.blocks
    assert {s.about.method for s in block.sources} == {"LoRA"}
    assert block.ours is None
    assert "missing" in render(tables(made), [], "text")


def test_methods_without_a_published_row_say_so(tmp_path):
    write_run(tmp_path, "gist", "dtd", 0, 0.7, suite="vtab1k")
    assert "nothing is published for this method" in render(tables(report(tmp_path)), [], "text")
    with pytest.raises(ConfigError, match="Did you mean 'lora'"):
        beside("vtab1k", [], Collection(()), "lra")


def test_pocket_vision_has_no_published_rows(tmp_path):
    write_run(tmp_path, "lora", "digits", 0, 0.9)
    made = report(tmp_path, "pocket_vision")
    text = render(tables(made), [], "text")
    assert "nothing is published for pocket vision" in text
    assert "missing (1 of 5)" in text


def test_fgvc_and_cifar_have_theirs(tmp_path):
    write_run(tmp_path, "u_tuning", "cub", 0, 0.89, suite="fgvc")
    write_run(tmp_path, "u_tuning_tri", "cifar100", 0, 0.93, suite="cifar100")
    (block,) = report(tmp_path, "fgvc").blocks
    assert {s.about.method for s in block.sources} == {"U-Tuning"}
    assert block.ours.scores["cub_200_2011"].value == pytest.approx(89)
    (block,) = report(tmp_path, "cifar100").blocks
    assert {s.about.table for s in block.sources} >= {"Table 2", "Table 6"}


def test_a_task_without_a_place_is_refused(tmp_path):
    write_run(tmp_path, "lora", "colours", suite="vtab1k")
    with pytest.raises(ConfigError, match="unknown task of vtab1k"):
        report(tmp_path)


def test_the_figure_shows_ours_and_every_source(tmp_path):
    write_suite(tmp_path)
    figure = draw_published(report(tmp_path))
    (axes,) = figure.axes
    names = [t.get_text() for t in axes.get_yticklabels()]
    assert names[:2] == ["cifar100", "caltech101"] and names[-1] == "mean_19_tasks"
    legend = [t.get_text() for t in axes.get_legend().get_texts()]
    assert legend[0] == "ours"
    assert "V-PETL Bench, VTAB-1k table" in legend
    assert "NOAH, Table 1 (not comparable)" in legend
    assert "top-1 on test, %" in figure.get_supxlabel()
    petl = next(line for line in axes.lines if line.get_label().startswith("V-PETL"))
    assert 69.4 in list(petl.get_xdata()) and len(petl.get_xdata()) == 24


def test_the_figure_of_published_means_alone():
    figure = draw_published(beside("vtab1k", [], Collection(())))
    assert "mean_19_tasks" in figure.axes[0].get_title(loc="left")
    with pytest.raises(ConfigError, match="nothing to draw"):
        draw_published(beside("pocket_vision", [], Collection(())))
