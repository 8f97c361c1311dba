"""PEMT: what stage 2 computes, against stage 1 and against formulas written out."""

import pemt_nets as nets
import pytest
import tiny
import torch
from transformers import T5Config, T5ForConditionalGeneration

import peftbench
from peftbench.backbones.backbone import find_anatomy
from peftbench.methods import pemt as pemt_file
from peftbench.methods.pemt import Pemt
from peftbench.methods.pemt_source import PemtSource
from peftbench.methods.sources import Source

PLAIN = {"target_adapter": False, "norms": False, "correlation": "none"}


def test_gates_start_uniform_and_sum_to_one():
    with nets.attached(nets.made(), moved=False) as model:
        nets.logits(model)
        assert len(nets.gates(model)) == 4
        assert all(
            torch.equal(g, torch.full((tiny.BATCH, 2), 0.5)) for g in nets.gates(model).values()
        )
        tiny.perturb(model, size=0.5)
        nets.logits(model)
        moved = {n: g.clone() for n, g in nets.gates(model).items()}
        with torch.no_grad():
            for mixture in nets.mixtures(model):
                mixture.gate.weight += torch.randn(len(mixture.gate.weight), 1)
        nets.logits(model)
        for name, gate in moved.items():
            assert torch.allclose(gate.sum(1), torch.ones(tiny.BATCH)) and bool((gate >= 0).all())
            assert float((gate - 0.5).abs().max()) > 1e-3
            assert not torch.equal(gate[0], gate[1])  # the prompt has read the text
            assert torch.allclose(nets.gates(model)[name], gate, atol=1e-5)


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
def test_one_source_is_stage_one(kind):
    made = tiny.staged(nets.made(("second",), source_adapter=kind, **PLAIN), "t5")
    stage_one = peftbench.load(made.library["second"].folder)
    wanted = nets.logits(stage_one)
    with nets.attached(made.on_task(tiny.SOURCES["second"]), moved=False) as model:
        with torch.no_grad():
            nets.prompt(model).tokens.copy_(nets.prompt(stage_one).tokens)
        assert torch.allclose(nets.logits(model), wanted, atol=1e-5)
        assert not torch.allclose(nets.logits(model), wanted + 1e-3, atol=1e-5)


def explicit(mixture, x):
    """Return every expert's output, (K, B, T, O)."""
    count, experts = mixture.experts.count, mixture.experts
    down, up = experts.down.unflatten(0, (count, -1)), experts.up.unflatten(1, (count, -1))
    hidden = torch.einsum("kri,bti->kbtr", down, x)
    if experts.bias is not None:
        hidden = hidden + experts.bias.view(count, 1, 1, -1)
        hidden = torch.nn.functional.gelu(hidden, approximate="tanh")
        hidden = torch.cat([hidden, torch.ones_like(hidden[..., :1])], -1)
    return torch.einsum("okr,kbtr->kbto", up, hidden)


@pytest.mark.parametrize("kind", ["lora", "bottleneck"])
@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({"gates": "one_hot", "expert": "second"}, (0.0, 1.0, 0.0)),
        ({"gates": "uniform"}, (1 / 3, 1 / 3, 1 / 3)),
        ({}, (1 / 3, 1 / 3, 1 / 3)),
    ],
    ids=["one_hot", "uniform", "learned"],
)
def test_a_mixture_by_hand(options, weights, kind):
    made = nets.made(tuple(tiny.SOURCES), source_adapter=kind, target_adapter=False, **options)
    with nets.attached(made, moved=False) as model:
        mixture = nets.mixtures(model)[0]
        x, y = torch.randn(2, 7, 64), torch.randn(2, 7, 32)
        wanted = y + torch.einsum("k,kbto->bto", torch.tensor(weights), explicit(mixture, x))
        assert torch.allclose(mixture.change(x, y, model.delta), wanted, atol=1e-5)


def test_a_zero_target_adapter_is_none():
    with nets.attached(nets.made()) as model:
        with torch.no_grad():
            for mixture in nets.mixtures(model):
                mixture.tuner.up_weight.zero_()
                mixture.tuner.up_bias.zero_()
        with_it = nets.logits(model)
        for mixture in nets.mixtures(model):
            mixture.tuner = None
        assert torch.equal(with_it, nets.logits(model))


def test_sources_may_be_permuted():
    made = tiny.staged(nets.made(tuple(tiny.SOURCES)), "t5")
    turned = dict(reversed(made.library.items()))
    with nets.attached(made) as model:
        wanted, stored = nets.logits(model), {n: t.clone() for n, t in model.tensors().items()}
    with nets.attached(Pemt(library=turned, description=tiny.DESCRIPTION)) as model:
        for name in stored:
            if name.endswith("gate.weight"):
                stored[name] = stored[name].flip(1)
        model.load_tensors(stored)
        assert torch.allclose(nets.logits(model), wanted, atol=1e-5)


def test_sources_stay_as_they_are_and_are_not_stored():
    with nets.attached(nets.made()) as model:
        before = {n: b.clone() for n, b in model.delta.named_buffers()}
        assert len(before) >= 4 * 3 + 2
        tiny.train(model, "t5")
        after = dict(model.delta.named_buffers())
        assert all(torch.equal(before[n], after[n]) for n in before)
        kinds = ("gate.weight", "tuner.", "norm", "prompt.tokens")
        assert all(any(k in n for k in kinds) for n in model.tensors())


@pytest.fixture(scope="module")
def t5_base():
    config = T5Config(
        vocab_size=32128, d_model=768, d_ff=3072, num_layers=12, num_heads=12, d_kv=64
    )
    with torch.device("meta"):
        return find_anatomy(T5ForConditionalGeneration(config))


