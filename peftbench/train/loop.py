"""The training loop: one fit of one model on one split.

Everything random is a pure function of (seed, stream, step), so a run continues from its step, and
the order of samples does not depend on the number of processes or parts a batch is computed in.
Shape legend: R rows of a global batch, b rows of one part.
"""

from __future__ import annotations

import contextlib
import math
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ..backbones.preprocess import Preprocess
from ..edits import noise
from ..errors import ConfigError, NoGradientError, NonFiniteError
from ..methods.base import Output
from ..tasks.base import Task
from ..tasks.batch import Batch, Split
from . import state as states
from .config import Trainer
from .engine import any_process, sum_over_processes
from .evaluate import Evaluation, evaluate
from .features import FeatureCache, cacheable
from .flops import count_sample
from .model import Adapted
from .optim import Schedule, make_optimizer


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
    """What a fit cost. Steps done before a resume are counted; their times are carried over."""

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


class Fitter:
    """One fit: model, data, optimiser, and the position in the run.

    Args:
        model: attached and ready; moved to the device.
        task: gives loss and metrics.
        split: what is trained on.
        preprocess: for images, applied on the device.
        cfg: settings.
        seed: of order and masks.
        accelerator: device, precision, processes.
        hooks: what the caller is told.
        folder: where states are written; None: nowhere.
        phase: which fit of the run this is.

    """

    def __init__(
        self,
        model: Adapted,
        task: Task,
        split: Split,
        preprocess: Preprocess | None,
        cfg: Trainer,
        seed: int,
        accelerator: Accelerator,
        hooks: Hooks | None = None,
        folder: Path | None = None,
        phase: int = 0,
    ) -> None:
        self.model, self.task, self.cfg, self.seed = model, task, cfg, seed
        self.preprocess, self.accelerator = preprocess, accelerator
        self.hooks, self.folder, self.phase = hooks or Hooks(), folder, phase
        self.split = split.to(accelerator.device)
        whole = len(split) // cfg.batch_size
        rest = 0 if cfg.drop_last else int(len(split) % cfg.batch_size > 0)
        self.steps_per_epoch = whole + rest
        if self.steps_per_epoch == 0:
            raise ConfigError(
                f"trainer.batch_size: {cfg.batch_size} with drop_last leaves no batch of the "
                f"{len(split)} samples of '{split.name}'"
            )
        self.total_steps = self.steps_per_epoch * cfg.epochs
        if cfg.max_steps is not None:
            self.total_steps = min(self.total_steps, cfg.max_steps)
        self.step = 0
        self.report = FitReport()
        self.info: dict[str, Any] = {}
        self.extra_tensors: dict[str, Tensor] = {}
        self.cache = FeatureCache() if cfg.cache_features and cacheable(model) else None
        self._prepare()
        self._saved_at = time.monotonic()

    def _prepare(self) -> None:
        model, cfg = self.model, self.cfg
        model.to(self.accelerator.device)
        model.checkpointing(cfg.checkpointing)
        self.params = model.trainable()
        self.names = {id(p): n for n, p in self.params.items()}
        groups = model.method.param_groups(model.delta, model.heads)
        _check_groups(groups, self.params)
        self.optimizer = make_optimizer(groups, cfg)
        self.schedule = Schedule(self.optimizer, cfg, self.steps_per_epoch)
        if cfg.compile:
            torch.compiler.reset()  # graphs of earlier fits count against torch's limit
            model.compile(fullgraph=True)
        self.runner, self.stepper = self.accelerator.prepare(model, self.optimizer)

    def resume(self, state: states.State) -> None:
        """Continue from a saved state of this phase."""
        own = {n: t for n, t in state.tensors.items() if not n.startswith("optimizer.")}
        self.model.load_tensors(own)
        states.unpack_optimizer(self.optimizer, state.tensors, self.params)
        scaler = self.accelerator.scaler
        if scaler is not None and "scaler" in state.info:
            scaler.load_state_dict(state.info["scaler"])
        self.step = state.step
        for name, value in state.info["report"].items():
            setattr(self.report, name, value)

    def save(self) -> None:
        """Write the state, from the main process; refuse to overwrite a good one with NaNs."""
        if self.folder is not None and self.accelerator.is_main_process:
            tensors = dict(self.model.tensors())
            tensors.update(states.pack_optimizer(self.optimizer, self.names))
            tensors.update(self.extra_tensors)
            info: dict[str, Any] = {"extra": self.info, "report": vars(self.report)}
            if self.accelerator.scaler is not None:
                info["scaler"] = self.accelerator.scaler.state_dict()
            states.save(self.folder, states.State(self.phase, self.step, tensors, info))
        self._saved_at = time.monotonic()

    def run(self) -> FitReport:
        """Train until the last step; return what it cost.

        Raises:
            Interrupted: the caller asked to stop; the state is written.
            NoGradientError: a trainable tensor got no gradient in the first backward pass.
            NonFiniteError: a loss is not finite; the last good state stays on disk.

        """
        self.model.train()
        if self.report.sample_flops == 0:
            self.report.sample_flops, self.report.feature_flops = count_sample(self)
        epoch_start = time.perf_counter()
        while self.step < self.total_steps:
            epoch, place = divmod(self.step, self.steps_per_epoch)
            start = time.perf_counter()
            terms = self._train_step(epoch, place)
            self._after_step(epoch, terms, time.perf_counter() - start)
            if place + 1 == self.steps_per_epoch or self.step == self.total_steps:
                self.report.epoch_seconds.append(time.perf_counter() - epoch_start)
                self.hooks.epoch_end(self, epoch, self.step)
                self.model.train()
                epoch_start = time.perf_counter()
            self._save_or_stop()
        return self.report

    def _after_step(self, epoch: int, terms: dict[str, float], seconds: float) -> None:
        self.step += 1
        report = self.report
        report.steps = self.step
        report.seconds += seconds
        report.step_seconds.append(seconds)
        last = self.step == self.total_steps
        if self.step % self.cfg.log_every == 0 or last or self.step == 1:
            self.hooks.log(self.step, epoch, "train", terms)
        rate = report.samples / report.seconds
        self.hooks.progress(
            self.step, self.total_steps, {"loss": terms["loss"], "samples_per_s": rate}
        )

    def _save_or_stop(self) -> None:
        """Save where it is time to; after an epoch's end has been dealt with, so none is lost."""
        if any_process(self.hooks.should_stop(), self.accelerator):
            self.save()
            raise Interrupted
        if self.folder is not None:
            due = time.monotonic() - self._saved_at >= self.cfg.save_every_s
            if any_process(due, self.accelerator):
                self.save()

    def batch_index(self, epoch: int, place: int) -> Tensor:
        """Return the rows (R,) of the split that make the global batch ``place`` of ``epoch``."""
        generator = torch.Generator().manual_seed(noise.stream_seed(self.seed, "order", epoch))
        order = torch.randperm(len(self.split), generator=generator)
        return order[place * self.cfg.batch_size : (place + 1) * self.cfg.batch_size]

    def _train_step(self, epoch: int, place: int) -> dict[str, float]:
        lr = self.schedule.set(self.step)
        rows_R = self.batch_index(epoch, place)
        self.report.samples += len(rows_R)
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = torch.tensor_split(torch.arange(len(rows_R)), self.cfg.accumulate * world)
        torch.manual_seed(noise.stream_seed(self.seed, "frozen", self.phase, self.step, rank))
        sums: dict[str, Tensor] = {}
        for a in range(self.cfg.accumulate):
            part = parts[a * world + rank]
            more = a + 1 < self.cfg.accumulate
            with self.accelerator.no_sync(self.runner) if more else nullcontext():
                for name, value in self._part(rows_R, part).items():
                    sums[name] = sums[name] + value if name in sums else value
        if self.step == 0:
            check_gradients(self.params)
        totals = sum_over_processes(list(sums.values()), self.accelerator)
        terms = dict(zip(sums, totals.tolist(), strict=True))
        terms["loss"] = sum(terms.values())
        if not math.isfinite(terms["loss"]):
            self._refuse_loss(terms, rows_R)
        if self.cfg.grad_clip is not None:
            norm = self.accelerator.clip_grad_norm_(self.params.values(), self.cfg.grad_clip)
            terms["grad_norm"] = float(norm)
        self.stepper.step()
        self.stepper.zero_grad(set_to_none=True)
        self.model.delta.sync()
        terms["lr"] = lr
        return terms

    def _refuse_loss(self, terms: Mapping[str, float], rows_R: Tensor) -> NoReturn:
        """Stop before the update; the state that the step started from is still good: keep it."""
        with contextlib.suppress(NonFiniteError):  # or it was not: then an older one stays
            self.save()
        ids = self.split.ids[rows_R.to(self.split.ids.device)].tolist()
        raise NonFiniteError(
            f"loss is {terms['loss']} at step {self.step} (terms {dict(terms)}); sample ids {ids}; "
            "nothing was updated, and the last good state is kept"
        )

    def _part(self, rows_R: Tensor, part_b: Tensor) -> dict[str, Tensor]:
        """Run one part forward and backward; return its share of each loss term of the batch."""
        weight = 1.0
        start = int(part_b[0]) if len(part_b) else 0
        if len(part_b) == 0:  # fewer rows than processes: compute one that counts for nothing
            part_b, weight = torch.zeros(1, dtype=torch.long), 0.0
        batch = self.split.take(rows_R[part_b].to(self.split.labels.device))
        with noise.rows(self.seed, self.step + self.phase * 2**32, start, len(rows_R)):
            terms = self.losses(batch)
            shares = {n: weight * t.float().sum() / len(rows_R) for n, t in terms.items()}
            total = torch.stack(list(shares.values())).sum()
            self.accelerator.backward(total * self.accelerator.num_processes)
        return {n: s.detach() for n, s in shares.items()}

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Return the method's loss terms per sample for a batch on the device."""
        with self.accelerator.autocast():
            output = self.forward(batch)

            def criterion(logits: Tensor) -> Tensor:
                smoothing = self.cfg.label_smoothing
                return self.task.per_sample_loss(logits.float(), batch.labels, smoothing)

            return self.model.method.losses(output, criterion)

    def forward(self, batch: Batch) -> Output:
        """Run the model on a raw batch, through cached features where there are any."""
        runner = self.runner if self.model.training else self.model
        if self.cache is not None:
            features_BD = self.cache.get(batch, lambda b: self.model.features(self.inputs(b)))
            return runner({}, features_BD=features_BD)
        return runner(self.inputs(batch))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the network takes: images resized and normalised on the device."""
        inputs = dict(batch.inputs)
        if self.preprocess is not None and "image" in inputs:
            inputs["image"] = self.preprocess(inputs["image"])
        return inputs

    def evaluate(self, split: Split) -> Evaluation:
        """Score a split with the model as it is now."""
        size = self.cfg.eval_batch_size
        return evaluate(self.model, self.forward, self.task, split, size, self.accelerator)


def check_gradients(params: Mapping[str, nn.Parameter]) -> None:
    """Raise :class:`NoGradientError` naming every trainable tensor without a gradient."""
    without = [name for name, p in params.items() if p.grad is None]
    if without:
        raise NoGradientError(
            "no gradient reached these trainable tensors in the first backward pass: "
            + ", ".join(without)
        )


def _check_groups(groups: list, params: Mapping[str, nn.Parameter]) -> None:
    names = [n for g in groups for n in g.params]
    if sorted(names) != sorted(params):
        odd = sorted(set(names) ^ set(params)) or sorted({n for n in names if names.count(n) > 1})
        raise ConfigError(f"parameter groups must hold every trainable tensor once; wrong: {odd}")
