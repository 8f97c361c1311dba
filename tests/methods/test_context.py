"""Context-PEFT on a tiny LLaMA in float64: what the paper's algebra promises, and how it is set."""

from functools import cache

import pytest
import tiny
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench.edits import AddedBias, ContextBank, InputScale, LowRank, OutputScale, Router
from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.base import Method
from peftbench.methods.context import Context
from peftbench.methods.ia3 import IA3
from peftbench.methods.lora import Lora

INNER = ("lora", "bitfit", "ia3")
S, IMAGE = 11, slice(1, 6)  # start, five slots of an image, text


@cache
def network():
    found = tiny.fresh("llama_tiny_random")
    found.model.double()
    return found


def method(inner="lora", **changes):
    settings = tiny.config("method", inner)
    if "inner_settings" in changes:
        settings |= changes.pop("inner_settings")
    return tiny.method("context", inner=settings, **changes)


def adapted(made, base=None):
    return tiny.adapted(made, "llama", base=base or network())


def ready(model, size=0.3, seed=5):
    model.delta.double()
    tiny.perturb(model, size=size, seed=seed)
    return model.eval()


def inputs(batch=2, seed=0, length=S):
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, tiny.VOCABULARY, (batch, length), generator=g)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def layout(batch=2, start=0):
    found = torch.zeros(batch, S, dtype=torch.long)
    found[:, IMAGE] = 1
    found[:, 0] = start
    return {"context": found}


def logits(model, given=None, context=None):
    with torch.no_grad():
        return model(given or inputs(), context).logits


def set_of(model, name):
    """Return the numbers of one context by name."""
    return {n: p for n, p in model.trainable().items() if f".copies.{name}." in n}


def shake(model, name, only=lambda n: True, seed=9):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for n, p in set_of(model, name).items():
            if only(n):
                p.add_(torch.randn(p.shape, generator=g, dtype=p.dtype))
    model.delta.sync()


def close(a, b, tolerance=1e-10):
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= tolerance


# --- the function -----------------------------------------------------------------------------


@pytest.mark.parametrize("contexts", ["per_context", "shared", "image_only", "text_only"])
@pytest.mark.parametrize("inner", INNER)
def test_starts_as_the_frozen_network(inner, contexts):
    made = method(inner, contexts=contexts)
    with torch.no_grad():
        plain = network().model(**inputs()).logits
    with adapted(made) as model:
        assert model.delta.identity
        assert torch.equal(logits(model.eval(), context=layout()), plain)
        assert torch.equal(logits(model.eval()), plain)


def test_one_context_is_ordinary_lora():
    with adapted(Lora(roles=("all",), rank=4, alpha=4.0)) as model:
        ready(model)
        numbers = {n.replace("edits.", ""): p.clone() for n, p in model.trainable().items()}
        wanted = logits(model)
    made = method(names=["text"], inner_settings={"rank": 4})
    with adapted(made) as model:
        model.delta.double()
        with torch.no_grad():
            for name, p in model.trainable().items():
                p.copy_(numbers[name.replace("edits.", "").replace("copies.text.", "")])
        context = {"context": torch.zeros(2, S, dtype=torch.long)}
        close(logits(model.eval(), context=context), wanted)
        close(logits(model.eval()), wanted)


@pytest.mark.parametrize("inner", INNER)
def test_tied_contexts_are_the_agnostic_network(inner):
    with adapted(method(inner, contexts="shared")) as model:
        ready(model)
        numbers = {n: p.clone() for n, p in model.trainable().items()}
        wanted = logits(model, context=layout())
        close(logits(model), wanted)  # all of one kind: the numbers given do not matter
    with adapted(method(inner)) as model:
        model.delta.double()
        with torch.no_grad():
            for name, p in model.trainable().items():
                shared = name.replace("copies.text", "copies.shared")
                p.copy_(numbers[shared.replace("copies.image", "copies.shared")])
        close(logits(model.eval(), context=layout()), wanted)
        only_text = {"context": torch.zeros(2, S, dtype=torch.long)}
        close(logits(model, context=only_text), wanted)


