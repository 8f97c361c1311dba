"""Gradient quasi-sparsity against gradients taken without any hook."""

import math

import pytest
import tiny
import torch

from peftbench.analysis import sparsity
from peftbench.analysis.concentration import coverage, hoyer, least_share, profile
from peftbench.analysis.scene import PRETRAINED, RANDOM, TUNED, Scene, open_scene
from peftbench.analysis.sparsity_figures import draw_curves, draw_map, gaussian
from peftbench.errors import ConfigError, IncompatibleError

WORDS = ("backbone=vit_tiny_random", "data=digits", "method=sift", "trainer.batch_size=16")


@pytest.fixture(scope="module")
def scene():
    return open_scene(None, WORDS)


@pytest.fixture(scope="module")
def numbers(scene):
    return sparsity.measure(scene, batches=3)


def dense(scene, state, batch):
    """Return the gradient of one batch over all chosen tensors, by autograd alone."""
    model = scene.model(state)
    fitter = scene.fitter(model)
    model.release()
    model.eval()
    tensors = [
        getattr(site[0].module, a)
        for site in model.backbone.anatomy.linears(["attn"])
        for a in ("weight", "bias")
    ]
    for t in tensors:
        t.requires_grad_(True)
    rows = fitter.batch_index(*divmod(batch, fitter.steps_per_epoch))
    data = fitter.split.take(rows)
    output = model({"image": model.backbone.preprocess(data.inputs["image"])}).logits
    loss = torch.nn.functional.cross_entropy(output, data.labels)
    found = torch.autograd.grad(loss, tensors)
    for t in tensors:
        t.requires_grad_(False)
    return torch.cat([g.flatten() for g in found])


def test_both_averages_are_those_of_plain_gradients(scene, numbers):
    xs = numbers["shares"]
    for state in (RANDOM, PRETRAINED):
        gradients = [dense(scene, state, b) for b in range(3)]
        found = numbers["states"][state]
        mean = coverage(torch.stack(gradients).mean(0), xs).tolist()
        assert found[sparsity.MEAN]["all"]["c2"] == pytest.approx(mean, rel=1e-4)
        curves = torch.stack([coverage(g, xs) for g in gradients]).mean(0).tolist()
        assert found[sparsity.CURVES]["all"]["c2"] == pytest.approx(curves, rel=1e-4)
    assert numbers["states"][RANDOM] != numbers["states"][PRETRAINED]


def test_curves_rise_to_one_for_every_tensor(numbers):
    names = [
        f"encoder/{i}/{m}/{a}" for i in (0, 1) for m in ("qkv", "o") for a in ("weight", "bias")
    ]
    for averages in numbers["states"].values():
        for tensors in averages.values():
            assert sorted(tensors) == sorted(["all", *names])
            for own in tensors.values():
                assert own["c2"][-1] == own["c1"][-1] == 1
                assert all(a <= b for a, b in zip(own["c2"], own["c2"][1:], strict=False))
                assert all(a >= b for a, b in zip(own["c2"], own["c1"], strict=True))
            count = 2 * (96 * 32 + 96 + 32 * 32 + 32)
            assert tensors["all"]["n"] == sum(tensors[n]["n"] for n in names) == count


def test_energy_of_one_gradient_is_the_square(numbers):
    own = numbers["states"][PRETRAINED][sparsity.MEAN]["all"]
    assert own["energy"] == pytest.approx([c * c for c in own["c2"]])


def test_the_table_has_the_four_shares(numbers):
    text = sparsity.table(numbers)
    for column in ("C2(0.1%)", "C2(0.8%)", "C2(1%)", "C2(5%)"):
        assert column in text
    assert len(text.splitlines()) == 5
    lines = list(sparsity.rows(numbers))
    assert len(lines) == 2 * 2 * 9 and {len(line) for line in lines} == {len(sparsity.COLUMNS)}


def test_a_tuned_network_is_looked_at_with_its_own_weights(sift_run, full_run):
    for run in (sift_run, full_run):
        scene = Scene(run.settings, run)
        numbers = sparsity.measure(scene, batches=1)
        tuned, before = (numbers["states"][s][sparsity.MEAN]["all"] for s in (TUNED, PRETRAINED))
        assert tuned["c2"] != before["c2"] and tuned["n"] == before["n"]
        assert not tiny.traces(scene.backbone.model)
        draw_curves(numbers, scene.title), draw_map(numbers, scene.title)


@pytest.mark.parametrize("n", [1, 2, 1000])
def test_a_profile_is_what_the_single_functions_say(n):
    g, xs = torch.randn(n, generator=torch.Generator().manual_seed(1)), [0.01, 0.3, 1.0]
    made = profile(g, xs)
    assert made.c2.tolist() == pytest.approx(coverage(g, xs).tolist())
    assert made.c1.tolist() == pytest.approx(coverage(g, xs, order=1).tolist())
    assert made.x99 == least_share(g) and made.norm == pytest.approx(float(g.norm()))
    assert made.hoyer == pytest.approx(hoyer(g) if n > 1 else 1.0)
    assert profile(torch.zeros(n), xs) is None


def test_the_gaussian_curve_has_the_known_value():
    assert gaussian(0.01) == pytest.approx(0.2907, abs=1e-4)
    assert gaussian(1.0) == 1.0 and math.isclose(gaussian(0.999999), 1.0, abs_tol=1e-6)


@pytest.mark.parametrize(
    "run, words, says",
    [
        ("x", WORDS, "leave it out"),
        (None, ("data=pocket_vision",), "is a suite"),
        (None, ("backbone=bert_tiny_random", "data=digits"), "reads text"),
        (None, ("method=sfit",), "Did you mean 'sift'"),
        (None, ("batches",), "KEY=VALUE"),
    ],
)
def test_slips_in_the_words_are_named(run, words, says):
    with pytest.raises((ConfigError, IncompatibleError), match=says):
        open_scene(run, words)
