"""The command that asks a trained adapter: labels and captions, answers in words."""

from .command import Predict, find_device, main, predict
from .pictures import BATCH, natural

__all__ = ["BATCH", "Predict", "find_device", "main", "natural", "predict"]
