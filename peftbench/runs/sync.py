"""Copies of finished runs for trackers, made from the run folders alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from ..errors import ConfigError, TrackerError
from ..files import sha256_file, write_json
from . import trackers
from .settings import Tensorboard, Wandb
from .store import RunDir
from .to_wandb import WandbTracker, wandb_mode

State = Literal["sent", "unchanged"]
BOOK = "synced.json"
"""In ``<study>/wandb`` or ``<study>/tensorboard``: what was copied, by run id."""


def sync(
    run_dir: RunDir,
    config: Mapping[str, Any],
    result: Mapping[str, Any],
    choice: Wandb | Tensorboard,
) -> State:
    """Copy a finished run to a tracker, unless it has that result already.

    Doing it again changes nothing: the W&B run has the run's id, W&B is sent the rows that it
    lacks, and event files are written anew.

    Args:
        run_dir: of the run.
        config: content of its ``config.yaml``.
        result: content of its ``result.json``.
        choice: where to.

    Raises:
        TrackerError: the tracker did not take it; says which run and why.

    """
    trackers.check(choice)
    kind = "wandb" if isinstance(choice, Wandb) else "tensorboard"
    book = run_dir.study / kind / BOOK
    place, digest = _place(choice), sha256_file(run_dir.result)
    noted = _read(book)
    if noted.get(run_dir.run_id) == {"to": place, "result_sha256": digest}:
        return "unchanged"
    if isinstance(choice, Wandb):
        tracker: trackers.Tracker = WandbTracker(choice, live=False)
    else:
        tracker = trackers.bare(choice)
    try:
        tracker.start(run_dir.run_id, config, run_dir.path)
        tracker.finish(result)
    except Exception as error:
        raise TrackerError(f"{run_dir.path}: {kind} did not take it ({error})") from error
    noted = {**_read(book), run_dir.run_id: {"to": place, "result_sha256": digest}}
    write_json(book, dict(sorted(noted.items())))
    return "sent"


def _place(choice: Wandb | Tensorboard) -> str:
    """Name where a copy goes, so that a copy elsewhere is another one."""
    if isinstance(choice, Tensorboard):
        return "tensorboard"
    return f"{wandb_mode(choice)}:{choice.entity or ''}/{choice.project}"


def _read(book: Path) -> dict[str, Any]:
    if not book.is_file():
        return {}
    try:
        noted = json.loads(book.read_text(encoding="utf-8"))
        if not isinstance(noted, dict):
            raise ValueError("it is no mapping")
    except ValueError as error:
        raise ConfigError(f"{book} cannot be read ({error}); remove it to copy all runs") from error
    return noted
