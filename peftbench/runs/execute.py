"""One run from settings to result: fits under the protocol, evaluation, artefact, costs.

A run is one or two fits (phases). Steps are counted through both in ``metrics.jsonl``. Everything
that a finished phase found out travels in the saved state, so a killed run loses no figure.
"""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from ..backbones.backbone import Backbone
from ..errors import ConfigError, IncompatibleError, NonFiniteError
from ..files import write_json
from ..methods.base import Method
from ..tasks.base import Task
from ..tasks.batch import Split
from ..tasks.captions import CaptionUse
from ..tasks.interval import wilson
from ..tasks.wording import TextUse
from ..train import state as states
from ..train.artefact import save_adapter
from ..train.engine import device_name, make_accelerator, peak_memory, reset_peak_memory
from ..train.evaluate import Evaluation
from ..train.hooks import FitReport, Hooks
from ..train.loop import Fitter
from ..train.model import Adapted
from . import resident, trackers
from .environment import environment
from .flagged import flagged
from .history import Row
from .process import is_main, warn
from .progress import Progress
from .settings import Protocol, Settings
from .store import MetricsLog, RunDir

SCHEMA = 1


@dataclass(frozen=True)
class Phase:
    """One fit: on which splits, and which split is scored after every epoch."""

    name: str
    fit: tuple[str, ...]
    watch: str | None


def phases(protocol: Protocol) -> list[Phase]:
    """Return the fits that a protocol asks for."""
    if protocol.select == "best_test":
        return [Phase("fit", ("train", "val"), "test")]
    first = Phase("select", ("train",), "val")
    return [first, Phase("final", ("train", "val"), None)] if protocol.final_fit else [first]


def execute(
    settings: Settings, run_dir: RunDir, sources: Mapping[str, Path] | None = None
) -> dict[str, Any]:
    """Train, evaluate and store one run; return the content of ``result.json``.

    Args:
        settings: of the run.
        run_dir: where it lies.
        sources: adapter folders of the runs that the method starts from.

    Raises:
        Interrupted: the run was told to stop; its state is written.

    """
    try:
        return _Execution(settings, run_dir, sources or {}).result()
    except BaseException:
        resident.clear()  # its edits may still be in the network, which the next run would share
        raise


def check_pair(settings: Settings) -> None:
    """Refuse combinations that have no meaning, before a weight or a sample is read.

    Raises:
        IncompatibleError: says which two do not go together, and why.
    """
    backbone, data = settings.backbone, settings.data
    if backbone.takes != data.takes:
        raise IncompatibleError(
            f"backbone={settings.names['backbone']} reads {backbone.takes}, and "
            f"data={settings.names['data']} is {data.takes}"
        )
    settings.method.check(backbone.family)


def method_on(method: Method, task: Any, backbone: Backbone) -> Method:
    """Return the method as it is on a task: told what the task is in the network's own ids."""
    description = getattr(task, "description", "")
    if backbone.codec is None or not description:
        return method
    return method.on_task(tuple(backbone.codec.ids([description], special=True)[0]))


