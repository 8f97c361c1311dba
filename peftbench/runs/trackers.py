"""Trackers: copies of a run's figures for other tools; the run's own files are the truth.

A tracker is called after the figures stand in ``metrics.jsonl``, which it reads when it begins: so
it has every row once, however often the run was stopped, and a finished run can be copied later
(``runs/sync.py``). It can never stop a run: its first error prints one warning, is noted in
``<study>/tracker_errors.jsonl``, and switches it off.
"""

from __future__ import annotations

import importlib.util
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..errors import ConfigError
from .history import Row
from .process import describe, is_main, warn
from .settings import Files, Tensorboard, Wandb
from .to_wandb import logged_in

Choice = Files | Wandb | Tensorboard
NEEDS = {Wandb: ("wandb", "wandb"), Tensorboard: ("tensorboard", "tensorboard")}
"""Module that a tracker needs, and the extra of this package that installs it."""


class Tracker(Protocol):
    """Where figures are copied to."""

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Begin or continue the run whose directory is ``folder``, with the rows that it has.

        Called once, first.
        """

    def log(self, row: Row) -> None:
        """Take figures of a step; a further call for the same step adds to them."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run; ``summary`` is its result, empty when it was stopped."""


def check(choice: Choice) -> None:
    """Refuse a tracker that cannot work here, before anything is trained.

    Raises:
        ConfigError: its package is not installed, or it should be online without an API key.

    """
    for kind, (module, extra) in NEEDS.items():
        if isinstance(choice, kind) and importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"tracker={extra} needs the package '{module}', which is not installed\n"
                f"  pip install 'peftbench[{extra}]'"
            )
    if isinstance(choice, Wandb) and choice.mode == "online" and not logged_in():
        raise ConfigError(
            "tracker.mode=online, but no W&B API key was found\n"
            "  run `wandb login`, set WANDB_API_KEY, or choose tracker.mode=offline"
        )


def make(choice: Choice) -> Tracker:
    """Return the tracker that a setting asks for; none but the main process has one."""
    check(choice)
    return Guarded(bare(choice) if is_main() else NoTracker())


def bare(choice: Choice) -> Tracker:
    """Return the tracker whose errors are raised."""
    if isinstance(choice, Wandb):
        from .to_wandb import WandbTracker

        return WandbTracker(choice)
    if isinstance(choice, Tensorboard):
        from .to_tensorboard import TensorboardTracker

        return TensorboardTracker()
    return NoTracker()


class NoTracker:
    """Does nothing: the files are written by the run itself."""

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Do nothing."""

    def log(self, row: Row) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Do nothing."""


class Guarded:
    """A tracker whose errors never reach the run."""

    def __init__(self, inner: Tracker) -> None:
        self._inner = inner
        self._run_id = ""
        self._folder: Path | None = None
        self.problem: str | None = None

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Begin or continue a run."""
        self._run_id, self._folder = run_id, folder
        self._call("start", lambda: self._inner.start(run_id, config, folder))

    def log(self, row: Row) -> None:
        """Take figures of a step."""
        self._call("log", lambda: self._inner.log(row))

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the run."""
        self._call("finish", lambda: self._inner.finish(summary))

    def _call(self, name: str, action: Callable[[], None]) -> None:
        if self.problem is not None:
            return
        try:
            action()
        except Exception as error:
            self.problem = describe(error)
            tool = type(self._inner).__name__
            warn(f"{tool}.{name} failed and is switched off ({self.problem}); no figure is lost")
            self._note({"run_id": self._run_id, "tracker": tool, "call": name})

    def _note(self, entry: dict[str, Any]) -> None:
        if self._folder is None:
            return
        entry |= {"error": self.problem, "time": round(time.time(), 3)}
        path = self._folder.parent / "tracker_errors.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
