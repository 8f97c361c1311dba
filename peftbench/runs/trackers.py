"""Trackers: copies of a run's figures for other tools; the run's own files are the truth.

A tracker is called after the figures stand in ``metrics.jsonl``. It can never stop a run: its first
error prints one warning, is noted in ``<study>/tracker_errors.jsonl``, and switches it off.
"""

from __future__ import annotations

import importlib.util
import json
import netrc
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

import yaml

from ..errors import ConfigError
from .process import describe, is_main, warn
from .settings import Files, Tensorboard, Wandb

Choice = Files | Wandb | Tensorboard
NEEDS = {Wandb: ("wandb", "wandb"), Tensorboard: ("tensorboard", "tensorboard")}
"""Module that a tracker needs, and the extra of this package that installs it."""


class Tracker(Protocol):
    """Where figures are copied to."""

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Begin or continue the run whose directory is ``folder``; called once, first."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the figures of one step, named as ``split/name``."""

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
    if not is_main() or isinstance(choice, Files):
        return Guarded(NoTracker())
    if isinstance(choice, Wandb):
        return Guarded(WandbTracker(choice))
    return Guarded(TensorboardTracker())


class NoTracker:
    """Does nothing: the files are written by the run itself."""

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Do nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
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

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the figures of one step."""
        self._call("log", lambda: self._inner.log(step, values))

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


class WandbTracker:
    """One W&B run per run id, continued when the run is; its files lie in ``<study>/wandb``."""

    def __init__(self, choice: Wandb) -> None:
        self.choice = choice
        self._run: Any = None

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Begin or continue the W&B run ``run_id``."""
        import wandb

        folder.parent.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project=self.choice.project,
            entity=self.choice.entity,
            id=run_id,
            resume="allow",
            group=folder.parent.name,
            config=dict(config),
            dir=str(folder.parent),
            mode=wandb_mode(self.choice),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("step", hidden=True)
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send one step; the step is a column of its own, so that a resumed run may repeat it."""
        self._run.log({**values, "step": step})

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the W&B run, with the result's metrics as its summary."""
        for split, values in summary.get("metrics", {}).items():
            self._run.summary.update({f"final/{split}/{k}": v for k, v in values.items()})
        self._run.finish(exit_code=0 if summary else 1)


def wandb_mode(choice: Wandb) -> Any:
    """Return ``online`` or ``offline``; ``auto`` follows WANDB_MODE, else looks for a key."""
    if choice.mode != "auto":
        return choice.mode
    return os.environ.get("WANDB_MODE") or ("online" if logged_in() else "offline")


def logged_in() -> bool:
    """Tell whether an API key for W&B is at hand: in the environment or the user's netrc file."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    for path in (os.environ.get("NETRC"), "~/.netrc", "~/_netrc"):
        if path and host and (file := Path(path).expanduser()).is_file():
            try:
                return netrc.netrc(file).authenticators(host) is not None
            except (netrc.NetrcParseError, OSError):
                return False
    return False


class TensorboardTracker:
    """Event files in ``<study>/tensorboard/<run id>``; steps that a resumed run repeats replace."""

    def __init__(self) -> None:
        self._folder = Path()
        self._config: Mapping[str, Any] = {}
        self._writer: Any = None

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Note where to write; the file is opened at the first step, which it continues from."""
        self._folder = folder.parent / "tensorboard" / run_id
        self._config = config

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one step."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step)
            text = yaml.safe_dump(dict(self._config), sort_keys=False)
            self._writer.add_text("config", f"```yaml\n{text}\n```", step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
