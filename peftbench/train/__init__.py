"""Training: model, loop, evaluation, state and artefact. No configuration framework is needed.

Names are imported when they are first used, so that settings alone load without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artefact import load_adapter, save_adapter
    from .config import Trainer
    from .hooks import Hooks, Interrupted
    from .loop import Fitter
    from .model import Adapted

_HOMES = {
    "Adapted": "model",
    "Fitter": "loop",
    "Hooks": "hooks",
    "Interrupted": "hooks",
    "Trainer": "config",
    "load_adapter": "artefact",
    "save_adapter": "artefact",
}

__all__ = [
    "Adapted",
    "Fitter",
    "Hooks",
    "Interrupted",
    "Trainer",
    "load_adapter",
    "save_adapter",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
