"""Tasks: data, loss, metrics and splits."""

from .base import Classification, DataSpec, Task
from .batch import Batch, Split
from .hub import HubImages
from .images import ImageFiles, Images
from .interval import wilson
from .pocket import PocketVision
from .suite import Suite

__all__ = [
    "Batch",
    "Classification",
    "DataSpec",
    "HubImages",
    "ImageFiles",
    "Images",
    "PocketVision",
    "Split",
    "Suite",
    "Task",
    "wilson",
]
