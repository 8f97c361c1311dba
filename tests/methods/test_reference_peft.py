"""LoRA, DoRA and IA3 compute what Hugging Face PEFT computes, forward and backward."""

import copy
from functools import cache

import peft
import pytest
import tiny
import torch

from peftbench.edits import Dora, InputScale, LowRank
from peftbench.methods.dora import Dora as DoraMethod
from peftbench.methods.ia3 import IA3
from peftbench.methods.lora import Lora

NAMES = {
    "llama": {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "o_proj", "down": "down_proj"},
    "bert": {"q": "query", "k": "key", "v": "value", "down": r"layer\.\d+\.output\.dense"},
}
BOUND = 1e-6


@cache
def network(use):
    return tiny.fresh(f"{use}_tiny_random")


def hf_output(use, model, given):
    """Return what is compared: LLaMA's logits, BERT's first token."""
    if use == "llama":
        return model(**given, use_cache=False).logits
    return model(**given).last_hidden_state[:, 0]


def pattern(use, roles):
    return r".*\.(" + "|".join(NAMES[use][r] for r in roles) + ")"


def reference(use, config):
    """Return the network under the real library, with every added tensor set to random numbers."""
    wrapped = peft.get_peft_model(copy.deepcopy(network(use).model), config).train()
    g = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, p in wrapped.named_parameters():
            if p.requires_grad:
                start = p if "ia3" in name or "magnitude" in name else 0.0
                p.copy_(start + 0.1 * torch.randn(p.shape, generator=g))
    return wrapped


def pairs(model, wrapped):
    """Yield (ours, theirs) for every tensor that both libraries add."""
    for edit in model.delta:
        layer = wrapped.get_submodule(f"base_model.model.{edit.sites[0].path}")
        if isinstance(edit, LowRank):
            (role,) = edit.a
            yield edit.a[role], layer.lora_A["default"].weight
            yield edit.b[role], layer.lora_B["default"].weight
            if isinstance(edit, Dora):
                yield edit.m[role], layer.lora_magnitude_vector["default"].weight
        elif isinstance(edit, InputScale):
            yield edit.scale, layer.ia3_l["default"]
        else:
            (role,) = edit.scale
            yield edit.scale[role], layer.ia3_l["default"]


def compare(use, method, config):
    wrapped = reference(use, config)
    given = tiny.inputs(use)
    with tiny.adapted(method, use, base=network(use)) as model:
        both = list(pairs(model, wrapped))
        theirs = [p for p in wrapped.parameters() if p.requires_grad]
        assert len(both) == len(theirs)
        assert model.counts()["trainable"] == sum(p.numel() for p in theirs)
        with torch.no_grad():
            for mine, other in both:
                mine.copy_(other.view_as(mine))
        model.train()
        found = hf_output(use, model.base, given)
        wanted = hf_output(use, wrapped, given)
        untouched = hf_output(use, tiny.backbone(f"{use}_tiny_random").model, given)
        assert float((wanted - untouched).detach().abs().max()) > 1e-3
        assert float((found - wanted).detach().abs().max()) <= BOUND * scale(wanted)
        found.square().sum().backward()
        wanted.square().sum().backward()
        for mine, other in both:
            worst = float((mine.grad - other.grad.view_as(mine)).abs().max())
            assert worst <= BOUND * scale(other.grad)


def scale(tensor):
    return max(1.0, float(tensor.detach().abs().max()))


LORA_ROLES = {"llama": ("q", "k", "v", "o", "down"), "bert": ("q", "v", "down")}


@pytest.mark.parametrize("use", NAMES)
@pytest.mark.parametrize("rslora", [False, True])
def test_lora(use, rslora):
    roles = LORA_ROLES[use]
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=pattern(use, roles), use_rslora=rslora
    )
    compare(use, Lora(roles, rank=4, alpha=6.0, rslora=rslora), config)


@pytest.mark.parametrize("use", NAMES)
def test_dora(use):
    roles = LORA_ROLES[use]
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=pattern(use, roles), use_dora=True)
    compare(use, DoraMethod(roles, rank=4, alpha=6.0), config)


@pytest.mark.parametrize("use", NAMES)
def test_ia3(use):
    config = peft.IA3Config(
        target_modules=pattern(use, ("k", "v", "down")),
        feedforward_modules=pattern(use, ("down",)),
    )
    compare(use, IA3(), config)


@pytest.mark.parametrize("use", NAMES)
def test_lora_starts_by_the_same_rule(use):
    """A uniform within 1 / sqrt(I), B zero."""
    config = peft.LoraConfig(r=64, target_modules=pattern(use, ("q",)))
    wrapped = peft.get_peft_model(copy.deepcopy(network(use).model), config)
    with tiny.adapted(Lora(("q",), rank=64), use, base=network(use)) as model:
        for mine, other in pairs(model, wrapped):
            assert mine.shape == other.shape
            assert abs(float((mine.std() - other.std()).detach())) < 0.01
            limit = 32**-0.5 if other.abs().max() > 0 else 0.0
            assert float(mine.detach().abs().max()) <= limit
