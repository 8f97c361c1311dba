"""PEMT: a mixture of frozen source experts, gated by a correlated prompt.

Lin et al., Findings of ACL 2024, arXiv 2402.15082. Stage 2, in block l:
y = W_o a + sum_i g_i B_i A_i a, g = softmax(c W_g), z = y + U gelu(D y + b) + b', with c the mean
of a over the prompt's places (decoder: of the encoder's output there). The prompt is
P + sum_i softmax(P P_i^T) P_i over the prompts of the sources. The loss is
L_CE + lambda mean_l sum_i mean(g_i) (1 - mean cos(z, B_i A_i a)). Formulas of the authors' code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy, Stack
from ..edits import (
    Bottleneck,
    CorrelatedTokens,
    Edit,
    Experts,
    FixedGate,
    Gate,
    LinearSite,
    Mixture,
    PromptView,
    Tokens,
)
from ..edits.mixture import correlated
from ..errors import ConfigError, unknown
from .base import Criterion, Method, Output, Stage
from .checks import at_least, fraction
from .layernorm import LayerNorm
from .pemt_source import Kind, PemtSource, PromptInit, expert_of, prompt_start
from .prompts import prompt_name
from .sources import Source, Sources, Trained, chosen, read, taken


@dataclass(frozen=True)
class Pemt(Method):
    """Adaptation to a target task by experts of source tasks, which are trained first.

    Attributes:
        sources: tasks of stage 1.
        library: the trained sources; runs fill it in.
        subset: names of the sources to use; none: all.
        rank: of an expert.
        source_adapter: form of an expert, see :class:`PemtSource`.
        b_init: start of an expert.
        prompt_init: start of the prompts.
        tokens: length of random prompts.
        description: token ids of the target's description; runs fill them in.
        gates: ``learned``, ``uniform`` or ``one_hot``.
        expert: with ``gates=one_hot``, the name of the source.
        temperature: of the gates.
        target_adapter: whether z has a bottleneck of its own,
        reduction: of the width divided by this.
        norms: whether norms train.
        correlation: the prompt attends to those of the sources at every pass (``recompute``, the
            authors' code), once at the start (``init``, the paper's figure), or never (``none``).
        correlation_dropout: on the probabilities, in training.
        lambda_moe: weight of the Task Sparsity Loss; 0 leaves it out.
        mask_padding: leave padding out of its cosines (the authors' code counts it).

    """

    refused: ClassVar[Mapping[str, str]] = PemtSource.refused

    sources: Sources = field(default_factory=Sources)
    library: Mapping[str, Source] = field(default_factory=dict)
    subset: tuple[str, ...] = ()
    rank: int = 64
    source_adapter: Kind = "lora"
    b_init: Literal["zero", "kaiming"] = "zero"
    prompt_init: PromptInit = "description"
    tokens: int | None = None
    description: tuple[int, ...] = ()
    gates: Literal["learned", "uniform", "one_hot"] = "learned"
    expert: str | None = None
    temperature: float = 1.0
    target_adapter: bool = True
    reduction: int = 16
    norms: bool = True
    correlation: Literal["recompute", "init", "none"] = "recompute"
    correlation_dropout: float = 0.1
    lambda_moe: float = 0.1
    mask_padding: bool = True

    def __post_init__(self) -> None:
        self.source()  # checks what it shares
        at_least("method.reduction", self.reduction, 1)
        at_least("method.lambda_moe", self.lambda_moe, 0)
        fraction("method.correlation_dropout", self.correlation_dropout)
        if self.temperature <= 0:
            raise ConfigError(f"method.temperature: {self.temperature} must be above 0")
        names = self.names()
        if self.expert is not None and self.gates != "one_hot":
            raise ConfigError("method.expert: it names the expert of method.gates=one_hot")
        if self.gates == "one_hot" and names and self.expert not in names:
            raise unknown("source", str(self.expert), names, "method.expert")

    def names(self) -> list[str]:
        """Return the names of the sources in use, in the order of the gates' columns."""
        return chosen(self.library or self.sources.tasks, self.subset)

    def source(self) -> PemtSource:
        """Return the method of stage 1."""
        return PemtSource(
            self.rank, self.source_adapter, self.b_init, self.prompt_init, self.tokens
        )

    def stages(self) -> tuple[Stage, ...]:
        """One run per source."""
        return self.sources.stages(self.source(), self.subset)

    def staged(self, adapters: Mapping[str, Path]) -> Pemt:
        """Return the method with its sources' adapters."""
        return replace(self, library=taken(adapters, chosen(self.sources.tasks, self.subset)))

    def on_task(self, description: tuple[int, ...]) -> Pemt:
        """Take the ids of the target's description."""
        return replace(self, description=description)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """The prompt, what mixtures read around them, a mixture per block, and the norms.

        Raises:
            MissingAssetError: a source has not been trained, or is gone.
            ArtefactError: a trained source fits no more.

        """
        trained = self._trained(anatomy)
        prompt = self._prompt(anatomy, trained, generator)
        sequences = [stack.sequence for stack in anatomy.stacks]
        view = PromptView("prompt_view", sequences, prompt)
        edits: list[Edit] = [prompt, view]
        share = 1 / sum(len(stack.blocks) for stack in anatomy.stacks) if self.lambda_moe else 0.0
        for stack in anatomy.stacks:
            for block in stack.blocks:
                site = block.linears["down"]
                experts = Experts([expert_of(t.get, site, self.source()) for t in trained])
                edits.append(
                    Mixture(
                        f"{site.name}/mixture",
                        site,
                        stack.sequence.name,
                        experts,
                        self._gate(site, stack, len(trained)),
                        view,
                        self._tuner(site, generator),
                        share,
                        self.mask_padding,
                    )
                )
        return edits + (LayerNorm().edits(anatomy, generator) if self.norms else [])

    def _trained(self, anatomy: Anatomy) -> list[Trained]:
        fields = ("rank", "source_adapter")
        return read(self.library, self.subset, anatomy, self.source(), fields)

    def _prompt(
        self, anatomy: Anatomy, trained: list[Trained], generator: torch.Generator
    ) -> Tokens:
        site = anatomy.stacks[0].sequence
        first = prompt_start(site, self.prompt_init, self.tokens, self.description, generator)
        name, count = prompt_name(site), first.shape[1]
        others = [t.get(f"{name}.tokens", (1, None, site.width))[0] for t in trained]
        if self.correlation == "recompute":
            return CorrelatedTokens(name, site, first, others, self.correlation_dropout)
        if self.correlation == "init":
            first = correlated(first[0], [other.to(first) for other in others])[None]
        return Tokens(name, site, count, first, stay=True)

    def _gate(self, site: LinearSite, stack: Stack, count: int) -> nn.Module:
        if self.gates == "learned":
            reads = stack.sequence.memory is not None
            return Gate(stack.width if reads else site.in_features, count, self.temperature)
        weights_K = torch.full((count,), 1 / count)
        if self.gates == "one_hot":
            weights_K = torch.eye(count)[self.names().index(str(self.expert))]
        return FixedGate(weights_K)

    def _tuner(self, site: LinearSite, generator: torch.Generator) -> nn.Module | None:
        if not self.target_adapter:
            return None
        width = site.out_features
        hidden = max(1, width // self.reduction)
        return Bottleneck(width, hidden, 1.0, "gelu_tanh", "normal", generator=generator)

    def losses(self, output: Output, criterion: Criterion) -> dict[str, Tensor]:
        """Return the task's loss and, where gradients are wanted, the Task Sparsity Loss."""
        terms = {"task": criterion(output.logits)}
        parts = [t for name, t in output.terms.items() if name.startswith("sparsity/")]
        if parts:
            terms["sparsity"] = self.lambda_moe * torch.stack(parts).sum(0)
        return terms
