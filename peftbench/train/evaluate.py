"""Evaluation: every sample of a split exactly once, over any number of processes.

Shape legend: N samples of the split, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from accelerate import Accelerator
from torch import Tensor

from ..methods.base import Output
from ..tasks.base import Task
from ..tasks.batch import Batch, Split
from ..tasks.token_task import TokenTask
from .model import Adapted

Score = Callable[[Batch, Tensor], Tensor]
"""(a batch on the device, its rows in the split) -> (B, K) what scoring keeps, fp32."""
Feeding = Callable[[Split, Sequence[Tensor]], Iterable[Batch]]


def take(split: Split, chunks: Sequence[Tensor]) -> Iterable[Batch]:
    """Feed a split that is decoded already."""
    return (split.take(rows) for rows in chunks)


@dataclass
class Evaluation:
    """Outcomes of a split in the split's own order.

    Attributes:
        split: its name.
        scores_NC: fp32 on the CPU: the network's outputs, or what else the task keeps of a sample.
        labels_N: int64, or fp32 values.
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
    score: Score,
    task: Task,
    split: Split,
    batch_size: int,
    accelerator: Accelerator,
    feed: Feeding = take,
) -> Evaluation:
    """Score a split with dropout off. Texts of like length are scored together.

    Args:
        model: put in eval mode for the time of the call.
        score: what is kept of a batch on the device.
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
    total, encoded = len(split), split.encoded
    order = torch.arange(total)
    if encoded is not None:
        order = encoded.lengths.argsort(stable=True, descending=True)
    share = -(-total // world)
    mine = order[rank::world]
    parts = []
    chunks = list(mine.split(batch_size)) if len(mine) else []
    for rows, batch in zip(chunks, feed(split, chunks), strict=True):
        with accelerator.autocast():
            parts.append(score(batch.to(accelerator.device), rows).float())
    width = task.columns
    found = torch.cat(parts) if parts else torch.zeros(0, width, device=accelerator.device)
    scores_NC = torch.empty(total, width)
    if world > 1:
        padded = torch.full((share, width), float("nan"), device=accelerator.device)
        padded[: len(mine)] = found
        gathered = accelerator.gather(padded)
        assert isinstance(gathered, Tensor)
        found = gathered.view(world, share, width).transpose(0, 1).reshape(-1, width)[:total]
    scores_NC[order] = found.cpu()
    model.train(was_training)
    metrics = task.measure(scores_NC, split)
    seconds = time.perf_counter() - start
    return Evaluation(split.name, scores_NC, split.labels.cpu(), metrics, seconds)


def outcome(
    model: Adapted,
    task: Task,
    forward: Callable[[Batch], Output],
    split: Split,
    batch: Batch,
    rows: Tensor,
) -> Tensor:
    """Return what scoring keeps of a batch, (B, K): the scores, or a loss and a written answer.

    Args:
        model: in eval mode.
        task: says what it is scored by.
        forward: a batch on the device -> output.
        split: that the batch was taken from.
        batch: on the device.
        rows: (B,) its places in the split.

    """
    if not isinstance(task, TokenTask):
        return model.method.scores(forward(batch))
    batch = replace(batch, inputs=model.encode(batch.inputs))
    output = forward(batch)
    return task.outcome(output.logits, batch.labels, _written(model, task, split, batch, rows))


def _written(model: Adapted, task: TokenTask, split: Split, batch: Batch, rows: Tensor) -> Tensor:
    """Return the answers to those rows that are answered, ids (B, G'), -1 elsewhere."""
    rows, device = rows.cpu(), batch.ids.device
    asked = task.answered(rows, split)
    if not task.longest_written or not asked.any():
        return torch.zeros(len(rows), 0, device=device)
    encoded, codec = split.encoded, task.codec
    assert encoded is not None
    here = asked.to(device)
    # what edits remember of the encoder's pass is of the whole batch
    if "encoded" in batch.inputs and asked.all():  # the source was read for the loss already
        prompts = {n: batch.inputs[n][here] for n in ("encoded", "attention_mask")}
    else:
        prompts = {name: t.to(device) for name, t in encoded.prompts(rows[asked]).items()}
    if "seen" in batch.inputs:
        prompts["seen"] = batch.inputs["seen"][here]
    found = model.write(prompts, codec.end, codec.pad, task.longest_written, num_beams=task.beams)
    written = torch.full((len(rows), found.shape[1]), -1, device=device)
    written[here] = found
    return written
