"""Attention to and from the Gist token, against probabilities that timm computes itself."""

import math

import pytest
import tiny
import torch

from peftbench.analysis.attention import (
    Places,
    Watch,
    draw_heads,
    draw_maps,
    measure,
    places,
    probabilities,
    watch,
)
from peftbench.analysis.opened import on_val
from peftbench.errors import ConfigError, IncompatibleError


@pytest.fixture(scope="module")
def measured(gist_run):
    return measure(gist_run, images=3)


def timm_probabilities(opened):
    """Let timm compute attention step by step and read the probabilities in front of dropout."""
    accelerator = opened.accelerator()
    model = opened.model(accelerator)
    seen = [[] for _ in model.base.blocks]
    for layer, block in enumerate(model.base.blocks):
        block.attn.fused_attn = False
        hook = lambda m, args, out, layer=layer: seen[layer].append(args[0])  # noqa: E731
        block.attn.attn_drop.register_forward_hook(hook)
    on_val(opened, model, opened.task(), accelerator, lambda batch, output: None)
    return [torch.cat(parts) for parts in seen]


def test_shares_and_maps_are_those_of_the_network(gist_run, measured):
    numbers, pictures = measured
    weights = timm_probabilities(gist_run)
    assert [tuple(w.shape) for w in weights] == [(200, 4, 19, 19)] * 2  # class, 2 Gist, 16 patches
    for layer, weights_NHTK in enumerate(weights):
        assert weights_NHTK.sum(-1) == pytest.approx(1, abs=1e-5)
        others = [0, *range(3, 19)]
        wanted_H = weights_NHTK[:, :, others][..., [1, 2]].sum(-1).mean((0, 2))
        assert numbers["to_gist"][layer] == pytest.approx(wanted_H.tolist(), rel=1e-5)
        wanted_NP = weights_NHTK[:3, :, [1, 2]].mean((1, 2))[:, 3:]
        assert torch.tensor(numbers["maps"][layer]).flatten(1) == pytest.approx(wanted_NP, rel=1e-5)
    assert numbers["samples"] == 200
    assert numbers["uniform"] == pytest.approx(2 / 19)
    val = gist_run.task().split("val")
    assert torch.equal(pictures, val.inputs["image"][:3])


def test_rows_add_up_and_the_output_is_that_of_the_fused_kernel():
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 5, 8, generator=g) for _ in range(3))
    weights = probabilities(q, k)
    assert weights.sum(-1) == pytest.approx(1, abs=1e-6)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    assert weights @ v == pytest.approx(wanted, abs=1e-6)
    mask = torch.tensor([True, True, False, True, True]).expand(5, 5)
    weights = probabilities(q, k, attn_mask=mask, scale=0.5)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=0.5)
    assert weights @ v == pytest.approx(wanted, abs=1e-6)


def test_watching_changes_no_output_and_ends():
    with tiny.adapted(tiny.method("gist"), "vit") as model:
        model.eval()
        given = tiny.inputs("vit")
        with torch.no_grad():
            before = model(given).logits
            seen = Watch(lambda length: places(model, length), 2, 1)
            handles = watch(model, seen)
            assert torch.equal(model(given).logits, before)
            handles.remove()
            model(given)
    assert seen.count == [tiny.BATCH, tiny.BATCH]


def test_learned_keys_in_front_are_not_taken_for_tokens():
    """A prefix of 3 keys: the Gist token at place 1 of the sequence has key 4."""
    seen = Watch(lambda length: Places((1,), (0,), (2, 3)), 1, 1)
    weights = torch.zeros(1, 1, 4, 7)
    weights[..., 3 + 1] = 0.25
    weights[0, 0, 1, 3 + 2] = 0.5
    seen.see(0, weights)
    assert seen.to_gist[0].tolist() == [0.25]
    assert seen.maps[0][0].tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("name", ["prefix", "vpt_shallow", "vpt_deep", "u_prefix_mha"])
def test_hosts_with_keys_and_tokens_of_their_own(name):
    """Prefix keys take probability away; other tokens are neither Gist, class nor patch."""
    inner = tiny.config("method", name)
    with tiny.adapted(tiny.method("gist", inner=inner), "vit") as model, torch.no_grad():
        seen = Watch(lambda length: places(model, length), 2, 1)
        handles = watch(model.eval(), seen)
        model(tiny.inputs("vit"))
        handles.remove()
        own = places(model, seen.tokens)
    assert (own.gist, own.front, len(own.patches)) == ((1,), (0,), 16)
    assert all(0 < float(s.mean()) / n < 0.2 for s, n in zip(seen.to_gist, seen.count, strict=True))


def test_places_at_the_end():
    with tiny.adapted(tiny.method("gist", insert="end", tokens=2), "vit") as model:
        found = places(model, 19)
    assert found == Places((17, 18), (0,), tuple(range(1, 17)))


def test_figures_name_what_they_show(measured):
    numbers, pictures = measured
    heads = draw_heads(numbers, "a run")
    assert heads.axes[0].get_ylabel() == "layer"
    assert "even attention: 10.53 %" in heads.axes[0].get_xlabel()
    (image,) = heads.axes[0].images
    assert image.get_array().shape == (2, 4)
    assert float(image.get_array()[1, 2]) == pytest.approx(100 * numbers["to_gist"][1][2])
    maps = draw_maps(numbers, pictures, "a run")
    drawn = [axes for axes in maps.axes if axes.images]
    assert len(drawn) == 3 * (1 + 2)  # pictures and two layers
    titles = [axes.get_title(loc="left") for axes in drawn]
    assert titles[:3] == ["picture", "layer 1", "layer 2"]


def test_slips_are_refused(gist_run, tuner_run):
    with pytest.raises(IncompatibleError, match="no Gist token"):
        measure(tuner_run)
    with pytest.raises(ConfigError, match=r"images: 201 is not in 1\.\.200"):
        measure(gist_run, images=201)
    with (
        tiny.adapted(tiny.method("gist"), "bert") as model,
        pytest.raises(IncompatibleError, match="reads text"),
    ):
        places(model, 10)


def test_a_row_that_does_not_add_up_is_refused():
    from peftbench.errors import NonFiniteError

    q = torch.full((1, 1, 2, 4), math.inf)
    with pytest.raises(NonFiniteError):
        probabilities(q, q)
