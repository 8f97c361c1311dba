"""Every test of this folder leaves the shared networks untouched, and gives tokens two contexts."""

import pytest
import torch

from peftbench.edits import Router
from peftbench.train.model import Adapted


def contexts(model, inputs):
    """Return context numbers of every token, 0 and 1 in turn by twos; None without a router."""
    if not any(isinstance(edit, Router) for edit in model.delta):
        return None
    ids = inputs.get("input_ids")
    batch, length = ids.shape if ids is not None else (len(inputs["image"]), 17)
    return {"context": (torch.arange(length) // 2 % 2).expand(batch, length)}


@pytest.fixture(autouse=True)
def _two_contexts(monkeypatch):
    forward = Adapted.forward

    def with_contexts(self, inputs, context=None, **options):
        return forward(self, inputs, context or contexts(self, inputs), **options)

    monkeypatch.setattr(Adapted, "forward", with_contexts)


@pytest.fixture(autouse=True)
def _untouched(untouched):
    yield
