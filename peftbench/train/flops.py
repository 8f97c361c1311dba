"""Floating-point operations of a training step, by torch's own counter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.flop_counter import FlopCounterMode

if TYPE_CHECKING:
    from .loop import Fitter


def count_sample(fitter: Fitter) -> tuple[float, float]:
    """Return FLOPs of one training sample: of every step, and of features computed once.

    Of texts the sample is the one whose length is nearest to the mean.

    One pass over one sample is run eagerly, counted and thrown away; no parameter, gradient or
    random stream is changed. Where features are cached, a step holds only the head.
    """
    model, once = fitter.model, 0
    batch = fitter.feed.batch(0, 0, _typical(fitter), None)
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices), FlopCounterMode(display=False) as counter:
        if fitter.cache is not None:
            with torch.no_grad():
                features = model.features(fitter.inputs(batch))
            once = counter.get_total_flops()
            output = model.forward({}, features_BD=features)
        else:
            output = model.forward(fitter.inputs(batch))

        def criterion(logits: torch.Tensor) -> torch.Tensor:
            return fitter.task.per_sample_loss(logits.float(), batch.labels, 0.0)

        losses = model.method.losses(output, criterion)
        torch.stack([term.sum() for term in losses.values()]).sum().backward()
    for parameter in fitter.params.values():
        parameter.grad = None
    return float(counter.get_total_flops() - once), float(once)


def _typical(fitter: Fitter) -> torch.Tensor:
    """Return the row, (1,), of a sample of ordinary cost."""
    encoded = fitter.split.encoded
    if encoded is None:
        return fitter.batch_index(0, 0)[:1]
    lengths_N = encoded.lengths.double()
    return (lengths_N - lengths_N.mean()).abs().argmin()[None]
