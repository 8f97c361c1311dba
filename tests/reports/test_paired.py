"""Paired comparisons against tables worked out by hand."""

import csv
import io

import pytest
from stored import write_run

from peftbench.errors import ConfigError
from peftbench.reports.collect import collect
from peftbench.reports.figures import draw_paired
from peftbench.reports.paired import compare, records, tables
from peftbench.reports.tables import render
from peftbench.reports.variants import variants

# percent: method -> task -> values of seeds 0, 1, 2
SCORES = {
    "linear": {"digits": (80, 82, 84), "emoji": (60, 61, 62)},
    "lora": {"digits": (82, 85, 88), "emoji": (60, 60, 63)},
    "gist": {"digits": (84, 85, 86), "emoji": (70, 73, 76)},
}


@pytest.fixture
def study(tmp_path):
    for method, by_task in SCORES.items():
        for task, values in by_task.items():
            for seed, value in enumerate(values):
                trained = len(method) * 1000
                write_run(tmp_path, method, task, seed, value / 100, trainable=trained)
    return tmp_path


def report(study, base="linear", **labels):
    found = collect([study])
    return compare(found, variants(found.runs, labels), base)


def by_title(made, start):
    (table,) = [t for t in tables(made) if t.title.startswith(start)]
    return {row[0]: dict(zip(table.head[1:], row[1:], strict=True)) for row in table.rows}


def test_means_and_intervals_of_scores(study):
    made = report(study)
    digits = made.scores["linear"]["digits"]
    assert digits.value == pytest.approx(82)
    assert digits.high - digits.low == pytest.approx(2 * 4.302652729911275 * 2 / 3**0.5)
    mean = made.means["linear"]  # seeds: 70, 71.5, 73
    assert mean.value == pytest.approx(71.5)
    assert mean.high == pytest.approx(71.5 + 4.302652729911275 * 1.5 / 3**0.5)
    row = by_title(made, "test scores")["linear"]
    assert row == {
        "digits": "82.0 [77.0, 87.0] (3)",
        "emoji": "61.0 [58.5, 63.5] (3)",
        "mean of 2 tasks": "71.5 [67.8, 75.2] (3)",
    }


def test_differences_are_taken_pair_by_pair(study):
    lora = {c.label: c for c in report(study).comparisons}["lora"]  # 2, 3, 4 and 0, -1, 1
    digits, emoji = lora.tasks["digits"], lora.tasks["emoji"]
    assert (digits.value, emoji.value) == (pytest.approx(3), pytest.approx(0))
    assert digits.low == pytest.approx(3 - 4.302652729911275 / 3**0.5)
    assert lora.overall.value == pytest.approx(1.5)
    assert (lora.pairs, lora.wins, lora.ties, lora.losses) == (6, 4, 1, 1)


def test_p_values_are_corrected_together(study):
    """Six positive differences have p = 2/64; it is the smaller of two, so Holm doubles it."""
    found = {c.label: c for c in report(study).comparisons}
    assert found["gist"].p == pytest.approx(2 / 64)
    assert found["gist"].p_holm == pytest.approx(4 / 64)
    assert found["lora"].p_holm == pytest.approx(max(found["lora"].p, 4 / 64))
    rows = by_title(report(study), "difference to linear over all")
    assert rows["gist"]["wins/ties/losses"] == "6/0/0"
    assert rows["gist"]["tasks"] == "2 of 2"


def test_what_is_missing_is_said_and_not_averaged_over(study):
    for folder in list(study.iterdir()):
        text = (folder / "config.yaml").read_text()
        if "data: emoji" in text and "method: lora" in text:
            (folder / "result.json").unlink()
    made = report(study)
    assert made.scores["lora"]["emoji"] is None
    assert by_title(made, "test scores")["lora"]["emoji"] == "missing"
    assert by_title(made, "test scores")["lora"]["mean of 2 tasks"] == "missing (1 of 2)"
    row = by_title(made, "difference to linear over all")["lora"]
    assert row["tasks"] == "1 of 2"
    text = render(tables(made), records(made), "text")
    assert text.count("missing: lora, emoji, seed") == 3
    assert "not finished" in text


