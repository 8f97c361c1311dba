"""Boards, means, ranks, ties and what is missing."""

import csv
import io

import pytest
from stored import write_run

from peftbench.errors import ConfigError
from peftbench.reports import summary_tables, tables
from peftbench.reports.collect import collect, settings
from peftbench.reports.published import suite
from peftbench.reports.summary import summarise


def board(*places, **more):
    [found] = summarise(collect(places), **more).boards
    return found


def line(found, label):
    return next(entry for entry in found.lines if entry.label == label)


def test_runs_are_found_at_any_depth_and_read_once(tmp_path):
    run = write_run(tmp_path / "a" / "b" / "study", "lora")
    write_run(tmp_path / "c", "ssf")
    (tmp_path / "code" / "configs").mkdir(parents=True)
    (tmp_path / "code" / "configs" / "config.yaml").write_text("defaults: []\n")
    (run / "analysis").mkdir()
    assert len(collect([tmp_path]).runs) == 2
    assert len(collect([tmp_path, run, tmp_path / "c"]).runs) == 2


def test_settings_are_read_by_sections_and_whole_where_they_cannot_be():
    plain = "method:\n  rank: 8\n  roles:\n  - q\nseed: 3\nnames: {method: lora}\n"
    whole = {"method": {"rank": 8, "roles": ["q"]}, "seed": 3, "names": {"method": "lora"}}
    assert settings(plain) == whole
    linked = "a: &here\n  x: 1\nb: *here\n"
    assert settings(linked) == {"a": {"x": 1}, "b": {"x": 1}}
    with pytest.raises(TypeError):
        settings("- 1\n")


def test_scores_ranks_and_cost_by_hand(tmp_path):
    for seed, (a, b) in enumerate([(0.8, 0.7), (0.9, 0.8)]):
        write_run(tmp_path, "lora", "digits", seed, a, trainable=1000, train_s=10.0)
        write_run(tmp_path, "lora", "emoji", seed, b, trainable=3000, train_s=30.0)
        write_run(tmp_path, "ssf", "digits", seed, a - 0.1)
        write_run(tmp_path, "ssf", "emoji", seed, b - 0.1)
    found = board(tmp_path)
    assert (found.data, found.backbone, found.protocol) == ("pocket_vision", "vit_b16", "honest")
    first = line(found, "lora")
    mean = first.means["mean of 2 tasks"]
    assert (mean.estimate.value, mean.estimate.low, mean.estimate.high) == pytest.approx(
        (80, 75, 85)
    )
    assert (mean.cost.trained, mean.cost.train_s, mean.cost.memory) == (2000, 20.0, 2e9)
    assert first.rank.value == 1.0 and line(found, "ssf").ranks == {"digits": 2.0, "emoji": 2.0}
    assert mean.ppt == pytest.approx(0.8, rel=1e-4) and mean.pscp == pytest.approx(
        0.8 / (1 + 2 / 94), rel=1e-4
    )


def test_ties_come_from_the_paired_test_after_holm(tmp_path):
    tasks = ["digits", "emoji", "mnist5k"]
    for t, task in enumerate(tasks):
        for seed in range(4):
            value = 0.8 + t / 50 + seed / 100
            write_run(tmp_path, "lora", task, seed, value)
            write_run(tmp_path, "ssf", task, seed, value - 0.05 - seed / 1000 - t / 500)
            write_run(tmp_path, "ia3", task, seed, value + (-1) ** seed * 0.004 - 0.002 * seed)
    write_run(tmp_path, "full", "digits", 0, 0.99)
    found = board(tmp_path)
    assert [entry.label for entry in found.lines] == ["lora", "ia3", "ssf", "full"]
    assert [entry.standing for entry in found.lines] == ["best", "tied", "worse", ""]
    assert found.lines[2].p_holm == pytest.approx(2 * 2 / 2**12)  # exact, two comparisons
    full = found.lines[3]  # the best figure of all, but two tasks are missing
    assert full.rank is None and full.means[found.overall] is None
    assert full.lacking[found.overall] == "missing (1 of 3 tasks)"
    assert {(h.method, h.task, h.seed) for h in found.holes} == {
        ("full", t, s) for t in tasks for s in range(4) if (t, s) != ("digits", 0)
    }


def test_too_few_pairs_are_no_tie(tmp_path):
    write_run(tmp_path, "lora", value=0.9)
    write_run(tmp_path, "ssf", value=0.2)
    assert [entry.standing for entry in board(tmp_path).lines] == ["best", "untested"]


