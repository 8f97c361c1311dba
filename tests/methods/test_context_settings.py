"""Context-PEFT: what its settings mean, and how wrong ones are told."""

import pytest
import torch
from context_nets import INNER, adapted, close, layout, logits, method, ready

from peftbench.edits import AddedBias, ContextBank, InputScale, LowRank, OutputScale, Router
from peftbench.errors import ConfigError, IncompatibleError
from peftbench.methods.base import Method
from peftbench.methods.context import Context
from peftbench.methods.ia3 import IA3
from peftbench.methods.lora import Lora


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
