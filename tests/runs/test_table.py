"""The table says what a person asks for, plainly when piped."""

import io
from pathlib import Path

import pytest

from peftbench.runs.settings import Settings
from peftbench.runs.table import interval_of, show_result, show_suite, size
from peftbench.tasks.interval import wilson

LONG = Path("/a/rather/long/folder/name/so/that/the/line/does/not/fit/eighty/columns/0123456789ab")


@pytest.fixture
def result(plain, fakes):
    return fakes.result_of(Settings.of(plain), "0123456789ab")


def shown(function, *arguments):
    file = io.StringIO()
    function(*arguments, file=file)
    return file.getvalue()


def test_a_piped_table_is_plain_and_fits_80_columns(result):
    text = shown(show_result, result, LONG)
    lines = text.splitlines()
    assert "\x1b" not in text and max(map(len, lines[:-1])) <= 80
    assert lines[-1] == f"run directory: {LONG}"  # in one piece, however long
    rows = [" ".join(line.split()) for line in lines]
    low, high = wilson(170, 200)
    assert "lora on dinov2_small, digits, seed 0" in rows
    assert f"accuracy val 85.0 % 95% interval {100 * low:.1f} to {100 * high:.1f}" in rows
    assert "accuracy test 90.0 % 95% interval 88.0 to 92.0" in rows
    assert "parameters trained 12,345 method (0.056 % of all)" in rows and "3,850 head" in rows
    assert "adapter size 52.0 KB" in rows and "time per step 123.4 ms median" in rows


def test_a_number_chosen_on_test_is_labelled(result):
    assert "chosen on test" not in shown(show_result, result, LONG)
    text = shown(show_result, result | {"protocol": "paper"}, LONG)
    assert " ".join(text.split()).count("best epoch, chosen on test") == 1


def test_data_that_are_not_the_published_ones_are_labelled(result):
    assert "published" not in shown(show_result, result, LONG)
    deviations = ["train800.txt: 8 images, the published task has 800", "val200.txt: [gone]"]
    manifest = result["data_manifest"] | {"deviations": deviations}
    text = " ".join(shown(show_result, result | {"data_manifest": manifest}, LONG).split())
    assert "not the published data train800.txt: 8 images, the" in text
    assert text.count("not the published data") == 1 and "val200.txt: [gone]" in text


def test_an_interval_is_the_stored_one_before_a_computed_one(result):
    assert interval_of(result, "test", "accuracy") == [0.88, 0.92]
    stored = result | {"intervals": {"val": {"accuracy": [0.1, 0.9]}}}
    assert interval_of(stored, "val", "accuracy") == [0.1, 0.9]
    assert interval_of(result, "val", "loss") is None
    assert interval_of(result | {"data_manifest": "hash"}, "val", "accuracy") is None


def test_other_ranks_print_nothing(result, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert shown(show_result, result, LONG) == ""


def test_a_suite_shows_what_is_missing_and_why():
    summary = {
        "method": "lora",
        "backbone": "b",
        "suite": "s",
        "seed": 0,
        "tasks": {
            "digits": {"value": 0.9, "ci95": [0.88, 0.92]},
            "emoji": {"error": "MissingAssetError: " + "get it with this command " * 5},
        },
        "groups": {"g": {"tasks": ["digits"], "mean": 0.9}},
        "mean_of_groups": 0.9,
        "mean_of_tasks": None,
        "reason": "no result for emoji",
    }
    text = shown(show_suite, summary, LONG)
    rows = [" ".join(line.split()) for line in text.splitlines()]
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert "digits 90.0 % 88.0 to 92.0" in rows and "mean of g 90.0 %" in rows
    assert any(r.startswith("emoji missing get it with this command") for r in rows)
    assert "MissingAssetError" not in text and "mean of tasks missing no result for emoji" in rows


def test_a_mean_over_some_tasks_says_over_how_many():
    line = {"value": 0.5, "ci95": [0.4, 0.6], "deviations": ["12 lines"]}
    summary = {
        **{"method": "lora", "backbone": "b", "suite": "s", "seed": 0, "of": 19},
        **{"tasks": {"dtd": line}, "mean_of_groups": 0.5, "mean_of_tasks": 0.5},
        "groups": {"natural": {"tasks": ["dtd"], "of": 7, "mean": 0.5}},
    }
    rows = [" ".join(r.split()) for r in shown(show_suite, summary, LONG).splitlines()]
    assert "mean of natural (1 of 7) 50.0 %" in rows and "mean of tasks (1 of 19) 50.0 %" in rows
    assert "dtd 50.0 % 40.0 to 60.0; not the published data" in rows


def test_sizes():
    assert [size(n) for n in (0, 999, 1000, 52_000, 3_500_000, 2_000_000_000)] == [
        "0 B",
        "999 B",
        "1.0 KB",
        "52.0 KB",
        "3.5 MB",
        "2.0 GB",
    ]
