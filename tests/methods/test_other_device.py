"""A method is planned over a network that already lies on a device, as in a run's second fit."""

import pytest
import torch
from vits import vit

from peftbench.backbones.backbone import Backbone
from peftbench.methods.adapter import Adapter
from peftbench.methods.bitfit import BitFit
from peftbench.methods.dora import Dora
from peftbench.methods.full import Full
from peftbench.methods.gist import Gist
from peftbench.methods.ia3 import IA3
from peftbench.methods.lora import Lora
from peftbench.methods.prefix import Prefix
from peftbench.methods.ssf import Ssf
from peftbench.methods.vpt import Vpt

METHODS = [Adapter(), BitFit(), Dora(), Full(), Gist(), IA3(), Lora(), Prefix(), Ssf(), Vpt()]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_planning_needs_no_network_on_the_cpu(method):
    """The meta device stands for a GPU: mixing it with the CPU is an error just so."""
    network = Backbone("vit", vit().to("meta"), "random")
    delta = method.plan(network.anatomy, torch.Generator().manual_seed(0))
    assert delta.parameter_count() > 0
    assert all(edit.m["q"].device.type == "meta" for edit in delta if hasattr(edit, "m"))
