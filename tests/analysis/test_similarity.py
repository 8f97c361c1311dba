"""Logits of class and Gist token over a training that is repeated."""

import json
import math

import pytest
import tiny
import torch
from small_runs import train

from peftbench.analysis.similarity import compare, draw, measure
from peftbench.errors import ConfigError, IncompatibleError


@pytest.fixture(scope="module")
def numbers(gist_run):
    return measure(gist_run)


def test_measures_by_hand():
    class_NC = torch.tensor([[math.log(3.0), 0.0], [1.0, 2.0]])
    gist_NC = torch.tensor([[0.0, 0.0], [5.0, 7.0]])
    found = compare(class_NC, gist_NC, torch.tensor([0, 0]))
    # first sample: p = (3/4, 1/4), q = (1/2, 1/2); no direction is left of equal logits: cosine 0
    p, q = (0.75, 0.25), (0.5, 0.5)
    second = [torch.softmax(x[1], 0).tolist() for x in (class_NC, gist_NC)]

    def kl(a, b):
        return sum(x * math.log(x / y) for x, y in zip(a, b, strict=True))

    assert found["kl_cls_gist"] == pytest.approx((kl(p, q) + kl(*second)) / 2, rel=1e-5)
    assert found["kl_gist_cls"] == pytest.approx((kl(q, p) + kl(*second[::-1])) / 2, rel=1e-5)
    assert found["cosine"] == pytest.approx((0 + 1) / 2)
    assert (found["accuracy_cls"], found["accuracy_gist"], found["agreement"]) == (0.5, 0.5, 1.0)


def test_the_repeated_fit_is_the_recorded_one(gist_run, numbers):
    assert [e["epoch"] for e in numbers["epochs"]] == [0, 1, 2]
    assert numbers["largest_difference_to_record"] == 0.0
    lines = (gist_run.path / "metrics.jsonl").read_text().splitlines()
    recorded = [
        e["value"] for e in map(json.loads, lines) if (e["split"], e["name"]) == ("val", "accuracy")
    ]
    assert [e["accuracy_cls"] for e in numbers["epochs"][1:]] == pytest.approx(recorded)


def test_both_logits_are_read_and_move(numbers):
    first, last = numbers["epochs"][0], numbers["epochs"][-1]
    assert first["kl_cls_gist"] > 0 and first["kl_cls_gist"] != last["kl_cls_gist"]
    assert -1 <= last["cosine"] < 1


def test_the_record_is_compared_for_true(gist_run, numbers, monkeypatch):
    from peftbench.analysis import similarity

    epochs = [dict(e) for e in numbers["epochs"]]
    epochs[1]["accuracy_run"] += 0.25
    assert similarity._difference(gist_run.path, epochs) == pytest.approx(0.25)


def test_the_figure_names_what_it_shows(numbers):
    figure = draw(numbers, "a run")
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["cosine of centred logits", "divergence, nats", "share of val samples, %"]
    assert "a run" in figure.get_suptitle()
    (line,) = figure.axes[0].lines
    assert list(line.get_ydata()) == [e["cosine"] for e in numbers["epochs"]]


def test_other_methods_are_refused(tuner_run):
    with pytest.raises(IncompatibleError, match="no Gist token"):
        measure(tuner_run)


def test_a_run_that_trained_on_val_is_refused(tmp_path):
    run = train(tmp_path, tiny.config("method", "gist"), "paper", max_steps=1)
    with pytest.raises(ConfigError, match="val is not held out"):
        measure(run)
