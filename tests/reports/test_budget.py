"""Scores against trained parameters."""

import pytest
from stored import write_run

from peftbench.errors import ConfigError
from peftbench.reports.budget import draw, points, records, table
from peftbench.reports.collect import collect


@pytest.fixture
def study(tmp_path):
    for seed in (0, 1, 2):
        for rate, count in ((0.001, 100), (0.01, 1000)):
            for name, value in (("gradient", 0.8), ("random", 0.6)):
                write_run(
                    tmp_path,
                    "sift",
                    seed=seed,
                    value=value + rate + seed / 100,
                    settings={"selection": name, "rate": rate},
                    trainable=count,
                )
        write_run(tmp_path, "linear", seed=seed, value=0.5, trainable=0)
    return tmp_path


def test_points_are_means_over_seeds_per_line_and_count(study):
    found = points(collect([study]), ["method.selection"])
    assert [(p.series, p.trained, p.score.n) for p in found] == [
        ("linear", 0, 3),
        ("sift gradient", 100, 3),
        ("sift gradient", 1000, 3),
        ("sift random", 100, 3),
        ("sift random", 1000, 3),
    ]
    point = found[2]
    assert point.score.value == pytest.approx(82.0) and len(point.runs) == 3
    assert point.score.low < 82.0 < point.score.high
    assert [row[2] for row in table(found).rows] == ["0", "100", "1,000", "100", "1,000"]
    assert records(found)[0]["trained"] == 0 and records(found)[1]["low"] < 81.1
    axes = draw(found).axes[0]
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "linear",
        "sift gradient",
        "sift random",
    ]


def test_runs_that_nothing_tells_apart_are_refused_and_by_tells_them_apart(study):
    with pytest.raises(ConfigError, match="by=SETTING"):
        points(collect([study]))
    found = points(collect([study]), ["method.selection"], {"sift random": "chance"})
    assert {p.series for p in found} == {"linear", "sift gradient", "chance"}


def test_what_has_no_result_is_listed(study):
    write_run(study, "lora", finished=False)
    runs = collect([study])
    notes = table(points(runs, ["method.selection"]), runs.missing()).notes
    assert any("missing: lora" in note for note in notes)


def test_no_finished_run_is_refused(tmp_path):
    write_run(tmp_path, "lora", finished=False)
    with pytest.raises(ConfigError, match="none of them is finished"):
        points(collect([tmp_path]))
