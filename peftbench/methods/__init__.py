"""PEFT methods, one file each. Folders named in ``PEFTBENCH_PATH`` add their ``methods/*.py``."""

import os
from pathlib import Path

from .base import Method, Output, ParamGroup, Passes, Stage

__path__.extend(
    str(Path(folder) / "methods")
    for folder in os.environ.get("PEFTBENCH_PATH", "").split(os.pathsep)
    if folder
)

__all__ = ["Method", "Output", "ParamGroup", "Passes", "Stage"]
