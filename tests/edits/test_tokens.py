"""Learned tokens: where they stand in the sequence, what is overwritten, what comes out."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from peftbench.edits import Delta, SequenceSite, TensorRef, Tokens
from peftbench.errors import IncompatibleError

B, T, D, PREFIX = 2, 6, 4, 2  # two prefix tokens: class and a register


class Stack(nn.Module):
    """Blocks that remember what enters them, and a mask."""

    def __init__(self, depth=3):
        super().__init__()
        self.enter, self.leave = nn.Identity(), nn.Identity()
        self.blocks = nn.ModuleList(nn.Identity() for _ in range(depth))
        self.seen, self.masks, self.outside = [], [], None

    def forward(self, x, mask=None, position_ids=None):
        self.seen, self.masks = [], [mask, position_ids]
        x = self.enter(x)
        for block in self.blocks:
            x = block(x)
            self.seen.append(x)
            x = x + 1000.0  # so that every block's output differs from its input
        x = self.leave(x)
        return x


def site(stack):
    return SequenceSite(
        name="encoder",
        width=D,
        prefix_tokens=PREFIX,
        enter=TensorRef(stack.enter, "output"),
        leave=TensorRef(stack.leave, "output"),
        block_inputs=tuple(TensorRef(b, "input", 0) for b in stack.blocks),
        masks=(TensorRef(stack, "input", 1, "mask"),),
        positions=TensorRef(stack, "input", 2, "position_ids"),
    )


def tokens(stack, name, count, value, **options):
    edit = Tokens(name, site(stack), count, 1.0, **options)
    with torch.no_grad():
        for layer in range(len(edit.tokens)):
            edit.tokens[layer] = value + layer
    return edit


def data():
    return torch.arange(T, dtype=torch.float32)[None, :, None].expand(B, T, D).clone()


def order(x):
    """Return the tokens' values in order (the first sample's first channel)."""
    return [round(v) for v in x[0, :, 0].tolist()]


def test_in_front_after_class_and_registers():
    stack = Stack()
    delta = Delta([tokens(stack, "a", 2, 50.0)]).attach()
    out = stack(data())
    assert order(stack.seen[0]) == [0, 1, 50, 50, 2, 3, 4, 5]
    assert order(stack.seen[2]) == [2000, 2001, 2050, 2050, 2002, 2003, 2004, 2005]
    assert order(out) == [3000 + i for i in range(T)]
    delta.detach()
    assert order(stack(data())) == [3000 + i for i in range(T)]


def test_class_gist_prompts_patches():
    """The edit attached last stands nearest to the class token."""
    stack = Stack()
    prompts, gist = tokens(stack, "prompts", 3, 50.0), tokens(stack, "gist", 1, 70.0, readout="g")
    delta = Delta([prompts, gist]).attach()
    out = stack(data())
    assert order(stack.seen[0]) == [0, 1, 70, 50, 50, 50, 2, 3, 4, 5]
    assert order(out) == [3000 + i for i in range(T)]
    assert torch.equal(delta.taps["g"], torch.full((B, D), 3070.0))
    delta.detach()


def test_deep_slots_are_overwritten_and_no_others():
    stack = Stack()
    deep, gist = tokens(stack, "deep", 2, 50.0, deep=True), tokens(stack, "gist", 1, 70.0)
    delta = Delta([deep, gist]).attach()
    stack(data())
    assert order(stack.seen[0]) == [0, 1, 70, 50, 50, 2, 3, 4, 5]
    assert order(stack.seen[1]) == [1000, 1001, 1070, 51, 51, 1002, 1003, 1004, 1005]
    assert order(stack.seen[2]) == [2000, 2001, 2070, 52, 52, 2002, 2003, 2004, 2005]
    delta.detach()


ALL = [("a", "front"), ("b", "end"), ("c", "front"), ("d", "end")]


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("chosen", [ALL, ALL[::-1], ALL[:2], ALL[1:], [ALL[1], ALL[3]]], ids=str)
def test_any_mixture_of_places(chosen, deep):
    """Every edit reads its own tokens back, also when all of them are deep."""
    stack, edits = Stack(), []
    for i, (name, place) in enumerate(chosen):
        edits.append(
            tokens(stack, name, 1 + i, 100.0 * (1 + i), deep=deep, place=place, readout=name)
        )
    delta = Delta(edits).attach()
    out = stack(data())
    front = [i for i, (_, p) in enumerate(chosen) if p == "front"][::-1]
    end = [i for i, (_, p) in enumerate(chosen) if p == "end"]
    wanted = [0, 1]
    wanted += [100 * (1 + i) for i in front for _ in range(1 + i)]
    wanted += [2, 3, 4, 5]
    wanted += [100 * (1 + i) for i in end for _ in range(1 + i)]
    assert order(stack.seen[0]) == wanted
    assert order(out) == [3000 + i for i in range(T)]
    for i, (name, _) in enumerate(chosen):
        last = 100.0 * (1 + i) + (1002.0 if deep else 3000.0)
        assert torch.equal(delta.taps[name], torch.full((B, D), last)), name
    delta.detach()


@pytest.mark.parametrize(
    ("place", "wanted"), [("front", [1, 0, 9, 9, 1, 1, 0, 0]), ("end", [1, 0, 1, 1, 0, 0, 9, 9])]
)
def test_masks_grow_where_the_tokens_stand(place, wanted):
    stack = Stack()
    mask = torch.tensor([[1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]])
    delta = Delta([tokens(stack, "a", 2, 50.0, place=place)]).attach()
    stack(data(), mask=mask)
    assert stack.masks[0][0].tolist() == [1 if v == 9 else v for v in wanted]
    assert stack.masks[0][1].tolist() == [1] * 8
    stack(data(), mask)
    assert stack.masks[0].shape == (B, 8)
    stack(data())
    assert stack.masks[0] is None
    with pytest.raises(IncompatibleError, match="shape"):
        stack(data(), mask=mask[:, None, None, :])
    delta.detach()


def test_positions_that_a_caller_passes_are_shifted():
    stack = Stack()
    ids = torch.tensor([[0, 1, 2, 3, 4, 5]])
    delta = Delta([Tokens("a", replace_prefix(site(stack)), 2, 1.0)]).attach()
    stack(data(), position_ids=ids)
    assert stack.masks[1].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    delta.detach()
    delta = Delta([Tokens("a", replace_prefix(site(stack)), 2, 1.0, place="end")]).attach()
    stack(data(), position_ids=ids)
    assert stack.masks[1].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]
    delta.detach()


def replace_prefix(place):
    """Return the site of a sequence without prefix tokens, as decoders have it."""
    return replace(place, prefix_tokens=0)


def test_readout_only_in_training_unless_asked():
    stack = Stack()
    edit = tokens(stack, "a", 2, 50.0, readout="g")
    with torch.no_grad():
        edit.tokens[0, 1] = 60.0
    delta = Delta([edit]).attach()
    delta.train()
    stack(data())
    assert torch.equal(delta.taps["g"], torch.full((B, D), 3055.0))  # the mean of the two
    delta.taps.clear()
    delta.eval()
    stack(data())
    assert delta.taps == {}
    edit.readout_in_eval = True
    stack(data())
    assert set(delta.taps) == {"g"}
    delta.detach()
    assert delta.taps == {} and not delta.attached


def test_gradients_reach_the_tokens_of_every_layer():
    stack = Stack()
    edit = tokens(stack, "a", 2, 1.0, deep=True)
    delta = Delta([edit]).attach()
    stack(data())
    sum(x.square().sum() for x in stack.seen).backward()
    assert edit.tokens.grad.shape == (3, 2, D)
    assert bool((edit.tokens.grad.abs() > 0).all())
    delta.detach()


def test_dropout_is_drawn_per_sample_and_layer():
    stack = Stack()
    edit = tokens(stack, "a", 4, 50.0, deep=True, dropout=0.5)
    delta = Delta([edit]).attach()
    delta.train()
    stack(data())
    zeros = [x[:, PREFIX : PREFIX + 4] == 0 for x in stack.seen]
    assert all(z.any() and not z.all() for z in zeros)
    assert not torch.equal(zeros[0][0], zeros[0][1])
    delta.eval()
    stack(data())
    assert not (stack.seen[0][:, PREFIX : PREFIX + 4] == 0).any()
    delta.detach()
