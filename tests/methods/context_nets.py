"""Context-PEFT on a tiny LLaMA in float64: an image of five slots behind the start token."""

from functools import cache

import tiny
import torch

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
