"""DoRA: magnitude and direction apart. Liu et al., arXiv 2402.09353."""

from __future__ import annotations

from dataclasses import dataclass

from ..edits import Dora as DoraEdit
from ..edits import LowRank
from .lora import Lora


@dataclass(frozen=True)
class Dora(Lora):
    """y' = m / ||W + s B A|| (W + s B A) x + b, with LoRA's settings."""

    @property
    def edit_class(self) -> type[LowRank]:
        """The edit that is put at each layer."""
        return DoraEdit
