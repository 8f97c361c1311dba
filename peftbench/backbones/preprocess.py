"""What happens to decoded images before the network sees them, outside training's augmentation.

Shape legend: B images, H and W their sides, S the side of the network's square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError

Normalise = Literal["checkpoint", "imagenet", "none"]
Interpolation = Literal["bicubic", "bilinear"]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
UNCHANGED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Preprocess:
    """Resize and normalise; the numbers travel with the weights.

    Attributes:
        size: S in pixels.
        mean: per channel, for values in 0..1.
        std: per channel.
        interpolation: ``bicubic`` or ``bilinear``, with antialiasing, in whole grey levels.
        crop_pct: None resizes straight to S x S, whatever the aspect ratio. A share resizes the
            short side to S / crop_pct and cuts the S x S centre out.

    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation = "bicubic"
    crop_pct: float | None = None

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        """Map uint8 images (B, 3, H, W) to float32 (B, 3, S, S), normalised."""
        return self.normalised(self.resized(image_BCHW))

    def resized(self, image_BCHW: Tensor) -> Tensor:
        """Map uint8 images (B, 3, H, W) to uint8 (B, 3, S, S).

        The resize is computed on the CPU wherever the images lie: there torch does it in whole
        numbers, as Pillow does (within two grey levels), and so alike on every machine.
        """
        height, width = image_BCHW.shape[-2:]
        sides = self.sides(height, width)
        if sides != (height, width):
            x = image_BCHW.cpu().contiguous()
            x = F.interpolate(x, sides, mode=self.interpolation, antialias=True)
            image_BCHW = x.to(image_BCHW.device)
        top, left = self.corner(sides)
        return image_BCHW[..., top : top + self.size, left : left + self.size]

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Return the sides to which an image is resized before it is cropped."""
        if self.crop_pct is None:
            return self.size, self.size
        short = max(self.size, round(self.size / self.crop_pct))
        if height <= width:
            return short, max(short, int(short * width / height))
        return max(short, int(short * height / width)), short

    def corner(self, sides: tuple[int, int]) -> tuple[int, int]:
        """Return where the crop begins in an image of these sides: rows, columns."""
        top, left = (round((side - self.size) / 2) for side in sides)
        return top, left

    def window(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Return the part of an image that is seen: left, top, width, height; shares of it."""
        sides = self.sides(height, width)
        top, left = self.corner(sides)
        return left / sides[1], top / sides[0], self.size / sides[1], self.size / sides[0]

    def normalised(self, image_BCHW: Tensor) -> Tensor:
        """Map uint8 images of the network's size to normalised float32."""
        x = image_BCHW.float()
        mean = torch.tensor(self.mean, device=x.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=x.device).view(1, 3, 1, 1) * 255
        return (x - mean) / std


@dataclass(frozen=True)
class Pixels:
    """How a vision backbone wants its pixels; what is None is as the checkpoint states it.

    Attributes:
        normalise: the checkpoint's mean and standard deviation, ImageNet's, or none (0..1).
        crop_pct: None resizes straight to a square; a share (0.875: 256 before 224) resizes the
            short side and cuts the centre out.
        interpolation: ``bicubic`` or ``bilinear``.

    """

    normalise: Normalise = "checkpoint"
    crop_pct: float | None = None
    interpolation: Interpolation | None = None

    def __post_init__(self) -> None:
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            raise ConfigError(
                f"backbone.pixels.crop_pct: {self.crop_pct} not in (0, 1]; null resizes straight"
                " to a square"
            )

    def of(self, checkpoint: dict, size: int) -> Preprocess:
        """Return the preprocessing of a network.

        Args:
            checkpoint: timm's ``pretrained_cfg``: mean, std and interpolation.
            size: side in pixels.

        """
        own = (tuple(checkpoint["mean"]), tuple(checkpoint["std"]))
        mean, std = {"checkpoint": own, "imagenet": IMAGENET, "none": UNCHANGED}[self.normalise]
        way = self.interpolation or checkpoint["interpolation"]
        return Preprocess(size, mean, std, way, self.crop_pct)
