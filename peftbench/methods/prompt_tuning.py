"""Prompt tuning. Lester et al., arXiv 2104.08691, section 2: [P; X] goes through the network.

In an encoder-decoder the prompt stands in front of the encoder's input and stays in its output, so
that the decoder attends to it too. In front of a decoder's text, and behind a class token, it
leaves after the last norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..backbones.anatomy import Anatomy
from ..edits import Edit, Tokens
from .base import Method
from .checks import at_least, fraction
from .prompts import Init, prompt_name, start


@dataclass(frozen=True)
class PromptTuning(Method):
    """Learned tokens at the input of the (first) stack.

    Attributes:
        tokens: number of prompt tokens; with ``init=description``, its number of ids.
        init: where they start: ``random_uniform``, ``vocabulary`` (rows of the word embedding) or
            ``description`` (the rows of the words that describe the task).
        bound: of the uniform start (section 3.2: 0.5).
        dropout: on the tokens.
        description: token ids of the task's description; a run fills them in.

    """

    tokens: int = 100
    init: Init = "random_uniform"
    bound: float = 0.5
    dropout: float = 0.0
    description: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        at_least("method.tokens", self.tokens, 1)
        at_least("method.bound", self.bound, 0)
        fraction("method.dropout", self.dropout)

    def on_task(self, description: tuple[int, ...]) -> PromptTuning:
        """Take the description's ids, if the prompt starts from them."""
        return replace(self, description=description) if self.init == "description" else self

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One token edit."""
        site = anatomy.stacks[0].sequence
        first = start(site, self.init, self.tokens, self.description, generator, self.bound)
        name, count = prompt_name(site), first.shape[1]
        return [Tokens(name, site, count, first, dropout=self.dropout, stay=True)]
