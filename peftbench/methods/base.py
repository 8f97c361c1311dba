"""What a PEFT method is: which edits, where, plus hooks with ordinary defaults.

Shape legend: B batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..backbones.anatomy import Anatomy
from ..edits.base import Delta, Edit
from ..errors import IncompatibleError

Criterion = Callable[[Tensor], Tensor]


@dataclass
class Output:
    """What a forward pass gives.

    Attributes:
        logits: (B, C), or (B, T, V) from a language-model head.
        extra: logits read from other tokens, by name, (B, C) each.
        terms: loss terms that edits handed out during the pass, by name, (B,) each.

    """

    logits: Tensor
    extra: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A run that has to be finished before a method can start: one source task of a transfer.

    Attributes:
        name: of the source.
        method: what is trained on it.
        data: settings of its data; built by whoever runs the stage.
        trainer: settings of its training; None: those of the run itself.
        seed: of its random streams; the same for every run that starts from it.

    """

    name: str
    method: Method
    data: Any
    trainer: Any = None
    seed: int = 0


@dataclass
class ParamGroup:
    """Parameters that share multipliers of the trainer's learning rate and weight decay.

    Attributes:
        params: by name.
        lr: multiplier of the learning rate.
        weight_decay: multiplier of the weight decay.
        matrices: decay them as matrices whatever their shape, as entries taken out of matrices.

    """

    params: dict[str, nn.Parameter]
    lr: float = 1.0
    weight_decay: float = 1.0
    matrices: bool = False


@dataclass(frozen=True)
class Passes:
    """Passes over the first training batches, for methods that look at data before they start.

    Attributes:
        run: (batch, part) -> None: forward and backward over one part of a batch, batches counted
            from 0 in the order of training. The parts' losses sum to the batch's loss. Whatever
            may be called again gives the same gradients again.
        parts: passes that a batch is computed in.
        agree: (tensor) -> the main process's values of it, in every process.

    """

    run: Callable[[int, int], None]
    parts: int = 1
    agree: Callable[[Tensor], Tensor] = lambda tensor: tensor


@dataclass(frozen=True)
class Method:
    """A method over a frozen network. Subclasses are frozen dataclasses, one small file each.

    Attributes:
        refused: family -> reason, for families where the method has no meaning.
        readouts: name -> ``shared`` or ``separate``: which head reads tokens handed out by edits.

    """

    refused: ClassVar[Mapping[str, str]] = {}

    def stages(self) -> tuple[Stage, ...]:
        """Return the runs that must be finished first, in the method's own order."""
        return ()

    def staged(self, adapters: Mapping[str, Path]) -> Method:
        """Return the method with the results of its stages.

        Args:
            adapters: adapter folder of every stage by name.

        """
        return self

    def on_task(self, description: tuple[int, ...]) -> Method:
        """Return the method as it is on one task.

        Args:
            description: token ids of the task's description, end token included.

        """
        return self

    def edits(self, anatomy: Anatomy, generator: torch.Generator) -> list[Edit]:
        """Return what is added to the network, and where. Pure construction.

        Args:
            anatomy: where things are.
            generator: the random stream of initial values.

        """
        return []

    def readouts(self) -> Mapping[str, str]:
        """Return the names of extra logits and the head that makes them."""
        return {}

    def losses(self, output: Output, criterion: Criterion) -> dict[str, Tensor]:
        """Return named loss terms per sample, (B,) each, already weighted; their sum is minimised.

        Args:
            output: of the forward pass.
            criterion: the task's loss, logits -> (B,).

        """
        return {"task": criterion(output.logits)}

    def scores(self, output: Output) -> Tensor:
        """Return the scores by which the network predicts, (B, C)."""
        return output.logits

    def param_groups(self, delta: Delta, heads: nn.Module) -> list[ParamGroup]:
        """Return groups with multipliers; together they hold every trainable tensor once."""
        params = {f"delta.{n}": p for n, p in delta.named_parameters()}
        params.update({f"heads.{n}": p for n, p in heads.named_parameters()})
        return [ParamGroup(params)]

    def prepare(self, delta: Delta, passes: Passes) -> None:
        """Look at the first batches, before the first step; a resumed run does not come here.

        Args:
            delta: the edits, attached.
            passes: give gradients; what they leave in ``grad`` is dropped afterwards.

        """

    def check(self, family: str) -> None:
        """Refuse a family on which the method has no meaning, with the reason.

        Raises:
            IncompatibleError: the family is refused.

        """
        reason = self.refused.get(family)
        if reason:
            raise IncompatibleError(
                f"method {type(self).__name__} has no meaning on {family}: {reason}"
            )

    def plan(self, anatomy: Anatomy, generator: torch.Generator) -> Delta:
        """Check the network and return the delta of this method over it, not yet attached."""
        self.check(anatomy.family)
        return Delta(self.edits(anatomy, generator))
