"""A captioner put together from a vision encoder and a decoder; each is chosen by itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from ..errors import ConfigError, IncompatibleError
from ..spec import to_spec
from . import captioner
from .anatomy import Anatomy
from .backbone import Backbone
from .load_timm import TimmViT, finish, known, made, obtainable


@dataclass(frozen=True)
class TimmVision(TimmViT):
    """Any timm network that keeps a grid of features, such as Swin V2, to see pictures with.

    Settings as of :class:`TimmViT`; ``image_size`` where the network takes one.
    """

    def load(self) -> Backbone:
        """Load the network, without its classifier.

        Raises:
            MissingAssetError: the weights cannot be had.
            CorruptAssetError: they are damaged or do not fit.

        """
        known(self.model, "*")
        obtainable(self.model, self.weights, self.init)
        model, source = made(self)
        size = self.image_size or int(model.pretrained_cfg["input_size"][-1])
        return finish(self, self.model, model, source, size)


@dataclass(frozen=True)
class JoinedNetworks:
    """Two frozen networks; the map between them is trained with every method.

    Attributes:
        vision: sees the pictures.
        text: a LLaMA-family decoder that writes.
        dropout: in front of the map.

    """

    takes: ClassVar[str] = "captions"

    vision: Any
    text: Any
    dropout: float = 0.1

    def __post_init__(self) -> None:
        for name, takes in (("vision", "image"), ("text", "text")):
            if getattr(getattr(self, name), "takes", None) != takes:
                raise ConfigError(
                    f"backbone.{name}: a network that reads {takes} is needed here "
                    f"(backbone/{name}=NAME)"
                )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"backbone.dropout: {self.dropout} is not in [0, 1)")
        if self.text.family != "llama":
            raise IncompatibleError(
                f"backbone.text: a {self.text.family} network is no decoder that goes on with a "
                "sequence; a LLaMA-family one is (smollm2_135m, llama3_1b, hub_llama)"
            )

    @property
    def family(self) -> str:
        """The decoder's, whose sites methods work on."""
        return str(self.text.family)

    def load(self) -> Backbone:
        """Load both networks."""
        vision, text = self.vision.load(), self.text.load()
        assert vision.preprocess is not None
        with torch.random.fork_rng(devices=()):
            model = captioner.Captioner(vision.model, text.model, vision.preprocess.size)
        return JoinedBackbone(
            name=f"{vision.name}+{text.name}",
            model=model,
            source=f"vision: {vision.source}; text: {text.source}",
            preprocess=vision.preprocess,
            spec=to_spec(self),
            codec=text.codec,
            dropout=self.dropout,
        )


@dataclass
class JoinedBackbone(Backbone):
    """A captioner with the dropout of its map."""

    dropout: float = 0.1

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where things are."""
        return replace(captioner.anatomy(self.model, self.dropout), fingerprint=lambda: self.sha256)
