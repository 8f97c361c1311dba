"""What a process keeps in memory from run to run: one network, and the tasks read last."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

from ..backbones.backbone import Backbone
from ..tasks.base import Task
from .settings import Settings

TASKS = 4
"""So many tasks are kept; a plan brings runs of one task together, so more are of little use."""

_backbones: dict[str, Backbone] = {}
_loaded: OrderedDict[str, Any] = OrderedDict()
_bound: OrderedDict[tuple[str, str], Task] = OrderedDict()


def backbone(settings: Settings) -> Backbone:
    """Return the backbone, loaded once for all runs of this process that use it."""
    key = _text(settings.plain["backbone"])
    if key not in _backbones:
        clear()  # one at a time: networks are large
        _backbones[key] = settings.backbone.load()
    return _backbones[key]


def loaded(settings: Settings) -> Any:
    """Return the task with its data, read once for the runs of this process that follow."""
    return _kept(_loaded, _data_key(settings), settings.data.load)


def task(settings: Settings) -> Task:
    """Return the task as the settings' network reads it, with a closed test split.

    Texts are made into ids once for the runs of this process that follow.
    """
    network = backbone(settings)
    key = (_text(settings.plain["backbone"]), _data_key(settings))
    return _kept(_bound, key, lambda: loaded(settings).bind(network)).closed()


def clear() -> None:
    """Forget the network, and what was made for it; data hold nothing that a run changes."""
    _backbones.clear()
    _bound.clear()


def forget() -> None:
    """Forget everything."""
    clear()
    _loaded.clear()


def _kept(kept: OrderedDict[Any, Any], key: Any, make: Any) -> Any:
    """Return what is kept under a key, made if need be; the one used longest ago goes."""
    if key not in kept:
        kept[key] = make()
        while len(kept) > TASKS:
            kept.popitem(last=False)
    kept.move_to_end(key)
    return kept[key]


def _data_key(settings: Settings) -> str:
    return _text([settings.plain["data"], settings.data.manifest_sha256])


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