class _Execution:
    """The course of one run."""

    def __init__(self, settings: Settings, run_dir: RunDir, sources: Mapping[str, Path]) -> None:
        self.settings, self.run_dir = settings, run_dir
        check_pair(settings)
        self.protocol: Protocol = settings.protocol
        self.accelerator: Accelerator = make_accelerator(settings.trainer)
        reset_peak_memory(self.accelerator.device)
        loaded = resident.loaded(settings)
        for text in loaded.manifest.get("deviations", ()):
            warn(f"task '{loaded.name}' is not the published one: {text}")
        self.backbone = resident.backbone(settings)
        self.base_sha256 = self.backbone.sha256
        self.task: Task = resident.task(settings)
        self.text = TextUse.of(loaded, self.backbone.codec)
        self.captions = CaptionUse.of(loaded)
        self.method = method_on(settings.method.staged(sources), loaded, self.backbone)
        self.log = MetricsLog(run_dir.metrics) if is_main() else None
        self.tracker = trackers.make(settings.tracker)
        self.phases = phases(self.protocol)
        self.judged = "test" if self.protocol.reads_test else "val"
        self.found: dict[str, Any] = {"metrics": {}, "reports": [], "eval_s": 0.0}
        self.started = time.monotonic()
        self.stop = threading.Event()
        self.offset = 0
        self.best: dict[str, Tensor] = {}

    def result(self) -> dict[str, Any]:
        """Go through what is left of the run and return the content of ``result.json``."""
        state = self._saved_state()
        first = state.phase if state else 0
        summary: dict[str, Any] = {}
        self.tracker.start(self.run_dir.run_id, self.settings.plain, self.run_dir.path)
        try:
            with flagged(self.stop):
                for number in range(first, len(self.phases)):
                    model = self._fit(number, state if number == first else None)
                    if number + 1 < len(self.phases):
                        model.release()
                        self.accelerator.free_memory()  # it holds the optimiser, moments and all
                summary = self._finish(model)
            return summary
        finally:
            self.tracker.finish(summary)
            if self.log is not None:
                self.log.close()

    def _saved_state(self) -> states.State | None:
        state, problems = states.load(self.run_dir.state)
        for problem in problems:
            warn(f"{problem}; an earlier state is used, or the run starts anew")
        if state is not None:
            if state.info["extra"]["base_sha256"] != self.base_sha256:
                raise ConfigError(
                    f"backbone: the weights have changed since {self.run_dir.state} was saved; put "
                    f"the old ones back, or remove {self.run_dir.path} to start anew"
                )
            self.found = state.info["extra"]["found"]
            self.offset = state.info["extra"]["offset"]
        if self.log is not None:
            self.log.truncate_after(-1 if state is None else self.offset + state.step)
        return state

    def _fit(self, number: int, state: states.State | None) -> Adapted:
        settings, phase = self.settings, self.phases[number]
        model = Adapted(self.backbone, self.method, self.task.head, settings.seed)
        parts = [self.task.split(name) for name in phase.fit]
        split = parts[0] if len(parts) == 1 else Split.concat("+".join(phase.fit), parts)
        fitter = Fitter(
            model,
            self.task,
            split,
            self.backbone.preprocess,
            settings.trainer,
            settings.seed,
            self.accelerator,
            folder=self.run_dir.state,
            phase=number,
        )
        if number > 0 and "stop_epoch" in self.found:
            limit = self.found["stop_epoch"] * fitter.steps_per_epoch
            fitter.total_steps = min(fitter.total_steps, limit)
        if state is not None:
            self.best = _best_of(state)
            state.tensors = {k: v for k, v in state.tensors.items() if not k.startswith("best.")}
            fitter.resume(state)
        fitter.info = {
            "found": self.found,
            "offset": self.offset,
            "base_sha256": self.base_sha256,
        }
        fitter.extra_tensors = self.best
        if state is None and number > 0:
            fitter.save()
        with Progress(self._all_steps(fitter, number), done=self.offset + fitter.step) as bar:
            fitter.hooks = self._hooks(phase, bar)
            report = fitter.run()
        self._close_phase(fitter, report, phase, number)
        return model

    def _all_steps(self, fitter: Fitter, number: int) -> int:
        later = len(self.phases) - number - 1
        return self.offset + fitter.total_steps * (1 + later)

    def _hooks(self, phase: Phase, bar: Progress) -> Hooks:
        batch = self.settings.trainer.batch_size

        def log(step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
            self._log(step, epoch, split, values)

        def progress(step: int, steps: int, values: Mapping[str, float]) -> None:
            bar.update(1, batch, {"loss": values["loss"]})

        def epoch_end(fitter: Fitter, epoch: int, step: int) -> None:
            due = (epoch + 1) % self.settings.trainer.eval_every == 0
            if phase.watch is not None and (due or step == fitter.total_steps):
                self._watch(fitter, phase.watch, epoch, step)

        return Hooks(log, progress, epoch_end, self.stop.is_set, warn)

    def _log(self, step: int, epoch: int, split: str, values: Mapping[str, float]) -> None:
        seconds = time.monotonic() - self.started
        if self.log is not None:
            self.log.log(self.offset + step, epoch, split, values, seconds)
        named = {f"{split}/{name}": value for name, value in values.items()}
        self.tracker.log(Row(self.offset + step, epoch, seconds, named))

    def _watch(self, fitter: Fitter, name: str, epoch: int, step: int) -> None:
        """Score a split after an epoch, and remember the best epoch where one is chosen."""
        scored = self._score(fitter, name)
        self._log(step, epoch, name, scored.metrics)
        self.found["metrics"][name] = scored.metrics
        if self.protocol.select == "last":
            self._keep(scored)
            return
        value = scored.metrics[self.task.primary]
        sign = 1 if self.task.higher_is_better else -1
        best = self.found.get("best", {}).get("value")
        if best is None or sign * value > sign * best:
            self._keep(scored)
            self.found["best"] = {"value": value, "epoch": epoch, "metrics": scored.metrics}
            if name == self.judged:
                self.found["best"]["interval"] = self.found["interval"]
            self.best.clear()
            self.best.update({f"best.{n}": t for n, t in fitter.stored().items()})

    def _score(self, fitter: Fitter, name: str) -> Evaluation:
        if name == "test":
            self.task.open_test()
            self.found["test_reads"] = self.found.get("test_reads", 0) + 1
        scored = fitter.evaluate(self.task.split(name))
        for figure, value in scored.metrics.items():
            if not math.isfinite(value):
                raise NonFiniteError(
                    f"{figure} on '{name}' is {value} after step {fitter.step}: the network's "
                    "outputs are not finite; a smaller trainer.lr or precision=fp32 may help"
                )
        self.found["eval_s"] += scored.seconds
        if name == self.judged:
            value = scored.metrics[self.task.primary]
            interval = self.task.interval(scored.scores_NC, self.task.split(name), value)
            self.found["interval"] = vars(interval)
        return scored

    def _keep(self, scored: Evaluation) -> None:
        """Write what the task leaves of a split besides figures: ``<kind>/<split>.json``."""
        if is_main():
            split = self.task.split(scored.split)
            for kind, value in self.task.leaves(scored.scores_NC, split).items():
                write_json(self.run_dir.path / kind / f"{scored.split}.json", value)

    def _close_phase(self, fitter: Fitter, report: FitReport, phase: Phase, number: int) -> None:
        about = {"phase": phase.name, "fit": list(phase.fit)}
        flops = report.flops(len(fitter.split))
        self.found["reports"].append({**about, **vars(report), "flops": flops})
        if phase.watch is not None and self.best:
            best, metrics = self.found["best"], self.found["metrics"]
            fitter.model.load_tensors({n.removeprefix("best."): t for n, t in self.best.items()})
            self.best.clear()
            self.found["stop_epoch"] = best["epoch"] + 1
            metrics[f"{phase.watch}_last_epoch"] = metrics[phase.watch]
            metrics[phase.watch] = best["metrics"]
            self.found["interval"] = best.get("interval", self.found.get("interval"))
        if number + 1 == len(self.phases) and phase.watch != self.judged:
            scored = self._score(fitter, self.judged)
            self._log(report.steps, fitter.cfg.epochs, self.judged, scored.metrics)
            self.found["metrics"][self.judged] = scored.metrics
            self._keep(scored)
        self.offset += report.steps

    def _finish(self, model: Adapted) -> dict[str, Any]:
        settings, task = self.settings, self.task
        counts = model.counts()
        size = 0
        if is_main():
            labels = task.labels if task.head is not None else None
            about = (labels, task.name, self.text, self.captions)
            size = save_adapter(self.run_dir.adapter, model, self.base_sha256, *about)
        model.release()
        metrics = self.found["metrics"]
        value = metrics[self.judged][task.primary]
        manifest = {**task.manifest, "sha256": task.manifest_sha256}
        sizes = {name: part["count"] for name, part in manifest["splits"].items()}
        counted = {name: sizes[name.removesuffix("_last_epoch")] for name in metrics}
        intervals = {
            name: {"accuracy": list(wilson(round(m["accuracy"] * counted[name]), counted[name]))}
            for name, m in metrics.items()
            if "accuracy" in m
        }
        own = self.found["interval"]
        bounds = [own["low"], own["high"]]
        intervals.setdefault(self.judged, {})[task.primary] = bounds
        return {
            "schema_version": SCHEMA,
            "run_id": self.run_dir.run_id,
            "status": "finished",
            "method": settings.names["method"],
            "backbone": settings.names["backbone"],
            "backbone_source": self.backbone.source,
            "backbone_sha256": self.base_sha256,
            "data": settings.names["data"],
            "task": task.name,
            "seed": settings.seed,
            "protocol": self.protocol.name,
            "selection": self._selection(),
            "metrics": metrics,
            "intervals": intervals,
            "primary": {
                "name": task.primary,
                "value": value,
                "split": self.judged,
                "ci95": bounds,
                "interval": own["kind"],
                "higher_is_better": task.higher_is_better,
                "selection": self._selection()["rule"],
            },
            "params": counts,
            "artefact_bytes": size,
            "cost": self._cost(),
            "environment": environment(device_name(self.accelerator), settings.trainer.precision),
            "data_manifest": manifest,
        }

    def _selection(self) -> dict[str, Any]:
        label = {
            "last": "last epoch",
            "best_val": "best epoch on val",
            "best_test": "best epoch on test",
        }[self.protocol.select]
        return {
            "rule": label,
            "epoch": self.found.get("best", {}).get("epoch"),
            "phases": [{"name": p.name, "fit": list(p.fit)} for p in self.phases],
            "test_reads": self.found.get("test_reads", 0),
            "test_opened": self._test_opened(),
        }

    def _test_opened(self) -> str:
        if not self.protocol.reads_test:
            return "never"
        if self.protocol.select == "best_test":
            return "after every epoch"
        return f"once, after phase '{self.phases[-1].name}'"

    def _cost(self) -> dict[str, Any]:
        reports = self.found["reports"]
        steps = [s for r in reports for s in r["step_seconds"]]
        seconds = sum(r["seconds"] for r in reports)
        return {
            "train_s": seconds,
            "eval_s": self.found["eval_s"],
            "step_ms_median": 1e3 * statistics.median(steps),
            "samples_per_s": sum(r["samples"] for r in reports) / seconds,
            "train_flops": sum(r["flops"] for r in reports),
            "peak_memory_bytes": peak_memory(self.accelerator.device),
            "steps": len(steps),
        }


def _best_of(state: states.State) -> dict[str, Tensor]:
    return {k: v for k, v in state.tensors.items() if k.startswith("best.")}
