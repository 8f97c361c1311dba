"""Settings of U-Tuning and float64 networks that its tests share."""

import itertools

import torch
import vits

from peftbench.backbones.backbone import find_anatomy
from peftbench.methods.u_tuning import AdapterTuner, PrefixTuner, PromptTuner, UTuning

KINDS = {"adapter": AdapterTuner, "prefix": PrefixTuner, "prompt": PromptTuner}
OPS = ("attn", "mlp", "block")
GATES = ("direct", "scalar", "channel", "input")
DUAL = {"attn": AdapterTuner(hidden=13), "mlp": AdapterTuner(hidden=13)}
SINGLE = [{op: KINDS[k]()} for op, k in itertools.product(OPS, KINDS)]
DUALS = [{"attn": KINDS[a](), "mlp": KINDS[b]()} for a, b in itertools.product(KINDS, KINDS)]
TRIS = [{**DUAL, "block": KINDS[k]()} for k in KINDS]


def label(tuners):
    return "+".join(f"{op}-{t.kind}" for op, t in tuners.items())


def worst(a, b):
    return float((a - b).detach().abs().max())


def plan(network, **tuners):
    """Return the delta of tuners over a network, attached, in the network's dtype."""
    made = UTuning(tuners).plan(find_anatomy(network), torch.Generator().manual_seed(3))
    return made.to(next(network.parameters()).dtype).attach()


def double(**options):
    return vits.vit(**options).double().requires_grad_(False)


def pictures():
    return vits.images()["image"].double()


def stir(delta, size=0.5, seed=5):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in delta.parameters():
            p.add_(size * torch.randn(p.shape, generator=g, dtype=p.dtype))
    return delta
