"""PEMT on the tiny T5 with tiny random sources, for its tests."""

from contextlib import contextmanager

import tiny
import torch

from peftbench.edits import Mixture, Tokens


def made(sources=("first", "second"), **changes):
    """Return PEMT over some of the tiny sources."""
    settings = {**tiny.config("method", "pemt")["sources"], "tasks": dict.fromkeys(sources)}
    return tiny.method("pemt", sources=settings, **changes)


@contextmanager
def attached(method, use="t5", moved=True):
    """Attach a method in eval mode, every trainable tensor moved from its start."""
    with tiny.adapted(method, use) as model:
        if moved:
            tiny.perturb(model, size=0.1)
        yield model.eval()


def mixtures(model):
    return [e for e in model.delta if isinstance(e, Mixture)]


def prompt(model):
    return next(e for e in model.delta if isinstance(e, Tokens))


def logits(model, given=None):
    with torch.no_grad():
        return model(given or tiny.inputs("t5")).logits


def gates(model):
    return {n: t for n, t in model.delta.taps.items() if n.startswith("gate/")}
