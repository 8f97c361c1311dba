"""Context-PEFT while a network writes: caches, merged weights, beams, padding, several images."""

import pytest
import tiny
import torch
from context_nets import INNER, S, adapted, close, inputs, layout, logits, method, ready, shake
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench.edits import ContextBank


def decode(model, given, context, steps=4):
    """Return logits of a prompt and of tokens that are read one at a time, with a cache."""
    model._forget()
    model.delta.context.update(context)
    ids = torch.cat([given["input_ids"], inputs(seed=7, length=steps)["input_ids"]], 1)
    with torch.no_grad():
        out = model.base(**given, use_cache=True)
        found = [out.logits]
        for t in range(S, S + steps):
            out = model.base(
                input_ids=ids[:, t : t + 1], past_key_values=out.past_key_values, use_cache=True
            )
            found.append(out.logits)
    model._forget()
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return torch.cat(found, 1), logits(model, whole, context)


@pytest.mark.parametrize("merge", [True, False])
@pytest.mark.parametrize("contexts", ["per_context", "shared", "image_only", "text_only"])
@pytest.mark.parametrize("inner", [*INNER, "dora"])
def test_decoding_with_a_cache_is_one_full_pass(inner, contexts, merge):
    with adapted(method(inner, contexts=contexts, merge=merge)) as model:
        ready(model)
        close(*decode(model, inputs(), layout()))


class Operations(TorchDispatchMode):
    """Names of the operations that ran."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def step_operations(model, token):
    """Return the operations of the second token that is written after a prompt."""
    out = model.base(**inputs(), use_cache=True)
    for _ in range(2):
        with Operations() as seen, torch.no_grad():
            out = model.base(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
    return seen.names


@pytest.mark.parametrize("inner", [*INNER, "dora"])
def test_a_written_token_costs_what_the_frozen_network_costs(inner):
    token = torch.full((2, 1), 5)
    with torch.no_grad(), adapted(method(inner)) as model:
        ready(model)
        model.delta.context.update(layout())
        mine = step_operations(model, token)
        model.delta.detach()
        plain = step_operations(model, token)
        assert len(plain) > 20
        if inner == "bitfit":  # a layer that has a bias now multiplies and adds in one operation
            assert sum("mm" in n for n in mine) == sum("mm" in n for n in plain)
            assert len(mine) <= len(plain)
        else:
            assert mine == plain


def test_merged_weights_are_left_when_writing_ends_or_numbers_change():
    with adapted(method()) as model:
        ready(model)
        banks = [e for e in model.delta if isinstance(e, ContextBank)]
        first, wanted = decode(model, inputs(), layout())
        close(first, wanted)
        shake(model, "text")
        close(*decode(model, inputs(), layout()))
        model.delta.context.update(layout())
        with torch.no_grad():
            out = model.base(**inputs(), use_cache=True)
            token = {"input_ids": torch.full((2, 1), 5), "past_key_values": out.past_key_values}
            model.base(**token, use_cache=True)
            assert all(b._plain[1] is not None for b in banks)
            model.base(**inputs())
            assert all(b.router.merging == 0 for b in banks)
            assert all(b._plain[1] is None for b in banks)  # no copy of the weights is kept
        with torch.no_grad():
            out = model.base(**inputs(), use_cache=True)
        grown = model.base(input_ids=torch.full((2, 1), 5), past_key_values=out.past_key_values)
        assert grown.logits.requires_grad  # merged weights would let no gradient through


@pytest.mark.parametrize("inner", INNER)
def test_beams_are_each_beam_alone(inner):
    settings = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 4, "do_sample": False}
    settings |= {"pad_token_id": 0, "min_new_tokens": 4}
    with torch.no_grad(), adapted(method(inner)) as model:
        ready(model)
        model.delta.context.update(layout())
        cached = model.base.generate(**inputs(), use_cache=True, **settings)
        assert torch.equal(model.base.generate(**inputs(), use_cache=False, **settings), cached)
        settings |= {"num_beams": 1, "num_return_sequences": 1}
        model.delta.context.update(layout())
        greedy = model.base.generate(**inputs(), use_cache=True, **settings)
        for row in range(2):
            one = {k: v[row : row + 1] for k, v in inputs().items()}
            model.delta.context["context"] = layout(1)["context"]
            alone = model.base.generate(**one, use_cache=True, **settings)
            assert torch.equal(alone[0], greedy[row])
        for row, ids in enumerate(cached):  # the numbers of a sample go with all its beams
            whole = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids[None])}
            mine = logits(model, whole, layout(1))
            many = {k: v.expand(3, -1) for k, v in whole.items()}
            close(logits(model, many, layout(1)), mine.expand(3, -1, -1), 1e-9)
            assert row < 6


@pytest.mark.parametrize("inner", INNER)
def test_padding_in_front_and_several_images(inner):
    context = torch.tensor([[0, 1, 1, 0, 0, 1, 1, 1, 0, 0, 0], [1, 1, 0, 1, -1, 0, 0, 1, 0, 1, 0]])
    with adapted(method(inner)) as model:
        ready(model)
        together = logits(model, inputs(), {"context": context})
        pad = 3
        shifted = {k: torch.nn.functional.pad(v, (pad, 0)) for k, v in inputs().items()}
        shifted["position_ids"] = (shifted["attention_mask"].cumsum(1) - 1).clamp_min(0)
        moved = {"context": torch.nn.functional.pad(context, (pad, 0))}
        close(logits(model, shifted, moved)[:, pad:], together, 1e-6)
        for row in range(2):
            one = {k: v[row : row + 1] for k, v in inputs().items()}
            own = {"context": context[row : row + 1]}
            close(logits(model, one, own)[0], together[row], 1e-9)


@pytest.mark.parametrize("inner", [*INNER, "dora"])
def test_decoding_in_fp32_is_one_full_pass(inner):
    """In fp32 on a CPU a token that one copy alone acts on takes a path of its own."""
    fresh = tiny.fresh("llama_tiny_random")
    with adapted(method(inner, merge=False), base=fresh) as model:
        tiny.perturb(model, size=0.3, seed=5)
        model.eval()
        close(*decode(model, inputs(), layout()), tolerance=1e-4)
