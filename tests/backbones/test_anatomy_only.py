"""Views of some blocks: every kind of site follows, and what stands outside is no part of them."""

import pytest
import tiny

from peftbench.errors import IncompatibleError


@pytest.mark.parametrize("use", ["vit", "bert", "t5", "llama"])
def test_a_view_holds_its_blocks_and_nothing_else(use):
    anatomy = tiny.backbone(tiny.USES[use][0]).anatomy
    view = anatomy.only([1])
    assert [(b.stack, b.index) for b in view.blocks] == [(s.name, 1) for s in anatomy.stacks]
    inside = {id(m) for b in view.blocks for m in b.module.modules()}
    assert view.channels and {id(c.module) for c in view.channels} <= inside
    wanted = sum(p.numel() for b in view.blocks for p in b.module.parameters())
    found = sum(getattr(*places[0]).numel() for places in view.owners().values())
    assert found == wanted
    assert len(view.linears(["all"])) * 2 == len(anatomy.linears(["all"]))
    assert view.width == anatomy.width and view.family == anatomy.family


def test_the_sequence_of_a_view_runs_through_its_blocks():
    anatomy = tiny.backbone("vit_tiny_random").anatomy
    sequence = anatomy.only([1]).stacks[0].sequence
    block = anatomy.stacks[0].blocks[1].module
    assert sequence.enter.module is block and sequence.enter.side == "input"
    assert sequence.leave.module is block and sequence.leave.side == "output"
    assert len(sequence.block_inputs) == 1 and sequence.prefix_tokens == 1


@pytest.mark.parametrize("wrong", [[2], [-1], [0, 5]])
def test_a_block_that_does_not_exist_is_named(wrong):
    with pytest.raises(IncompatibleError, match=r"has no block -?\d; allowed: 0 to 1"):
        tiny.backbone("t5_tiny_random").anatomy.only(wrong)
