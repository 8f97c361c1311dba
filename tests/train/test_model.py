"""One network carries one method at a time, and is given back as it was."""

import gc

import pytest
import tiny
import torch

import peftbench
from peftbench.errors import IncompatibleError


@pytest.mark.parametrize("name", ["prefix", "bitfit", "gist"])
def test_a_second_method_on_one_network_is_refused(name):
    network, given = tiny.fresh("vit_tiny_random").model, tiny.inputs("vit")
    before = network(given["image"])
    first = peftbench.attach(tiny.method(name), network, classes=3)
    with pytest.raises(IncompatibleError, match=r"release\(\)"):
        peftbench.attach(tiny.method("u_prefix_mha"), network, classes=3)
    first.release()
    assert torch.equal(network(given["image"]), before) and not tiny.traces(network)
    second = peftbench.attach(tiny.method("u_prefix_mha"), network, classes=3)
    second.release()
    assert torch.equal(network(given["image"]), before) and not tiny.traces(network)


def test_what_was_forgotten_without_release_is_still_in_the_network():
    network = tiny.fresh("vit_tiny_random").model
    peftbench.attach(tiny.method("prefix"), network, classes=3)
    gc.collect()
    with pytest.raises(IncompatibleError, match="another method is attached"):
        peftbench.attach(tiny.method("lora"), network, classes=3)
