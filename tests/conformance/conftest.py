"""Every test of this folder leaves the shared networks untouched, and gives tokens two contexts."""

import pytest
import torch

from peftbench.edits import Router
from peftbench.train.model import Adapted


def contexts(model, inputs):
    """Return context numbers of every token, 0 or 1 by what stands there; None without a router."""
    if not any(isinstance(edit, Router) for edit in model.delta):
        return None
    if "input_ids" in inputs:
        return {"context": inputs["input_ids"] % 2}
    bright = inputs["image"][:, 0, 0, :1] > 0
    return {"context": (torch.arange(17) // 2 + bright) % 2}


@pytest.fixture(autouse=True)
def _two_contexts(monkeypatch):
    forward = Adapted.forward

    def with_contexts(self, inputs, context=None, **options):
        return forward(self, inputs, context or contexts(self, inputs), **options)

    monkeypatch.setattr(Adapted, "forward", with_contexts)


@pytest.fixture(autouse=True)
def _untouched(untouched):
    yield