@pytest.mark.parametrize(("seeds", "standing"), [(5, "untested"), (6, "worse")])
def test_a_test_that_could_not_tell_is_none(tmp_path, seeds, standing):
    """Five pairs that all agree have p = 2 / 2^5 = 0.06: no tie of 90 and 20 percent."""
    for seed in range(seeds):
        write_run(tmp_path, "lora", seed=seed, value=0.9 + seed / 100)
        write_run(tmp_path, "ssf", seed=seed, value=0.2 + seed / 500)
    other = board(tmp_path).lines[1]
    assert other.standing == standing and other.p_holm == pytest.approx(2 / 2**seeds)


def test_what_could_not_tell_for_the_number_of_methods_is_none_either(tmp_path):
    for seed in range(6):  # 2 / 2^6 times two comparisons is more than 0.05
        write_run(tmp_path, "lora", seed=seed, value=0.9 + seed / 100)
        write_run(tmp_path, "ssf", seed=seed, value=0.2 + seed / 500)
        write_run(tmp_path, "ia3", seed=seed, value=0.3 + seed / 300)
    assert [entry.standing for entry in board(tmp_path).lines] == ["best", "untested", "untested"]


def test_less_is_better_for_losses(tmp_path):
    for method, value in (("lora", 2.0), ("ssf", 3.0)):
        for task in ("intents", "tweets"):
            for seed in range(6):
                write_run(
                    tmp_path,
                    method,
                    task,
                    seed,
                    value + seed / 10,
                    suite="pocket_text",
                    metric="loss",
                    higher=False,
                )
    found = board(tmp_path)
    assert [entry.label for entry in found.lines] == ["lora", "ssf"]
    score = found.lines[0].means["mean of 2 tasks"]
    assert score.unit == "loss" and score.estimate.value == pytest.approx(2.25)
    assert score.ppt is None and score.pscp is None
    assert found.lines[0].rank.value == 1.0 and found.lines[1].standing == "worse"
    text = tables.render(summary_tables.tables(summarise(collect([tmp_path]))), [], "text")
    assert "loss (less is better)" in text and "2.250 [" in text


def test_different_units_have_no_mean_but_ranks(tmp_path):
    for method, share, loss in (("lora", 0.9, 2.0), ("ssf", 0.8, 3.0)):
        write_run(tmp_path, method, "tweets", 0, share, suite="pocket_text")
        write_run(tmp_path, method, "likelihood", 0, loss, suite="pocket_text", metric="loss")
    first, second = board(tmp_path).lines
    assert first.label == "lora" and first.means["mean of 2 tasks"] is None
    assert first.lacking["mean of 2 tasks"] == "none: tasks have different units"
    assert (first.rank.value, second.rank.value) == (1.0, 2.0)


def test_both_means_of_vtab(tmp_path):
    whole = suite("vtab1k")
    names = {key: name for name, key in whole.ours.items()}
    for group, members in whole.groups.items():
        for key in members:
            value = {"natural": 0.9, "specialized": 0.6, "structured": 0.3}[group]
            write_run(tmp_path, "lora", names[key], 0, value, suite="vtab1k")
            if key != "dtd":
                write_run(tmp_path, "ssf", names[key], 0, value, suite="vtab1k")
    found = board(tmp_path)
    means = line(found, "lora").means
    assert means["mean of 19 tasks"].estimate.value == pytest.approx(
        (7 * 90 + 4 * 60 + 8 * 30) / 19
    )
    assert means["mean of 3 groups"].estimate.value == pytest.approx(60)
    assert means["mean of specialized"].estimate.value == pytest.approx(60)
    assert line(found, "ssf").lacking == {
        "mean of 19 tasks": "missing (18 of 19 tasks)",
        "mean of 3 groups": "missing (18 of 19 tasks)",
        "mean of natural": "missing (6 of 7 tasks)",
    }


def test_boards_keep_backbones_protocols_and_sources_apart(tmp_path):
    write_run(tmp_path / "s", "lora")
    write_run(tmp_path / "s", "lora", protocol="paper")
    write_run(tmp_path / "s", "lora", backbone="dinov2_small")
    write_run(tmp_path / "sources", "lora", "emoji")
    titles = [found.title for found in summarise(collect([tmp_path])).boards]
    assert titles == [
        "pocket_vision, dinov2_small, protocol honest",
        "pocket_vision, vit_b16, protocol honest",
        "pocket_vision, vit_b16, protocol paper",
        "pocket_vision, sources of other runs, vit_b16, protocol honest",
    ]


