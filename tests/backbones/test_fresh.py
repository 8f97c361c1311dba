"""The same architecture with random weights."""

import pytest
import tiny
import torch

from peftbench.backbones.fresh import fresh_start
from peftbench.errors import IncompatibleError

NETWORKS = sorted({name for name, _ in tiny.USES.values()})


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_drawn_anew_by_the_seed_and_the_network_is_left_alone(name):
    backbone = tiny.backbone(name)
    before = tiny.weights_hash(backbone.model)
    first, again, other = (fresh_start(backbone, seed) for seed in (1, 1, 2))
    assert tiny.weights_hash(backbone.model) == before
    assert tiny.weights_hash(first.model) == tiny.weights_hash(again.model)
    assert tiny.weights_hash(first.model) != tiny.weights_hash(other.model)
    assert first.source == "random" and first.anatomy.family == backbone.anatomy.family
    drawn = dict(first.model.named_parameters())
    for path, p in backbone.model.named_parameters():
        if p.dim() > 1:
            assert not torch.equal(p, drawn[path]), path


def test_norms_start_at_one_and_tied_tensors_stay_tied():
    model = fresh_start(tiny.backbone("bert_tiny_random")).model
    assert (model.embeddings.LayerNorm.weight == 1).all()
    backbone = tiny.fresh("llama_tiny_random")
    backbone.model.lm_head.weight = backbone.model.model.embed_tokens.weight
    tied = fresh_start(backbone).model
    assert tied.lm_head.weight is tied.model.embed_tokens.weight


def test_a_tensor_that_the_library_forgets_is_named():
    backbone = tiny.fresh("vit_tiny_random")
    backbone.model.strange = torch.nn.Parameter(torch.randn(3))
    with pytest.raises(IncompatibleError, match="strange"):
        fresh_start(backbone)
