"""Every sample of a split is scored once, whatever the number of processes."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from peftbench.methods.base import Method
from peftbench.tasks.base import Classification
from peftbench.tasks.batch import Batch, Split
from peftbench.train.evaluate import evaluate

CPU = torch.device("cpu")


class Model(nn.Module):
    """Something that is put in eval mode, with a method."""

    method = Method()


def task(count: int) -> Classification:
    splits, at = {}, 0
    for name in ("train", "val", "test"):
        ids = torch.arange(at, at + count)
        splits[name] = Split(name, {"x": ids.float()}, ids % 2, ids)
        at += count
    return Classification("parity", ("even", "odd"), splits, {"task": "parity"})


def predict(batch: Batch, rows: Tensor) -> Tensor:
    x_B = batch.inputs["x"]
    return torch.stack([x_B, -x_B], dim=1)


@pytest.mark.parametrize(("count", "world"), [(5, 4), (9, 8), (3, 5), (8, 3), (6, 1)])
def test_more_processes_than_samples_for_all(count: int, world: int) -> None:
    """Each rank is played in turn; the last pass gathers what all of them computed."""
    data = task(count)
    parts: list[Tensor] = []
    shares: dict[int, Tensor] = {}

    def gather(mine: Tensor) -> Tensor:
        shares[len(shares)] = mine
        return torch.cat(parts or [mine] * world)

    for rank in range(world):
        process = SimpleNamespace(
            num_processes=world,
            process_index=rank,
            device=CPU,
            autocast=nullcontext,
            gather=gather,
        )
        found = evaluate(Model(), predict, data, data.split("val"), 2, process)  # type: ignore[arg-type]
    parts = list(shares.values())
    if world > 1:
        found = evaluate(Model(), predict, data, data.split("val"), 2, process)  # type: ignore[arg-type]
    expected = predict(data.split("val").take(torch.arange(count)), torch.arange(count))
    assert torch.equal(found.scores_NC, expected)
