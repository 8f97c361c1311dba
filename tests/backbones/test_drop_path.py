"""Stochastic depth is set on a loaded network, and touches the frozen branches alone."""

import pytest
import timm
import tiny
import torch

from peftbench.backbones.backbone import Backbone
from peftbench.errors import IncompatibleError


def test_it_rises_linearly_and_goes_back_to_nothing():
    anatomy = Backbone("v", timm.create_model("vit_tiny_patch16_224", depth=4, img_size=32,
                                              drop_path_rate=0.3), "random").anatomy  # fmt: skip
    anatomy.set_drop_path(0.6)
    rates = [[m.drop_prob for m in block.drop_paths if hasattr(m, "drop_prob")]
             for block in anatomy.blocks]  # fmt: skip
    assert rates[1:] == [[pytest.approx(0.6 * i / 3)] * 2 for i in (1, 2, 3)]
    anatomy.set_drop_path(0.0)
    assert all(m.drop_prob == 0 for block in list(anatomy.blocks)[1:] for m in block.drop_paths)


def test_a_dropped_branch_is_dropped_and_what_an_adapter_adds_stays():
    given = tiny.inputs("vit")
    with tiny.adapted(tiny.method("adapter_shared"), "vit") as model:
        tiny.perturb(model)
        before = model(given).logits
        names = set(model.base.state_dict())
        model.backbone.anatomy.set_drop_path(0.5)
        model.train()
        torch.manual_seed(0)
        first = model(given).logits
        second = model(given).logits
        assert not torch.equal(first, second)  # the last block's branches come and go
        model.eval()
        assert torch.equal(model(given).logits, before)
        assert set(model.base.state_dict()) == names
        model.backbone.anatomy.set_drop_path(0.0)
        model.train()
        assert torch.equal(model(given).logits, before)


@pytest.mark.parametrize("use", ["bert", "t5", "llama"])
def test_a_network_without_a_place_for_it_says_so(use):
    with tiny.adapted(tiny.method("lora"), use) as model:
        model.backbone.anatomy.set_drop_path(0.0)
        with pytest.raises(IncompatibleError, match=r"trainer\.drop_path"):
            model.backbone.anatomy.set_drop_path(0.1)
