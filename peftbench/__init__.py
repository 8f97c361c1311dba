"""peftbench: choose a parameter-efficient fine-tuning method by results that can be repeated.

As a library::

    model = peftbench.attach(method, network, classes=10)  # any timm ViT, BERT, T5, LLaMA
    model = peftbench.load("outputs/<study>/<run id>")     # a trained adapter, base included
    model = peftbench.load("owner/name")                   # the same from the hub
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from .backbones import Backbone
    from .methods import Method
    from .train.model import Adapted

__version__ = "0.1.0"
__all__ = ["attach", "load"]


def attach(
    method: Method, model: nn.Module | Backbone, classes: int | None = None, seed: int = 0
) -> Adapted:
    """Put a method on anybody's timm or transformers network.

    Args:
        method: for example ``peftbench.methods.lora.Lora(rank=8)``.
        model: the network (its parameters are frozen), or a loaded backbone.
        classes: size of a new classifier head; None uses the network's language-model head.
        seed: of the initial values.

    Returns:
        A module: ``model(inputs).logits``; ``model.trainable()`` are the tensors to optimise, and
        ``model.release()`` gives the network back as it was.

    """
    from .backbones import Backbone
    from .train.model import Adapted

    if not isinstance(model, Backbone):
        model = Backbone(type(model).__name__, model, "given by the caller")
    return Adapted(model, method, classes, seed)


def load(path: str | Path, model: nn.Module | Backbone | None = None) -> Adapted:
    """Load a trained adapter, with its base network.

    Args:
        path: a run or adapter folder, or on the hub ``owner/name`` or ``owner/name@revision``
            (``hub:owner/name`` where a folder has that name too).
        model: the base network, if it is loaded already; checked by hash.

    """
    from .train.artefact import load_adapter

    return load_adapter(path, model)
