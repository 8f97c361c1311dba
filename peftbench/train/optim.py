"""Optimiser and learning-rate schedule."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn

from ..errors import ConfigError
from ..methods.base import ParamGroup
from .config import Trainer


def make_optimizer(groups: Sequence[ParamGroup], cfg: Trainer) -> torch.optim.Optimizer:
    """Return the optimiser. Each group is cut in two by whether its tensors are decayed."""
    cuts = []
    for group in groups:
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in group.params.values():
            matrix = parameter.dim() > 1 or group.matrices or cfg.decay == "all"
            (decayed if matrix else plain).append(parameter)
        for params, decay in ((decayed, cfg.weight_decay * group.weight_decay), (plain, 0.0)):
            if params:
                cuts.append({"params": params, "lr": cfg.lr * group.lr, "weight_decay": decay})
    if cfg.optimizer == "sgd":
        return torch.optim.SGD(cuts, lr=cfg.lr, momentum=cfg.momentum)
    betas = (cfg.betas[0], cfg.betas[1])
    return torch.optim.AdamW(cuts, lr=cfg.lr, betas=betas)


class Schedule:
    """The learning rate as a pure function of the step, with linear warm-up.

    With ``schedule_per=epoch`` the rate moves at the start of each epoch, t = epoch; with ``step``
    t is the step, and lengths are epochs times steps per epoch. In the warm-up of w
    lr(t) = warmup_lr + t (lr - warmup_lr) / w. After it, ``cosine`` (timm's, no restart of the
    phase): lr(t) = min_lr + (lr - min_lr) (1 + cos(pi t / total)) / 2; ``linear``:
    lr(t) = min_lr + (lr - min_lr) (total - t) / (total - w), min_lr from the end on.

    Raises:
        ConfigError: the warm-up is as long as the fit.

    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, cfg: Trainer, steps_per_epoch: int
    ) -> None:
        self.optimizer, self.cfg, self.steps_per_epoch = optimizer, cfg, steps_per_epoch
        self.by_step = cfg.schedule_per == "step"
        unit = steps_per_epoch if self.by_step else 1
        self.total = cfg.epochs * unit
        self.warmup = _warmup(cfg, self.total, unit)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        logging.getLogger("timm.scheduler.cosine_lr").setLevel(logging.ERROR)  # one step is fine
        self.cosine = CosineLRScheduler(
            optimizer,
            t_initial=self.total,
            lr_min=cfg.min_lr,
            warmup_t=self.warmup,
            warmup_lr_init=cfg.warmup_lr,
            t_in_epochs=True,
        )

    def set(self, step: int) -> float:
        """Set the learning rate for optimiser step ``step`` (from 0); return the first group's."""
        t = step if self.by_step else step // self.steps_per_epoch
        if self.cfg.schedule == "cosine" or t < self.warmup:
            self.cosine.step(t)
        else:
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = self._after(t, peak)
        return float(self.optimizer.param_groups[0]["lr"])

    def _after(self, t: int, peak: float) -> float:
        """Return the rate of ``constant`` and ``linear`` after the warm-up."""
        if self.cfg.schedule == "constant":
            return peak
        left = max(0, self.total - t) / max(1, self.total - self.warmup)
        return self.cfg.min_lr + (peak - self.cfg.min_lr) * left


def _warmup(cfg: Trainer, total: int, unit: int) -> int:
    """Return the length of the warm-up in the schedule's units."""
    if cfg.warmup_ratio is not None:
        return math.ceil(cfg.warmup_ratio * total)
    if cfg.warmup_steps is None:
        return min(cfg.warmup_epochs, cfg.epochs) * unit
    if cfg.warmup_steps >= total:
        raise ConfigError(
            f"trainer.warmup_steps: {cfg.warmup_steps} of {total} steps leave none at the learning "
            "rate; fewer, or a share of them: trainer.warmup_steps=null trainer.warmup_ratio=0.1"
        )
    return cfg.warmup_steps
