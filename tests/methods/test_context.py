"""Context-PEFT: what the paper's algebra promises of outputs and gradients."""

import pytest
import tiny
import torch
from context_nets import (
    IMAGE,
    INNER,
    S,
    adapted,
    close,
    inputs,
    layout,
    logits,
    method,
    network,
    ready,
    set_of,
    shake,
)

from peftbench.edits import ContextBank
from peftbench.methods.lora import Lora


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
