"""Runs that other runs start from: the source tasks of a transfer method, each a run of its own.

They lie in the study ``sources`` of the same output folder, found by run id, so every target, seed
and sweep uses the same ones.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from ..errors import ConfigError, PeftbenchError
from ..methods.base import Stage
from .settings import Protocol, Settings

STUDY = "sources"
PROTOCOL = Protocol("honest", final_fit=False, select="best_val")
"""A source is fitted once, and its best epoch on val is kept; its test split is read once."""


def stage_settings(settings: Settings) -> dict[str, Settings]:
    """Return the settings of every run that has to be finished before this one, by source."""
    return {stage.name: _settings_of(settings, stage) for stage in settings.method.stages()}


def _settings_of(settings: Settings, stage: Stage) -> Settings:
    trainer = stage.trainer if stage.trainer is not None else settings.trainer
    names = {
        **settings.names,
        "method": _snake(type(stage.method).__name__),
        "data": stage.name,
        "protocol": PROTOCOL.name,
    }
    made = dataclasses.replace(
        settings,
        method=stage.method,
        data=stage.data,
        trainer=_for_task(trainer, stage),
        protocol=PROTOCOL,
        seed=stage.seed,
        study=STUDY,
        names=names,
    )
    if made.method.stages():
        raise ConfigError(f"method: the source '{stage.name}' has sources of its own")
    return made


def _for_task(trainer: Any, stage: Stage) -> Any:
    return trainer.for_task(getattr(stage.data, "name", stage.name))


def run_stages(settings: Settings) -> dict[str, Path]:
    """Train what is missing, and return the adapter folder of every source by name.

    Raises:
        PeftbenchError: a source failed; says which.

    """
    from .launch import run_dir_of, run_one
    from .process import say
    from .store import find_finished

    folders: dict[str, Path] = {}
    for name, member in stage_settings(settings).items():
        run_dir = run_dir_of(member)
        if find_finished(run_dir) is None:
            say(f"== source {name}, which {settings.names['method']} starts from")
            try:
                run_one(member)
            except PeftbenchError as error:
                raise type(error)(f"source '{name}': {error}") from error
        folders[name] = run_dir.adapter
    return folders


def _snake(name: str) -> str:
    """Return a class's name as its configuration is called: PemtSource -> pemt_source."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
