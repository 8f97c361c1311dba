"""TensorBoard: event files in ``<study>/tensorboard/<run id>``."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from .flat import flat, scalars
from .history import Row, history
from .store import RunDir


class TensorboardTracker:
    """Writes the events of a run anew whenever it begins or continues, so no step is there twice.

    Beside the figures stand the configuration (text ``config``), at the end the result's figures
    (scalars ``result/...``), and settings beside results as TensorBoard's HParams table wants them.
    """

    def __init__(self) -> None:
        self._config: Mapping[str, Any] = {}
        self._writer: Any = None

    def start(self, run_id: str, config: Mapping[str, Any], folder: Path) -> None:
        """Write the rows that the run has so far into a new event file."""
        from torch.utils.tensorboard import SummaryWriter

        place = folder.parent / "tensorboard" / run_id
        shutil.rmtree(place, ignore_errors=True)
        self._config = config
        self._writer = SummaryWriter(str(place))
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self._writer.add_text("config", f"```yaml\n{text}\n```")
        for row in history(RunDir(folder).metrics):
            self.log(row)

    def log(self, row: Row) -> None:
        """Write figures of a step."""
        for name, value in row.values.items():
            self._writer.add_scalar(name, value, row.step)

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Add what the result says, and close the event file."""
        if summary:
            found = scalars(summary)
            last = summary.get("cost", {}).get("steps", 0)
            for name, value in found.items():
                self._writer.add_scalar(f"result/{name}", value, last)
            self._hparams({f"result/{name}": value for name, value in found.items()})
        self._writer.close()

    def _hparams(self, found: Mapping[str, float]) -> None:
        """Write the HParams plugin's own records into the same file.

        ``SummaryWriter.add_hparams`` would make a second run for them.
        """
        from torch.utils.tensorboard.summary import hparams

        kinds = (bool, int, float, str)
        settings = {k: v for k, v in flat(self._config, ".").items() if isinstance(v, kinds)}
        for record in hparams(settings, dict(found)):
            self._writer.file_writer.add_summary(record)
