"""A frozen network with its anatomy, what its inputs need, and what it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from ..errors import IncompatibleError
from ..files import sha256_tensors
from . import bert, captioner, llama, t5, timm_vit
from .anatomy import Anatomy
from .codec import Codec
from .preprocess import Preprocess

FAMILIES = (timm_vit, bert, t5, captioner, llama)


def find_anatomy(model: nn.Module) -> Anatomy:
    """Return the anatomy of anybody's timm or transformers network.

    Raises:
        IncompatibleError: no family file knows the network.

    """
    for family in FAMILIES:
        if family.matches(model):
            return family.anatomy(model)
    known = ", ".join(f.__name__.rpartition(".")[2] for f in FAMILIES)
    raise IncompatibleError(f"no anatomy for {type(model).__name__}; families known: {known}")


@dataclass
class Backbone:
    """A loaded, frozen network.

    Attributes:
        name: what it is called in results.
        model: the network; no parameter requires a gradient.
        source: where the weights came from, in words.
        preprocess: for images; None for text.
        spec: settings that load it again.
        codec: for text; None for images, and for networks without a tokenizer.

    """

    name: str
    model: nn.Module
    source: str
    preprocess: Preprocess | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    codec: Codec | None = None

    def __post_init__(self) -> None:
        self.model.requires_grad_(False)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where things are."""
        return replace(find_anatomy(self.model), fingerprint=lambda: self.sha256)

    @cached_property
    def sha256(self) -> str:
        """Hash over names and bytes of all weights, computed while nothing is attached."""
        return sha256_tensors(self.model.state_dict())

    def parameter_count(self) -> int:
        """Return the number of parameters of the network, a head not counted."""
        return sum(p.numel() for p in self.model.parameters())
