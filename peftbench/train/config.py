"""Settings of the training loop."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from .. import spec
from ..errors import ConfigError
from .augment import Augment


@dataclass(frozen=True)
class Trainer:
    """How a model trains. Learning rates are per optimiser step, weight decay is decoupled.

    Attributes:
        epochs: passes over the split.
        max_steps: stop after so many optimiser steps; None: no limit.
        batch_size: samples per optimiser step over all processes.
        accumulate: a batch is computed in so many parts per process.
        eval_every: epochs between two scorings of val; the last epoch is always scored.
        eval_batch_size: samples at a time when nothing is kept for a backward pass.
        length_window: so many batches of texts are drawn together and cut by length; 0: batches
            are drawn one by one, whatever the lengths.
        packing: texts that a decoder learns to write are put together into rows of so many tokens,
            without attention from one to another; a sample is then a row. None: one text a row.
        drop_last: drop the last, smaller batch of an epoch.
        optimizer: adamw or sgd.
        lr: peak learning rate.
        weight_decay: decoupled (AdamW) or coupled (SGD, as torch has it).
        decay: ``matrices`` decays tensors with more than one axis, ``all`` everything.
        betas: of AdamW.
        momentum: of SGD.
        schedule: timm's cosine, a straight fall, or constant (after the warm-up).
        schedule_per: the learning rate moves per epoch (timm's habit) or per step.
        warmup_epochs: linear rise, counted inside the epochs.
        warmup_steps: length of the rise in steps, in place of warmup_epochs.
        warmup_ratio: the same as a share of all steps.
        warmup_lr: where it rises from.
        min_lr: where cosine and straight fall end.
        grad_clip: largest gradient norm; None: no clipping.
        label_smoothing: of the task's cross entropy.
        augment: changes to training images.
        drop_path: stochastic depth of the last block, rising linearly from 0 at the first.
        ema: decay per step of an average of all trained tensors, which is what is evaluated and
            stored; None: no average.
        precision: fp32, or autocast to bf16 or fp16.
        checkpointing: recompute blocks in the backward pass.
        compile: torch.compile of the whole model as one graph.
        cache_features: compute features once where nothing changes them; exact.
        device: auto, cpu, cuda or cuda:N.
        threads: of a CPU. None: what OMP_NUM_THREADS says, else one on a machine of up to two
            cores, where threads that wait for each other cost more than the second core brings as
            soon as anything else runs, else torch's own number.
        workers: processes that decode images ahead. None: up to 8, none on up to two cores.
        log_every: steps between lines of the training log.
        save_every_s: seconds between saved states.
        per_task: task -> settings of this trainer that hold on that task alone.

    """

    epochs: int = 4
    max_steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    eval_every: int = 1
    eval_batch_size: int = 128
    length_window: int = 8
    packing: int | None = None
    drop_last: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 5e-3
    weight_decay: float = 1e-4
    decay: Literal["matrices", "all"] = "matrices"
    betas: tuple[float, ...] = (0.9, 0.999)
    momentum: float = 0.9
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    schedule_per: Literal["epoch", "step"] = "step"
    warmup_epochs: int = 1
    warmup_steps: int | None = None
    warmup_ratio: float | None = None
    warmup_lr: float = 1e-7
    min_lr: float = 1e-8
    grad_clip: float | None = None
    label_smoothing: float = 0.0
    augment: Augment = field(default_factory=Augment)
    drop_path: float = 0.0
    ema: float | None = None
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpointing: bool = False
    compile: bool = False
    cache_features: bool = True
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    log_every: int = 10
    save_every_s: float = 30.0
    per_task: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "epochs",
            "batch_size",
            "accumulate",
            "eval_every",
            "eval_batch_size",
            "log_every",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"trainer.{name}: {getattr(self, name)} must be at least 1")
        for name, value in vars(self).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"trainer.{name}: {value} is not a finite number")
        if self.schedule_per == "epoch" and self.warmup_epochs >= self.epochs:
            raise ConfigError(
                f"trainer.warmup_epochs: {self.warmup_epochs} of {self.epochs} epochs leave none "
                "at the learning rate; allowed with schedule_per=epoch: fewer than trainer.epochs"
            )
        self._check_warmup()
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"trainer.threads: {self.threads} must be at least 1, or null")
        if self.max_steps is not None and self.max_steps < 1:
            raise ConfigError(f"trainer.max_steps: {self.max_steps} must be at least 1, or null")
        for name in (
            *("lr", "weight_decay", "warmup_epochs", "warmup_lr", "min_lr"),
            *("momentum", "save_every_s", "length_window"),
        ):
            if getattr(self, name) < 0:
                raise ConfigError(f"trainer.{name}: {getattr(self, name)} must not be negative")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ConfigError(f"trainer.betas: {list(self.betas)} must be two numbers in [0, 1)")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"trainer.label_smoothing: {self.label_smoothing} not in [0, 1)")
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"trainer.drop_path: {self.drop_path} not in [0, 1)")
        if self.packing is not None and self.packing < 1:
            raise ConfigError(f"trainer.packing: {self.packing} must be at least 1, or null")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ConfigError(f"trainer.ema: {self.ema} not in (0, 1), or null")
        if self.workers is not None and self.workers < 0:
            raise ConfigError(f"trainer.workers: {self.workers} must not be negative, or null")
        if self.grad_clip is not None and self.grad_clip <= 0:
            raise ConfigError(f"trainer.grad_clip: {self.grad_clip} must be above 0, or null")
        for task in self.per_task:
            self.for_task(task)

    def _check_warmup(self) -> None:
        given = [n for n in ("warmup_steps", "warmup_ratio") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ConfigError("trainer.warmup_steps, trainer.warmup_ratio: one of them, not both")
        if given and self.schedule_per == "epoch":
            raise ConfigError(
                f"trainer.{given[0]}: it counts steps; with trainer.schedule_per=step"
            )
        if self.warmup_steps is not None and self.warmup_steps < 0:
            raise ConfigError(f"trainer.warmup_steps: {self.warmup_steps} must not be negative")
        if self.warmup_ratio is not None and not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"trainer.warmup_ratio: {self.warmup_ratio} not in [0, 1), or null")

    def for_task(self, task: str, chosen: Collection[str] = ()) -> Trainer:
        """Return the settings that hold on a task; nothing is per task in them any more.

        Args:
            task: the task's name.
            chosen: settings that somebody chose by hand, which win over the table.

        Raises:
            ConfigError: the table has a setting that does not exist, or of a wrong type or value.

        """
        key = f"trainer.per_task.{task}"
        given = {n: v for n, v in self.per_task.get(task, {}).items() if n not in chosen}
        if "per_task" in given:
            raise ConfigError(f"{key}.per_task: a table within a table has no meaning")
        return replace(self, per_task={}, **spec.check_fields(Trainer, given, key))
