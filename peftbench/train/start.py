"""The start of a fit for methods that look at data first: gradients of the first batches.

Every process computes the whole of these batches, in the parts in which all processes together
compute a step, so nothing dense is ever sent; the main process's result holds for all.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch
from accelerate.utils import broadcast
from torch import Tensor

from ..edits import noise
from ..errors import NonFiniteError
from ..methods.base import Passes

if TYPE_CHECKING:
    from .loop import Fitter

SMALLER = 16.0
"""What the loss scale of fp16 is divided by after gradients that are not finite."""


def prepare(fitter: Fitter) -> None:
    """Let the method look at the first training batches, in training mode.

    With fp16 an overflow is met by a smaller loss scale, which the training then starts with.

    Raises:
        NoGradientError: a tensor whose gradient is looked at got none.
        NonFiniteError: such a gradient is not finite.

    """
    scaler, began = fitter.accelerator.scaler, time.perf_counter()
    seen = fitter.report.samples
    while True:
        try:
            fitter.model.prepare(passes(fitter))
        except NonFiniteError:
            if scaler is None or scaler.get_scale() <= 1:
                raise
            scaler.update(max(1.0, scaler.get_scale() / SMALLER))
        else:
            break
    if fitter.average is not None:
        fitter.average.restart()
    if fitter.report.samples > seen:
        fitter.report.seconds += time.perf_counter() - began


def passes(fitter: Fitter) -> Passes:
    """Return passes over the batches of a fit, the same in every process."""
    accelerator, cfg = fitter.accelerator, fitter.cfg
    parts = cfg.accumulate * accelerator.num_processes

    def run(batch: int, part: int) -> None:
        rows_R = fitter.batch_index(*divmod(batch, fitter.steps_per_epoch))
        torch.manual_seed(noise.stream_seed(fitter.seed, "start", fitter.phase, batch, part))
        places = torch.tensor_split(torch.arange(len(rows_R)), parts)[part]
        with accelerator.no_sync(fitter.runner):
            fitter.part(batch, rows_R, places)
        fitter.report.samples += len(places) * accelerator.num_processes

    def agree(tensor: Tensor) -> Tensor:
        if accelerator.num_processes == 1:
            return tensor
        same = broadcast(tensor)
        assert isinstance(same, Tensor)
        return same

    return Passes(run, parts, agree)
