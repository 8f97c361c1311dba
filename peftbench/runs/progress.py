"""The progress bar of a run: loss, images per second, time left; silent without a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from tqdm import tqdm

from .process import is_main

FORMAT = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """A bar on standard error; it prints nothing at all when that is no terminal.

    Only the main process shows one. The rate covers what this process has done since it began, so
    that a resumed run does not count steps of an earlier attempt.
    """

    def __init__(self, total: int, *, done: int = 0, label: str = "", unit: str = "images") -> None:
        """Start a bar.

        Args:
            total: steps of the whole run.
            done: steps done before this attempt.
            label: what is shown before the bar.
            unit: what ``samples`` of :meth:`update` are called.

        """
        self.unit = unit
        self._samples = 0
        self._since = time.monotonic()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=label,
            disable=not (is_main() and sys.stderr.isatty()),
            file=sys.stderr,
            bar_format=FORMAT,
            dynamic_ncols=_has_width(),
            ncols=None if _has_width() else 80,
            leave=False,
        )

    @property
    def shown(self) -> bool:
        """Tell whether anybody sees the bar; if not, values need not be fetched for it."""
        return not self._bar.disable

    def update(
        self, steps: int = 1, samples: int = 0, values: Mapping[str, float] | None = None
    ) -> None:
        """Advance by ``steps`` that took ``samples``, and show ``values`` (``{"loss": 0.3}``)."""
        if self._bar.disable:
            return
        self._samples += samples
        parts = [f"{name} {value:.4g}" for name, value in (values or {}).items()]
        seconds = time.monotonic() - self._since
        if self._samples and seconds > 0:
            parts.append(f"{self._samples / seconds:.0f} {self.unit}/s")
        self._bar.set_postfix_str(", ".join(parts), refresh=False)
        self._bar.update(steps)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _has_width() -> bool:
    """Tell whether the terminal knows its width; some report none, on which no bar would fit."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns > 0
    except (OSError, ValueError):
        return False
