"""SIFT's entries over time: shares and overlaps against what a plain pass gives."""

import math
from dataclasses import replace

import pytest
import torch

from peftbench.analysis import overlap
from peftbench.analysis.concentration import coverage
from peftbench.analysis.scene import PRETRAINED, Scene, batch_gradient, open_scene, tensors_of
from peftbench.errors import ConfigError, IncompatibleError

WORDS = (
    *("backbone=vit_tiny_random", "data=digits", "method=sift", "method.rate=0.05"),
    *("trainer.batch_size=16", "trainer.max_steps=5", "trainer.lr=1e-2"),
)


@pytest.fixture(scope="module")
def scene():
    return open_scene(None, WORDS)


@pytest.fixture(scope="module")
def numbers(scene):
    return overlap.measure(scene, every=2)


def test_overlap_of_sets():
    a, b = torch.tensor([1, 2, 3, 4]), torch.tensor([3, 4, 5, 6])
    assert overlap.jaccard(a, b) == 2 / 6
    assert overlap.jaccard(a, a) == 1 and overlap.jaccard(a, b + 10) == 0
    g, n = torch.Generator().manual_seed(0), 20_000
    drawn = [torch.randperm(n, generator=g)[: n // 10] for _ in range(2)]
    assert overlap.jaccard(*drawn) == pytest.approx(overlap.by_chance(0.1), abs=0.01)


def test_steps_first_every_and_last(numbers):
    for records in numbers["fits"].values():
        assert [r["step"] for r in records] == [0, 2, 4]
        assert all(len(r["tensors"]) == 8 for r in records)


def test_on_the_selection_batch_the_share_is_the_coverage(scene, numbers):
    model = scene.model(PRETRAINED)
    fitter = scene.fitter(model)
    model.train()
    tensors = tensors_of(model, scene.settings.method)
    flat = torch.zeros(sum(t.numel() for t in tensors.values()))
    batch_gradient(fitter, tensors, 0, flat)
    k = {e.name: len(e.index) for e in model.delta}
    model.release()
    record = numbers["fits"]["gradient"][0]
    for name, g in zip(tensors, flat.split([t.numel() for t in tensors.values()]), strict=True):
        own = record["tensors"][name]
        if own["norm"] > 1e-6:
            assert own["share"] == pytest.approx(
                float(coverage(g, [k[name] / len(g)])[0]), rel=1e-4
            )
        assert own["overlap"] == 1
    assert record["all"]["overlap"] == 1
    assert record["all"]["norm"] == pytest.approx(float(flat.norm()), rel=1e-5)


def test_chance_holds_the_expected_share(numbers):
    shares = [r["all"]["share"] ** 2 for r in numbers["fits"]["random"]]
    assert sum(shares) / len(shares) == pytest.approx(numbers["k_of_n"], rel=0.5)
    assert numbers["fits"]["gradient"][0]["all"]["share"] > 2 * math.sqrt(numbers["k_of_n"])
    assert 0 < numbers["two_batches"] < 1


def test_a_run_is_watched_again(sift_run):
    run = Scene(sift_run.settings, sift_run)
    made = overlap.measure(run, every=100)
    assert [r["step"] for r in made["fits"]["gradient"]] == [0, 5]
    assert overlap.table(made).count("\n") == 6
    overlap.draw(made, run.title)


def test_slips(scene):
    with pytest.raises(IncompatibleError, match="use method=sift"):
        overlap.measure(open_scene(None, (*WORDS[:2], "method=lora")))
    with pytest.raises(ConfigError, match="every: 0"):
        overlap.measure(scene, every=0)
    trainer = replace(scene.settings.trainer, accumulate=2)
    with pytest.raises(ConfigError, match="accumulate"):
        overlap.measure(Scene(replace(scene.settings, trainer=trainer)))
