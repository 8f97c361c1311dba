"""Name what is on pictures with a trained adapter.

python -m peftbench.predict adapter=<run dir> input=<picture or folder>

adapter  a run folder or an adapter folder
input    a picture, or a folder: the pictures in it and its subfolders, in natural order; files with
         other suffixes and hidden ones are passed over
top      how many labels to print (3)
device   cpu, cuda, cuda:1, mps (cpu)
format   text: a line per picture; json: one list for all of them (text)

Pictures are brought to the pixels that training saw: upright, 8 bits, RGB, transparency on white.
A file that cannot be read is named on standard error and the exit code is 1; the others go on.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from . import arguments
from .errors import ArtefactError, ConfigError, PeftbenchError, nearest
from .pictures import UnreadableError, decode

if TYPE_CHECKING:
    from .train.model import Adapted

BATCH = 16


@dataclass(frozen=True)
class Predict:
    """Settings of the command; see the top of this file."""

    adapter: str
    input: str
    top: int = 3
    device: str = "cpu"
    format: Literal["text", "json"] = "text"

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top: {self.top} is too small; allowed: 1 and above")


@dataclass(frozen=True)
class Answer:
    """The most probable labels of one picture, best first; or why it could not be read."""

    file: Path
    labels: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    def plain(self) -> dict[str, Any]:
        """Return the answer as JSON data."""
        if self.error is not None:
            return {"file": str(self.file), "error": self.error}
        found = [{"label": label, "probability": p} for label, p in self.labels]
        return {"file": str(self.file), "predictions": found}


def main(given: Sequence[str] | None = None) -> int:
    """Run the command. 0: all read; 1: some files were not; 2: a mistake in the command."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0 if words else 2
    try:
        settings = arguments.read(Predict, words)
        answers = []
        for answer in predict(settings):
            answers.append(answer)
            if answer.error is not None:
                print(f"unreadable: {answer.file}: {answer.error}", file=sys.stderr)
            elif settings.format == "text":
                shown = "  ".join(f"{label} {p:.1%}" for label, p in answer.labels)
                print(f"{answer.file}: {shown}")
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if settings.format == "json":
        print(json.dumps([a.plain() for a in answers], indent=2, ensure_ascii=False))
    return 1 if any(a.error is not None for a in answers) else 0


def predict(settings: Predict) -> Iterator[Answer]:
    """Load base and adapter and yield one answer per file, in order.

    Raises:
        PeftbenchError: the input, the device or the adapter is not what the command says.

    """
    device = find_device(settings.device)
    files = find_files(Path(settings.input))
    model, labels = load(settings.adapter)
    model.to(device)
    for start in range(0, len(files), BATCH):
        yield from _batch(model, labels, files[start : start + BATCH], settings.top, device)


def load(adapter: str) -> tuple[Adapted, list[str]]:
    """Return an adapted network that reads images, in eval mode, and its labels."""
    from .train.artefact import describe, load_adapter

    folder = Path(adapter)
    if not folder.is_dir():
        beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        close = nearest(folder.name, beside)
        hint = f" Did you mean '{folder.parent / close}'?" if close else ""
        raise ArtefactError(f"adapter: there is no folder {folder}.{hint}")
    folder, description = describe(folder)
    labels = description["labels"]
    if labels is None:
        raise ArtefactError(f"adapter: {folder} writes text and has no labels to choose from")
    model = load_adapter(folder)
    if model.backbone.preprocess is None:
        raise ArtefactError(
            f"adapter: {folder} was made on '{model.backbone.name}', which does not read pictures"
        )
    return model, labels


def find_device(name: str) -> torch.device:
    """Return the device, if this machine has it."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        have = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
        have += ["mps"] if torch.backends.mps.is_available() else []
        first = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"device: '{name}' cannot be used here ({first})\n  choices: {', '.join(have)}"
        ) from error
    if device.type == "meta":
        raise ConfigError("device: 'meta' holds no numbers")
    return device


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


def _batch(
    model: Adapted, labels: Sequence[str], files: Sequence[Path], top: int, device: torch.device
) -> list[Answer]:
    """Return the answers for some files, in their order."""
    answers: dict[Path, Answer] = {}
    pixels: list[Tensor] = []
    read: list[Path] = []
    preprocess = model.backbone.preprocess
    assert preprocess is not None
    for file in files:
        try:
            image_BCHW = torch.from_numpy(decode(file))[None].to(device)
        except UnreadableError as error:
            answers[file] = Answer(file, error=str(error))
            continue
        pixels.append(preprocess(image_BCHW))
        read.append(file)
    if read:
        with torch.inference_mode():
            output = model({"image": torch.cat(pixels)})
            chances_BC = model.method.scores(output).float().softmax(-1).cpu()
        for file, row in zip(read, chances_BC, strict=True):
            best = row.topk(min(top, len(labels)))
            names = tuple(
                (labels[i], p)
                for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            )
            answers[file] = Answer(file, names)
    return [answers[file] for file in files]


if __name__ == "__main__":
    sys.exit(main())
