"""Instructions with answers: Alpaca's template, chats, and splits made of them.

Template: Taori et al., "Stanford Alpaca" (2023), as its training code writes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from ..errors import ConfigError
from .text import Passages

InstructTemplate = Literal["alpaca", "chat"]
WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:"
)


def prompt(instruction: str, context: str) -> str:
    """Return the prompt of Alpaca; the answer follows at once, without a line break.

    Args:
        instruction: what is to be done.
        context: the input; empty: the template without one.

    """
    # replaced at once: an instruction may hold braces of its own
    template = WITH_INPUT if context else WITHOUT_INPUT
    before, _, after = template.partition("{instruction}")
    return before + instruction + after.replace("{input}", context, 1)


def instructions(
    ids: Sequence[int],
    asked: Sequence[tuple[str, str]],
    answers: Sequence[Sequence[str]],
    template: InstructTemplate,
) -> Passages:
    """Return a split of instructions; the first answer is the target, all are references.

    Args:
        ids: of the samples.
        asked: instruction and input per sample; the input may be empty.
        answers: accepted answers per sample.
        template: ``alpaca``: the prompt is the source; ``chat``: instruction and input are one
            message of the user, which the tokenizer's template is to be put around.

    Raises:
        ConfigError: there is no such template.

    """
    if template not in ("alpaca", "chat"):
        raise ConfigError(f"data.template: expected alpaca or chat, got {template!r}")
    plain = ["\n\n".join(part for part in pair if part) for pair in asked]
    chat = template == "chat"
    return Passages(
        torch.tensor(list(ids), dtype=torch.int64),
        (),
        plain if chat else [prompt(*pair) for pair in asked],
        [found[0] for found in answers],
        torch.full((len(ids),), -1, dtype=torch.int64),
        [tuple(found) for found in answers],
        (),
        [({"role": "user", "content": text},) for text in plain] if chat else (),
    )
