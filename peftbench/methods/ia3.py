"""IA3: learned scales on keys, values and the feed-forward activation. Liu et al., 2205.05638."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ..backbones.anatomy import Anatomy, expand_roles
from ..edits import Edit, InputScale, OutputScale
from ..errors import ConfigError
from .base import Method
from .checks import layer_name


@dataclass(frozen=True)
class IA3(Method):
    """k' = l_k k, v' = l_v v, W_down (l_ff h). All scales start at one.

    Attributes:
        outputs: roles whose output is scaled; cross-attention included.
        inputs: roles whose input is scaled.

    """

    relative: ClassVar[bool] = False  # whether l - 1 is kept in place of l

    outputs: tuple[str, ...] = ("k", "v")
    inputs: tuple[str, ...] = ("down",)

    def __post_init__(self) -> None:
        if not self.outputs and not self.inputs:
            raise ConfigError("method.outputs and method.inputs: at least one role is needed")
        for key, roles in (("method.outputs", self.outputs), ("method.inputs", self.inputs)):
            if roles:
                expand_roles(roles, key)

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """One edit per scaled layer."""
        found: list[Edit] = []
        if self.outputs:
            for sites in anatomy.linears(self.outputs):
                found.append(OutputScale(layer_name(sites), sites, self.relative))
        if self.inputs:
            for sites in anatomy.linears(self.inputs):
                found.append(InputScale(layer_name(sites) + "/input", sites, self.relative))
        return found
