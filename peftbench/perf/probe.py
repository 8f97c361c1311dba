"""What later epochs of a linear probe cost once its features are known."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from ..backbones.load_timm import TimmViT
from ..methods.linear import Linear
from ..tasks.base import Classification
from ..tasks.batch import Split
from ..train.config import Trainer
from ..train.engine import make_accelerator
from ..train.loop import Fitter
from ..train.model import Adapted


@dataclass(frozen=True)
class ProbeCost:
    """Seconds of the first epoch, and the median of later ones."""

    images: int
    size: int
    first_s: float
    later_s: float

    @property
    def ratio(self) -> float:
        """A later epoch against the first."""
        return self.later_s / self.first_s

    def line(self) -> str:
        """Return the cost in words."""
        return (
            f"linear probe, {self.images} images at {self.size} pixels: first epoch "
            f"{self.first_s:.2f} s, later epochs {1e3 * self.later_s:.1f} ms (median), "
            f"{100 * self.ratio:.2f}% of the first"
        )


def probe_epochs(
    images: int = 800,
    size: int = 70,
    epochs: int = 6,
    model: str = "vit_small_patch14_dinov2",
    batch: int = 32,
) -> ProbeCost:
    """Fit a linear probe on random 8 x 8 images (the shape of the digits) and time its epochs.

    Args:
        images: samples in the split.
        size: side in pixels that images are resized to.
        epochs: of the fit.
        model: timm name; random weights.
        batch: samples per step.

    """
    backbone = TimmViT(model, size, init="random").load()
    generator = torch.Generator().manual_seed(0)
    start, splits = 0, {}
    for name, count in (("train", images), ("val", 2), ("test", 2)):
        grey = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,), generator=generator)
        ids = torch.arange(start, start + count)
        splits[name] = Split(name, {"image": grey.expand(-1, 3, -1, -1)}, labels, ids)
        start += count
    task = Classification("random", tuple("0123456789"), splits, {"task": "random"})
    cfg = Trainer(epochs=epochs, batch_size=batch, device="cpu")
    adapted = Adapted(backbone, Linear(), classes=10)
    accelerator = make_accelerator(cfg)
    fit = Fitter(adapted, task, task.split("train"), backbone.preprocess, cfg, 0, accelerator)
    seconds = fit.run().epoch_seconds
    return ProbeCost(images, size, seconds[0], statistics.median(seconds[1:]))
