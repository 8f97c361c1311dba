"""SPoT: a prompt that starts from the prompt of a source task. Vu et al., arXiv 2110.07904."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Edit, Tokens
from ..errors import ConfigError
from .base import Method, Stage
from .prompt_tuning import PromptTuning
from .prompts import prompt_name
from .sources import Source, Sources, chosen, prompts_of, taken


@dataclass(frozen=True)
class Spot(Method):
    """Prompt tuning whose prompt is first trained on one source task.

    Attributes:
        sources: the source task; just one.
        library: the trained source; runs fill it in.
        prompt: prompt tuning, of the source and of the target.

    """

    sources: Sources = field(default_factory=Sources)
    library: Mapping[str, Source] = field(default_factory=dict)
    prompt: PromptTuning = field(default_factory=PromptTuning)

    def __post_init__(self) -> None:
        if len(self.library or self.sources.tasks) > 1:
            raise ConfigError("method.sources.tasks: SPoT starts from one source")

    def stages(self) -> tuple[Stage, ...]:
        """One run: the source."""
        return self.sources.stages(self.prompt)

    def staged(self, adapters: Mapping[str, Path]) -> Spot:
        """Return the method with its source's adapter."""
        return replace(self, library=taken(adapters, chosen(self.sources.tasks, ())))

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One token edit.

        Raises:
            MissingAssetError: a source has not been trained, or is gone.
            ArtefactError: a trained source fits no more.

        """
        site = anatomy.stacks[0].sequence
        (first_MD,) = prompts_of(self.library, anatomy, self.prompt)
        name, count, dropout = prompt_name(site), len(first_MD), self.prompt.dropout
        return [Tokens(name, site, count, first_MD[None], dropout=dropout, stay=True)]
