"""Interleaved timing: every round runs every row once, and ratios are taken inside a round."""

from __future__ import annotations

import math
import statistics
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor

from ..edits import Entries
from ..train.model import Adapted
from .cost import counted_flops, saved_bytes
from .rows import Peer, Row
from .subjects import Subject


@dataclass(frozen=True)
class Interval:
    """A median with the distribution-free 95% interval of a median (order statistics)."""

    median: float
    low: float
    high: float


def median_interval(values: Sequence[float]) -> Interval:
    """Return the median and the ranks that hold it with at least 95% confidence (sign test).

    Below six values no pair of ranks reaches 95%: the whole range is given.
    """
    ordered, n = sorted(values), len(values)
    below, rank = 0.0, 0
    while rank < n // 2 and below + math.comb(n, rank) / 2**n <= 0.025:
        below += math.comb(n, rank) / 2**n
        rank += 1
    edge = max(rank - 1, 0)
    return Interval(statistics.median(ordered), ordered[edge], ordered[n - 1 - edge])


def paired(values: Sequence[float], others: Sequence[float]) -> Interval:
    """Return the median of the ratios of measurements of the same round."""
    return median_interval([a / b for a, b in zip(values, others, strict=True)])


@dataclass
class Times:
    """Seconds of every round: the pass (forward, and backward where it trains), and the step."""

    passes: list[float] = field(default_factory=list)
    steps: list[float] = field(default_factory=list)


@dataclass
class Clock:
    """Runs steps of rows on one batch and times them.

    Attributes:
        subject: whose batch.
        device: where.
        dtype: of the frozen weights; below fp32 passes run under autocast.
        read: gives the time in seconds; None: wall time.

    """

    subject: Subject
    device: torch.device
    dtype: torch.dtype
    read: Callable[[], float] | None = None

    def __post_init__(self) -> None:
        self.inputs, self.labels = self.subject.inputs(self.device, self.dtype)
        self.context = self.subject.context(self.device)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context of a forward pass."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)

    def now(self) -> float:
        """Return the time when everything asked for so far is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return (self.read or time.perf_counter)()

    def forward(self, row: Row) -> Tensor:
        """Return the loss of a row."""
        with self.autocast():
            return row.losses(self.inputs, self.labels, self.context)

    def one_pass(self, row: Row) -> None:
        """Run forward, and backward where the row trains."""
        if not row.trains:
            with torch.no_grad():
                self.forward(row)
            return
        self.forward(row).backward()

    def step(self, row: Row) -> tuple[float, float]:
        """Run one step; return (pass, step) in seconds.

        Forward, backward, AdamW, gradients dropped, and what a method writes into its network.
        """
        start = self.now()
        self.one_pass(row)
        middle = self.now()
        if row.trains:
            if row.optimizer is None:
                row.optimizer = torch.optim.AdamW(row.model.trainable().values(), lr=1e-4)
            row.optimizer.step()
            row.optimizer.zero_grad(set_to_none=True)
            if isinstance(row.model, Adapted):
                row.model.delta.sync()
            middle_end = self.now()
            return middle - start, middle_end - start
        return middle - start, middle - start

    def flops(self, row: Row) -> float:
        """Return FLOPs of a pass (forward, backward) by torch's counter."""
        found = counted_flops(lambda: self.one_pass(row))
        self.drop(row)
        return found

    def memory(self, row: Row) -> int:
        """Return bytes: on a GPU the peak of a step beyond what was allocated before it; else
        what the forward pass keeps for the backward pass.
        """
        if self.device.type == "cuda":
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.step(row)
            return int(torch.cuda.max_memory_allocated(self.device) - before)
        if not row.trains:
            return 0
        return saved_bytes(row.model, lambda: self.forward(row))

    def dense(self, row: Row) -> int | None:
        """Return how many gradients of whole tensors are alive at once in a backward pass, at most.

        Counted where entries of tensors train, at every moment when such a gradient is complete;
        None for other rows.
        """
        model = row.model
        edits = [e for e in model.delta if isinstance(e, Entries)] if _ours(model) else []
        if not edits:
            return None
        alive: list[weakref.ref[Tensor]] = []
        most = 0

        def see(gradient: Tensor) -> None:
            nonlocal most
            alive.append(weakref.ref(gradient))
            whole = sum(e.tensor.grad is not None for e in edits)
            most = max(most, whole + sum(ref() is not None for ref in alive))

        for edit in edits:
            edit.observer = see
        self.one_pass(row)
        for edit in edits:
            edit.observer = None
        self.drop(row)
        return most

    @staticmethod
    def state(row: Row) -> int:
        """Return how many numbers an optimiser keeps, counters of steps left out."""
        kept = row.optimizer.state.values() if row.optimizer is not None else ()
        return sum(t.numel() for s in kept for t in s.values() if torch.is_tensor(t) and t.dim())

    @staticmethod
    def drop(row: Row) -> None:
        """Drop the gradients of a row."""
        for parameter in row.model.trainable().values():
            parameter.grad = None


def _ours(model: Adapted | Peer) -> TypeGuard[Adapted]:
    return isinstance(model, Adapted)


def interleave(clock: Clock, rows: Sequence[Row], rounds: int, warmup: int = 2) -> list[Times]:
    """Time ``rounds`` rounds of every row, after a warm-up; every other round runs backwards."""
    for _ in range(warmup):
        for row in rows:
            clock.step(row)
    times = [Times() for _ in rows]
    for turn in range(rounds):
        order = range(len(rows)) if turn % 2 == 0 else reversed(range(len(rows)))
        for i in order:
            seconds, whole = clock.step(rows[i])
            times[i].passes.append(seconds)
            times[i].steps.append(whole)
    return times
