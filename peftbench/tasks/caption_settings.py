"""Settings that every caption task has, and the task that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError
from . import caption_metrics
from .captions import LONGEST, Captions, CaptionSpec, CaptionTask


@dataclass(frozen=True, kw_only=True)
class WrittenSpec(CaptionSpec):
    """Settings of captions that are written to score them.

    Attributes:
        written: tokens that a written caption may have; None: none is written, and perplexity
            stands alone.
        longest_target: limit in tokens of a caption.
        beams: of the search that writes; 1: greedy.

    """

    written: int | None = None
    longest_target: int = LONGEST
    beams: int = 1

    def __post_init__(self) -> None:
        for key in ("written", "longest_target", "beams"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"data.{key}: at least 1 is needed, got {value}")
        if self.written is None and self.beams > 1:
            raise ConfigError(
                f"data.beams: {self.beams} beams of captions that are not written; data.written"
                " says how many tokens they may have"
            )

    def made(self, splits: Mapping[str, Captions], manifest: Mapping[str, Any]) -> CaptionTask:
        """Return the task.

        Raises:
            MissingAssetError: captions are to be written, and the scorers are not installed.

        """
        if self.written is not None:
            caption_metrics.check()
        return CaptionTask(
            self.name, splits, manifest, self.written, self.longest_target, self.beams
        )
