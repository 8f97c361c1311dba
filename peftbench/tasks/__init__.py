"""Tasks: data, loss, metrics and splits."""

from .base import Classification, DataSpec, Task
from .batch import Batch, Split
from .cifar import Cifar100
from .fgvc import Fgvc, FgvcTask
from .folder import ImageFolder
from .hub import HubImages
from .images import ImageFiles, Images
from .interval import wilson
from .pocket import PocketVision
from .pocket_instruct import PocketInstruct
from .pocket_text import PocketText
from .suite import Suite
from .vtab import Vtab1k, VtabTask

__all__ = [
    "Batch",
    "Cifar100",
    "Classification",
    "DataSpec",
    "Fgvc",
    "FgvcTask",
    "HubImages",
    "ImageFiles",
    "ImageFolder",
    "Images",
    "PocketInstruct",
    "PocketText",
    "PocketVision",
    "Split",
    "Suite",
    "Task",
    "Vtab1k",
    "VtabTask",
    "wilson",
]
