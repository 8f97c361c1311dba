"""Tasks: data, loss, metrics and splits."""

from .alpaca_hub import Alpaca
from .base import Classification, DataSpec, Task
from .batch import Batch, Split
from .caption_trees import Coco, Flickr
from .captions import Captions, CaptionTask
from .cifar import Cifar100
from .fgvc import Fgvc, FgvcTask
from .folder import ImageFolder
from .hub import HubImages
from .images import ImageFiles, Images
from .interval import wilson
from .nocaps import NoCaps
from .pocket import PocketVision
from .pocket_captions import PocketCaptions
from .pocket_instruct import PocketInstruct
from .pocket_text import PocketText
from .published import PublishedSuite, PublishedText
from .suite import Suite
from .vtab import Vtab1k, VtabTask

__all__ = [
    "Alpaca",
    "Batch",
    "CaptionTask",
    "Captions",
    "Cifar100",
    "Classification",
    "Coco",
    "DataSpec",
    "Fgvc",
    "FgvcTask",
    "Flickr",
    "HubImages",
    "ImageFiles",
    "ImageFolder",
    "Images",
    "NoCaps",
    "PocketCaptions",
    "PocketInstruct",
    "PocketText",
    "PocketVision",
    "PublishedSuite",
    "PublishedText",
    "Split",
    "Suite",
    "Task",
    "Vtab1k",
    "VtabTask",
    "wilson",
]
