"""Loss landscapes: directions, curves against plain passes, and that nothing is left moved."""

import pytest
import tiny
import torch

from peftbench.analysis import landscape
from peftbench.analysis.landscape import Sample, Walk, moved, oscillation, random_direction
from peftbench.analysis.landscape_figures import draw_lines, draw_plane
from peftbench.analysis.scene import PRETRAINED, Scene, open_scene
from peftbench.errors import ConfigError

WORDS = ("backbone=vit_tiny_random", "data=digits", "method=sift", "trainer.batch_size=16")
WALK = Walk(points=5, directions=2, grid=3, samples=24)


@pytest.fixture(scope="module")
def scene():
    return open_scene(None, WORDS)


def test_rows_of_a_direction_are_as_long_as_those_of_the_weights():
    own = {
        "a": torch.nn.Parameter(torch.randn(4, 3, 2)),
        "b": torch.nn.Parameter(torch.zeros(2, 2)),
    }
    way = random_direction(own, 1)
    lengths = own["a"].detach().flatten(1).norm(dim=1)
    torch.testing.assert_close(way["a"].flatten(1).norm(dim=1), lengths)
    assert (way["b"] == 0).all()
    assert torch.equal(random_direction(own, 1)["a"], way["a"])
    assert not torch.equal(random_direction(own, 2)["a"], way["a"])


def test_a_move_is_undone_bit_for_bit():
    own = {"a": torch.nn.Parameter(torch.randn(5, 5))}
    before = own["a"].detach().clone()
    way = {"a": torch.ones(5, 5)}
    with moved(own, [(0.5, way), (-0.25, way)]):
        torch.testing.assert_close(own["a"].detach(), before + 0.25)
    assert torch.equal(own["a"], before)


def test_the_oscillation_of_known_curves():
    xs = [i / 4 for i in range(-4, 5)]
    bowl = oscillation([3 * x * x for x in xs], 0.25)
    assert bowl == pytest.approx(
        {"amplitude": 3, "total_variation": 6, "extrema": 1, "curvature": 6}
    )
    teeth = oscillation([0, 1, 0, 1, 0], 0.5)
    assert (teeth["extrema"], teeth["total_variation"], teeth["amplitude"]) == (3, 4, 1)
    assert oscillation([2.0] * 5, 0.5) == {
        **{"amplitude": 0, "total_variation": 0, "extrema": 0, "curvature": 0}
    }


def test_the_sample_is_a_plain_mean(scene):
    model = scene.model(PRETRAINED)
    fitter = scene.fitter(model)
    model.eval()
    found = Sample(fitter, 24).loss()
    rows = torch.cat([fitter.batch_index(0, i) for i in range(2)])[:24]
    data = fitter.split.take(rows)
    with torch.no_grad():
        logits = model({"image": model.backbone.preprocess(data.inputs["image"])}).logits
    model.release()
    assert found == pytest.approx(float(torch.nn.functional.cross_entropy(logits, data.labels)))


def test_states_share_samples_and_head_and_nothing_stays_moved(sift_run, full_run):
    scenes = [Scene(run.settings, run) for run in (sift_run, full_run)]
    numbers = landscape.measure(scenes, Walk(5, 2, 3, 24, "trained"))
    names = ["random", "pretrained", "tuned by m", f"tuned by m ({full_run.path.name})"]
    assert list(numbers["states"]) == names
    for found in numbers["states"].values():
        assert list(found["lines"]) == ["random 1", "random 2", *landscape_ways()]
        for line in found["lines"].values():
            assert len(line["losses"]) == 5 and line["losses"][2] == found["loss"]
        assert [len(row) for row in found["plane"]] == [3, 3, 3]
        assert found["plane"][1][1] == pytest.approx(found["loss"])
        assert found["plane"][1][2] == pytest.approx(found["lines"]["random 1"]["losses"][4])
    down = numbers["states"]["pretrained"]["lines"]
    assert len({states["loss"] for states in numbers["states"].values()}) == 4
    assert set(down[landscape.SPARSE]) == set(down["random 1"])
    for scene in scenes:
        assert not tiny.traces(scene.backbone.model)
        assert scene.backbone.model is not None
        fresh = tiny.weights_hash(tiny.fresh("vit_tiny_random").model)
        assert tiny.weights_hash(scene.backbone.model) == fresh
    draw_lines(numbers, "t"), draw_plane(numbers, "t")
    assert landscape.table(numbers).count("\n") == 4 * 4


def landscape_ways():
    return [landscape.GRADIENT, landscape.SPARSE]


def test_both_ways_down_are_as_long_and_go_down_at_first(scene):
    model = scene.model(PRETRAINED, landscape.Sift(("attn",), 1e-12))
    fitter = scene.fitter(model)
    model.eval()
    own = {n: p for n, p in model.base.named_parameters() if p.dim() > 1}
    like = random_direction(own, 0)
    ways = landscape._downhill(fitter, scene.settings.method, own, like, 24)
    whole, sparse = ways[landscape.GRADIENT], ways[landscape.SPARSE]
    assert landscape._norm(whole) == pytest.approx(landscape._norm(sparse), rel=1e-5)
    kept = sum(int((t != 0).sum()) for t in sparse.values())
    assert kept == sum(landscape.entries_of(0.008, t.numel()) for t in sparse.values())
    sample = Sample(fitter, 16)
    start = sample.loss()
    for way in (whole, sparse):
        with moved(own, [(1e-3, way)]):
            assert sample.loss() < start
    model.release()


@pytest.mark.parametrize(
    "values, says",
    [
        ({"points": 4}, "must be odd"),
        ({"points": 1}, "at least 3"),
        ({"directions": 1}, "a plane needs 2"),
        ({"samples": 0}, "at least 1"),
    ],
)
def test_wrong_walks_are_refused(values, says):
    with pytest.raises(ConfigError, match=says):
        Walk(**values)