def test_a_seed_that_one_method_lacks_is_no_pair(study):
    write_run(study, "linear", "digits", 5, 0.5)
    write_run(study, "lora", "digits", 7, 0.5)
    made = report(study)
    lora = {c.label: c for c in made.comparisons}["lora"]
    assert (lora.tasks["digits"].n, lora.tasks["digits"].value) == (3, pytest.approx(3))
    places = {(m.method, m.task, m.seed) for m in made.missing}
    assert {("lora", "digits", 5), ("linear", "digits", 7)} <= places
    assert made.scores["linear"]["digits"].n == 4


def test_one_seed_shows_the_binomial_interval(tmp_path):
    write_run(tmp_path, "linear", value=0.8, half=0.03)
    write_run(tmp_path, "lora", value=0.85, half=0.02)
    made = report(tmp_path)
    assert by_title(made, "test scores")["lora"]["digits"] == "85.0 [83.0, 87.0] (b)"
    (lora,) = made.comparisons
    assert (lora.overall.low, lora.p, lora.p_holm) == (None, None, None)


def test_costs_are_listed(study):
    write_run(study, "lora", "mnist5k", 0, 0.9, trainable=4000, head=90, train_s=80.0)
    row = by_title(report(study), "cost")["lora"]
    assert row["trained"] == "4,000"
    assert row["with heads"] == "4,010 to 4,090"
    assert row["training s"] == "20.0"  # six of 10 s and one of 80 s
    assert row["finished runs"] == "7 of 7"


def test_labels_rename(study):
    text = render(tables(report(study, lora="LoRA")), [], "markdown")
    assert "| LoRA |" in text and "| lora |" not in text
    assert "| --- | ---: |" in text


def test_csv_has_every_figure_unrounded(study):
    made = report(study)
    rows = list(csv.DictReader(io.StringIO(render(tables(made), records(made), "csv"))))
    (line,) = [
        r
        for r in rows
        if (r["what"], r["method"], r["task"]) == ("difference", "lora", "all_tasks")
    ]
    assert float(line["value"]) == pytest.approx(1.5)
    assert (line["wins"], line["ties"], line["losses"], line["tasks"]) == ("4", "1", "1", "2")
    (line,) = [r for r in rows if (r["what"], r["method"]) == ("trained_parameters", "gist")]
    assert float(line["value"]) == 4000


def test_slips_are_named(study):
    with pytest.raises(ConfigError, match="Did you mean 'linear'"):
        report(study, "liner")
    with pytest.raises(ConfigError, match="format"):
        render([], [], "pdf")


def test_a_lone_method_has_nothing_to_be_compared_with(tmp_path):
    write_run(tmp_path)
    with pytest.raises(ConfigError, match="only method"):
        report(tmp_path, "lora")


def test_a_metric_of_unknown_direction_is_refused(tmp_path):
    write_run(tmp_path, "lora", metric="oddness", value=12.0)
    write_run(tmp_path, "ssf", metric="oddness", value=11.0)
    with pytest.raises(ConfigError, match="nothing says whether more 'oddness' is better"):
        report(tmp_path, "lora")


def test_the_figure_draws_every_difference(study):
    figure = draw_paired(report(study))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["all 2 tasks", "digits", "emoji"]
    assert "linear" in figure.get_suptitle()
    assert "percentage points" in figure.get_supxlabel()
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names == ["gist", "lora"]
    drawn = {
        (round(float(x), 6), names[round(float(y))])
        for line in figure.axes[1].lines
        for x, y in [(line.get_xdata()[0], line.get_ydata()[0])]
        if len(line.get_xdata()) == 1
    }
    assert drawn == {(3.0, "gist"), (3.0, "lora")}
    drawn = [float(line.get_xdata()[0]) for line in figure.axes[2].lines[1:]]
    assert {12.0, 0.0} <= {round(x, 6) for x in drawn}
