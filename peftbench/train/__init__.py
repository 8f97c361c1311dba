"""Training: model, loop, evaluation, state and artefact. No configuration framework is needed."""

from .artefact import load_adapter, save_adapter
from .config import Trainer
from .loop import Fitter, Hooks, Interrupted
from .model import Adapted

__all__ = [
    "Adapted",
    "Fitter",
    "Hooks",
    "Interrupted",
    "Trainer",
    "load_adapter",
    "save_adapter",
]
