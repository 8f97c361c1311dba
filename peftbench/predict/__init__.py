"""The command that asks a trained adapter: labels of pictures and texts, answers in words."""

from .command import find_device, main
from .pictures import BATCH, natural

__all__ = ["BATCH", "find_device", "main", "natural"]
