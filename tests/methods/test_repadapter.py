"""RepAdapter against its convolutions, in float64, and against the layers it is merged into."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from plain import assert_same, features, keep, leaves, moved
from vits import images, vit

from peftbench.edits import Bottleneck, InputOp
from peftbench.errors import ConfigError, ExportError, IncompatibleError
from peftbench.interop import merge
from peftbench.methods import Method
from peftbench.methods.repadapter import GroupedBottleneck, RepAdapter


def adapted_input(tensors, groups, scale):
    """Return the adapter as the paper has it: two convolutions of one pixel, one in groups."""

    def before(index, kind, u):
        lead = f"encoder/{index}/{kind}.tuner."
        if lead + "down_bias" not in tensors:
            return u
        down, a, up, b = (
            tensors[lead + n] for n in ("down_weight", "down_bias", "up_weight", "up_bias")
        )
        x = u.transpose(1, 2)
        h = F.conv1d(x, down[:, :, None], a)
        y = F.conv1d(h, up.flatten(0, 1)[:, :, None], b, groups=groups)
        return (scale * y + x).transpose(1, 2)

    return before


@pytest.mark.parametrize("placement", ["both", "attn"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_it_is_two_convolutions_in_front_of_an_operation(groups, placement):
    network, image = vit(), images()["image"].double()
    method = RepAdapter(hidden=4, groups=groups, scale=0.6, placement=placement)
    model = moved(method, network)
    tensors = leaves(model)
    assert len(tensors) == (4 if placement == "both" else 2) * 4
    before = adapted_input(tensors, groups, 0.6)
    assert_same(model, image, tensors, lambda: features(network, image, before))


def test_the_written_out_network_is_the_network():
    network, image = vit(), images()["image"]
    wanted = network.forward_head(network.forward_features(image), pre_logits=True)
    assert torch.allclose(features(network, image, keep), wanted, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_merged_layers_give_the_same_outputs(groups):
    network, image = vit(), images()["image"].double()
    model = moved(RepAdapter(hidden=4, groups=groups, scale=2.0), network)
    with torch.no_grad():
        wanted = model({"image": image}).logits
    merged = merge(model, {"image": image}, bound=1e-12)
    assert torch.allclose(merged.logits({"image": image}), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("use", [u for u in tiny.USES if u not in ("vit", "captioner")])
def test_the_residual_stream_does_not_pass_the_adapter(use):
    """Only what the operation reads changes: its output added up, the stream is as it was."""
    found = {}
    with tiny.adapted(tiny.method("repadapter"), use) as model:
        site = next(model.backbone.anatomy.blocks).ops["attn"]
        watched = [
            site.stream.watch(lambda x: found.setdefault("stream", x)),
            site.input.watch(lambda x: found.setdefault("input", x)),
        ]
        with torch.no_grad():
            model.eval()(tiny.inputs(use))
            plain, read = found["stream"], found["input"]
            tiny.perturb(model, 0.3)
            found.clear()
            model(tiny.inputs(use))
        assert torch.equal(found["stream"], plain)
        assert not torch.allclose(found["input"], read, atol=1e-3)
        for handle in watched:
            handle.remove()


def test_start_is_that_of_the_authors():
    tuner = GroupedBottleneck(64, 8, 2, 1.0, 0.1, "x")
    bound = (6 / (64 + 8)) ** 0.5
    assert 0.95 * bound < tuner.down_weight.abs().max() <= bound
    for zero in (tuner.down_bias, tuner.up_weight, tuner.up_bias):
        assert zero.abs().max() == 0


def test_dropout_falls_between_the_two_maps():
    tuner = GroupedBottleneck(8, 4, 2, 1.0, 0.5, "x").train()
    with torch.no_grad():
        tuner.up_weight.normal_()
        tuner.up_bias.fill_(3.0)
    x = torch.randn(500, 4, 8)
    dropped, kept = tuner(x), tuner.eval()(x)
    half = (dropped[..., :4] - 3).norm(dim=-1) < 1e-6  # both numbers of a group were dropped
    assert 0.2 < half.float().mean() < 0.3
    assert torch.allclose(dropped.mean((0, 1)), kept.mean((0, 1)), atol=0.3)


class Fronts(Method):
    """A method that puts a nonlinear tuner in front of an operation."""

    def edits(self, anatomy, generator):
        block = next(anatomy.blocks)
        tuner = Bottleneck(32, 4, generator=generator)
        return [InputOp("front", block.ops["mlp"], [block.linears["up"].module], tuner)]


def test_a_nonlinear_tuner_in_front_is_not_merged():
    with (
        tiny.adapted(Fronts(), "vit") as model,
        pytest.raises(ExportError, match="InputOp: a small network in front"),
    ):
        merge(model)


def test_wrong_settings_are_refused():
    for wrong in ({"hidden": 0}, {"groups": 0}, {"dropout": -0.1}, {"scale": 1.0, "groups": 3}):
        with pytest.raises(ConfigError, match=r"method\."):
            RepAdapter(**wrong)
    with pytest.raises(ConfigError, match="allowed: 1, 2, 4, 8"):
        RepAdapter(hidden=8, groups=5)
    anatomy = tiny.backbone("vit_tiny_random").anatomy
    with pytest.raises(IncompatibleError, match="does not divide the width 32"):
        RepAdapter(hidden=12, groups=3).plan(anatomy, torch.Generator())
