"""PEMT, stage 1: one source task. Lin et al., Findings of ACL 2024, arXiv 2402.15082.

W_o a + B A a of rank 64 at the second feed-forward matrix of every block, and a prompt that starts
from the words of the task's description. Settings of the authors' code, where not said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..edits import (
    Bottleneck,
    Edit,
    Expert,
    LinearSite,
    LinearTuner,
    LowRank,
    SequenceSite,
    Tokens,
)
from ..errors import ConfigError
from .base import Method
from .checks import at_least
from .prompts import described, prompt_name, start

PromptInit = Literal["description", "normal", "uniform"]
Kind = Literal["lora", "bottleneck"]


def prompt_start(
    site: SequenceSite,
    init: PromptInit,
    tokens: int | None,
    description: tuple[int, ...],
    generator: torch.Generator,
) -> Tensor:
    """Return the numbers that a description prompt starts from, (1, M, D).

    Args:
        site: the sequence that it enters.
        init: ``description``: the embeddings of its words; ``normal``: N(0, 1), as the authors'
            code does in effect; ``uniform`` in [-0.5, 0.5].
        tokens: M where it is random; None: the number of the description's ids.
        description: token ids.
        generator: the random stream.

    """
    if init == "description" and tokens is not None:
        raise ConfigError(
            "method.tokens: a prompt of a description has as many tokens as its ids; leave it "
            "empty, or choose method.prompt_init=normal or uniform"
        )
    key = "method.prompt_init"
    count = tokens if tokens is not None else described(description, key)
    if init == "normal":
        return torch.randn(1, count, site.width, generator=generator)
    how = "description" if init == "description" else "random_uniform"
    return start(site, how, count, description, generator, key=key)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PemtSource(Method):
    """An expert beside the second feed-forward matrix of every block, and a prompt.

    Attributes:
        rank: of an expert; width of a bottleneck.
        source_adapter: ``lora``: B A a. ``bottleneck``: U gelu(D a + b) + b', without the residual
            of the feed-forward input that the authors' code adds.
        b_init: B at the start: ``zero``, or ``kaiming`` as in the authors' code. Of ``lora``.
        prompt_init: see :func:`prompt_start`.
        tokens: length of a random prompt; None: as many as the description has.
        description: token ids of the task's description; a run fills them in.

    """

    refused: ClassVar[Mapping[str, str]] = {
        "vit": "the prompts are descriptions of tasks in words, and the network reads images",
        "llama": "the prompt stands in front of a causal text and sees nothing of it, so no gate "
        "can depend on the text",
    }

    rank: int = 64
    source_adapter: Kind = "lora"
    b_init: Literal["zero", "kaiming"] = "zero"
    prompt_init: PromptInit = "description"
    tokens: int | None = None
    description: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        at_least("method.rank", self.rank, 1)
        if self.tokens is not None:
            at_least("method.tokens", self.tokens, 1)
        if self.source_adapter == "bottleneck" and self.b_init == "kaiming":
            raise ConfigError("method.b_init: kaiming is of method.source_adapter=lora")

    def on_task(self, description: tuple[int, ...]) -> PemtSource:
        """Take the description's ids."""
        return replace(self, description=description)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """The prompt, and an expert per block."""
        site = anatomy.stacks[0].sequence
        first = prompt_start(site, self.prompt_init, self.tokens, self.description, generator)
        edits: list[Edit] = [Tokens(prompt_name(site), site, first.shape[1], first, stay=True)]
        edits += [self._expert(b.linears["down"], generator) for b in anatomy.blocks]
        return edits

    def _expert(self, site: LinearSite, generator: torch.Generator) -> Edit:
        if self.source_adapter == "bottleneck":
            tuner = Bottleneck(
                site.in_features,
                self.rank,
                activation="gelu_tanh",
                out=site.out_features,
                generator=generator,
            )
            return LinearTuner(site.name, [site], tuner)
        edit = LowRank(site.name, [site], self.rank, float(self.rank), generator=generator)
        if self.b_init == "kaiming":
            nn.init.kaiming_uniform_(edit.b[site.role], a=math.sqrt(5), generator=generator)
            edit.identity = False
        return edit


def expert_of(get, site: LinearSite, method: PemtSource) -> Expert:  # type: ignore[no-untyped-def]
    """Return the frozen expert of a layer.

    Args:
        get: (name, shape) -> a tensor of the trained source.
        site: the layer.
        method: that it was trained with.

    """
    rank, wide, out = method.rank, site.in_features, site.out_features
    if method.source_adapter == "lora":
        a, b = f"{site.name}.a.{site.role}", f"{site.name}.b.{site.role}"
        return Expert(get(a, (rank, wide)), get(b, (out, rank)))
    lead = f"{site.name}.tuner."
    return Expert(
        get(f"{lead}down_weight", (rank, wide)),
        get(f"{lead}up_weight", (out, rank)),
        get(f"{lead}down_bias", (rank,)),
        get(f"{lead}up_bias", (out,)),
    )
