"""The training loop: one fit of one model on one split.

Everything random is a pure function of (seed, stream, step), so a run continues from its step, and
the order of samples does not depend on the number of processes or parts a batch is computed in.
Shape legend: R rows of a global batch, b rows of one part.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
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
from ..tasks.packed_text import pack
from . import state as states
from .average import AVERAGE, Average
from .config import Trainer
from .engine import any_process, sum_gathered, sum_over_processes, wrapped
from .evaluate import Evaluation, evaluate, outcome
from .features import FeatureCache, cacheable
from .feed import Feed, batches, kept, needed, resolve_workers
from .flops import count_sample
from .hooks import FitReport, Hooks, Interrupted
from .model import Adapted
from .optim import Schedule, make_optimizer
from .order import Order
from .sight import Sight
from .start import prepare


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
        self.workers = resolve_workers(cfg.workers)
        if cfg.packing is not None:
            split = pack(split, cfg.packing, seed)
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
        self._decoded: dict[str, Split] = {}
        self.extra_tensors: dict[str, Tensor] = {}
        self._prepare()
        if not cfg.augment.active:
            split = self._seen(split)
        self.feed = Feed(
            split,
            preprocess,
            cfg.augment,
            task.head or 0,
            seed,
            accelerator.device,
            self.workers,
        )
        self.split = self.feed.split
        self.order = Order(split, cfg, seed)
        unchanging = cfg.cache_features and not self.feed.random and cacheable(model)
        self.cache = FeatureCache() if unchanging else None
        self._saved_at = time.monotonic()

    def _prepare(self) -> None:
        model, cfg = self.model, self.cfg
        model.to(self.accelerator.device)
        model.backbone.anatomy.set_drop_path(cfg.drop_path)
        model.checkpointing(cfg.checkpointing)
        self.params = model.trainable()
        self.average = (
            Average(self.params, cfg.ema, model.delta.sync) if cfg.ema is not None else None
        )
        self.names = {id(p): n for n, p in self.params.items()}
        groups = model.method.param_groups(model.delta, model.heads)
        _check_groups(groups, self.params)
        self.optimizer = make_optimizer(groups, cfg)
        self.schedule = Schedule(self.optimizer, cfg, self.steps_per_epoch)
        if cfg.compile:
            torch.compiler.reset()  # graphs of earlier fits count against torch's limit
            model.compile(fullgraph=True)
        self.runner, self.stepper = wrapped(model, self.optimizer, self.accelerator)

    def resume(self, state: states.State) -> None:
        """Continue from a saved state of this phase."""
        apart = ("optimizer.", AVERAGE)
        own = {n: t for n, t in state.tensors.items() if not n.startswith(apart)}
        self.model.load_tensors(own)
        if self.average is not None:
            self.average.load(state.tensors)
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
            tensors.update(self.average.named() if self.average is not None else {})
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
        if self.step == 0:
            prepare(self)
        if self.report.sample_flops == 0:
            self.report.sample_flops, self.report.feature_flops = count_sample(self)
        self.feed.plan(self._plan())
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
        if self.average is not None:
            self.average.settle()
            self.average = None
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
        return self.order.batch(epoch, place)

    def _train_step(self, epoch: int, place: int) -> dict[str, float]:
        lr = self.schedule.set(self.step)
        rows_R = self.batch_index(epoch, place)
        self.report.samples += len(rows_R)
        rank = self.accelerator.process_index
        torch.manual_seed(noise.stream_seed(self.seed, "frozen", self.phase, self.step, rank))
        sums: dict[str, Tensor] = {}
        for a, part in enumerate(self._parts(len(rows_R))):
            more = a + 1 < self.cfg.accumulate
            with self.accelerator.no_sync(self.runner) if more else nullcontext():
                for name, value in self.part(self.step, rows_R, part).items():
                    sums[name] = sums[name] + value if name in sums else value
        if self.step == 0:
            check_gradients(self.params)
        sum_gathered(self.model, self.accelerator)
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
        if self.average is not None:
            self.average.update()
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

    def _parts(self, count: int) -> list[Tensor]:
        """Return the places (b,) in a batch of ``count`` that this process computes, per part."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        parts = torch.tensor_split(torch.arange(count), self.cfg.accumulate * world)
        return list(parts[rank::world])

    def _loads(self, rows_R: Tensor, part_b: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return rows of the split for a part, and what each is mixed with, if anything."""
        if len(part_b) == 0:
            part_b = torch.zeros(1, dtype=torch.long)
        opposite = rows_R[len(rows_R) - 1 - part_b] if self.cfg.augment.mixes else None
        return rows_R[part_b], opposite

    def _plan(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (epoch, rows) of everything that is left to load, in order."""
        for step in range(self.step, self.total_steps):
            epoch, place = divmod(step, self.steps_per_epoch)
            rows_R = self.batch_index(epoch, place)
            for part in self._parts(len(rows_R)):
                yield epoch, needed(*self._loads(rows_R, part))

    def part(self, step: int, rows_R: Tensor, part_b: Tensor) -> dict[str, Tensor]:
        """Run one part of a step's batch forward and backward; return its share of each term."""
        # fewer rows than processes: compute one that counts for nothing
        weight = 1.0 if len(part_b) else 0.0
        start = int(part_b[0]) if len(part_b) else 0
        epoch = step // self.steps_per_epoch
        batch = self.feed.batch(epoch, step, *self._loads(rows_R, part_b))
        batch.weights = self.order.weights(rows_R, part_b, batch)
        with noise.rows(self.seed, step + self.phase * 2**32, start, len(rows_R)):
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
                loss_B = self.task.per_sample_loss(logits.float(), batch.labels, smoothing)
                return loss_B if batch.weights is None else loss_B * batch.weights

            return self.model.method.losses(output, criterion)

    def forward(self, batch: Batch) -> Output:
        """Run the model on a raw batch, through cached features where there are any."""
        runner = self.runner if self.model.training else self.model
        if self.cache is not None:
            features_BD = self.cache.get(batch, lambda b: self.model.features(self.inputs(b)))
            return runner({}, features_BD=features_BD)
        return runner(self.inputs(batch))

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return what the network takes: images resized and normalised on the device.

        Images that augmentation has brought there already are left alone.
        """
        inputs = dict(batch.inputs)
        image = inputs.get("image")
        if self.preprocess is not None and image is not None and image.dtype == torch.uint8:
            inputs["image"] = self.preprocess(image)
        return inputs

    def evaluate(self, split: Split) -> Evaluation:
        """Score a split with the model as it is now, or with its average where one is kept."""

        def score(batch: Batch, rows: Tensor) -> Tensor:
            batch.inputs = self.inputs(batch)
            return outcome(self.model, self.task, self.forward, split, batch, rows)

        with self.average.shown() if self.average is not None else nullcontext():
            return evaluate(
                self.model,
                score,
                self.task,
                self._kept(split),
                self.cfg.eval_batch_size,
                self.accelerator,
                lambda split, chunks: batches(split, chunks, self.preprocess, self.workers),
            )

    def _seen(self, split: Split) -> Split:
        """Return a split with what a frozen vision encoder sees in place of its pictures."""
        anatomy = self.model.backbone.anatomy
        if anatomy.sight is None or not self.cfg.cache_features:
            return split
        assert self.preprocess is not None
        sight = Sight(
            anatomy.sight(), self.model.encode, self.preprocess, self.accelerator, self.workers
        )
        return sight.over(split, self.cfg.eval_batch_size)

    def stored(self) -> dict[str, Tensor]:
        """Return copies of what an artefact would store now: averages where they are kept."""
        with self.average.shown() if self.average is not None else nullcontext():
            return {name: tensor.clone() for name, tensor in self.model.tensors().items()}

    def _kept(self, split: Split) -> Split:
        """Return a split with its images decoded once, or seen once, however often it is scored."""
        if split.name not in self._decoded:
            split = self._seen(split)
            self._decoded[split.name] = kept(split, self.preprocess, self.workers)
        return self._decoded[split.name]


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
