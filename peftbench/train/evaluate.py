"""Evaluation: every sample of a split exactly once, over any number of processes.

Shape legend: N samples of the split, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from ..methods.base import Output
from ..tasks.base import Task
from ..tasks.batch import Batch, Split
from .model import Adapted

Predict = Callable[[Batch], Output]
Feeding = Callable[[Split, Sequence[Tensor]], Iterable[Batch]]


def take(split: Split, chunks: Sequence[Tensor]) -> Iterable[Batch]:
    """Feed a split that is decoded already."""
    return (split.take(rows) for rows in chunks)


@dataclass
class Evaluation:
    """Scores of a split in the split's own order.

    Attributes:
        split: its name.
        scores_NC: fp32 on the CPU.
        labels_N: int64.
        metrics: name -> value.
        seconds: wall time.

    """

    split: str
    scores_NC: Tensor
    labels_N: Tensor
    metrics: dict[str, float]
    seconds: float


@torch.no_grad()
def evaluate(
    model: Adapted,
    predict: Predict,
    task: Task,
    split: Split,
    batch_size: int,
    accelerator: Accelerator,
    feed: Feeding = take,
) -> Evaluation:
    """Score a split with dropout off.

    Args:
        model: put in eval mode for the time of the call.
        predict: a batch on the device -> output.
        task: gives the metrics.
        split: what is scored.
        batch_size: samples at a time in each process; the result does not depend on it.
        accelerator: processes share the samples in turn.
        feed: (split, chunks of rows) -> a batch per chunk.

    """
    start = time.perf_counter()
    was_training = model.training
    model.eval()
    world, rank = accelerator.num_processes, accelerator.process_index
    total = len(split)
    share = -(-total // world)
    mine = torch.arange(min(rank * share, total), min((rank + 1) * share, total))
    parts = []
    chunks = list(mine.split(batch_size)) if len(mine) else []
    for batch in feed(split, chunks):
        with accelerator.autocast():
            output = predict(batch.to(accelerator.device))
        parts.append(model.method.scores(output).float())
    classes = len(task.labels)
    scores_NC = torch.cat(parts) if parts else torch.zeros(0, classes, device=accelerator.device)
    if world > 1:
        padded = torch.full((share, classes), float("nan"), device=accelerator.device)
        padded[: len(mine)] = scores_NC
        gathered = accelerator.gather(padded)
        assert isinstance(gathered, Tensor)
        scores_NC = gathered[:total]
    model.train(was_training)
    scores_NC = scores_NC.cpu()
    metrics = task.metrics(scores_NC, split.labels.cpu())
    seconds = time.perf_counter() - start
    return Evaluation(split.name, scores_NC, split.labels.cpu(), metrics, seconds)
