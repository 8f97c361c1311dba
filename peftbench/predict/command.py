"""Ask a trained adapter: what is on pictures, which class a text has, what is to be answered.

Pictures get labels, or a caption where the adapter was trained on captions.

python -m peftbench.predict adapter=<run dir> input=<picture or folder>
python -m peftbench.predict adapter=<run dir> text="..."
python -m peftbench.predict adapter=<run dir> fields.premise="..." fields.hypothesis="..."
python -m peftbench.predict adapter=<run dir> instruction="..." context="..."
python -m peftbench.predict adapter=<run dir> input=<texts.txt or samples.jsonl>

adapter  a run folder, an adapter folder, or owner/name on the hub (owner/name@revision)
input    a picture, or a folder: the pictures in it and its subfolders, in natural order; files with
         other suffixes and hidden ones are passed over. Texts: .txt, one per line (blank lines are
         passed over); .jsonl, one object per line with the task's fields
top      how many labels to print (3)
device   cpu, cuda, cuda:1, mps (cpu)
format   text: a line per picture or text; json: one list for all of them (text)

Texts are put into the template of the adapter's training.
text         the text, where the task has one field
fields.NAME  the fields of a task by name
instruction, context  what an adapter trained on instructions shall do, and with what
longest      tokens of a written answer (as in training)
sample       true: tokens are drawn; with temperature (1), top_p (1) and seed (0); else greedy
beams        answers that are followed at once (captions: as in training; else 1)

Captions take longest, beams, sample, temperature, top_p and seed as well.

Pictures are brought to the pixels that training saw: upright, 8 bits, RGB, transparency on white.
A file that cannot be read is named on standard error and the exit code is 1; the others go on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from .. import arguments, hub
from ..errors import ArtefactError, ConfigError, PeftbenchError, nearest
from ..spec import build
from ..train.artefact import describe, load_adapter, text_use
from ..train.reader import Reader, Writing
from .captions import Captioned, caption_pictures, manner
from .pictures import Answer, find_files, predict_pictures
from .texts import FILES, TextAnswer, answers, from_file, named


@dataclass(frozen=True)
class Predict:
    """Settings of the command; see the top of this file."""

    adapter: str
    input: str | None = None
    text: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    instruction: str | None = None
    context: str | None = None
    top: int = 3
    device: str = "cpu"
    format: Literal["text", "json"] = "text"
    longest: int | None = None
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    beams: int | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top: {self.top} is too small; allowed: 1 and above")
        if self.input is not None and self.words:
            raise ConfigError(f"input: not together with {self.asked_by}")
        if self.input is None and not self.words:
            raise ConfigError(
                'input: a value is needed here; or text="...", fields.NAME="...", instruction="..."'
            )
        _ = self.writing  # checks the numbers

    @property
    def words(self) -> dict[str, str]:
        """Values by field that the command names itself."""
        own = {"text": self.text, "instruction": self.instruction, "input": self.context}
        return {**self.fields, **{name: value for name, value in own.items() if value is not None}}

    @property
    def asked_by(self) -> str:
        """The setting that words are given by, for errors."""
        own = ("text", "instruction", "context")
        return next((n for n in own if getattr(self, n) is not None), "fields")

    @property
    def writing(self) -> Writing:
        """How answers are written."""
        return Writing(
            self.longest,
            self.sample,
            self.temperature,
            self.top_p,
            self.seed,
            1 if self.beams is None else self.beams,
        )


def main(given: Sequence[str] | None = None) -> int:
    """Run the command. 0: all read; 1: some files were not; 2: a mistake in the command."""
    words = list(sys.argv[1:] if given is None else given)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0 if words else 2
    try:
        settings = arguments.read(Predict, words)
        found: list[Answer | TextAnswer | Captioned] = []
        for answer in predict(settings):
            found.append(answer)
            if answer.error is not None:
                print(f"unreadable: {answer.file}: {answer.error}", file=sys.stderr)
            elif settings.format == "text":
                print(answer.line(settings.input is None))
    except PeftbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if settings.format == "json":
        print(json.dumps([a.plain() for a in found], indent=2, ensure_ascii=False))
    return 1 if any(a.error is not None for a in found) else 0


def predict(settings: Predict) -> Iterable[Answer | TextAnswer | Captioned]:
    """Load base and adapter and return one answer per picture or text, in order.

    Raises:
        PeftbenchError: the input, the device or the adapter is not what the command says.

    """
    device = find_device(settings.device)
    folder, description = find_adapter(settings.adapter)
    ask = {"text": _texts, "captions": _captions}.get(reads(folder, description), _pictures)
    return ask(settings, folder, description, device)


def _texts(
    settings: Predict, folder: Path, description: dict[str, Any], device: torch.device
) -> Iterable[Answer | TextAnswer | Captioned]:
    use = text_use(folder, description)
    if settings.input is not None:
        samples = from_file(use, Path(settings.input))
    else:
        samples = [use.wording.checked(named(use, settings.words))]
    reader = Reader(load_adapter(folder).to(device), use)
    return answers(reader, samples, settings.top, settings.writing)


def _pictures(
    settings: Predict, folder: Path, description: dict[str, Any], device: torch.device
) -> Iterable[Answer | TextAnswer | Captioned]:
    name = description["backbone"]["name"]
    files = _files(settings, name)
    if settings.writing != Writing():
        raise ConfigError("longest, sample, beams: this adapter reads pictures and writes nothing")
    model = load_adapter(folder)
    if model.backbone.preprocess is None:
        raise ArtefactError(f"adapter: {folder} was made on '{name}', which does not read pictures")
    labels = description["labels"]
    return predict_pictures(model.to(device), labels, files, settings.top, device)


def _captions(
    settings: Predict, folder: Path, description: dict[str, Any], device: torch.device
) -> Iterable[Answer | TextAnswer | Captioned]:
    from ..train.describer import Describer

    files = _files(settings, description["backbone"]["name"])
    how = manner(folder, description, settings.writing, settings.beams)
    return caption_pictures(Describer(load_adapter(folder).to(device), how), files, device)


def _files(settings: Predict, name: str) -> list[Path]:
    """Return the pictures that the command names."""
    if settings.input is None or Path(settings.input).suffix in FILES:
        key = settings.asked_by if settings.input is None else "input"
        raise ConfigError(f"{key}: this adapter ('{name}') reads pictures: input=PICTURE")
    return find_files(Path(settings.input))


def reads(folder: Path, description: Mapping[str, Any]) -> str:
    """Return what an adapter reads: ``image``, ``text``, ``captions``; nothing is loaded.

    Raises:
        ArtefactError: the network was given by a program.

    """
    if "text" in description:
        return "text"
    base = description["backbone"]
    if not base["spec"]:
        raise ArtefactError(
            f"adapter: {folder} was made on '{base['name']}', a network given by a program; "
            "peftbench.load takes it as 'model'"
        )
    try:
        takes: str = build(base["spec"], "adapter.backbone").takes
    except ConfigError as error:
        raise ArtefactError(f"adapter: {folder}: {error}") from error
    return takes


def find_adapter(adapter: str) -> tuple[Path, dict[str, Any]]:
    """Return the adapter folder and its description.

    Raises:
        ArtefactError: there is none; with the nearest name beside it.

    """
    folder = Path(adapter)
    if not folder.is_dir() and hub.named(adapter) is None:
        beside = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        close = nearest(folder.name, beside)
        hint = f" Did you mean '{folder.parent / close}'?" if close else ""
        raise ArtefactError(f"adapter: there is no folder {folder}.{hint}")
    return describe(folder)


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