@pytest.mark.parametrize("inner", INNER)
def test_the_agnostic_network_is_merged_weights(inner):
    """Each layer with its set folded in computes what the network with the set does."""
    with adapted(method(inner, contexts="shared")) as model:
        ready(model)
        wanted = logits(model, context=layout())
        banks = [e for e in model.delta if isinstance(e, ContextBank)]
        plain = {e.module: e.merged("shared") for e in banks}
        model.delta.detach()
        kept = {m: (m.weight.data, m.bias) for m in plain}
        try:
            for module, (weight, bias) in plain.items():
                module.weight.data = weight
                module.bias = None if bias is None else torch.nn.Parameter(bias, False)
            close(logits(model), wanted)
        finally:
            for module, (weight, bias) in kept.items():
                module.weight.data, module.bias = weight, bias


@pytest.mark.parametrize("inner", INNER)
def test_contexts_may_be_relabelled(inner):
    with adapted(method(inner)) as model:
        ready(model)
        numbers = {n: p.clone() for n, p in model.trainable().items()}
        wanted = logits(model, context=layout())
    with adapted(method(inner, names=["image", "text"])) as model:
        model.delta.double()
        assert sorted(model.trainable()) == sorted(numbers)  # stored by name, not by number
        with torch.no_grad():
            for name, p in model.trainable().items():
                p.copy_(numbers[name])
        swapped = {"context": 1 - layout()["context"]}
        close(logits(model.eval(), context=swapped), wanted)


@pytest.mark.parametrize("inner", INNER)
def test_a_context_can_be_added_or_dropped_by_name(inner):
    with adapted(method(inner)) as model:
        two = {n: p.shape for n, p in model.trainable().items()}
    with adapted(method(inner, names=["text", "sound", "image"])) as model:
        three = {n: p.shape for n, p in model.trainable().items()}
    assert two.items() < three.items()
    assert all(".copies.sound." in n for n in three.keys() - two.keys())
    with adapted(method(inner, contexts="image_only")) as model:
        one = {n: p.shape for n, p in model.trainable().items()}
    assert one == {n: s for n, s in two.items() if ".copies.image." in n}


@pytest.mark.parametrize("inner", INNER)
def test_a_context_that_is_absent_gets_exactly_no_gradient(inner):
    with adapted(method(inner, names=["text", "image", "sound"])) as model:
        ready(model).train()
        model(inputs(), layout()).logits.square().sum().backward()
        sizes = {
            n: max(float(p.grad.abs().max()) for p in set_of(model, n).values())
            for n in ("text", "image", "sound")
        }
        assert sizes["text"] > 0 and sizes["image"] > 0 and sizes["sound"] == 0.0


def hidden(model, context):
    with torch.no_grad():
        model._forget()
        model.delta.context.update(context)
        return model.base.model(**inputs(), use_cache=False, output_hidden_states=True)


@pytest.mark.parametrize("inner", INNER)
def test_text_numbers_reach_the_image_through_the_start_token_alone(inner):
    for start, moves in ((-1, False), (1, False), (0, True)):
        with adapted(method(inner)) as model:
            ready(model)
            before = hidden(model, layout(start=start)).hidden_states
            shake(model, "text")
            after = hidden(model, layout(start=start)).hidden_states
            same = [
                torch.equal(a[:, IMAGE], b[:, IMAGE]) for a, b in zip(before, after, strict=True)
            ]
            assert all(same) is not moves
            assert not torch.equal(before[-1][:, 6:], after[-1][:, 6:])


@pytest.mark.parametrize("inner", INNER)
def test_image_numbers_reach_text_through_keys_and_values_alone(inner):
    with adapted(method(inner)) as model:
        ready(model)
        before = hidden(model, layout())
        shake(model, "image", lambda n: "/1/" in n and "/1/k" not in n and "/1/v" not in n)
        after = hidden(model, layout())
        assert torch.equal(before[0][:, 6:], after[0][:, 6:])
        assert not torch.equal(before[0][:, IMAGE], after[0][:, IMAGE]) or inner == "lora"
        shake(model, "image", lambda n: "/1/v" in n)
        assert not torch.equal(hidden(model, layout())[0][:, 6:], after[0][:, 6:])


