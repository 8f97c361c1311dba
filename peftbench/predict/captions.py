"""Pictures that a trained captioner describes: how it writes, and its caption of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ArtefactError
from ..tasks.captions import CaptionUse
from ..train.artefact import caption_use
from ..train.reader import Writing
from .pictures import decoded

if TYPE_CHECKING:
    from ..train.describer import Describer

BATCH = 8


@dataclass(frozen=True)
class Captioned:
    """What is said of one picture; or why it could not be read.

    Attributes:
        file: the picture.
        caption: one line.
        log_probability: mean over the caption's tokens, in nats.
        error: why there is no caption.

    """

    file: Path
    caption: str = ""
    log_probability: float = 0.0
    error: str | None = None

    def line(self, single: bool) -> str:
        """Return the answer as a line for a person."""
        return f"{self.file}: {self.caption}"

    def plain(self) -> dict[str, Any]:
        """Return the answer as JSON data."""
        if self.error is not None:
            return {"file": str(self.file), "error": self.error}
        told = {"caption": self.caption, "log_probability": self.log_probability}
        return {"file": str(self.file), **told}


def manner(folder: Path, description: dict[str, Any], given: Writing, beams: int | None) -> Writing:
    """Return how captions are written: as the command says, and else as in training.

    Args:
        folder: of the adapter.
        description: of it.
        given: what the command says; without ``longest``, as in training.
        beams: that the command says; None: as in training where nothing is drawn.

    Raises:
        ArtefactError: the adapter does not say how it wrote, and the command does not either.

    """
    if "captions" not in description and given.longest is not None:
        use = CaptionUse(given.longest)  # everything that is asked of it is said
    else:
        try:
            use = caption_use(folder, description)
        except ArtefactError as error:
            raise ArtefactError(f"{error}\n  or say it here: longest=30 (and beams=...)") from error
    if beams is None:
        beams = 1 if given.sample else use.beams
    values = {**vars(given), "longest": given.longest or use.longest, "beams": beams}
    return Writing(**values)


def caption_pictures(
    describer: Describer, files: Sequence[Path], device: torch.device
) -> Iterator[Captioned]:
    """Yield one answer per file, in order."""
    preprocess = describer.backbone.preprocess
    assert preprocess is not None
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        pixels, errors = decoded(some, preprocess, device)
        told = {}
        if pixels:
            found = describer.write(describer.see(torch.cat(list(pixels.values()))))
            told = dict(zip(pixels, found, strict=True))
        for file in some:
            if file in errors:
                yield Captioned(file, error=errors[file])
            else:
                yield Captioned(file, told[file].caption, told[file].log_probability)
