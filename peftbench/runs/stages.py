"""Runs that other runs start from: the source tasks of a transfer method, each a run of its own.

They lie in the study ``sources`` of the same output folder, found by run id, so every target, seed
and sweep uses the same ones.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import ConfigError, MissingAssetError, PeftbenchError
from ..methods.base import Stage
from .settings import Protocol, Settings

STUDY = "sources"
PROTOCOL = Protocol("honest", final_fit=False, select="best_val")
"""A source is fitted once, and its best epoch on val is kept; its test split is read once."""

MEND = (
    "\n  other sources: sources=pocket_text (small ones, fetched on first use), or sources.tasks "
    "of your own"
)


@contextmanager
def named(name: str, settings: Settings) -> Iterator[None]:
    """Say of a mistake that it is one of a source, by the keys that mend it there."""
    try:
        yield
    except PeftbenchError as error:
        text = re.sub(r"\bdata\.(?=[a-z])", f"sources.tasks.{name}.", str(error))
        if getattr(getattr(settings.method, "sources", None), "trainer", None) is not None:
            text = re.sub(r"(?<!\.)\btrainer\.(?=[a-z])", "sources.trainer.", text)
        mend = MEND if isinstance(error, MissingAssetError) else ""
        raise type(error)(f"source '{name}': {text}{mend}") from error


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
        trainer=trainer.for_task(stage.data.name),
        protocol=PROTOCOL,
        seed=stage.seed,
        study=STUDY,
        names=names,
    )
    if made.method.stages():
        raise ConfigError(f"method: the source '{stage.name}' has sources of its own")
    if made.data.name == settings.data.name:
        raise ConfigError(
            f"data: '{settings.data.name}' is one of the sources that it would learn from; take "
            "another target, or leave it out by method.subset"
        )
    return made


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
        with named(name, settings):
            run_dir = run_dir_of(member)
        if find_finished(run_dir) is None:
            say(f"== source {name}, which {settings.names['method']} starts from")
            with named(name, settings):
                run_one(member)
        folders[name] = run_dir.adapter
    return folders


def _snake(name: str) -> str:
    """Return a class's name as its configuration is called: PemtSource -> pemt_source."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
