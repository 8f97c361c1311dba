"""PAC-Bayes terms: the formula, plain distances, and noise that is taken back."""

import math

import pytest
import tiny
import torch

from peftbench.analysis import pac_bayes
from peftbench.analysis.pac_bayes import Terms, measure, term
from peftbench.analysis.scene import PRETRAINED, TUNED, Scene
from peftbench.errors import ConfigError


def test_the_term_by_hand():
    assert term(0.0, 100, 0.05) == pytest.approx(math.sqrt(math.log(20 / 0.05) / 200))
    assert term(200.0, 100, 0.05) > 1 > term(20.0, 10_000, 0.05)


@pytest.fixture(scope="module")
def numbers(sift_run, full_run):
    scenes = [Scene(run.settings, run) for run in (full_run, sift_run)]
    made = measure(scenes, Terms(samples=48, draws=2))
    for scene in scenes:
        assert not tiny.traces(scene.backbone.model)
        fresh = tiny.fresh("vit_tiny_random").model
        assert tiny.weights_hash(scene.backbone.model) == tiny.weights_hash(fresh)
    return made


def test_distances_are_those_of_the_weights(numbers, sift_run, full_run):
    rows = [row for row in numbers["rows"] if row["prior"] == "pretrained"]
    for run, row in zip((full_run, sift_run), rows, strict=True):
        scene = Scene(run.settings, run)
        before = {n: p.clone() for n, p in scene.backbone.model.named_parameters()}
        model = scene.model(TUNED)
        squares = [
            float((p.detach() - before[n]).double().square().sum())
            for n, p in model.base.named_parameters()
        ]
        head = (
            model.heads["main"].weight.detach().clone(),
            model.heads["main"].bias.detach().clone(),
        )
        model.release()
        assert row["distance"] == pytest.approx(math.sqrt(sum(squares)), rel=1e-4)
        start = scene.model(PRETRAINED)
        own = start.heads["main"]
        far = (head[0] - own.weight).square().sum() + (head[1] - own.bias).square().sum()
        start.release()
        assert row["distance_head"] == pytest.approx(float(far.detach()) ** 0.5, rel=1e-4)


def test_gaussians_live_on_what_can_move(numbers, sift_run):
    full, sift = (r for r in numbers["rows"] if r["prior"] == "pretrained")
    assert sift["numbers"] == sum(sift_run.result["params"][k] for k in ("trainable", "head"))
    assert full["numbers"] > 10 * sift["numbers"]
    everything = {r["numbers"] for r in numbers["rows"] if r["prior"] == "random"}
    assert everything == {full["numbers"]}


def test_random_weights_are_farther_away(numbers):
    for row in numbers["rows"]:
        if row["prior"] == "random":
            other = next(
                r for r in numbers["rows"] if r["run"] == row["run"] and r["prior"] != "random"
            )
            assert row["distance"] > 5 * other["distance"]


def test_bounds_follow_from_their_parts(numbers):
    for row in numbers["rows"]:
        assert row["sigma"] in numbers["grid"]
        squared = row["distance"] ** 2 + row["distance_head"] ** 2
        assert row["kl"] == pytest.approx(squared / (2 * row["sigma"] ** 2))
        assert row["error_noisy"] <= row["error"] + 0.05
        assert row["bound"] == pytest.approx(row["error_noisy"] + row["term"])
    assert pac_bayes.table(numbers).count("\n") == 4


def test_noise_on_entries_leaves_the_others_alone():
    class Fake(pac_bayes.Posterior):
        def __init__(self):
            self.theta = {"w": torch.nn.Parameter(torch.zeros(10))}
            self.terms, self.seed, self.seen = Terms(draws=3), 0, []

        def _error(self):
            self.seen.append(self.theta["w"].detach().clone())
            return 0.5

    fake, index = Fake(), torch.tensor([2, 7])
    assert fake.noisy(0.1, {"w": index}) == 0.5
    assert all((w != 0).nonzero().flatten().tolist() == [2, 7] for w in fake.seen)
    assert not torch.equal(fake.seen[0], fake.seen[1])
    assert (fake.theta["w"] == 0).all()


@pytest.mark.parametrize("values", [{"samples": 0}, {"draws": 0}, {"rise": 0.0}, {"delta": 1.0}])
def test_wrong_settings_are_refused(values):
    with pytest.raises(ConfigError):
        Terms(**values)
