"""Pictures that a trained adapter names: which files, in which order, and the answer to each.

Shape legend: B batch, C classes, S side of the network's square.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..backbones.preprocess import Preprocess
from ..errors import ConfigError
from ..pictures import UnreadableError, decode

if TYPE_CHECKING:
    from ..train.model import Adapted

BATCH = 16


@dataclass(frozen=True)
class Answer:
    """The most probable labels of one picture, best first; or why it could not be read."""

    file: Path
    labels: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def line(self, single: bool) -> str:
        """Return the answer as a line for a person."""
        return f"{self.file}: {shares(self.labels)}"

    def plain(self) -> dict[str, Any]:
        """Return the answer as JSON data."""
        if self.error is not None:
            return {"file": str(self.file), "error": self.error}
        found = [{"label": label, "probability": p} for label, p in self.labels]
        return {"file": str(self.file), "predictions": found}


def shares(labels: Sequence[tuple[str, float]]) -> str:
    """Return labels and probabilities for a person."""
    return "  ".join(f"{label} {p:.1%}" for label, p in labels)


def find_files(path: Path) -> list[Path]:
    """Return the file, or the pictures (by suffix) in a folder and its subfolders."""
    from PIL import Image

    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ConfigError(f"input: there is no file or folder {path}")
    suffixes = Image.registered_extensions()
    files = [
        p
        for p in path.rglob("*")
        if p.suffix.lower() in suffixes
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(path).parts)
    ]
    if not files:
        raise ConfigError(f"input: there is no picture in {path}")
    return sorted(files, key=lambda p: [natural(part) for part in p.relative_to(path).parts])


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which ``img2`` comes before ``img10``."""
    pieces = re.split(r"([0-9]+)", name.casefold())
    key = [(0, int(p), "") if p[0] in "0123456789" else (1, 0, p) for p in pieces if p]
    return [*key, (-1, 0, name)]


def predict_pictures(
    model: Adapted, labels: Sequence[str], files: Sequence[Path], top: int, device: torch.device
) -> Iterator[Answer]:
    """Yield one answer per file, in order."""
    for start in range(0, len(files), BATCH):
        yield from _batch(model, labels, files[start : start + BATCH], top, device)


def best(labels: Sequence[str], chances_C: Tensor, top: int) -> tuple[tuple[str, float], ...]:
    """Return the most probable labels with their probabilities, best first."""
    found = chances_C.topk(min(top, len(labels)))
    pairs = zip(found.values.tolist(), found.indices.tolist(), strict=True)
    return tuple((labels[i], p) for p, i in pairs)


def decoded(
    files: Sequence[Path], preprocess: Preprocess, device: torch.device
) -> tuple[dict[Path, Tensor], dict[Path, str]]:
    """Return the pixels (1, 3, S, S) of every file that can be read, and why others cannot."""
    pixels: dict[Path, Tensor] = {}
    errors: dict[Path, str] = {}
    for file in files:
        try:
            pixels[file] = preprocess(torch.from_numpy(decode(file))[None].to(device))
        except UnreadableError as error:
            errors[file] = str(error)
    return pixels, errors


def _batch(
    model: Adapted, labels: Sequence[str], files: Sequence[Path], top: int, device: torch.device
) -> list[Answer]:
    """Return the answers for some files, in their order."""
    assert model.backbone.preprocess is not None
    pixels, errors = decoded(files, model.backbone.preprocess, device)
    answers = {file: Answer(file, error=error) for file, error in errors.items()}
    if pixels:
        with torch.inference_mode():
            output = model({"image": torch.cat(list(pixels.values()))})
            chances_BC = model.method.scores(output).float().softmax(-1).cpu()
        for file, row in zip(pixels, chances_BC, strict=True):
            answers[file] = Answer(file, best(labels, row, top))
    return [answers[file] for file in files]
