"""Small random timm vision transformers for tests, and GIST over them."""

from contextlib import contextmanager

import timm
import torch

import peftbench
from peftbench.methods.adapter import Adapter
from peftbench.methods.gist import Gist

CLASSES = 5
HOST = Adapter("shared_parallel", hidden=4, scale=0.1, init="small")


def vit(seed=0, **options):
    """Return a random ViT of two blocks and width 32 on 32 pixels (16 patches)."""
    torch.manual_seed(seed)
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
    network = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, num_classes=0, **{**shape, **options}
    ).eval()
    with torch.no_grad():
        for p in network.parameters():  # zeros and ones would hide mistakes
            p.add_(0.1 * torch.randn_like(p))
    return network


def images(batch=3, seed=1, size=32):
    """Return random images."""
    return {
        "image": torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))
    }


@contextmanager
def over(network, inner=HOST, seed=0, classes=CLASSES, plain=False, **options):
    """Attach GIST over a host (or the host alone) for the length of a block."""
    made = inner if plain else Gist(inner=inner, **options)
    model = peftbench.attach(made, network, classes=classes, seed=seed)
    try:
        yield model
    finally:
        model.release()


def disturb(model, size=0.1, seed=5):
    """Move every trainable tensor, so that no part is at rest."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.trainable().values():
            p.add_(size * torch.randn(p.shape, generator=g))
