"""Augmentation of training images: what changes from epoch to epoch, drawn per sample.

Everything random is a pure function of (seed, stream, epoch, sample id) or of (seed, stream, step),
so neither the number of processes nor that of loading workers changes it.
Shape legend: B images, S the side of the network's square, C classes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..backbones.preprocess import Preprocess
from ..errors import ConfigError

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Augment:
    """Changes to training images; evaluation never sees them. timm's where timm has them.

    Attributes:
        crop: ``none``: as in evaluation; ``random``: the evaluation's resize, then a random place
            of the crop (give ``backbone.pixels.crop_pct``); ``random_resized``: Inception's crop.
        scale: share of the area, of the random resized crop.
        ratio: aspect ratios of the random resized crop.
        flip: probability of a horizontal flip.
        color_jitter: strength of brightness, contrast and saturation changes.
        auto_augment: timm's description of AutoAugment or RandAugment, for example
            ``rand-m9-mstd0.5-inc1``; it takes the place of the colour jitter.
        erasing: probability of random erasing (Zhong et al., arXiv 1708.04896), with noise.
        mixup: alpha of mixup (Zhang et al., arXiv 1710.09412); 0: off.
        cutmix: alpha of CutMix (Yun et al., arXiv 1905.04899); 0: off.
        mix_prob: probability that a batch is mixed at all.
        switch_prob: probability of CutMix where both are on.

    """

    crop: Literal["none", "random", "random_resized"] = "none"
    scale: tuple[float, ...] = (0.08, 1.0)
    ratio: tuple[float, ...] = (0.75, 1.3333333333333333)
    flip: float = 0.0
    color_jitter: float = 0.0
    auto_augment: str | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    switch_prob: float = 0.5

    def __post_init__(self) -> None:
        for name in ("flip", "erasing", "mix_prob", "switch_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"trainer.augment.{name}: {getattr(self, name)} not in [0, 1]")
        for name in ("color_jitter", "mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(f"trainer.augment.{name}: {getattr(self, name)} is negative")
        for name in ("scale", "ratio"):
            low_high = getattr(self, name)
            if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
                raise ConfigError(
                    f"trainer.augment.{name}: {list(low_high)} must be two numbers above 0, the "
                    "smaller one first"
                )
        if self.scale[1] > 1:
            raise ConfigError(f"trainer.augment.scale: {list(self.scale)} exceeds the whole image")

    @property
    def per_image(self) -> bool:
        """Whether the picture itself changes before it is resized or normalised."""
        changes = (self.flip, self.color_jitter, self.auto_augment)
        return self.crop != "none" or any(changes)

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed."""
        return self.mix_prob > 0 and (self.mixup > 0 or self.cutmix > 0)

    @property
    def active(self) -> bool:
        """Whether anything at all changes from epoch to epoch."""
        return self.per_image or self.mixes or self.erasing > 0


@contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed Python's, numpy's and torch's CPU generators inside the block; restore them after it."""
    kept = random.getstate(), np.random.get_state()
    devices: list[int] = []
    with torch.random.fork_rng(devices=devices):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


def picture_transform(augment: Augment, preprocess: Preprocess) -> Callable[[Image], Image]:
    """Return what maps a picture to an augmented one of the network's size.

    Raises:
        ConfigError: timm cannot read ``auto_augment``, or a random crop has no room to move.

    """
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision import transforms

    size, way = preprocess.size, transforms.InterpolationMode(preprocess.interpolation)
    steps: list[Any] = []
    if augment.crop == "random_resized":
        steps.append(
            RandomResizedCropAndInterpolation(
                size, augment.scale, augment.ratio, preprocess.interpolation
            )
        )
    else:
        steps.append(_resize(preprocess, way))
        if augment.crop == "random":
            if preprocess.crop_pct is None:
                raise ConfigError(
                    "trainer.augment.crop: a random crop of an image that is resized straight to "
                    "its size has no room; give backbone.pixels.crop_pct (0.875: 256 before 224)"
                )
            steps.append(transforms.RandomCrop(size))
        else:
            steps.append(transforms.CenterCrop(size))
    if augment.flip:
        steps.append(transforms.RandomHorizontalFlip(augment.flip))
    if augment.auto_augment:
        steps.append(_auto_augment(augment.auto_augment, preprocess))
    elif augment.color_jitter:
        strength = (float(augment.color_jitter),) * 3
        steps.append(transforms.ColorJitter(*strength))
    return transforms.Compose(steps)


def _resize(preprocess: Preprocess, way: Any) -> Callable[[Image], Image]:
    from torchvision.transforms.functional import resize

    def to_sides(picture: Image) -> Image:
        resized: Image = resize(picture, list(preprocess.sides(picture.height, picture.width)), way)
        return resized

    return to_sides


def _auto_augment(words: str, preprocess: Preprocess) -> Callable[[Image], Image]:
    from timm.data.auto_augment import (
        augment_and_mix_transform,
        auto_augment_transform,
        rand_augment_transform,
    )

    grey = tuple(min(255, round(255 * m)) for m in preprocess.mean)
    options = {"translate_const": int(preprocess.size * 0.45), "img_mean": grey}
    makers = {"rand": rand_augment_transform, "augmix": augment_and_mix_transform}
    try:
        make = makers.get(words.split("-")[0], auto_augment_transform)
        transform: Callable[[Image], Image] = make(words, options)
    except (AssertionError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"trainer.augment.auto_augment: timm cannot read {words!r} ({error or 'unknown'}); for "
            "example rand-m9-mstd0.5-inc1, original, 3a, augmix-m5-w4-d2"
        ) from error
    return transform


def erase(image_BCSS: Tensor, seeds: list[int], augment: Augment) -> Tensor:
    """Erase a rectangle in some of the normalised images, each by a seed of its own."""
    from timm.data.random_erasing import RandomErasing

    eraser = RandomErasing(augment.erasing, mode="pixel", device="cpu")  # noise, the same anywhere
    image_BCSS = image_BCSS.clone()
    for image_CSS, seed in zip(image_BCSS, seeds, strict=True):
        with drawing(seed):
            eraser(image_CSS)
    return image_BCSS


def mix(
    image_BCSS: Tensor, labels_B: Tensor, classes: int, augment: Augment, seed: int
) -> tuple[Tensor, Tensor]:
    """Mix image i with image B-1-i; return images and soft labels (B, C).

    Args:
        image_BCSS: normalised images, B even.
        labels_B: int64.
        classes: C.
        augment: how.
        seed: of the whole batch: one share and one rectangle for all of its images.

    """
    from timm.data.mixup import Mixup

    mixer = Mixup(
        augment.mixup,
        augment.cutmix,
        prob=augment.mix_prob,
        switch_prob=augment.switch_prob,
        label_smoothing=0.0,
        num_classes=classes,
    )
    with drawing(seed):
        images, soft_BC = mixer(image_BCSS.clone(), labels_B)
    return images, soft_BC