@pytest.mark.parametrize("inner", INNER)
def test_which_numbers_of_the_last_layer_train(inner):
    with adapted(method(inner)) as model:
        ready(model).train()
        for first, dead in ((6, True), (5, False)):
            for p in model.trainable().values():
                p.grad = None
            model(inputs(), layout()).logits[:, first:].square().sum().backward()
            for name, p in set_of(model, "image").items():
                if "decoder/1/" not in name:
                    continue
                reaches = "/1/k" in name or "/1/v" in name
                if inner == "bitfit" and "/1/k" in name:
                    continue  # one number added to all scores of a query may cancel
                assert (float(p.grad.abs().max()) > 0) is (reaches or not dead), name


@pytest.mark.parametrize("inner", INNER)
def test_image_only_leaves_text_bit_for_bit(inner):
    with torch.no_grad():
        plain = network().model(**inputs()).logits
    with adapted(method(inner, contexts="image_only")) as model:
        ready(model)
        assert torch.equal(logits(model), plain)
        only_text = {"context": torch.zeros(2, S, dtype=torch.long)}
        assert torch.equal(logits(model, context=only_text), plain)
        assert not torch.equal(logits(model, context=layout()), plain)


# --- writing ----------------------------------------------------------------------------------


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


# --- training ---------------------------------------------------------------------------------


def gradients(model, context):
    for p in model.trainable().values():
        p.grad = None
    model(inputs(), context).logits.square().mean().backward()
    return {n: p.grad.clone() for n, p in model.trainable().items()}


@pytest.mark.parametrize("inner", INNER)
def test_checkpointing_sees_the_same_contexts(inner):
    with adapted(method(inner)) as model:
        ready(model).train()
        plain = gradients(model, layout())
        model.checkpointing(True)
        again = gradients(model, layout())
        without = gradients(model, None)
    assert any(not torch.equal(plain[n], without[n]) for n in plain)
    for name in plain:
        assert torch.equal(plain[name], again[name])


@pytest.mark.parametrize("inner", INNER)
def test_without_numbers_only_text_learns_and_nothing_lacks_a_gradient(inner):
    with adapted(method(inner)) as model:
        ready(model).train()
        model(inputs()).logits.square().mean().backward()
        assert all(p.grad is not None for p in model.trainable().values())
        assert all(float(p.grad.abs().max()) == 0 for p in set_of(model, "image").values())
        assert any(float(p.grad.abs().max()) > 0 for p in set_of(model, "text").values())


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("inner", INNER)
def test_one_compiled_graph_with_contexts(inner, given):
    torch.compiler.reset()
    context = layout() if given else None
    with adapted(method(inner)) as model:
        ready(model).train()
        eager = gradients(model, context)
        runner = torch.compile(model, fullgraph=True, backend="aot_eager")
        for p in model.trainable().values():
            p.grad = None
        runner(inputs(), context).logits.square().mean().backward()
        for name, p in model.trainable().items():
            close(p.grad, eager[name], 1e-9)
    torch.compiler.reset()


def test_only_the_sets_train():
    base = tiny.fresh("llama_tiny_random")
    before = tiny.weights_hash(base.model)
    with adapted(method(), base=base) as model:
        optimizer = torch.optim.AdamW(model.trainable().values(), lr=1e-2)
        start = {n: p.detach().clone() for n, p in model.trainable().items()}
        for seed in range(3):
            optimizer.zero_grad()
            model.train()(inputs(seed=seed), layout()).logits.square().mean().backward()
            optimizer.step()
            model.delta.sync()
        assert all(not torch.equal(p, start[n]) for n, p in model.trainable().items())
        assert tiny.weights_hash(base.model) == before


# --- settings ---------------------------------------------------------------------------------


def kinds(made):
    """Return (kind, roles) of every bank of the first block."""
    with adapted(made) as model:
        banks = [e for e in model.delta if isinstance(e, ContextBank) and "decoder/0/" in e.name]
        assert sum(isinstance(e, Router) for e in model.delta) == 1
        return {(type(b.each[0]), b.each[0].sites[0].role) for b in banks}


