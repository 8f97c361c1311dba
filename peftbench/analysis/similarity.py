"""How class-token and Gist logits come together over training (GIST, arXiv 2312.07255, section 4).

The logits of earlier epochs are not stored, so the run's first fit is repeated: runs are pure
functions of their settings. How far the repeated fit is from the recorded one is part of the
result. Shape legend: N samples of the val split, C classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edits import Tokens
from ..errors import ConfigError, IncompatibleError
from ..methods.base import Output
from ..methods.gist import GIST, divergences
from ..reports.figures import COLOURS, MARKERS, new_figure, styled
from ..runs.execute import phases
from ..tasks.batch import Batch
from ..train.hooks import Hooks
from ..train.loop import Fitter
from ..train.model import Adapted
from .opened import Opened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = (
    *("cosine", "kl_cls_gist", "kl_gist_cls", "accuracy_cls", "accuracy_gist", "agreement"),
)


def measure(opened: Opened) -> dict[str, Any]:
    """Repeat the first fit of a GIST run and compare both logits on val before and after epochs.

    Returns:
        ``epochs``: one mapping per epoch (0 is before training) with :data:`MEASURES`: the cosine
        of logits centred over classes, KL(class || Gist) and KL(Gist || class) in nats at
        temperature 1, accuracies and the share of samples with equal predictions;
        ``largest_difference_to_record``: of the val accuracy after any epoch to ``metrics.jsonl``.

    Raises:
        IncompatibleError: the run's method has no Gist token.
        ConfigError: the protocol trained on val, so nothing is held out.

    """
    settings = opened.settings
    if GIST not in settings.method.readouts():
        raise IncompatibleError(
            f"run: method {opened.result['method']} has no Gist token whose logits could be "
            "compared; similarity needs a run of method=gist"
        )
    phase = phases(settings.protocol)[0]
    if phase.fit != ("train",):
        raise ConfigError(
            f"run: protocol={settings.protocol.name} trained on {'+'.join(phase.fit)}, so val is "
            "not held out; run the same settings under protocol=honest"
        )
    task, accelerator = opened.task(), opened.accelerator()
    model = Adapted(opened.backbone(), settings.method, len(task.labels), settings.seed)
    read_in_eval(model)
    fitter = _Watched(
        model,
        task,
        task.split("train"),
        model.backbone.preprocess,
        settings.trainer,
        settings.seed,
        accelerator,
    )
    epochs = [{"epoch": 0, **fitter.on_val()}]

    def epoch_end(_: Fitter, epoch: int, step: int) -> None:
        epochs.append({"epoch": epoch + 1, **fitter.on_val()})

    fitter.hooks = Hooks(epoch_end=epoch_end)
    fitter.run()
    model.release()
    return {
        **opened.about(),
        "split": "val",
        "samples": len(task.split("val")),
        "inference": settings.method.inference,
        "epochs": epochs,
        "largest_difference_to_record": _difference(opened.path, epochs),
    }


def read_in_eval(model: Adapted) -> None:
    """Let the Gist token's output be handed out in eval mode too; nothing else changes."""
    for edit in model.delta:
        if isinstance(edit, Tokens) and edit.readout == GIST:
            edit.readout_in_eval = True


class _Watched(Fitter):
    """A fit that keeps both logits of everything that it scores."""

    def forward(self, batch: Batch) -> Output:
        """Run the model; in eval mode note its logits."""
        output = super().forward(batch)
        if not self.model.training:
            self.seen.append((output.logits.float().cpu(), output.extra[GIST].float().cpu()))
        return output

    def on_val(self) -> dict[str, float]:
        """Score val once and compare the two logits."""
        self.seen: list[tuple[Tensor, Tensor]] = []
        scored = self.evaluate(self.task.split("val"))
        class_NC, gist_NC = (torch.cat(parts) for parts in zip(*self.seen, strict=True))
        found = compare(class_NC, gist_NC, scored.labels_N)
        return found | {"accuracy_run": scored.metrics["accuracy"]}


def compare(class_NC: Tensor, gist_NC: Tensor, labels_N: Tensor) -> dict[str, float]:
    """Return :data:`MEASURES` of two sets of logits, means over samples."""
    forward_N, backward_N = divergences(class_NC, gist_NC, tau=1.0)
    class_centred_NC = class_NC - class_NC.mean(1, keepdim=True)
    gist_centred_NC = gist_NC - gist_NC.mean(1, keepdim=True)
    by_class, by_gist = class_NC.argmax(1), gist_NC.argmax(1)
    values = (
        F.cosine_similarity(class_centred_NC, gist_centred_NC, dim=1),
        forward_N,
        backward_N,
        (by_class == labels_N).float(),
        (by_gist == labels_N).float(),
        (by_class == by_gist).float(),
    )
    return {name: float(v.double().mean()) for name, v in zip(MEASURES, values, strict=True)}


def _difference(path: Path, epochs: list[dict[str, Any]]) -> float | None:
    """Return how far the val accuracies are from the recorded ones; None if none was recorded."""
    recorded: list[float] = []
    for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if (entry["split"], entry["name"]) == ("val", "accuracy"):
            recorded.append(entry["value"])
    mine = [e["accuracy_run"] for e in epochs[1:]]
    pairs = list(zip(mine, recorded, strict=False))
    return max(abs(a - b) for a, b in pairs) if pairs else None


def draw(numbers: dict[str, Any], title: str) -> Figure:
    """Draw cosine, divergences and accuracies over epochs."""
    epochs = numbers["epochs"]
    x = [e["epoch"] for e in epochs]
    panels = (
        ("cosine of centred logits", {"cosine": "class, Gist"}),
        (
            "divergence, nats",
            {"kl_cls_gist": "KL(class || Gist)", "kl_gist_cls": "KL(Gist || class)"},
        ),
        (
            "share of val samples, %",
            {
                "accuracy_cls": "class right",
                "accuracy_gist": "Gist right",
                "agreement": "both alike",
            },
        ),
    )
    with styled():
        figure = new_figure(3.5)
        for axes, (label, lines) in zip(figure.subplots(1, 3), panels, strict=True):
            scale = 100 if label.endswith("%") else 1
            for i, (name, words) in enumerate(lines.items()):
                values = [scale * e[name] for e in epochs]
                dash = ("-", "--", ":")[i]  # curves that lie on one another stay visible
                axes.plot(x, values, MARKERS[i], ls=dash, ms=4, color=COLOURS[i], label=words)
            axes.set_xlabel("epochs done")
            axes.set_ylabel(label)
            axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
            axes.locator_params(axis="x", integer=True)
        figure.suptitle(f"Logits of class token and Gist token on val: {title}", fontsize=10)
    return figure
