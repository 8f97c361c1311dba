"""Weights & Biases: one W&B run per run id, every row of ``metrics.jsonl`` in it once."""

from __future__ import annotations

import netrc
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from .flat import flat, scalars
from .history import Row, history
from .settings import Wandb
from .store import RunDir

NAMES = ("method", "backbone", "data")
"""The choices that become tags and, with the seed, the W&B run's name."""


class WandbTracker:
    """One W&B run per run id, continued when the run is; its files lie in ``<study>/wandb``.

    W&B's own step is the run's step. The figures of a step are sent when the next step begins, so
    that a row is never sent in parts; rows that W&B has already are not sent again. An offline copy
    cannot be continued: a new one holds the whole run and takes the place of the old one.
    """

    def __init__(self, choice: Wandb, live: bool = True) -> None:
        """Set up.

        Args:
            choice: where to.
            live: whether the run is happening now, in this process: then memory and load of the
                machine are recorded too.

        """
        self.choice, self.live = choice, live
        self._run: Any = None
        self._held: Row | None = None
        self._folder = Path()

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Begin or continue the W&B run ``run_id``, and send what W&B lacks of its rows."""
        import wandb

        study = folder.parent
        study.mkdir(parents=True, exist_ok=True)
        older = list((study / "wandb").glob(f"offline-run-*-{run_id}*"))
        names = config.get("names", {})
        tags = [str(names[group])[:64] for group in NAMES if group in names]
        self._folder = folder
        self._run = wandb.init(
            project=self.choice.project,
            entity=self.choice.entity,
            id=run_id,
            name=" ".join([*tags, f"seed {config['seed']}"]) if tags else run_id,
            group=study.name,
            tags=tags,
            resume="allow",
            config=dict(config),
            allow_val_change=True,
            dir=str(study),
            mode=wandb_mode(self.choice),
            settings=wandb.Settings(console="off", silent=True, x_disable_stats=not self.live),
        )
        for path in older:
            shutil.rmtree(path, ignore_errors=True)
        for row in history(RunDir(folder).metrics):
            self.log(row)

    def log(self, row: Row) -> None:
        """Take figures of a step."""
        if self._held is not None and self._held.step == row.step:
            self._held = self._held.with_more(row)
            return
        self._send()
        self._held = row

    def _send(self) -> None:
        """Send the row that is complete now, unless W&B had it before this attempt."""
        row, self._held = self._held, None
        if row is not None and row.step >= self._run.starting_step:
            about = {"epoch": row.epoch, "seconds": row.seconds}
            self._run.log({**row.values, **about}, step=row.step, commit=True)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """End the W&B run; a finished one with its result as summary, and its adapter.

        A run that was stopped keeps its last row back: it may not be complete, and the next attempt
        sends it.
        """
        if summary:
            self._send()
            self._run.summary.update(summary_of(summary))
            if self.choice.adapter and (adapter := RunDir(self._folder).adapter).is_dir():
                self._send_adapter(adapter, summary)
        self._run.finish(exit_code=0 if summary else 1)

    def _send_adapter(self, adapter: Path, summary: Mapping[str, Any]) -> None:
        import wandb

        name = f"adapter-{self._folder.name}"
        about = {key: summary[key] for key in (*NAMES, "task", "seed", "protocol", "primary")}
        artifact = wandb.Artifact(name, type="adapter", metadata=about)
        for path in sorted(adapter.iterdir()):
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        self._run.log_artifact(artifact)


def summary_of(result: Mapping[str, Any]) -> dict[str, float | str]:
    """Return what the W&B summary holds of a ``result.json``.

    Every figure and word as ``result/...``, and the primary figure under the task's name too
    (``task/digits``), so that a panel can be about one task.
    """
    words = {k: v for k, v in flat(dict(result), "/").items() if isinstance(v, str)}
    named = {f"result/{name}": value for name, value in {**words, **scalars(result)}.items()}
    return {**named, f"task/{result['task']}": result["primary"]["value"]}


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
