"""A finished run, opened for a closer look: its settings, data and network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from torch import Tensor

from ..backbones.backbone import Backbone
from ..errors import ArtefactError, ConfigError, CorruptAssetError
from ..methods.base import Output
from ..runs.settings import Settings
from ..runs.store import RunDir, find_finished
from ..tasks.base import Task
from ..tasks.batch import Batch, Split
from ..train.artefact import load_adapter
from ..train.engine import make_accelerator
from ..train.evaluate import Evaluation, evaluate
from ..train.feed import batches, resolve_workers
from ..train.model import Adapted


@dataclass(frozen=True)
class Opened:
    """A finished run.

    Attributes:
        path: its directory.
        settings: what it was made with, built and checked.
        result: the content of ``result.json``.

    """

    path: Path
    settings: Settings
    result: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The run in words, for figures."""
        r = self.result
        return f"{r['method']} on {r['backbone']}, {r['data']}, seed {r['seed']}"

    def about(self) -> dict[str, Any]:
        """Return what a file of figures says of the run."""
        names = ("run_id", "method", "backbone", "data", "seed", "protocol")
        return {name: self.result[name] for name in names}

    def task(self) -> Task:
        """Load the data.

        Raises:
            ConfigError: they are no longer those of the run.

        """
        task: Task = self.settings.data.load()
        if task.manifest_sha256 != self.result["data_manifest"]["sha256"]:
            raise ConfigError(f"data: those of {self.path} have changed since it was run")
        return task

    def bound(self, backbone: Backbone) -> Task:
        """Load the data as a network reads them."""
        return self.task().bind(backbone)

    def accelerator(self) -> Accelerator:
        """Return device and precision of the run."""
        return make_accelerator(self.settings.trainer)

    def model(self, accelerator: Accelerator) -> Adapted:
        """Load network and adapter, in eval mode on the device."""
        model = load_adapter(self.path, self.backbone())
        return model.to(accelerator.device).eval()

    def backbone(self) -> Any:
        """Load the frozen network.

        Raises:
            ArtefactError: its weights are no longer those of the run.

        """
        backbone = self.settings.backbone.load()
        if backbone.sha256 != self.result["backbone_sha256"]:
            raise ArtefactError(f"backbone: the weights have changed since {self.path} was run")
        return backbone


def open_run(path: str | Path) -> Opened:
    """Open a finished run directory.

    Raises:
        ConfigError: it is no run directory, or the run is not finished.
        CorruptAssetError: ``config.yaml`` cannot be read.

    """
    run_dir = RunDir(Path(path))
    if not run_dir.config.is_file():
        raise ConfigError(f"run: {path} is no run directory (outputs/STUDY/RUN); no config.yaml")
    result = find_finished(run_dir)
    if result is None:
        raise ConfigError(f"run: {path} is not finished; the command that began it continues it")
    try:
        config = yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
        settings = Settings.of(config)
    except (yaml.YAMLError, TypeError, ValueError) as error:
        raise CorruptAssetError(f"{run_dir.config} is no run's settings ({error!r})") from error
    return Opened(run_dir.path, settings, result)


def on_val(
    opened: Opened,
    model: Adapted,
    task: Task,
    accelerator: Accelerator,
    see: Callable[[Batch, Output], None],
) -> Evaluation:
    """Show every batch of the val split to a model, in the split's order.

    Args:
        opened: the run; its trainer gives the batch size.
        model: in eval mode for the time of the call.
        task: of the run.
        accelerator: device and precision.
        see: takes the batch (raw, on the device) and the output.

    """

    def score(batch: Batch, rows: Tensor) -> Tensor:
        output: Output = model(prepared(model, batch))
        see(batch, output)
        return model.method.scores(output)

    def feed(split: Split, chunks: Sequence[Tensor]) -> Iterable[Batch]:
        workers = resolve_workers(opened.settings.trainer.workers)
        return batches(split, chunks, model.backbone.preprocess, workers)

    size = opened.settings.trainer.eval_batch_size
    with torch.no_grad():
        return evaluate(model, score, task, task.split("val"), size, accelerator, feed)


def prepared(model: Adapted, batch: Batch) -> dict[str, Tensor]:
    """Return a raw batch as the network takes it: images resized and normalised."""
    inputs = dict(batch.inputs)
    if model.backbone.preprocess is not None and "image" in inputs:
        inputs["image"] = model.backbone.preprocess(inputs["image"])
    return inputs
