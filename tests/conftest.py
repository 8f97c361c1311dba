"""Shared by all tests: small thread pools, and networks that every test gives back untouched."""

import sys

import pytest
import tiny
import torch

torch.set_num_threads(1)
HASHES = {}


@pytest.fixture(autouse=True)
def nothing_resident():
    """Let no test find what another test's runs kept in memory."""
    yield
    if resident := sys.modules.get("peftbench.runs.resident"):
        resident.forget()


@pytest.fixture
def untouched(request):
    """Hold a test to leaving the shared networks as they were: weights, hooks, forwards, flags.

    A test with a parameter ``use`` is held to the network of that use, others to all of them.
    """
    yield
    use = getattr(request.node, "callspec", None) and request.node.callspec.params.get("use")
    for name in {tiny.USES[use][0]} if use else {name for name, _ in tiny.USES.values()}:
        network = tiny.backbone(name).model
        left, digest = tiny.traces(network), tiny.weights_hash(network)
        wanted = HASHES.setdefault(name, tiny.weights_hash(tiny.fresh(name).model))
        if left or digest != wanted:
            tiny.backbone.cache_clear()
        assert not left
        assert digest == wanted, f"weights of {name} changed"
