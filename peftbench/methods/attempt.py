"""ATTEMPT: prompts of source tasks, mixed for each text. Asai et al., arXiv 2205.11961, section 3.

P(x) = P + sum_j a_j P_j over the sources' prompts and P itself, with
a = softmax(q . p_j / t), q = LayerNorm(W_up silu(W_down max_t x)), p_j = max_m P_j.
Shape legend: B batch, T tokens, M prompt tokens, K prompts, D width, R bottleneck width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..edits import Delta, Edit, SequenceSite, Tokens
from ..edits.sites import Handles, cast
from ..errors import ConfigError
from .base import Method, Stage
from .checks import at_least
from .prompt_tuning import PromptTuning
from .prompts import prompt_name, start
from .sources import Source, Sources, chosen, prompts_of, taken


class Attention(nn.Module):
    """a = softmax(q . p_j / t): weights of prompts, of what a text holds.

    Args:
        width: D.
        hidden: R.
        temperature: t.
        generator: the random stream of initial values.

    """

    def __init__(
        self, width: int, hidden: int, temperature: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(hidden, width))
        self.up = nn.Parameter(torch.empty(width, hidden))
        for matrix in (self.down, self.up):
            nn.init.kaiming_uniform_(matrix, a=math.sqrt(5), generator=generator)
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.temperature = temperature

    def forward(self, text_BD: Tensor, prompts_KD: Tensor) -> Tensor:
        """Return the weights (B, K), fp32 or wider."""
        down, up, gain, shift = (
            cast(p, text_BD) for p in (self.down, self.up, self.gain, self.shift)
        )
        q_BD = F.layer_norm(F.silu(text_BD @ down.t()) @ up.t(), gain.shape, gain, shift)
        return (q_BD @ prompts_KD.t() / self.temperature).softmax(-1)


class AttendedTokens(Tokens):
    """P + sum_j a_j P_j for each sample.

    Args:
        name: unique name.
        site: the sequence.
        start: P at the start, (1, M, D).
        others: frozen P_j, (M, D) each; they are no part of what is stored.
        attention: gives a.

    """

    others: Tensor

    def __init__(
        self,
        name: str,
        site: SequenceSite,
        start: Tensor,
        others: list[Tensor],
        attention: Attention,
    ) -> None:
        super().__init__(name, site, start.shape[1], start, stay=True)
        self.register_buffer("others", torch.stack(others), persistent=False)
        self.attention = attention
        self.mask: Tensor | None = None

    def install(self, delta: Delta, handles: Handles) -> None:
        """See the text's mask before this and other edits widen it."""

        def keep(mask_BT: Tensor | None) -> None:
            self.mask = mask_BT

        def forget() -> None:
            self.mask = None

        for mask in self.site.masks:
            handles.add(mask.watch(keep))
        handles.add(forget)
        super().install(delta, handles)

    def made(self, layer: int, like_BTD: Tensor) -> Tensor:
        """Return each sample's prompt, (B, M, D)."""
        wide = torch.promote_types(like_BTD.dtype, torch.float32)
        own_MD = self.tokens[layer].to(wide)
        with torch.autocast(like_BTD.device.type, enabled=False):
            prompts_KMD = torch.cat([self.others.to(wide), own_MD[None]])
            text_BD = self.text(like_BTD.to(wide))
            weights_BK = self.attention(text_BD, prompts_KMD.amax(1))
            mixed_BMD = own_MD + torch.einsum("bk,kmd->bmd", weights_BK, prompts_KMD)
        return cast(mixed_BMD, like_BTD)

    def text(self, x_BTD: Tensor) -> Tensor:
        """Return the largest value of each channel among real tokens, (B, D)."""
        if self.mask is None:
            return x_BTD.amax(1)
        return x_BTD.masked_fill(self.mask[..., None] == 0, float("-inf")).amax(1)


@dataclass(frozen=True)
class Attempt(Method):
    """Prompt tuning with a mixture of source prompts, chosen by what each text holds.

    Attributes:
        sources: the source tasks.
        library: the trained sources; runs fill it in.
        subset: names of the sources to use; none: all.
        prompt: prompt tuning, of the sources and of the target's own prompt.
        hidden: R (section 4.3: 100).
        temperature: t; None: D times e, as in the authors' code (2087 for T5-base).

    """

    refused: ClassVar[Mapping[str, str]] = {
        "llama": "the prompt is chosen by the whole text, which in a decoder holds the answer",
    }

    sources: Sources = field(default_factory=Sources)
    library: Mapping[str, Source] = field(default_factory=dict)
    subset: tuple[str, ...] = ()
    prompt: PromptTuning = field(default_factory=PromptTuning)
    hidden: int = 100
    temperature: float | None = None

    def __post_init__(self) -> None:
        at_least("method.hidden", self.hidden, 1)
        if self.temperature is not None and self.temperature <= 0:
            raise ConfigError(f"method.temperature: {self.temperature} must be above 0")
        if self.prompt.init == "description":
            raise ConfigError(
                "method.prompt.init: prompts of descriptions differ in length, and ATTEMPT adds "
                "them up; allowed: random_uniform, vocabulary"
            )
        chosen(self.library or self.sources.tasks, self.subset)

    def stages(self) -> tuple[Stage, ...]:
        """One run per source."""
        return self.sources.stages(self.prompt, self.subset)

    def staged(self, adapters: Mapping[str, Path]) -> Attempt:
        """Return the method with its sources' adapters."""
        return replace(self, library=taken(adapters, chosen(self.sources.tasks, self.subset)))

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One token edit.

        Raises:
            MissingAssetError: a source has not been trained, or is gone.
            ArtefactError: a trained source fits no more.

        """
        site, prompt = anatomy.stacks[0].sequence, self.prompt
        others = prompts_of(self.library, anatomy, prompt, self.subset)
        first = start(site, prompt.init, prompt.tokens, (), generator, prompt.bound)
        temperature = self.temperature or site.width * math.e
        attention = Attention(site.width, self.hidden, temperature, generator)
        edit = AttendedTokens(prompt_name(site), site, first, others, attention)
        edit.dropout = prompt.dropout
        return [edit]
