"""Where learned prompts start: uniform numbers, words of the vocabulary, or a description's words.

Shape legend: M tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..edits import SequenceSite
from ..errors import ConfigError, IncompatibleError

Init = Literal["random_uniform", "vocabulary", "description"]


def prompt_name(site: SequenceSite) -> str:
    """Return the name of a prompt's edit."""
    return f"{site.name}/prompt"


def words(site: SequenceSite, key: str) -> Tensor:
    """Return the embedding of every word, (V, D), in fp32 or wider.

    Raises:
        IncompatibleError: the sequence is not made of words; ``key`` is the setting to mend.

    """
    if site.table is None:
        raise IncompatibleError(
            f"{key}: '{site.name}' of this network has no words to start from; "
            "allowed here: random_uniform"
        )
    table_VD = site.table.weight
    assert isinstance(table_VD, Tensor)
    return table_VD.detach().to(torch.promote_types(table_VD.dtype, torch.float32))


def described(description: tuple[int, ...], key: str) -> int:
    """Return the number of tokens of a description.

    Raises:
        ConfigError: the method has not been told its task's description.

    """
    if not description:
        raise ConfigError(
            f"{key}: the prompt starts from the words of the task's description, and the method "
            "knows of none; use a task that has one, or on_task(ids of a description)"
        )
    return len(description)


def start(
    site: SequenceSite,
    init: Init,
    count: int,
    description: tuple[int, ...],
    generator: torch.Generator,
    bound: float = 0.5,
    key: str = "method.init",
) -> Tensor:
    """Return the numbers that a prompt starts from, (1, M, D).

    Args:
        site: the sequence that it enters.
        init: ``random_uniform`` in [-bound, bound]; ``vocabulary``: rows of the embedding, drawn
            without repeats while there are enough; ``description``: the rows of its ids, and M is
            their number.
        count: M, but for ``description``.
        description: token ids.
        generator: the random stream.
        bound: of the uniform numbers.
        key: the setting, for errors.

    """
    if init == "random_uniform":
        return (2 * torch.rand(1, count, site.width, generator=generator) - 1) * bound
    table_VD = words(site, key)
    if init == "vocabulary":
        order = torch.randperm(len(table_VD), generator=generator)
        ids = order[torch.arange(count) % len(order)]
    else:
        described(description, key)
        ids = torch.tensor(description)
        if int(ids.min()) < 0 or int(ids.max()) >= len(table_VD):
            raise ConfigError(
                f"{key}: the description has the id {int(ids.max())}, and the network has "
                f"{len(table_VD)} words; use the network's own tokenizer"
            )
    return table_VD[ids.to(table_VD.device)].clone()[None]