def test_targets():
    attn, mlp = {"q", "k", "v", "o"}, {"gate", "up", "down"}
    for inner, kind in (("lora", LowRank), ("bitfit", AddedBias)):
        assert kinds(method(inner, targets="A")) == {(kind, r) for r in attn}
        assert kinds(method(inner, targets="F")) == {(kind, r) for r in mlp}
        assert kinds(method(inner)) == {(kind, r) for r in attn | mlp}
    outputs, inputs_ = {(OutputScale, "k"), (OutputScale, "v")}, {(InputScale, "down")}
    assert kinds(method("ia3", targets="A")) == outputs
    assert kinds(method("ia3", targets="F")) == inputs_
    assert kinds(method("ia3")) == outputs | inputs_
    own = method(targets="own", inner_settings={"roles": ["q"]})
    assert kinds(own) == {(LowRank, "q")}


def test_scale_and_rank():
    def first(made):
        with adapted(made) as model:
            return next(e for e in model.delta if isinstance(e, ContextBank)).each[0]

    assert first(method()).scale == 1.0
    assert first(method(inner_settings={"rank": 3})).scale == 1.0
    assert first(method(inner_settings={"rank": 3})).rank == 3
    assert first(method(scale=0.5)).scale == 0.5
    assert first(method(scale=None, inner_settings={"alpha": 4.0})).scale == 0.5
    gain = first(method("ia3"))
    assert float(gain.scale["k"].detach().abs().max()) == 0.0  # l - 1 is what is stored


@pytest.mark.parametrize("inner", INNER)
def test_skip_dead_leaves_out_what_cannot_reach_text(inner):
    with adapted(method(inner)) as model:
        everything = {n: p.numel() for n, p in model.trainable().items()}
        ready(model)
        full = logits(model, context=layout())[:, 6:]
        numbers = {n: p.clone() for n, p in model.trainable().items()}
    with adapted(method(inner, skip_dead=True)) as model:
        kept = {n: p.numel() for n, p in model.trainable().items()}
        model.delta.double()
        with torch.no_grad():
            for n, p in model.trainable().items():
                p.copy_(numbers[n])
        close(logits(model.eval(), context=layout())[:, 6:], full)
    gone = everything.keys() - kept.keys()
    assert kept.items() <= everything.items()
    assert gone and all(".copies.image." in n and "decoder/1/" in n for n in gone)
    d, f, k, r = 32, 64, 16, 8
    dead = {
        "lora": r * (2 * (d + d) + 2 * (d + f) + f + d),
        "bitfit": 2 * d + 2 * f + d,
        "ia3": f,
    }
    assert sum(everything[n] for n in gone) == dead[inner]
    assert k  # keys and values stay


class Hooked(Lora):
    """An inner method that is more than its edits."""

    def readouts(self):
        return {"more": "shared"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"contexts": "image"}, "unknown choice of contexts 'image' .*image_only"),
        ({"contexts": "txt_only"}, "Did you mean 'text_only'"),
        ({"written": "txt"}, "unknown context 'txt'.* Did you mean 'text'"),
        ({"names": ("text", "text")}, "different names"),
        ({"names": ()}, "different names"),
        ({"names": ("text", "a.b")}, "'a.b' is no name"),
        ({"inner": Hooked()}, "has 'readouts' of its own"),
        ({"inner": Method()}, "method.targets=own"),
        ({"inner": Lora(roles=("q",))}, "method.inner.roles is given.*method.targets=own"),
        ({"inner": IA3(outputs=("q",))}, "method.inner.outputs is given"),
        ({"inner": Lora(alpha=3.0)}, "method.inner.alpha is given.*method.scale=null"),
    ],
)
def test_wrong_settings_are_named(settings, words):
    with pytest.raises(ConfigError, match=words):
        Context(**settings)


@pytest.mark.parametrize("inner", ["adapter", "prefix", "context"])
def test_other_edits_are_refused_with_the_reason(inner):
    with (
        pytest.raises((IncompatibleError, ConfigError), match=r"method\.inner: "),
        adapted(method(inner, targets="own")),
    ):
        pass