class Shapes:
    """A trained source of the size of T5-base, without numbers."""

    def __init__(self, length):
        self.length = length

    def get(self, name, shape):
        return torch.empty([self.length if n is None else n for n in shape], device="meta")


@pytest.mark.parametrize(("words", "numbers"), [(22, 2_130_048), (47, 2_149_248)])
def test_numbers_on_t5_base(t5_base, monkeypatch, words, numbers):
    monkeypatch.setattr(pemt_file, "read", lambda library, *_: [Shapes(30)] * len(library))
    library = {f"source {i}": Source("", "") for i in range(6)}
    ids = tuple(range(3, 3 + words))
    delta = Pemt(library=library, description=ids).plan(t5_base, torch.Generator())
    assert delta.parameter_count() == numbers == 2_113_152 + 768 * words
    parts = {"tuner": 0, "gate": 0, "norm": 0, "prompt": 0}
    for name, p in delta.named_parameters():
        parts[next(k for k in parts if k in name)] += p.numel()
    assert parts == {
        "tuner": 1_789_056,
        "gate": 276_480,
        "norm": 47_616,
        "prompt": 768 * words,
    }
    frozen = sum(b.numel() for n, b in delta.named_buffers() if n.endswith((".down", ".up")))
    assert frozen == 6 * 5_898_240


@pytest.mark.parametrize(
    ("words", "numbers"),
    [(37, 5_926_656), (27, 5_918_976), (21, 5_914_368), (26, 5_918_208), (50, 5_936_640)],
)
def test_numbers_of_a_source_on_t5_base(t5_base, words, numbers):
    ids = tuple(range(3, 3 + words))
    delta = PemtSource(description=ids).plan(t5_base, torch.Generator())
    assert delta.parameter_count() == numbers
    bottleneck = PemtSource(source_adapter="bottleneck", description=ids)
    count = bottleneck.plan(t5_base, torch.Generator()).parameter_count()
    assert count - 768 * words == 5_918_208


def test_starts_of_a_source():
    with tiny.adapted(tiny.method("pemt_source"), "t5") as model:
        table = model.base.shared.weight.detach()
        assert torch.equal(nets.prompt(model).tokens[0].detach(), table[list(tiny.DESCRIPTION)])
        lora = [e for e in model.delta if e is not nets.prompt(model)]
        assert all(not e.b["down"].any() and e.scale == 1.0 for e in lora)
        assert all(float(e.a["down"].detach().abs().max()) <= 64**-0.5 for e in lora)
    with tiny.adapted(tiny.method("pemt_source", b_init="kaiming"), "t5") as model:
        largest = max(
            float(e.b["down"].detach().abs().max()) for e in model.delta if hasattr(e, "b")
        )
        assert 0.12 < largest <= 0.125
    for init in ("normal", "uniform"):
        for tokens, count in ((None, len(tiny.DESCRIPTION)), (7, 7)):
            changed = tiny.method("pemt_source", prompt_init=init, tokens=tokens)
            with tiny.adapted(changed, "t5") as model:
                assert nets.prompt(model).count == count


def test_the_prompt_is_correlated_where_it_enters():
    """P + sum softmax(P P_i^T) P_i, at each pass, once, or never."""
    ids = torch.tensor(tiny.DESCRIPTION)
    for how in ("recompute", "init", "none"):
        made = tiny.staged(nets.made(correlation=how), "t5")
        others = [
            nets.prompt(peftbench.load(s.folder)).tokens[0].detach() for s in made.library.values()
        ]
        with nets.attached(made, moved=False) as model:
            table = model.base.shared.weight.detach()
            seen = []
            place = model.backbone.anatomy.stacks[0].sequence.block_inputs[0]
            handle = place.watch(lambda x, seen=seen: seen.append(x[:, : len(ids)]))
            nets.logits(model)
            handle.remove()
            wanted = table[ids]
            if how != "none":
                wanted = wanted + sum((table[ids] @ o.T).softmax(-1) @ o for o in others)
            assert torch.allclose(seen[0], wanted.expand(tiny.BATCH, -1, -1), atol=1e-5)
            stored = model.tensors()["delta.encoder/prompt.tokens"][0]
            assert torch.allclose(stored, wanted if how == "init" else table[ids], atol=1e-6)


def test_dropout_of_the_correlation_is_in_training_only():
    with nets.attached(nets.made(correlation_dropout=0.5)) as model:
        assert torch.equal(nets.logits(model), nets.logits(model))
        model.train()
        assert not torch.equal(nets.logits(model), nets.logits(model))


def test_a_sample_alone_is_the_sample_in_its_batch():
    given = tiny.inputs("t5")
    with nets.attached(nets.made()) as model:
        together = nets.logits(model, given)
        alone = nets.logits(model, {k: v[2:3] for k, v in given.items()})
        assert torch.allclose(alone[0], together[2], atol=1e-5)


def test_the_decoders_gates_are_constant_while_it_writes():
    given = tiny.inputs("t5")
    source = {k: given[k] for k in ("input_ids", "attention_mask")}
    with nets.attached(nets.made()) as model:
        decoder = nets.mixtures(model)[-1]
        seen = []
        handle = decoder.gate.register_forward_hook(lambda m, a, g: seen.append(g.clone()))
        manner = {"max_new_tokens": 4, "min_new_tokens": 4, "num_beams": 2, "pad_token_id": 0}
        with torch.no_grad():
            ids = model.base.generate(**source, use_cache=True, **manner)
            slow = model.base.generate(**source, use_cache=False, **manner)
        handle.remove()
        assert torch.equal(ids, slow)
        assert len(seen) == 8 and all(torch.allclose(g, seen[0]) for g in seen)
        assert not torch.allclose(seen[0][0], seen[0][2])