def test_an_older_run_of_the_same_place_is_left_out_and_named(tmp_path):
    old = write_run(tmp_path, "lora", value=0.5, data={"root": "a"})
    new = write_run(tmp_path, "lora", value=0.7, data={"root": "b"})
    import os

    os.utime(old / "result.json", (1, 1))
    report = summarise(collect([tmp_path]))
    assert [run.path for run in report.superseded] == [old]
    assert report.boards[0].lines[0].cells["digits"].runs[0].path == new
    text = tables.render(summary_tables.tables(report), [], "markdown")
    assert f"left out, a newer run has its place: {old}" in text


def test_failed_and_stopped_runs_are_named(tmp_path):
    write_run(tmp_path, "lora")
    write_run(tmp_path, "lora", seed=1, finished=False, error="out of memory\nat step 3")
    write_run(tmp_path, "ssf", finished=False)
    text = tables.render(summary_tables.tables(summarise(collect([tmp_path]))), [], "text")
    assert "missing: lora, digits, seed 1: failed: out of memory" in text
    assert "missing: ssf, digits, seed 0: not finished" in text


def test_no_finished_run_is_said_with_reasons(tmp_path):
    run = write_run(tmp_path, "lora", finished=False, error="no such file")
    with pytest.raises(ConfigError, match=f"none of the 1 is finished\n  {run}: failed: no such"):
        summarise(collect([tmp_path]))


def test_labels_and_choices(tmp_path):
    write_run(tmp_path, "gist", "emoji", settings={"mu_kl": 0.0})
    write_run(tmp_path, "gist", "digits", settings={"mu_kl": 1.0})
    write_run(tmp_path, "lora", "digits")
    runs = collect([tmp_path])
    assert len(runs.only("methods", ["gist"]).runs) == 2
    assert len(runs.only("tasks", ["digits"]).runs) == 2
    with pytest.raises(ConfigError, match="Did you mean 'lora'"):
        runs.only("methods", ["lorra"])
    assert "low rank" in [v.label for v in board(tmp_path, labels={"lora": "low rank"}).lines]
    with pytest.raises(ConfigError, match="no board has a method 'nothing'"):
        summarise(runs, {"nothing": "x"})


def test_csv_has_a_line_per_mean_cell_and_run_unrounded(tmp_path):
    for seed, value in enumerate((0.8123456789, 0.7)):
        write_run(tmp_path, "lora", "digits", seed, value)
    write_run(tmp_path, "lora", "emoji", 0, 0.5)
    report = summarise(collect([tmp_path]))
    text = tables.render([], summary_tables.records(report), "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["what"] for row in rows] == ["mean", "cell", "cell", "run", "run", "run"]
    runs = {(row["task"], row["seed"]): row for row in rows if row["what"] == "run"}
    assert float(runs["digits", "0"]["value"]) == pytest.approx(81.23456789, abs=1e-9)
    assert runs["digits", "0"]["path"] == str(
        report.collection.runs[0].path.parent / (runs["digits", "0"]["path"].rpartition("/")[2])
    )
    cell = next(row for row in rows if row["what"] == "cell" and row["task"] == "digits")
    assert float(cell["value"]) == pytest.approx((81.23456789 + 70) / 2)
    assert (cell["n"], cell["interval"]) == ("2", "bootstrap over 2 seeds")


def test_latex_uses_booktabs_and_escapes():
    table = tables.Table("50% of a_b", ["method", "x & y"], [["gist[a=1]", "~ 3"]], ["p > 0.05"])
    text = tables.render([table], [], "latex")
    for part in (r"\caption{50\% of a\_b}", r"\begin{tabular}{lr}", r"\toprule", r"\bottomrule"):
        assert part in text
    assert r"gist{[}a=1{]} & \textasciitilde{} 3 \\" in text and r"p \textgreater{} 0.05" in text
    assert r"x \& y" in text


def test_studies_behind_links_are_read_once(tmp_path):
    write_run(tmp_path / "scratch", "lora")
    write_run(tmp_path / "outputs" / "own", "ssf")
    (tmp_path / "outputs" / "far").symlink_to(tmp_path / "scratch")
    (tmp_path / "outputs" / "again").symlink_to(tmp_path / "scratch")
    (tmp_path / "scratch" / "back").symlink_to(tmp_path / "outputs")
    (tmp_path / "outputs" / "gone").symlink_to(tmp_path / "nowhere")
    runs = collect([tmp_path / "outputs"]).runs
    assert sorted(run.method for run in runs) == ["lora", "ssf"]
