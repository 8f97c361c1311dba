"""What happens to decoded images on the device before the network sees them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Preprocess:
    """Resize straight to a square and normalise; the numbers travel with the weights.

    Attributes:
        size: side in pixels.
        mean: per channel, for values in 0..1.
        std: per channel.
        interpolation: ``bicubic`` or ``bilinear``, with antialiasing, aspect ratio ignored.

    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __call__(self, image_BCHW: Tensor) -> Tensor:
        """Map uint8 images (B, 3, H, W) to float32 (B, 3, size, size), normalised."""
        x = image_BCHW.float()
        if x.shape[-2:] != (self.size, self.size):
            x = F.interpolate(
                x, (self.size, self.size), mode=self.interpolation, antialias=True
            ).clamp_(0, 255)
        mean = torch.tensor(self.mean, device=x.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(self.std, device=x.device).view(1, 3, 1, 1) * 255
        return (x - mean) / std
