"""What the training loop tells its caller, what it asks, and what a fit cost."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .loop import Fitter


class Interrupted(SystemExit):
    """The run was asked to stop; its state is written. Exit status 143."""

    def __init__(self) -> None:
        super().__init__(143)


def _nothing(*_: Any) -> None:
    return None


@dataclass
class Hooks:
    """What the loop tells, and asks, its caller.

    Attributes:
        log: (step, epoch, split, {name: value}) at every logged step.
        progress: (step, steps, {"loss", "samples_per_s"}) at every step.
        epoch_end: (fitter, epoch, step) after every epoch.
        should_stop: asked after every step.
        note: a line for a person.

    """

    log: Callable[[int, int, str, Mapping[str, float]], None] = _nothing
    progress: Callable[[int, int, Mapping[str, float]], None] = _nothing
    epoch_end: Callable[[Fitter, int, int], None] = _nothing
    should_stop: Callable[[], bool] = bool
    note: Callable[[str], None] = _nothing


@dataclass
class FitReport:
    """What a fit cost. Steps done before a resume are counted; their times are carried over.

    Samples that a method looked at before the first step, and the seconds of it, are counted too.
    """

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    sample_flops: float = 0.0
    feature_flops: float = 0.0

    @property
    def step_ms_median(self) -> float:
        """Median wall time of a step, milliseconds."""
        return 1e3 * statistics.median(self.step_seconds) if self.step_seconds else 0.0

    @property
    def samples_per_s(self) -> float:
        """Training samples per second of stepping time, over all processes."""
        return self.samples / self.seconds if self.seconds else 0.0

    def flops(self, count: int) -> float:
        """Return FLOPs of the fit over a split of ``count`` samples."""
        once = min(self.samples, count)
        return self.sample_flops * self.samples + self.feature_flops * once
